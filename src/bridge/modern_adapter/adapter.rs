//! The adapter itself: decides how each request is served.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use metamcp_core::frame::MessageKind;
use metamcp_core::protocol::{McpMethod, code};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::call::CallTask;
use super::discover::discover;
use super::era::EraDetector;
use super::held_calls::{CallResumption, HeldCalls, ResumeError};
use super::request::ModernRequest;
use super::responder::ClientResponder;
use super::session::AdapterSessionKey;
use super::sessions::AdapterSessions;
use super::subscription;
use crate::upstream::{EraAdapter, ResponseFuture, UpstreamPool};
use arc_swap::ArcSwap;
use metamcp_config::sections::BridgeConfig;
use metamcp_http::multiplex::{CallOutcome, LocalResponse};
use metamcp_http::{FailureStage, RequestKind, UpstreamError, UpstreamRequest, UpstreamResponse};
use metamcp_store::auth::Sealer;

/// Serves Modern clients on behalf of all servers that do not speak the Modern era. There is one for the
/// whole process.
pub struct ModernAdapter {
    eras: EraDetector,
    sessions: Arc<AdapterSessions>,
    held_calls: Arc<HeldCalls>,
    config: Arc<ArcSwap<BridgeConfig>>,
}

impl ModernAdapter {
    /// Creates an adapter without sessions. `sealer` seals `requestState`.
    pub fn new(config: Arc<ArcSwap<BridgeConfig>>, sealer: Arc<Sealer>) -> Arc<Self> {
        Arc::new(Self {
            eras: EraDetector::default(),
            sessions: Arc::new(AdapterSessions::new(Arc::clone(&config))),
            held_calls: Arc::new(HeldCalls::new(Arc::clone(&config), sealer)),
            config,
        })
    }

    /// Not cancel safe: dropping the future cancels the call.
    async fn handle(
        self: Arc<Self>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        kind: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        if self.eras.speaks_modern(&pool).await {
            return pool.send_direct(&request, kind).await;
        }
        let reply = match ModernRequest::parse(&request) {
            Ok(request) => self.respond(&pool, request).await?,
            Err(reply) => reply,
        };
        Ok(UpstreamResponse::from_local(reply))
    }

    async fn respond(&self, pool: &Rc<UpstreamPool>, request: ModernRequest) -> CallOutcome {
        if request.envelope.kind != MessageKind::Request {
            // The only notification of the era is a cancellation, which over HTTP is the closed connection.
            return Ok(LocalResponse::from_status(StatusCode::ACCEPTED));
        }
        if !request.exists_in_legacy() {
            let text = "this method is not one of revision 2026-07-28";
            return Ok(request.refusal(StatusCode::NOT_FOUND, code::METHOD_NOT_FOUND, text));
        }
        if request.method == Some(McpMethod::Discover) && !self.config.load().discover {
            // Not a code of the Modern era: a client of both eras falls back to `initialize`.
            let text = "this server speaks only revisions up to 2025-11-25; open a session by `initialize`";
            return Ok(request.refusal(StatusCode::BAD_REQUEST, code::LEGACY_TRANSPORT, text));
        }
        if request.envelope.params.request_state.is_some() {
            return self.resume(pool, &request).await;
        }
        let (owner, capabilities) = (request.owner, request.capabilities);
        let key = AdapterSessionKey { owner, upstream: pool.upstream().id, capabilities, index: 0 };
        let session = || self.sessions.find(key, pool);
        match request.method {
            Some(McpMethod::Discover) => match session() {
                Some(session) => Ok(discover(&session, pool, &request).await),
                None => Ok(too_many_sessions(&request)),
            },
            Some(McpMethod::Listen) => match session() {
                Some(session) => Ok(subscription::listen(session, pool, &request).await),
                None => Ok(too_many_sessions(&request)),
            },
            _ => self.call(key, pool, request).await,
        }
    }

    async fn call(
        &self,
        key: AdapterSessionKey,
        pool: &Rc<UpstreamPool>,
        request: ModernRequest,
    ) -> CallOutcome {
        // A client that the server cannot ask needs no session to itself: no request has to be attributed to
        // it.
        let is_exclusive = key.capabilities.can_receive_requests() && pool.upstream().has_session_per_call();
        let allows_input = request.allows_input();
        let slot = if is_exclusive {
            self.sessions.begin_exclusive_call(key, allows_input, pool)
        } else {
            self.sessions.begin_call(key, allows_input, pool)
        };
        let Some(slot) = slot else { return Ok(too_many_sessions(&request)) };
        let (client, response) = ClientResponder::new(&request);
        let (held_calls, sessions) = (Arc::clone(&self.held_calls), Arc::clone(&self.sessions));
        let task = CallTask::new(held_calls, sessions, &slot, Rc::clone(pool), request);
        spawn_local(task.run(slot, client));
        response.await.unwrap_or_else(|_dropped| Err(UpstreamError::from_stage(FailureStage::NoResponse)))
    }

    /// Hands the input of a retry to the call that waits for it, on whichever worker that is.
    async fn resume(&self, pool: &Rc<UpstreamPool>, request: &ModernRequest) -> CallOutcome {
        let binding = request.binding(pool.upstream().name());
        let state = request.request_state();
        let held_call: oneshot::Sender<CallResumption> = match self.held_calls.take(&state, &binding) {
            Ok(held_call) => held_call,
            Err(error) => return Ok(resume_refusal(request, error)),
        };
        let (client, response) = ClientResponder::new(request);
        let (responses, capabilities) = (request.responses(), request.capabilities);
        let credential = request.credential.clone();
        if held_call.send(CallResumption { client, responses, credential, capabilities }).is_err() {
            return Ok(resume_refusal(request, ResumeError::Ended));
        }
        response.await.unwrap_or_else(|_dropped| Err(UpstreamError::from_stage(FailureStage::NoResponse)))
    }
}

fn too_many_sessions(request: &ModernRequest) -> LocalResponse {
    let text = "there are too many sessions with servers of earlier revisions; try again later";
    request.refusal(StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL, text)
}

fn resume_refusal(request: &ModernRequest, error: ResumeError) -> LocalResponse {
    request.refusal(StatusCode::OK, code::INVALID_PARAMS, error.text())
}

impl EraAdapter for ModernAdapter {
    fn answer(
        self: Arc<Self>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        kind: RequestKind,
    ) -> ResponseFuture {
        Box::pin(self.handle(pool, request, kind))
    }

    fn is_announced(&self) -> bool {
        self.config.load().discover
    }
}
