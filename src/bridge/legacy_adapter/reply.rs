//! Responses of the gateway's own, in place of the server's.

use bytes::Bytes;

use metamcp_http::UpstreamResponse;
use metamcp_http::multiplex::LocalResponse;

/// Wraps a local response as one of the pool's server.
pub fn gateway_reply(reply: LocalResponse) -> Box<UpstreamResponse> {
    UpstreamResponse::from_local(reply)
}

/// Returns the response with an empty result. `id` is raw.
pub fn empty_result(id: &[u8]) -> LocalResponse {
    result_response(id, b"{}")
}

/// Returns the response with that raw result. `id` is raw.
pub fn result_response(id: &[u8], result: &[u8]) -> LocalResponse {
    let message: Bytes = [br#"{"jsonrpc":"2.0","id":"#, id, br#","result":"#, result, b"}"].concat().into();
    LocalResponse::from_message(message)
}
