//! Which process serves which clients.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::ProcessConnection;
use metamcp_core::base::KeyId;
use metamcp_core::frame::Envelope;
use metamcp_http::multiplex::Backoff;

/// Who shares a process, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProcessKey {
    /// In sessions whose clients have the same revision and capabilities.
    Legacy(ProcessOwner, Bytes),
    /// A process that serves without sessions.
    Modern(ProcessOwner),
}

/// Who shares a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProcessOwner {
    Everybody,
    /// Clients with this key; without one, the gateway itself.
    Key(Option<KeyId>),
    /// One session of a client, however often it is opened again: if its calls crash the process, its
    /// back-off grows, and that of others does not.
    ClientSession(u64),
    /// The session that this call opened.
    Session(u64),
}

/// The slot of one process. The lock is held while the process starts, so that a burst of first calls starts
/// only one.
#[derive(Default)]
pub struct ProcessSlot {
    pub legacy: Mutex<Option<Rc<InitializedProcess>>>,
    pub modern: Mutex<Option<Rc<ProcessConnection>>>,
    pub backoff: Rc<RefCell<Backoff>>,
}

/// A process that has answered `initialize`.
pub struct InitializedProcess {
    pub connection: Rc<ProcessConnection>,
    /// The response to `initialize`.
    pub response: Bytes,
    pub envelope: Envelope,
}

impl ProcessSlot {
    /// Whether a process is running or being started here, or must not be started yet.
    pub fn is_in_use(&self) -> bool {
        if !self.backoff.borrow().wait(Instant::now()).is_zero() {
            return true;
        }
        let has_legacy = self
            .legacy
            .try_lock()
            .map_or(true, |process| process.as_ref().is_some_and(|process| process.connection.is_alive()));
        has_legacy
            || self
                .modern
                .try_lock()
                .map_or(true, |process| process.as_ref().is_some_and(|process| process.is_alive()))
    }
}
