//! The client's event stream of a session that listens for itself. One that was in a hub comes out of it: it goes on being
//! told what the others are told until the server has said that it tells it alone, and for a moment more, in which what
//! comes both ways is told once.
//!
//! Does not know: how a server is listened to (`listen`).

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::session::{Own, Session};
use crate::backend::shim::{Events, Outlet};
use crate::frame::{EventReader, Scanner};
use crate::protocol::Method;

/// Who is told what one session alone listens for.
pub struct Alone {
    session: Arc<Session>,
    stream: u64,
    outlet: Outlet,
    /// What the hub tells, until somebody tells it on.
    hub: RefCell<Option<Events>>,
    once: Once,
}

/// For what a server says on one stream to come on the other as well. The two are read by different threads, which may be
/// busy: what is not there by then is told twice or, at the worst, not at all.
const LINGER: Duration = Duration::from_secs(1);

impl Alone {
    /// For the stream that the session's client has.
    pub fn new(session: Arc<Session>, own: Own) -> Self {
        let Own { stream, outlet, hub } = own;
        Self { session, stream, outlet, hub: RefCell::new(hub), once: Once::default() }
    }

    /// Tells it on; false when nobody listens any more. Cancel safe, but for an event that waits for room.
    pub async fn tell(&self, method: Option<Method>, event: Bytes) -> bool {
        self.put(Way::Own, method, event).await
    }

    /// Tells on what the hub tells, until it is left; never completes. Not cancel safe: the rest of that is lost.
    pub async fn tell_of_hub(&self) {
        let hub = self.hub.take();
        if let Some(events) = hub {
            // Boxed: most have none, and the others not for long.
            Box::pin(self.tell_all(events)).await;
        }
        pending::<()>().await;
    }

    /// Leaves the hub when the server has told for a while, which ends what the hub tells; never completes. Cancel safe: a
    /// stream that breaks before is none to rely on.
    pub async fn come_out(&self) {
        // Boxed: it is over in a moment, and a stream stays for days.
        Box::pin(sleep(LINGER)).await;
        self.session.leave_hub(self.stream);
        pending::<()>().await;
    }

    /// Completes when nobody listens any more. Cancel safe.
    pub async fn left(&self) {
        self.outlet.closed().await;
    }

    async fn tell_all(&self, mut events: Events) {
        while let Some(Ok(event)) = poll_fn(|cx| events.poll_next(cx)).await {
            if !self.put(Way::Hub, method_of(&event), event).await {
                return;
            }
        }
    }

    async fn put(&self, way: Way, method: Option<Method>, event: Bytes) -> bool {
        if method.and_then(list_of).is_some_and(|list| !self.once.is_news(way, list)) {
            return true;
        }
        self.outlet.send(event).await
    }
}

/// Which list a method says has changed.
pub fn list_of(method: Method) -> Option<List> {
    match method {
        Method::ToolsListChanged => Some(List::Tools),
        Method::PromptsListChanged => Some(List::Prompts),
        Method::ResourcesListChanged => Some(List::Resources),
        _ => None,
    }
}

/// One of a server's.
#[derive(Debug, Clone, Copy)]
pub enum List {
    Tools,
    Prompts,
    Resources,
}

/// How something came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Own,
    Hub,
}

/// What came last of each list and has not come the other way since.
#[derive(Default)]
struct Once(Cell<[Option<(Way, Instant)>; 3]>);

impl Once {
    /// Whether it is another change than the one that came the other way, less than [`LINGER`] ago.
    fn is_news(&self, way: Way, list: List) -> bool {
        let (mut came, now) = (self.0.get(), Instant::now());
        let last = &mut came[list as usize];
        let is_known = last.is_some_and(|(other, at)| other != way && now < at + LINGER);
        *last = if is_known { None } else { Some((way, now)) };
        self.0.set(came);
        !is_known
    }
}

/// The method of a message that was made an event.
fn method_of(event: &Bytes) -> Option<Method> {
    let mut reader = EventReader::new();
    reader.push(event.clone());
    let message = reader.next().ok()??.data?;
    let envelope = Scanner::new().scan(&message).ok()?;
    envelope.method.and_then(|method| Method::parse(&method.value(&message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::write_event;

    #[tokio::test(start_paused = true)]
    async fn what_comes_both_ways_is_told_once() {
        use Way::{Hub, Own};
        let check = async |came: &[(u64, Way, List)], expected: &[bool]| {
            let (once, begin) = (Once::default(), Instant::now());
            let mut told = Vec::new();
            for (at_ms, way, list) in came {
                tokio::time::sleep_until(begin + Duration::from_millis(*at_ms)).await;
                told.push(once.is_news(*way, *list));
            }
            assert_eq!(told, expected, "{came:?}");
        };
        let (tools, prompts, resources) = (List::Tools, List::Prompts, List::Resources);
        check(&[(0, Own, tools), (5000, Own, tools), (5001, Own, tools)], &[true; 3]).await;
        check(&[(0, Hub, tools), (1, Hub, tools)], &[true; 2]).await;
        check(&[(0, Hub, tools), (1, Own, tools)], &[true, false]).await;
        check(&[(0, Own, tools), (999, Hub, tools)], &[true, false]).await;
        check(&[(0, Own, tools), (1000, Hub, tools)], &[true, true]).await;
        check(&[(0, Own, tools), (1, Hub, prompts), (2, Hub, resources)], &[true; 3]).await;
        // The next change, behind one that came both ways.
        check(&[(0, Own, tools), (1, Hub, tools), (2, Hub, tools)], &[true, false, true]).await;
        check(&[(0, Own, tools), (1, Hub, tools), (2, Own, tools)], &[true, false, true]).await;
    }

    #[test]
    fn an_event_is_of_the_method_of_its_message() {
        let check = |message: &str, expected: Option<Method>| {
            assert_eq!(method_of(&write_event(message.as_bytes())), expected, "{message}");
        };
        let told = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        check(told, Some(Method::ToolsListChanged));
        check(&told.replace(',', ",\n"), Some(Method::ToolsListChanged));
        check(r#"{"jsonrpc":"2.0","method":"x"}"#, None);
        check("nonsense", None);
        check("", None);
    }
}
