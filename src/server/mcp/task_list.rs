//! One list of the tasks that a client has at all servers of its endpoint (MCP 2025-11-25, tasks).
//!
//! Each server is asked in turn, in the client's own session there; a server without such a session has no
//! tasks of this client. When a page is full, its cursor says where to continue, so nothing is stored between
//! pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::call::Call;
use super::tasks::TaskIds;
use crate::route::RoutedServer;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::TopologyFollower;
use crate::session::{BufferedRequest, Session, UpstreamSession, send_buffered};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::protocol::McpMethod;
use metamcp_store::auth::Sealer;

/// Tasks on one page, plus at most one page of a server: as many as a person looks through.
const PAGE_ITEMS: usize = 200;

/// Bytes of the tasks on one page, plus at most one page of a server.
const PAGE_BYTES: usize = 1 << 20;

/// Requests to servers for one page. It bounds servers that return short pages, or empty ones without end.
const REQUESTS_MAX: usize = 32;

/// Timeout for one answer of one server. Servers that did not answer are named in the result.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time the page ends, with a cursor to continue: its client waits for it and holds a permit.
const PAGE_TIME: Duration = Duration::from_secs(10);

/// Limit for a cursor. It contains a server's own cursor, which is text of a request line.
const CURSOR_BYTES_MAX: usize = 8 << 10;

/// Where a list continues: the server's name, and the server's own cursor.
#[derive(Serialize, Deserialize)]
struct Cursor(String, Option<String>);

impl Cursor {
    fn read(text: &str) -> Option<Self> {
        if text.len() > CURSOR_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }

    fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }
}

/// The page being built.
#[derive(Default)]
struct Page {
    items: BytesMut,
    count: usize,
    missing: Vec<serde_json::Value>,
    next: Option<Cursor>,
}

pub async fn list(
    topology: &TopologyFollower,
    sealer: &Arc<Sealer>,
    call: &Call,
    session: &Session,
) -> Result<Reply, Fault> {
    let lists =
        |place: usize| session.upstream_slot(place).current().filter(|ready| ready.features.tasks.list);
    let invalid = || {
        Fault::client(
            FaultKind::InvalidParams,
            "this cursor is not one of this list; begin again without a cursor",
        )
    };
    let (mut from, mut cursor) = (0, None);
    if let Some(text) = call.text(call.envelope.params.cursor) {
        let Cursor(server, own) = Cursor::read(&text).ok_or_else(invalid)?;
        let is_it = |place: &RoutedServer| place.name.as_str() == server;
        from = session.endpoint.servers.iter().position(is_it).ok_or_else(invalid)?;
        cursor = own;
    }
    let ids = TaskIds::new(sealer, &call.identity, Some(session), &call.endpoint);
    let mut page = Page::default();
    let mut requests = 0;
    let begun = Instant::now();
    let mut places = (from..session.endpoint.servers.len()).filter_map(|place| Some((place, lists(place)?)));
    let mut now = places.next();
    while let Some((place, ready)) = &now {
        let server = &session.endpoint.servers[*place];
        if page.is_full() || requests == REQUESTS_MAX || begun.elapsed() >= PAGE_TIME {
            page.next = Some(Cursor(server.name.as_str().to_owned(), cursor));
            break;
        }
        requests += 1;
        let before = cursor.take();
        match timeout(ANSWER_TIMEOUT, fetch(topology, server, ready, before.as_deref())).await.ok().flatten()
        {
            Some((items, next)) => {
                items.iter().filter_map(|item| ids.item(&server.name, item)).for_each(|item| page.add(&item));
                // A cursor that leads to itself would never end.
                cursor = next.filter(|next| before.as_ref() != Some(next));
            }
            None => page
                .missing
                .push(json!({"server": server.name.as_str(), "reason": "it did not list its tasks"})),
        }
        if cursor.is_none() {
            now = places.next();
        }
    }
    Ok(reply::result(&call.id(), page.result()))
}

impl Page {
    fn is_full(&self) -> bool {
        self.count >= PAGE_ITEMS || self.items.len() >= PAGE_BYTES
    }

    fn add(&mut self, item: &[u8]) {
        if self.count > 0 {
            self.items.put_u8(b',');
        }
        self.items.put_slice(item);
        self.count += 1;
    }

    fn result(self) -> Bytes {
        let mut result = BytesMut::with_capacity(self.items.len() + 128);
        result.put_slice(b"{\"tasks\":[");
        result.put_slice(&self.items);
        result.put_u8(b']');
        if let Some(next) = self.next {
            result.put_slice(format!(",\"nextCursor\":\"{}\"", next.write()).as_bytes());
        }
        if !self.missing.is_empty() {
            let meta = json!({"dev.metamcp/missing": self.missing});
            result.put_slice(format!(",\"_meta\":{meta}").as_bytes());
        }
        result.put_u8(b'}');
        result.freeze()
    }
}

/// Fetches one page of one server, and the server's cursor of the next page. `None` if the server did not
/// answer.
async fn fetch(
    topology: &TopologyFollower,
    place: &RoutedServer,
    ready: &UpstreamSession,
    cursor: Option<&str>,
) -> Option<(Vec<Bytes>, Option<String>)> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        result: TaskListResult<'a>,
    }
    #[derive(Deserialize)]
    struct TaskListResult<'a> {
        #[serde(borrow)]
        tasks: Vec<&'a RawValue>,
        #[serde(rename = "nextCursor")]
        next_cursor: Option<String>,
    }
    // Requests that run in one session at the same time need different ids.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("metamcp-tasks-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let params = cursor.map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
    let method = McpMethod::TasksList;
    let message = json!({"jsonrpc": "2.0", "id": id, "method": method.as_str(), "params": params});
    let request = BufferedRequest {
        method,
        message: message.to_string().into(),
        session: Some(ready),
        modern_headers: None,
    };
    let response = send_buffered(&topology.pool(place).ok()?, request).await.ok()?;
    let Answer { result } = serde_json::from_slice(&response.message).ok()?;
    let items = result.tasks.iter().map(|item| response.message.slice_ref(item.get().as_bytes()));
    Some((items.collect(), result.next_cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_as_written() {
        for (server, own) in [("a", None), ("b", Some("")), ("c", Some("x~\u{e9}\""))] {
            let text = Cursor(server.to_owned(), own.map(str::to_owned)).write();
            let Cursor(found, behind) = Cursor::read(&text).expect("one of ours");
            assert_eq!((&*found, behind.as_deref()), (server, own));
        }
        for text in ["", "x", "e30", &"A".repeat(CURSOR_BYTES_MAX + 1)] {
            assert!(Cursor::read(text).is_none(), "{text}");
        }
    }
}
