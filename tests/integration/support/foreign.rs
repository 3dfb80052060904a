//! What clients may send and the gateway must not trust: headers, and keys that nobody made.

/// Headers that other products trust or pass on, and that mean nothing here; `X-API-Key` alone is a credential.
pub const FOREIGN_HEADERS: [&str; 27] = [
    "X-API-Key",
    "Cookie",
    "Proxy-Authorization",
    "Proxy-Connection",
    "X-Forwarded-For",
    "Forwarded",
    "X-Real-IP",
    "Via",
    "Set-Cookie",
    "X-Team",
    "Origin-Trial",
    "Mcp-Init-Host",
    "X-Original-URL",
    "TE",
    "Keep-Alive",
    "Trailer",
    "X-HTTP-Method-Override",
    "Last-Event-ID",
    "Referer",
    "User-Agent",
    "Router-Key",
    "X-Forwarded-User",
    "X-Authenticated",
    "X-Original-Host",
    "Proxy-Authenticate",
    "X-Auth-Token",
    "X-Amz-Security-Token",
];

/// An API key: this text and its checksum, as `auth::key` makes it.
pub fn with_checksum(body: &str) -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let (mut rest, mut digits) = (crc32fast::hash(body.as_bytes()) as usize, Vec::new());
    for _ in 0..6 {
        digits.push(char::from(BASE62[rest % 62]));
        rest /= 62;
    }
    body.chars().chain(digits.into_iter().rev()).collect()
}
