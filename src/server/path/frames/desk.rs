//! What the parts of one framed stream have in common.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::heads::Heads;
use super::outbox::Outbox;
use crate::auth::Identity;
use crate::route::Endpoint;
use crate::server::eras::{legacy, message};
use crate::server::http1::fields::Fields;
use crate::server::mcp::call::Call;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::Session;
use crate::telemetry::metrics::LabelId;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{FLAG_LAST, FLAG_RESPONSE};
use metamcp_core::protocol::{Revision, header};

/// One stream, as whoever answers on it sees it.
pub struct Desk {
    /// Its worker.
    pub worker: Rc<Worker>,
    /// Whose it is.
    pub identity: Identity,
    /// Names its endpoint, whatever that is made of by now.
    pub scope: Arc<str>,
    /// What is answered there is counted under this.
    label: LabelId,
    /// Where answers go.
    pub outbox: Outbox,
    /// Taken by an answer that is too big to be held many times.
    pub turns: Semaphore,
    heads: Heads,
    session: RefCell<Option<Spoken>>,
    asking: Cell<usize>,
}

/// A session that was opened in the stream, and ends with it.
struct Spoken {
    fields: Fields,
    session: Arc<Session>,
}

/// Answers of more than [`HELD_BYTES`](super::exchange::HELD_BYTES) that are held at once: each may have some megabytes.
const BIG_AT_ONCE: usize = 2;

/// A call that waits for its client, as long as this is there.
pub struct Asking(Rc<Desk>);

impl Desk {
    /// Of a stream on which nothing was said yet.
    pub fn new(
        worker: &Rc<Worker>,
        identity: Identity,
        endpoint: &Endpoint,
        fields: Fields,
        outbox: Outbox,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            identity,
            scope: endpoint.scope.clone(),
            label: endpoint.label,
            outbox,
            turns: Semaphore::new(BIG_AT_ONCE),
            heads: Heads::new(fields),
            session: RefCell::default(),
            asking: Cell::new(0),
        }
    }

    /// The header fields that a message has here when it says nothing of its own.
    pub fn fields(&self) -> Fields {
        self.session.borrow().as_ref().map_or_else(|| self.heads.plain(), |spoken| spoken.fields.clone())
    }

    /// Those of a Modern message: what it says.
    pub fn modern_fields(&self, call: &Call) -> Fields {
        self.heads.of_modern(&self.worker.shared.catalog, call)
    }

    /// The session that was opened in the stream, as long as it is not over.
    pub fn session(&self) -> Option<Arc<Session>> {
        let spoken = self.session.borrow();
        spoken.as_ref().map(|spoken| Arc::clone(&spoken.session)).filter(|session| !session.is_ended())
    }

    /// The session that an answer to `initialize` opened is that of the stream from now on.
    pub fn adopt_session(&self, reply: &Reply) -> Result<(), Fault> {
        let headers = reply.headers.as_ref();
        let Some(id) = headers.and_then(|headers| headers.get(&header::SESSION_ID)) else { return Ok(()) };
        let id = Bytes::copy_from_slice(id.as_bytes());
        let endpoint = self.endpoint()?;
        let fields = self.heads.of_session(&id, Revision::LEGACY_LATEST);
        let session = self.worker.sessions.find(&fields, &self.identity, &endpoint)?;
        let fields = self.heads.of_session(&id, session.claims.revision);
        *self.session.borrow_mut() = Some(Spoken { fields, session });
        Ok(())
    }

    /// Ends the session that was opened in the stream.
    pub fn end_session(&self) {
        if let Some(session) = self.session() {
            legacy::end(&self.worker, &session);
        }
    }

    /// The endpoint as it is now.
    pub fn endpoint(&self) -> Result<Arc<Endpoint>, Fault> {
        self.worker.topology.endpoint_of(&self.scope).ok_or_else(|| {
            Fault::client(FaultKind::NotFound, "the endpoint of this stream was removed; open another stream")
        })
    }

    /// Sends a message on, on the one way that all of them have.
    pub async fn send(&self, call: Box<Call>) -> Result<Reply, Fault> {
        message::answer(&self.worker, call).await
    }

    /// Tells the client of a fault, under the id of the request where there is one; else by the number of the message.
    pub fn refuse(&self, fault: Fault, number: u64) {
        let fault = match (&fault.id, &fault.data) {
            (None, None) => fault.with_data(format!("{{\"frame\":{number}}}")),
            _ => fault,
        };
        self.worker.metering.answer_fault(Some(self.label), &fault);
        self.outbox.answer(&[reply::error(&fault)]);
    }

    /// Tells the client why the stream ends here.
    pub fn say_last(&self, fault: Fault) {
        let kind = fault.kind.label();
        let fault = fault.with_data(format!("{{\"last\":true,\"kind\":\"{kind}\"}}"));
        // That the gateway stops is no news to its log.
        if fault.kind != FaultKind::ShuttingDown {
            self.worker.metering.answer_fault(Some(self.label), &fault);
        }
        self.outbox.push(&[reply::error(&fault)], FLAG_RESPONSE | FLAG_LAST, 0);
    }

    /// Counts a call that waits for its client.
    pub fn ask(self: &Rc<Self>) -> Asking {
        self.asking.set(self.asking.get() + 1);
        Asking(Rc::clone(self))
    }

    /// Calls that wait for their client.
    pub fn asking(&self) -> usize {
        self.asking.get()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.set(self.0.asking.get() - 1);
    }
}
