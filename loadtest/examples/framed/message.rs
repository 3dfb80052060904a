//! The requests of a load.

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// Returns a request of the Modern era, or `ping` of the Legacy era.
pub fn message(method: &str, id: u64) -> String {
    match method {
        "ping" => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#),
        "refused" => format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"nobody__knows","arguments":{{}},{META}}}}}"#
        ),
        "tools/call" => format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"s__tool_00","arguments":{{"text":"hello"}},{META}}}}}"#
        ),
        method => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{META}}}}}"#),
    }
}

/// Returns the numeric id of a response.
pub fn response_id(message: &[u8]) -> Option<u64> {
    let start = message.windows(5).position(|window| window == b"\"id\":")? + 5;
    let digits: Vec<u8> = message[start..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}
