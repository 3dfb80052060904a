//! Every answer there is, as ready bytes.

use crate::request::Method;

/// The answers, head and body.
pub struct Answers {
    call: Vec<u8>,
    discover: Vec<u8>,
    list: Vec<u8>,
    unknown: Vec<u8>,
    not_post: Vec<u8>,
    bad_request: Vec<u8>,
}

const DISCOVERED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public"}}"#;

const LISTED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[{"name":"echo","description":"Answers with a text","inputSchema":{"type":"object"}}],"ttlMs":3600000,"cacheScope":"public"}}"#;

const UNKNOWN: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"unknown method"}}"#;

const CALLED: [&str; 2] = [
    r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":""#,
    r#""}]}}"#,
];

const TEXT: &str = "hello";

impl Answers {
    /// With so many bytes in the body that answers a call, or as few as it takes.
    pub fn new(call_bytes: usize) -> Self {
        let [front, back] = CALLED;
        let padding = call_bytes.saturating_sub(front.len() + TEXT.len() + back.len());
        let called = [front, TEXT, &"x".repeat(padding), back].concat();
        Self {
            call: answer("200 OK", &called),
            discover: answer("200 OK", DISCOVERED),
            list: answer("200 OK", LISTED),
            unknown: answer("404 Not Found", UNKNOWN),
            not_post: answer("405 Method Not Allowed", ""),
            bad_request: answer("400 Bad Request", ""),
        }
    }

    /// The answer to a method.
    pub fn to(&self, method: Method) -> &[u8] {
        match method {
            Method::Call => &self.call,
            Method::Discover => &self.discover,
            Method::List => &self.list,
            Method::Unknown => &self.unknown,
            Method::NotPost => &self.not_post,
        }
    }

    /// The answer to what is no request, after which the connection ends.
    pub fn bad_request(&self) -> &[u8] {
        &self.bad_request
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(call_bytes: usize, expected: usize) {
        let answers = Answers::new(call_bytes);
        let text = String::from_utf8(answers.to(Method::Call).to_vec()).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head");
        assert_eq!(body.len(), expected, "{call_bytes}");
        assert!(head.ends_with(&format!("Content-Length: {expected}")), "{head}");
    }

    #[test]
    fn call_bodies_have_the_size_asked_for() {
        let smallest = CALLED.concat().len() + TEXT.len();
        check(0, smallest);
        check(smallest, smallest);
        check(64 << 10, 64 << 10);
        check(1 << 20, 1 << 20);
    }
}
