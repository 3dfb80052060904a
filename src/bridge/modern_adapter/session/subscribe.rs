//! Subscriptions to resources at the server.

use std::rc::Rc;

use metamcp_core::frame::json_string;
use metamcp_core::protocol::McpMethod;
use metamcp_http::RequestKind;

use crate::session::{BufferedRequest, UpstreamSession, deliver};
use crate::upstream::UpstreamPool;

/// Sends `resources/subscribe` or `resources/unsubscribe`.
pub async fn update_subscription(
    pool: &Rc<UpstreamPool>,
    upstream_session: &UpstreamSession,
    method: McpMethod,
    uri: &str,
) -> bool {
    let (name, uri) = (method.as_str(), json_string(uri));
    let uri = String::from_utf8_lossy(&uri);
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":"metamcp-subscription","method":"{name}","params":{{"uri":{uri}}}}}"#
    );
    deliver(pool, BufferedRequest::legacy(upstream_session, method, message.into()), RequestKind::Call).await
}
