//! Messages to the server whose response does not matter.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use metamcp_core::frame::json_string;
use metamcp_core::protocol::McpMethod;
use tokio::time::timeout;

use crate::session::{BufferedRequest, UpstreamSession, send_buffered};
use crate::upstream::UpstreamPool;

/// How long a server may take to accept such a message.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a message whose response does not matter. Returns false if the server did not accept it in time.
pub async fn notify_server(
    pool: &Rc<UpstreamPool>,
    upstream_session: &UpstreamSession,
    method: McpMethod,
    message: Bytes,
) -> bool {
    let request = BufferedRequest { method, message, session: Some(upstream_session), modern_headers: None };
    let response = timeout(NOTIFY_TIMEOUT, send_buffered(pool, request)).await;
    let is_accepted = matches!(&response, Ok(Ok(response)) if response.status.is_success());
    if !is_accepted {
        tracing::debug!(server = %pool.upstream().name(), method = method.as_str(), "server did not accept a message");
    }
    is_accepted
}

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
    notify_server(pool, upstream_session, method, message.into()).await
}
