//! Opens the event stream of a Legacy session: a new one, or from where its client left it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_local;

use super::resumable::{self, ResumableBody, SessionPump};
use super::session_stream::SessionStream;
use crate::limits::Permit;
use crate::route::EndpointShape;
use crate::server::http1::announcements::COMMENT;
use crate::server::http1::fields::{Field, Fields};
use crate::server::http1::receive::accepts;
use crate::server::reply::body::ResponseBody;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::protocol::header;
use metamcp_store::auth::Identity;

/// Opens the GET stream of a session. The response starts at once, whatever the servers do. The stream
/// replaces the previous one.
pub fn open(
    worker: &Rc<Worker>,
    fields: &Fields,
    session: Arc<Session>,
    identity: Identity,
    permit: Permit,
) -> Result<Reply, Fault> {
    if !accepts(fields, header::EVENT_STREAM) {
        return Err(Fault::client(FaultKind::NotAcceptable, "send `Accept: text/event-stream`"));
    }
    let streams = worker.shared.streams.as_ref();
    if let Some((streams, mode)) = streams.zip(resumable::resume_mode(fields, &session)) {
        let last_event_id = fields.get(Field::LastEventId);
        let permit = match last_event_id {
            None => permit,
            Some(id) => match resumable::resume(streams, &session, id, mode, permit)? {
                Ok(reply) => return Ok(reply),
                Err(permit) => permit,
            },
        };
        let (writer, reader) = streams.begin(&session.claims, None);
        session.add_resumable_stream(writer.stream());
        writer.send_comment();
        let mut stream = SessionStream::new(worker, session, identity, None);
        stream.is_kept = true;
        if last_event_id.is_some() {
            stream.announce_all();
        }
        let body = ResponseBody::source(Box::new(ResumableBody::new(reader, mode, streams, Some(permit))));
        spawn_local(SessionPump::new(stream, writer));
        return Ok(reply::events(body));
    }
    let last_event_id = fields.value(Field::LastEventId);
    if last_event_id.is_some() && session.endpoint.shape != EndpointShape::Single {
        return Err(Fault::client(
            FaultKind::MethodNotAllowed,
            "streams of an endpoint with several servers cannot be resumed; open one without Last-Event-ID",
        ));
    }
    let mut stream = SessionStream::new(worker, session, identity, last_event_id);
    stream.ready.push(Bytes::from_static(COMMENT));
    stream.permit = Some(permit);
    Ok(reply::events(ResponseBody::source(stream)))
}

/// The events of a session's stream, for a framed stream, which delivers them without a GET. It replaces the
/// previous stream too, and ends when it is dropped.
pub fn follow(worker: &Rc<Worker>, session: Arc<Session>, identity: Identity) -> Box<SessionStream> {
    SessionStream::new(worker, session, identity, None)
}
