//! Opens a framed stream: checks the head of its request and starts its response.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, EXPECT, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use hyper::body::{Body as _, Incoming};

use super::context::FrameContext;
use super::outbox::Outbox;
use super::stream::FramedBody;
use crate::limits::PermitKind;
use crate::route::Endpoint;
use crate::runtime::yield_once;
use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::fields::{Field, Fields};
use crate::server::http1::receive::accepts;
use crate::server::reply::body::ResponseBody;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::{Metering, Worker};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::MessageFraming;
use metamcp_core::protocol::header;

/// Opens a framed stream. A bad head is answered by HTTP status, as for any request. Not cancel safe.
pub async fn open(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    (head, fields): (&Parts, Fields),
    endpoint: &Arc<Endpoint>,
    mut body: Incoming,
) -> Result<Reply, Fault> {
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    worker.settings().guard.check(&fields, authority)?;
    let kind = PermitKind::EventStream;
    let (identity, permit) =
        worker.credentials.authenticate_and_admit(&worker.clock, activity, &fields, kind).await?;
    if !identity.can_use_endpoint(&endpoint.scope) {
        return Err(reply::no_such_endpoint(worker.shared.auth.mode(), &endpoint.display_name()));
    }
    if head.method != Method::POST {
        return Ok(not_allowed(&worker.metering, endpoint));
    }
    let (form, content_type) = form(&fields)?;
    // Checked before the response starts: a client that names an unknown session must open another stream.
    let has_session = fields.has(Field::McpSessionId);
    let session = has_session.then(|| worker.sessions.find(&fields, &identity, endpoint)).transpose()?;
    let first = if head.headers.contains_key(EXPECT) { invite(&mut body).await } else { Bytes::new() };
    let context = Rc::new(FrameContext::new(worker, identity, endpoint, fields, Outbox::new(form)));
    let framed = FramedBody::new(context, Rc::clone(activity), (first, body), session, permit);
    let mut reply = Reply::typed(
        StatusCode::OK,
        HeaderValue::from_static(content_type),
        ResponseBody::source(Box::new(framed)),
    );
    // As for an event stream: proxies must not buffer messages.
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(reply)
}

/// The framing of the messages, from the request's content type. Answers use the same framing.
fn form(fields: &Fields) -> Result<(MessageFraming, &'static str), Fault> {
    const FORMS: [(&str, MessageFraming); 2] =
        [(header::LINES, MessageFraming::Lines), (header::FRAMES, MessageFraming::Frames)];
    if fields.has(Field::ContentEncoding) {
        return Err(Fault::client(
            FaultKind::UnsupportedMedia,
            "send the body as it is, without Content-Encoding",
        ));
    }
    let media_type = fields.get(Field::ContentType).unwrap_or_default();
    let Some((name, form)) = FORMS.into_iter().find(|(name, _)| header::is_media_type(media_type, name))
    else {
        return Err(Fault::client(
            FaultKind::UnsupportedMedia,
            "send `Content-Type: application/x-ndjson` or `application/vnd.metamcp.frames`",
        ));
    };
    if fields.has(Field::Accept) && !accepts(fields, name) {
        return Err(Fault::client(
            FaultKind::NotAcceptable,
            "accept the media type that you send: it is answered in",
        ));
    }
    Ok((form, name))
}

/// Sends `100 Continue` to a client that waits for it. hyper sends it when the body is first polled, and no
/// longer after the head of the response.
async fn invite(body: &mut Incoming) -> Bytes {
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
    yield_once().await;
    match first {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        // The next poll reports it again.
        Poll::Ready(Some(Err(_)) | None) | Poll::Pending => Bytes::new(),
    }
}

fn not_allowed(metering: &Metering, endpoint: &Endpoint) -> Reply {
    let fault = Fault::client(FaultKind::MethodNotAllowed, "a framed stream is opened by POST");
    let request_id = metering.answer_fault(Some(endpoint.label), &fault);
    let mut reply = reply::fault(&fault, &request_id);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    reply
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[track_caller]
    fn check(media_type: &[(&'static str, &'static str)], expected: Result<MessageFraming, FaultKind>) {
        let pairs = media_type
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let map: HeaderMap = pairs.collect();
        let form = form(&Fields::from_map(&map));
        assert_eq!(form.map(|(form, _)| form).map_err(|fault| fault.kind), expected, "{media_type:?}");
    }

    #[test]
    fn forms() {
        let lines = ("content-type", "Application/X-NDJSON; charset=utf-8");
        let frames = ("content-type", "application/vnd.metamcp.frames");
        check(&[lines], Ok(MessageFraming::Lines));
        check(&[frames], Ok(MessageFraming::Frames));
        check(&[frames, ("accept", "*/*")], Ok(MessageFraming::Frames));
        check(&[frames, ("accept", "application/vnd.metamcp.frames")], Ok(MessageFraming::Frames));
        check(&[frames, ("accept", "application/x-ndjson")], Err(FaultKind::NotAcceptable));
        check(&[lines, ("content-encoding", "gzip")], Err(FaultKind::UnsupportedMedia));
        check(&[("content-type", "application/json")], Err(FaultKind::UnsupportedMedia));
        check(&[], Err(FaultKind::UnsupportedMedia));
    }
}
