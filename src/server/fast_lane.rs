//! HTTP/1.1 with a client, as far as its requests have a usual shape: a small POST to an MCP path with a length
//! that was said, or the DELETE of a session, without a body. Every other request is hyper's, in whole, from
//! its first byte, and so is what follows it on the connection.
//!
//! Invariant: what is read here, hyper would read in the same way. The parser is the same.

use std::future::{Future, poll_fn};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Config;
use super::connection::{Detached, Link};
use super::control::{Control, Order, Speaks};
use super::fields::Fields;
use super::handler::{self, Arriving, Asked};
use super::worker::Worker;
use super::write::Writing;
use crate::base::{let_others_go_first, with_scratch};
use crate::frame::Span;
use crate::protocol::header;
use crate::route::Table;

/// Why the lane was left.
pub enum End {
    /// The connection is over.
    Gone,
    /// Nothing goes on, and the connection can be parked.
    Rest,
    /// Likewise, but for an event stream that is silent.
    Silent(Box<Writing>),
    /// What came is hyper's.
    Unusual,
}

/// Fields of a request; clients send a dozen.
const FIELDS_MAX: usize = 32;

/// The head of a request: a token and a session id have a kilobyte.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// The body of a request; bigger ones are not copied together here.
const BODY_BYTES_MAX: usize = 32 << 10;

/// Of requests that come while one is under way. A client that sends more is not noticed when it goes, until its
/// call has ended.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// For the rest of a request whose beginning came: clients write head and body one behind the other. What
/// takes longer is hyper's, with its clocks for slow clients.
const PATIENCE: Duration = Duration::from_millis(50);

/// Serves a connection for as long as its requests are usual, behind an event stream that is under way on it.
pub async fn serve(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
    link: &mut Link,
    stream: Option<Box<Detached>>,
) -> End {
    let mut lane = FastLane { worker, control, link };
    if let Some(detached) = stream {
        match Box::pin(lane.pass(detached)).await {
            Pause::Rest => {}
            pause => return pause.end(),
        }
    }
    let can_be_parked = lane.link.socket.can_be_still();
    loop {
        if !worker.shared.config.fast_lane {
            let is_at_rest = can_be_parked && control.is_at_rest() && lane.link.ahead.is_empty();
            return if is_at_rest { End::Rest } else { End::Unusual };
        }
        let pause = match lane.next(can_be_parked).await {
            // Boxed for as long as one request follows the other: a connection does not hold the place of an
            // exchange while nothing is asked on it.
            Ok(asked) => Box::pin(lane.serve_busy(asked)).await,
            Err(pause) => pause,
        };
        match pause {
            Pause::Rest if can_be_parked => return End::Rest,
            Pause::Rest => {}
            pause => return pause.end(),
        }
    }
}

struct FastLane<'a> {
    worker: &'a Rc<Worker>,
    control: &'a Rc<Control>,
    link: &'a mut Link,
}

/// Why no request follows.
enum Pause {
    /// None came in a while.
    Rest,
    /// An event stream is under way, and silent.
    Silent(Box<Writing>),
    /// What came of it lies in `ahead`.
    Unusual,
    Gone,
}

impl Pause {
    fn end(self) -> End {
        match self {
            Self::Rest => End::Rest,
            Self::Silent(writing) => End::Silent(writing),
            Self::Unusual => End::Unusual,
            Self::Gone => End::Gone,
        }
    }
}

