//! The state that the parts of one framed stream share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::message_fields::MessageFields;
use super::outbox::Outbox;
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
use metamcp_store::auth::Identity;

/// The shared state of one framed stream.
pub struct FrameContext {
    /// The worker that runs the stream.
    pub worker: Rc<Worker>,
    /// The owner of the stream.
    pub identity: Identity,
    /// The scope of its endpoint, which stays valid when the endpoint is reconfigured.
    pub scope: Arc<str>,
    /// The metrics label of its endpoint.
    label: LabelId,
    /// The queue of outgoing messages.
    pub outbox: Outbox,
    /// Held while an answer over [`BUFFERED_BYTES`](super::exchange::BUFFERED_BYTES) is buffered.
    pub large_answers: Semaphore,
    message_fields: MessageFields,
    session: RefCell<Option<StreamSession>>,
    awaiting_input: Cell<usize>,
}

/// A session that was opened on the stream, and ends with it.
struct StreamSession {
    fields: Fields,
    session: Arc<Session>,
}

/// Answers over [`BUFFERED_BYTES`](super::exchange::BUFFERED_BYTES) that are buffered at once: each may have some
/// megabytes.
const LARGE_ANSWERS_MAX: usize = 2;

/// Counts a call as waiting for its client until it is dropped.
pub struct InputGuard(Rc<FrameContext>);

impl FrameContext {
    /// For a stream on which no message has arrived yet.
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
            large_answers: Semaphore::new(LARGE_ANSWERS_MAX),
            message_fields: MessageFields::new(fields),
            session: RefCell::default(),
            awaiting_input: Cell::new(0),
        }
    }

    /// The header fields of a message that has none of its own.
    pub fn fields(&self) -> Fields {
        self.session
            .borrow()
            .as_ref()
            .map_or_else(|| self.message_fields.of_stream(), |spoken| spoken.fields.clone())
    }

    /// The header fields of a Modern message, from its body.
    pub fn modern_fields(&self, call: &Call) -> Fields {
        self.message_fields.of_modern(&self.worker.shared.catalog, call)
    }

    /// The session that was opened on the stream, unless it has ended.
    pub fn session(&self) -> Option<Arc<Session>> {
        let spoken = self.session.borrow();
        spoken.as_ref().map(|spoken| Arc::clone(&spoken.session)).filter(|session| !session.is_ended())
    }

    /// Makes the session that an `initialize` response opened the session of the stream.
    pub fn adopt_session(&self, reply: &Reply) -> Result<(), Fault> {
        let headers = reply.headers.as_ref();
        let Some(id) = headers.and_then(|headers| headers.get(&header::SESSION_ID)) else { return Ok(()) };
        let id = Bytes::copy_from_slice(id.as_bytes());
        let endpoint = self.endpoint()?;
        let fields = self.message_fields.of_session(&id, Revision::LEGACY_LATEST);
        let session = self.worker.sessions.find(&fields, &self.identity, &endpoint)?;
        let fields = self.message_fields.of_session(&id, session.claims.revision);
        *self.session.borrow_mut() = Some(StreamSession { fields, session });
        Ok(())
    }

    /// Ends the session that was opened on the stream.
    pub fn end_session(&self) {
        if let Some(session) = self.session() {
            legacy::end(&self.worker, &session);
        }
    }

    /// The endpoint in the current topology.
    pub fn endpoint(&self) -> Result<Arc<Endpoint>, Fault> {
        self.worker.topology.endpoint_of(&self.scope).ok_or_else(|| {
            Fault::client(FaultKind::NotFound, "the endpoint of this stream was removed; open another stream")
        })
    }

    /// Sends a message the way that all messages go.
    pub async fn send(&self, call: Box<Call>) -> Result<Reply, Fault> {
        message::answer(&self.worker, call).await
    }

    /// Sends a fault to the client, under the id of the request, or with the number of the message if it has
    /// no id.
    pub fn send_fault(&self, fault: Fault, number: u64) {
        let fault = match (&fault.id, &fault.data) {
            (None, None) => fault.with_data(format!("{{\"frame\":{number}}}")),
            _ => fault,
        };
        self.worker.metering.answer_fault(Some(self.label), &fault);
        self.outbox.answer(&[reply::error(&fault)]);
    }

    /// Sends the reason why the stream ends.
    pub fn send_final_fault(&self, fault: Fault) {
        let kind = fault.kind.label();
        let fault = fault.with_data(format!("{{\"last\":true,\"kind\":\"{kind}\"}}"));
        // A shutdown is not a fault to log.
        if fault.kind != FaultKind::ShuttingDown {
            self.worker.metering.answer_fault(Some(self.label), &fault);
        }
        self.outbox.push(&[reply::error(&fault)], FLAG_RESPONSE | FLAG_LAST, 0);
    }

    /// Counts a call that waits for its client.
    pub fn begin_input(self: &Rc<Self>) -> InputGuard {
        self.awaiting_input.set(self.awaiting_input.get() + 1);
        InputGuard(Rc::clone(self))
    }

    /// The number of calls that wait for their client.
    pub fn awaiting_input(&self) -> usize {
        self.awaiting_input.get()
    }
}

impl Drop for InputGuard {
    fn drop(&mut self) {
        self.0.awaiting_input.set(self.0.awaiting_input.get() - 1);
    }
}
