//! Where the events of a session's own stream go.

use std::rc::Rc;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use crate::catalog::ListKind;
use crate::frame::{EventSplitter, write_event};
use crate::protocol::Method;
use crate::session::Writer;

/// A comment at the start, so that clients that wait for the first byte go on, and now and then.
pub const COMMENT: &[u8] = b": open\n\n";

/// The lists that are announced, each with its notification. Templates change with resources.
pub const ANNOUNCED: [(ListKind, Method); 3] = [
    (ListKind::Tools, Method::ToolsListChanged),
    (ListKind::Prompts, Method::PromptsListChanged),
    (ListKind::Resources, Method::ResourcesListChanged),
];

/// Where the events of a session's stream go.
#[derive(Clone)]
pub enum Outlet {
    /// To the client that is there.
    Passing(mpsc::Sender<Bytes>),
    /// To the client that is there or comes back. The lock keeps the parts of a long event together.
    Kept(Rc<(Writer, tokio::sync::Mutex<()>)>),
}

impl Outlet {
    /// To a client that may come back.
    pub fn kept(writer: Writer) -> Self {
        Self::Kept(Rc::new((writer, tokio::sync::Mutex::default())))
    }

    /// Passes an event on, or says that nobody waits for it.
    ///
    /// Not cancel safe: a stream of which half an event was written is lost.
    pub async fn send(&self, event: Bytes) -> Result<(), ()> {
        let (writer, turn) = match self {
            Self::Passing(sender) => return sender.send(event).await.map_err(drop),
            Self::Kept(kept) => &**kept,
        };
        let mut parts = Vec::new();
        EventSplitter::new().feed(&event, &mut parts);
        let _turn = turn.lock().await;
        let mut half = Half(Some(writer));
        for part in parts {
            tokio::select! {
                biased;
                () = writer.abandoned() => return Err(()),
                pushed = writer.push(&part) => pushed.map_err(drop)?,
            }
        }
        half.0 = None;
        Ok(())
    }

    /// A comment now and then; a full channel needs none.
    pub fn comment(&self) {
        match self {
            Self::Passing(sender) => drop(sender.try_send(Bytes::from_static(COMMENT))),
            Self::Kept(kept) => kept.0.comment(),
        }
    }

    /// Until nobody waits for it.
    pub async fn closed(&self) {
        match self {
            Self::Passing(sender) => sender.closed().await,
            Self::Kept(kept) => kept.0.abandoned().await,
        }
    }

    /// Whether its client may come back.
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

/// An event that is being written: what would follow the half of one would be read as part of it.
struct Half<'a>(Option<&'a Writer>);

impl Drop for Half<'_> {
    fn drop(&mut self) {
        if let Some(writer) = self.0 {
            writer.stream().lose();
        }
    }
}

/// Says that a list changed.
pub fn announcement(method: Method) -> Bytes {
    write_event(json!({"jsonrpc": "2.0", "method": method.as_str()}).to_string().as_bytes())
}