impl FastLane<'_> {
    /// Answers this request and those that follow it.
    async fn serve_busy(&mut self, first: Asked) -> Pause {
        self.link.speaks = Some(Speaks::Http1);
        let mut asked = first;
        loop {
            let active = self.control.begin();
            match self.answer(asked).await {
                Answered::Kept => drop(active),
                Answered::Gone => return Pause::Gone,
                Answered::Stream(writing) => {
                    match Box::pin(self.pass(Box::new(Detached { writing, active }))).await {
                        Pause::Rest => {}
                        pause => return pause,
                    }
                }
            }
            match self.next(true).await {
                Ok(next) => asked = next,
                Err(pause) => return pause,
            }
        }
    }

    /// Waits for the next request. Nothing is held here while nothing comes; who holds something waits no longer
    /// than until the connection is at rest.
    async fn next(&mut self, until_rest: bool) -> Result<Asked, Pause> {
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        if !self.link.ahead.is_empty() {
            self.control.note_read();
            if let Some(next) = self.read_ahead() {
                return next;
            }
        }
        poll_fn(|cx| {
            let order = self.control.order(cx.waker());
            if order == Order::Close {
                return Poll::Ready(Err(Pause::Gone));
            }
            loop {
                match self.poll_read(cx) {
                    Poll::Ready(Some(next)) => return Poll::Ready(next),
                    Poll::Ready(None) => {}
                    // Only now: a request that has begun is answered.
                    Poll::Pending if self.link.ahead.is_empty() && order == Order::Drain => {
                        return Poll::Ready(Err(Pause::Gone));
                    }
                    Poll::Pending
                        if self.link.ahead.is_empty() && until_rest && self.control.is_at_rest() =>
                    {
                        return Poll::Ready(Err(Pause::Rest));
                    }
                    Poll::Pending if self.link.ahead.is_empty() => return Poll::Pending,
                    Poll::Pending => {
                        let patience = patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                        return patience.as_mut().poll(cx).map(|()| Err(Pause::Unusual));
                    }
                }
            }
        })
        .await
    }

    /// Reads once; `None` while the request is not whole.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, Pause>>> {
        let (shared, pools) = (&self.worker.shared, self.worker.pools());
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.link.socket).poll_read(cx, &mut buffer));
            let came = buffer.filled();
            if read.is_err() || came.is_empty() {
                return Poll::Ready(Some(Err(Pause::Gone)));
            }
            self.control.note_read();
            if self.link.ahead.is_empty()
                && let Read::Usual(asked, bytes) = read_request(&shared.config, &pools.topology().table, came)
            {
                self.link.ahead.extend_from_slice(&came[bytes..]);
                return Poll::Ready(Some(Ok(asked)));
            }
            self.link.ahead.extend_from_slice(came);
            Poll::Ready(self.read_ahead())
        })
    }

    /// Reads what has come before.
    fn read_ahead(&mut self) -> Option<Result<Asked, Pause>> {
        let (shared, pools) = (&self.worker.shared, self.worker.pools());
        match read_request(&shared.config, &pools.topology().table, &self.link.ahead) {
            Read::Partial => None,
            Read::Unusual => Some(Err(Pause::Unusual)),
            Read::Usual(asked, bytes) => {
                self.link.ahead.advance(bytes);
                if self.link.ahead.is_empty() {
                    self.link.ahead = BytesMut::new();
                }
                Some(Ok(asked))
            }
        }
    }

    /// Answers a request, but for an event stream, which may last.
    async fn answer(&mut self, asked: Asked) -> Answered {
        let reply = {
            let mut answering = pin!(handler::answer(self.worker, self.control, asked));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(reply) => Poll::Ready(Some(reply)),
                Poll::Pending if self.is_over(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        let Some(reply) = reply else { return Answered::Gone };
        let_others_go_first().await;
        let mut writing = Writing::new(reply, self.worker);
        if writing.is_stream() {
            return Answered::Stream(writing);
        }
        if self.write(&mut writing).await { Answered::Kept } else { Answered::Gone }
    }

    /// Passes an event stream on, until its end (then the connection is at rest) or for as long as it says something.
    async fn pass(&mut self, detached: Box<Detached>) -> Pause {
        let Detached { mut writing, active } = *detached;
        self.control.note_stream(true);
        let can_be_parked = self.link.socket.can_be_still();
        let pause = poll_fn(|cx| match writing.poll(&mut self.link.socket, self.control, cx) {
            Poll::Ready(true) => Poll::Ready(Some(Pause::Rest)),
            Poll::Ready(false) => Poll::Ready(Some(Pause::Gone)),
            Poll::Pending if self.is_over(cx) => Poll::Ready(Some(Pause::Gone)),
            Poll::Pending => {
                let is_at_rest = can_be_parked && self.control.is_at_rest() && writing.is_silent();
                if is_at_rest && self.link.ahead.is_empty() { Poll::Ready(None) } else { Poll::Pending }
            }
        })
        .await;
        self.control.note_stream(false);
        drop(active);
        pause.unwrap_or_else(|| Pause::Silent(Box::new(writing)))
    }

    async fn write(&mut self, writing: &mut Writing) -> bool {
        poll_fn(|cx| match writing.poll(&mut self.link.socket, self.control, cx) {
            Poll::Pending if self.is_over(cx) => Poll::Ready(false),
            polled => polled,
        })
        .await
    }

    /// Whether the client has gone, or was given up. A client that closes has gone, also when it closes only
    /// its sending side: in the Modern era that is how a call is cancelled (MCP 2026-07-28, transports).
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.control.order(cx.waker()) == Order::Close {
            return true;
        }
        // Further requests are taken in too, up to a bound, for behind them the client may go.
        while self.link.ahead.len() < AHEAD_BYTES_MAX && !self.link.socket.is_silent(cx) {
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = Pin::new(&mut self.link.socket).poll_read(cx, &mut buffer);
                self.link.ahead.extend_from_slice(buffer.filled());
                read.map(|read| read.is_ok() && !buffer.filled().is_empty())
            });
            match read {
                Poll::Pending => return false,
                Poll::Ready(true) => {}
                Poll::Ready(false) => return true,
            }
        }
        false
    }
}

