//! REST handlers that list usage, audit entries and sessions.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::authenticated_request::AuthenticatedRequest;
use super::control_plane::ControlPlane;
use super::problem::Problem;
use super::request::{QueryReader, page_response};
use super::views::{AuditEntry, SessionView, Usage};
use crate::runtime::run_blocking;
use crate::session::Session;
use metamcp_core::base::UsageLabel;
use metamcp_store::store::{AuditFilter, ObjectKind, UsageFilter, UsageKey};

/// Hour, key, server and tool.
type UsageCursor = (u64, String, String, String);

/// Sorted by creation time, then by key, which distinguishes sessions of the same second.
type SessionCursor = (u64, String);

impl ControlPlane {
    pub(super) async fn list_usage(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let label = |label: fn(Cow<'static, str>) -> UsageLabel<'static>, name: Option<String>| {
            name.map(|name| label(name.into()).into_text().into_owned())
        };
        let tool = query.text("tool");
        let prompt = label(UsageLabel::Prompt, query.text("prompt"));
        let resource = label(UsageLabel::Resource, query.text("resource"));
        let filter = UsageFilter {
            from: query.number("from"),
            until: query.number("until"),
            key_id: query.text("key_id"),
            server: query.text("server"),
            tool: tool.or(prompt).or(resource),
        };
        let page = query.page::<UsageCursor>();
        query.finish()?;
        let after = page.after.map(|(hour, key_id, server, tool)| UsageKey { hour, key_id, server, tool });
        let found = self.parts.store.usage(filter, after, page.items).await?;
        let next = found.next.map(|key| (key.hour, key.key_id, key.server, key.tool));
        Ok(page_response(found.items.into_iter().map(|row| json!(Usage::from(row))).collect(), next.as_ref()))
    }

    pub(super) async fn list_audit(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let filter = AuditFilter {
            actor: query.text("actor"),
            action: query.text("action"),
            object_kind: query.keyword("object_kind", ObjectKind::parse, "key, server, endpoint, jwt_key"),
            object_id: query.text("object_id"),
            from: query.number("from"),
            until: query.number("until"),
        };
        let page = query.page::<u64>();
        query.finish()?;
        let found = self.parts.store.audit(filter, page.after, page.items).await?;
        Ok(page_response(
            found.items.into_iter().map(|row| json!(AuditEntry::from(row))).collect(),
            found.next.as_ref(),
        ))
    }

    pub(super) async fn list_sessions(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let key_id = query.text("key_id");
        let page = query.page::<SessionCursor>();
        query.finish()?;
        let sessions = Arc::clone(&self.parts.sessions);
        // There may be a hundred thousand sessions, so they are not walked on a worker.
        let gather = move || {
            let mut all = sessions.all();
            all.retain(|session| key_id.as_ref().is_none_or(|id| session.claims.key_id.as_str() == id));
            let mut found: Vec<(SessionCursor, Value)> = all
                .iter()
                .map(|session| (place(session), session))
                .filter(|(place, _)| page.after.as_ref().is_none_or(|after| place > after))
                .map(|(place, session)| (place, json!(session_view(session))))
                .collect();
            found.sort_by(|(one, _), (other, _)| one.cmp(other));
            let more = found.len() > page.items;
            found.truncate(page.items);
            let next = found.last().filter(|_| more).map(|(place, _)| place.clone());
            (found, next)
        };
        let (found, next) = run_blocking(gather).await?;
        Ok(page_response(found.into_iter().map(|(_, view)| view).collect(), next.as_ref()))
    }
}

fn place(session: &Session) -> SessionCursor {
    let key = session
        .claims
        .key
        .0
        .iter()
        .fold(String::with_capacity(32), |text, byte| text + &format!("{byte:02x}"));
    (session.claims.created_s, key)
}

fn session_view(session: &Session) -> SessionView {
    SessionView {
        key_id: session.claims.key_id.as_str().to_owned(),
        endpoint: session.claims.scope.to_string(),
        revision: session.claims.revision.as_str(),
        created_at: session.claims.created_s,
        last_used_at: session.last_used_s(),
        has_stream: session.has_stream(),
        is_quiet: session.is_idle(),
    }
}