/// What became of a request.
enum Answered {
    /// Another may follow.
    Kept,
    Gone,
    /// An event stream, of which nothing is written yet.
    Stream(Writing),
}

enum Read {
    /// And of how many bytes.
    Usual(Asked, usize),
    Partial,
    Unusual,
}

/// What usual requests begin with. Each tells its method by its first letter.
const OPENINGS: [(Method, &[u8]); 2] = [(Method::POST, b"POST /"), (Method::DELETE, b"DELETE /")];

/// What the beginning of a request asks to be done, when that is usual; of less than a whole one: what it may come to ask.
fn usual_method(came: &[u8]) -> Option<Method> {
    let is_it = |opening: &[u8]| {
        let seen = came.len().min(opening.len());
        came[..seen] == opening[..seen]
    };
    OPENINGS.into_iter().find_map(|(method, opening)| is_it(opening).then_some(method))
}

/// Reads a request, when it is of a usual shape and came whole.
fn read_request(config: &Config, table: &Table, came: &[u8]) -> Read {
    let Some(method) = usual_method(came) else { return Read::Unusual };
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, came, &mut lines);
    let head_bytes = match parsed {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if came.len() <= HEAD_BYTES_MAX => return Read::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Read::Unusual,
    };
    let is_small = head_bytes <= HEAD_BYTES_MAX.min(config.header_bytes_max)
        && request.headers.len() <= config.header_count_max;
    let endpoint = request.path.and_then(|path| table.find(path));
    let (Some(endpoint), Some(1), true) = (endpoint, request.version, is_small) else {
        return Read::Unusual;
    };
    let bytes_max = config.body_bytes_max.min(BODY_BYTES_MAX);
    let body_bytes = match (method == Method::POST, length_of(request.headers)) {
        // A POST has a body, even if it is refused; nothing else has one.
        (true, Ok(Some(bytes))) if (1..=bytes_max).contains(&bytes) => bytes,
        (false, Ok(None | Some(0))) => 0,
        _ => return Read::Unusual,
    };
    let bytes = head_bytes + body_bytes;
    if came.len() < bytes {
        return Read::Partial;
    }
    let text = Bytes::copy_from_slice(&came[..bytes]);
    let body = text.slice(head_bytes..);
    let mut fields = Fields::of(text);
    for line in request.headers.iter() {
        fields.note(place(line.name.as_bytes(), came), place(line.value, came));
    }
    if fields.any_doubled() {
        return Read::Unusual;
    }
    let (endpoint, body) = (Arc::clone(endpoint), Arriving::Whole(body));
    let asked = Asked { method, authority: None, endpoint, fields, body };
    Read::Usual(asked, bytes)
}

/// Something is said about a message or its connection that is not usual.
struct Unusual;

/// How long the body is, if that is said, when nothing else is said about the message or the connection than that it
/// is kept.
fn length_of(lines: &[httparse::Header<'_>]) -> Result<Option<usize>, Unusual> {
    let mut length = None;
    for line in lines {
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        match line.name.len() {
            14 if is("content-length") => {
                if length.is_some() {
                    return Err(Unusual);
                }
                let said = header::content_length(line.value).and_then(|bytes| usize::try_from(bytes).ok());
                length = Some(said.ok_or(Unusual)?);
            }
            10 if is("connection") && !line.value.eq_ignore_ascii_case(b"keep-alive") => return Err(Unusual),
            17 if is("transfer-encoding") => return Err(Unusual),
            7 if is("upgrade") => return Err(Unusual),
            6 if is("expect") => return Err(Unusual),
            _ => {}
        }
    }
    Ok(length)
}

/// Where a part lies in the whole it is a part of.
fn place(part: &[u8], whole: &[u8]) -> Span {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    // A head is bounded far below 4 GiB.
    let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    Span { start: at(start), end: at(start + part.len()) }
}

#[cfg(test)]
mod tests {
    use super::super::fields::Field;
    use super::*;
    use crate::base::{EndpointName, ServerName};
    use crate::route::{EndpointConfig, Members, Prefix};

    fn read(came: &[u8]) -> Read {
        let config = Config {
            body_bytes_max: 64 << 10,
            header_bytes_max: 16 << 10,
            header_count_max: 64,
            ..super::super::guard::tests::config("127.0.0.1:0")
        };
        let servers = [ServerName::new("a").expect("valid")];
        let name = EndpointName::new("default").expect("valid");
        let endpoint = EndpointConfig { name, servers: Members::Every, prefix: Prefix::Always };
        let table = Table::build(&servers, &[endpoint]).expect("all servers exist");
        read_request(&config, &table, came)
    }

    /// The scope of the endpoint, the body and what is left behind it; or why not.
    #[track_caller]
    fn check(came: &[u8], expected: Result<(&str, &[u8], usize), &str>) {
        let read = read(came);
        let got = match &read {
            Read::Partial => Err("partial"),
            Read::Unusual => Err("unusual"),
            Read::Usual(asked, bytes) => {
                let Arriving::Whole(body) = &asked.body else { panic!("a body that was read") };
                assert!(came.starts_with(asked.method.as_str().as_bytes()) && asked.authority.is_none());
                Ok((&*asked.endpoint.scope, &body[..], came.len() - bytes))
            }
        };
        assert_eq!(got, expected, "{}", came.escape_ascii());
    }

    fn head(lines: &str) -> String {
        format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
    }

    #[test]
    fn usual_requests() {
        let usual = head("content-length: 2\r\n") + "{}";
        check(usual.as_bytes(), Ok(("e/default", b"{}", 0)));
        check((usual.clone() + "POST").as_bytes(), Ok(("e/default", b"{}", 4)));
        check(usual.replace("/mcp", "/servers/a/mcp").as_bytes(), Ok(("s/a", b"{}", 0)));
        let more = "Connection: Keep-Alive\r\nX-Any: \u{e9}\r\nX-Any: again\r\nContent-Length:  02\t\r\n";
        check((head(more) + "{}").as_bytes(), Ok(("e/default", b"{}", 0)));
        for at in 0..usual.len() {
            check(&usual.as_bytes()[..at], Err("partial"));
        }
        let Read::Usual(asked, _) = read(usual.as_bytes()) else { panic!("it is usual") };
        assert_eq!(asked.fields.get(Field::Host), Some(&b"localhost"[..]));
        assert_eq!(asked.fields.get(Field::Origin), None);
        for lines in ["", "Content-Length: 0\r\n", "Content-Length: 00\r\nConnection: keep-alive\r\n"] {
            let end = delete(lines);
            check(end.as_bytes(), Ok(("e/default", b"", 0)));
            check((end.clone() + &end).as_bytes(), Ok(("e/default", b"", end.len())));
            for at in 0..end.len() {
                check(&end.as_bytes()[..at], Err("partial"));
            }
        }
    }

    fn delete(lines: &str) -> String {
        head(lines).replacen("POST", "DELETE", 1)
    }

    #[test]
    fn what_is_for_hyper() {
        let usual = head("Content-Length: 2\r\n") + "{}";
        for (from, to) in [
            ("POST", "GET"),
            ("POST", "post"),
            ("POST", "\r\nPOST"),
            ("POST /", "POST  /"),
            ("/mcp", "http://localhost/mcp"),
            ("/mcp", "/mcp?x=1"),
            ("/mcp", "/mcp/"),
            ("/mcp", "/nope"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "HTTP/2.0"),
            ("Host:", "Host :"),
            ("Host: ", "Host: \u{0}"),
            ("Host: localhost", "Host: localhost\r\n folded"),
            ("Host: localhost", "Host: localhost\r\nhost: localhost"),
        ] {
            check(usual.replacen(from, to, 1).as_bytes(), Err("unusual"));
        }
        for lines in [
            "",
            "Content-Length: 0\r\n",
            "Content-Length:\r\n",
            "Content-Length: +2\r\n",
            "Content-Length: 2, 2\r\n",
            "Content-Length: 2\r\nContent-Length: 2\r\n",
            "Content-Length: 32769\r\n",
            "Content-Length: 0000000000000002\r\n",
            "Content-Length: 18446744073709551618\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 2\r\nTransfer-Encoding: x\r\n",
            "Content-Length: 2\r\nConnection: close\r\n",
            "Content-Length: 2\r\nConnection: keep-alive, close\r\n",
            "Content-Length: 2\r\nUpgrade: h2c\r\n",
            "Content-Length: 2\r\nExpect: 100-continue\r\n",
            "Content-Length: 2\r\nAccept: a\r\nACCEPT: b\r\n",
        ] {
            check((head(lines) + "{}").as_bytes(), Err("unusual"));
            // These are what an end of a session usually has.
            if !["", "Content-Length: 0\r\n"].contains(&lines) {
                check((delete(lines) + "{}").as_bytes(), Err("unusual"));
            }
        }
        for other in
            ["DELETE ", "DELETE\t/", "Delete /", "delete /", "DELETED /", "DEL /", "PUT /", "GET /", "X"]
        {
            check(head("").replacen("POST /", other, 1).as_bytes(), Err("unusual"));
        }
        check((head(&"X: x\r\n".repeat(FIELDS_MAX)) + "{}").as_bytes(), Err("unusual"));
        // Refused before the end of the head came.
        check(&[b"POST /mcp HTTP/1.1\r\nX: ", &[b'x'; HEAD_BYTES_MAX][..]].concat(), Err("unusual"));
    }
}
