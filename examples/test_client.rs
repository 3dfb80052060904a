//! A client that tries a gateway: the exchange of a key for a token, then both eras of the protocol, each
//! answer checked.
//!
//!     cargo run --example test_client [URL] [KEY]
//!
//! URL is an endpoint, by default `$METAMCP_URL`, else `http://127.0.0.1:12009/mcp`; KEY is an API key, by
//! default `$METAMCP_KEY`; without one it is tried whether the gateway asks for none. Prints a line for each
//! check and a count at the end; the exit code is 0 when none failed. Speaks plain HTTP only, a connection for
//! each request: a closed connection is how a client of 2026-07-28 cancels.
//!
//! What it calls it looks up in the lists: a tool `echo`, and a slow one, `countdown` or `walk`, as the
//! demonstration server and the example servers have them. What is not there is skipped.

use std::collections::HashSet;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

const DEFAULT_URL: &str = "http://127.0.0.1:12009/mcp";

/// The longest check takes two seconds when all is well.
const CHECK_TIME: Duration = Duration::from_secs(20);

/// A list that does not end by then never ends.
const PAGES_MAX: usize = 1000;

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";

const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "name"),
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    #[expect(
        clippy::disallowed_methods,
        reason = "a client of its own has nothing of the gateway's configuration"
    )]
    let argument = |place, variable| std::env::args().nth(place).or_else(|| std::env::var(variable).ok());
    let url = argument(1, "METAMCP_URL").unwrap_or_else(|| DEFAULT_URL.into());
    let key = argument(2, "METAMCP_KEY").filter(|key| !key.is_empty());
    let mut gateway = match Gateway::new(&url) {
        Ok(gateway) => gateway,
        Err(error) => {
            eprintln!("test_client: {url}: {error}\nusage: test_client [URL] [KEY]");
            return ExitCode::from(64);
        }
    };
    let mut report = Report::default();
    authenticate(&mut gateway, key, &mut report).await;
    modern(Session::modern(gateway.clone()), &mut report).await;
    legacy(gateway, &mut report).await;
    println!("{} passed, {} failed", report.passed, report.failed);
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// ---- The checks ----

/// From here on every request carries a token, if there is a key to get one for.
async fn authenticate(gateway: &mut Gateway, key: Option<String>, report: &mut Report) {
    report.check("health", gateway.health()).await;
    let Some(key) = key else { return };
    report.check("a wrong key is refused", gateway.wrong_key()).await;
    gateway.token = report.check("key for token", gateway.exchange(&key)).await.flatten();
}

/// 2026-07-28: every request stands alone.
async fn modern(mut session: Session, report: &mut Report) {
    report.check("modern server/discover", session.discover()).await;
    calls("modern", &mut session, report).await;
    report.check("modern cancellation by closing", session.close_a_call()).await;
    report.check("modern subscriptions/listen", session.listen()).await;
}

/// 2025-11-25: within a session.
async fn legacy(gateway: Gateway, report: &mut Report) {
    let Some(Some(mut session)) = report.check("legacy initialize", Session::initialize(gateway)).await
    else {
        return;
    };
    report.check("legacy initialized", session.initialized()).await;
    report.check("legacy ping", session.ping()).await;
    calls("legacy", &mut session, report).await;
    report.check("legacy cancellation", session.cancel_a_call()).await;
    report.check("legacy GET stream", session.get_stream()).await;
    report.check("legacy DELETE", session.delete()).await;
}

/// What both eras have.
async fn calls(era: &str, session: &mut Session, report: &mut Report) {
    let mut lists = Vec::new();
    for (method, key, id) in LISTS {
        let items = report.check(&format!("{era} {method}"), session.list(method, key, id)).await;
        lists.push(items.flatten().unwrap_or_default());
    }
    let [tools, prompts, resources, _] = &lists[..] else { return };
    session.tools.clone_from(tools);
    report.check(&format!("{era} tools/call"), session.echo()).await;
    report.check(&format!("{era} tools/call, no such tool"), session.no_such_tool()).await;
    report.check(&format!("{era} progress"), session.progress()).await;
    report.check(&format!("{era} prompts/get"), session.get_prompt(prompts.first())).await;
    report.check(&format!("{era} resources/read"), session.read_resource(resources.first())).await;
}

/// What a check found; it prints a line for each.
#[derive(Default)]
struct Report {
    passed: usize,
    failed: usize,
}

/// What a check gives: a detail for people, and what later checks need. `None`: nothing to try it with.
type Outcome<T> = Result<Option<(String, T)>>;

impl Report {
    async fn check<T>(&mut self, name: &str, check: impl Future<Output = Outcome<T>>) -> Option<Option<T>> {
        let outcome = timeout(CHECK_TIME, check).await;
        match outcome.unwrap_or_else(|_| Err(format!("not done after {CHECK_TIME:?}").into())) {
            Ok(Some((detail, value))) => {
                println!("pass  {name}: {detail}");
                self.passed += 1;
                Some(Some(value))
            }
            Ok(None) => {
                println!("skip  {name}: the servers have nothing to try it with");
                Some(None)
            }
            Err(error) => {
                println!("FAIL  {name}: {error}");
                self.failed += 1;
                None
            }
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it stands where a check ends")]
fn passed<T>(detail: impl Into<String>, value: T) -> Outcome<T> {
    Ok(Some((detail.into(), value)))
}

fn expect(holds: bool, or: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(or().into()) }
}

impl Gateway {
    async fn health(&self) -> Outcome<()> {
        let reply = self.send(Method::GET, "/health", HeaderMap::new(), None).await?;
        expect(reply.status == StatusCode::OK, || reply.unexpected())?;
        passed("200", ())
    }

    async fn wrong_key(&self) -> Outcome<()> {
        let mut gateway = self.clone();
        gateway.token = Some("not-a-key".into());
        let reply = Session::modern(gateway).request("server/discover", json!({})).await?;
        expect(reply.status == StatusCode::UNAUTHORIZED, || reply.unexpected())?;
        passed("401", ())
    }

    async fn exchange(&self, key: &str) -> Outcome<String> {
        let body = json!({"api_key": key});
        let mut reply = self.send(Method::POST, "/api/v1/auth/token", HeaderMap::new(), Some(body)).await?;
        expect(reply.status == StatusCode::OK, || reply.unexpected())?;
        let answer = reply.message().await?.unwrap_or_default();
        let token = answer["access_token"].as_str().ok_or("no access_token in the answer")?;
        passed(format!("for {} seconds", answer["expires_in"]), token.to_owned())
    }
}

impl Session {
    async fn discover(&mut self) -> Outcome<()> {
        let result = self.call("server/discover", json!({})).await?;
        let versions = result["supportedVersions"].as_array().ok_or("no supportedVersions")?;
        expect(versions.contains(&json!(MODERN)), || format!("{MODERN} is not among {versions:?}"))?;
        passed(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"].to_string(), ())
    }

    /// All pages of a list; nothing may come twice.
    async fn list(&mut self, method: &str, key: &str, id: &str) -> Outcome<Vec<Value>> {
        let (mut items, mut seen) = (Vec::new(), HashSet::new());
        let mut params = json!({});
        for page in 1..=PAGES_MAX {
            let result = self.call(method, params).await?;
            let found = result[key].as_array().ok_or_else(|| format!("no {key} in the result"))?;
            for item in found {
                let id = item[id].as_str().ok_or_else(|| format!("an item without {id}"))?;
                expect(seen.insert(id.to_owned()), || format!("{id} twice"))?;
                items.push(item.clone());
            }
            let Some(cursor) = result["nextCursor"].as_str() else {
                return passed(format!("{} on {page} page(s)", items.len()), items);
            };
            params = json!({"cursor": cursor});
        }
        Err(format!("more than {PAGES_MAX} pages").into())
    }

    /// The name of a tool behind whichever prefix.
    fn tool(&self, names: &[&str]) -> Option<Value> {
        let own_name = |tool: &&Value| {
            let name = tool["name"].as_str().unwrap_or_default();
            names.contains(&name.rsplit_once("__").map_or(name, |(_, own_name)| own_name))
        };
        self.tools.iter().find(own_name).cloned()
    }

    async fn echo(&mut self) -> Outcome<()> {
        const TEXT: &str = "Grüße, \"gateway\" \u{1f680}";
        let Some(tool) = self.tool(&["echo"]) else { return Ok(None) };
        let argument = tool["inputSchema"]["required"][0].as_str().unwrap_or("text");
        let params = json!({"name": tool["name"], "arguments": {argument: TEXT}});
        let result = self.call("tools/call", params).await?;
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        expect(text.contains(TEXT), || format!("{TEXT:?} was sent, and {text:?} came back"))?;
        passed(tool["name"].to_string(), ())
    }

    async fn no_such_tool(&mut self) -> Outcome<()> {
        let mut reply = self.request("tools/call", json!({"name": "no-such-tool", "arguments": {}})).await?;
        let answer = reply.answer().await?;
        // Some servers answer with a result that is an error (SDKs up to 2025-11-25).
        let refused = answer["error"]["code"] == -32602 || answer["result"]["isError"] == true;
        expect(refused, || format!("answered with {answer}"))?;
        passed(answer["error"]["message"].to_string(), ())
    }

    /// Calls a tool that takes `steps` steps and tells its progress.
    async fn slow_call(&mut self, steps: u32) -> Result<Option<Reply>> {
        let Some(tool) = self.tool(&["countdown", "walk"]) else { return Ok(None) };
        let arguments = json!({"steps": steps});
        let params =
            json!({"name": tool["name"], "arguments": arguments, "_meta": {"progressToken": "token"}});
        self.request("tools/call", params).await.map(Some)
    }

    async fn progress(&mut self) -> Outcome<()> {
        let Some(mut reply) = self.slow_call(3).await? else { return Ok(None) };
        let mut progress = Vec::new();
        while let Some(message) = reply.message().await? {
            if message["method"] == "notifications/progress" {
                let params = &message["params"];
                expect(params["progressToken"] == "token", || format!("another token: {params}"))?;
                progress.push(params["progress"].as_f64().unwrap_or_default());
            } else if message["id"] == self.last_id {
                expect(message["result"].is_object(), || format!("ended with {message}"))?;
                expect(progress == [1.0, 2.0, 3.0], || format!("the progress was {progress:?}"))?;
                return passed("three steps, then the result", ());
            }
        }
        Err("the stream ended without a result".into())
    }

    async fn get_prompt(&mut self, prompt: Option<&Value>) -> Outcome<()> {
        let Some(prompt) = prompt else { return Ok(None) };
        let arguments = prompt["arguments"].as_array().cloned().unwrap_or_default();
        let arguments: Map<_, _> =
            arguments.iter().filter_map(|a| Some((a["name"].as_str()?.to_owned(), json!("Ada")))).collect();
        let params = json!({"name": prompt["name"], "arguments": arguments});
        let result = self.call("prompts/get", params).await?;
        expect(result["messages"][0].is_object(), || format!("no message in {result}"))?;
        passed(prompt["name"].to_string(), ())
    }

    async fn read_resource(&mut self, resource: Option<&Value>) -> Outcome<()> {
        let Some(resource) = resource else { return Ok(None) };
        let result = self.call("resources/read", json!({"uri": resource["uri"]})).await?;
        let content = &result["contents"][0];
        expect(content["uri"] == resource["uri"], || format!("other contents: {result}"))?;
        passed(resource["uri"].to_string(), ())
    }

    /// Closes the connection of a call that would take long, and asks whether all is well.
    async fn close_a_call(&mut self) -> Outcome<()> {
        let Some(mut reply) = self.slow_call(60).await? else { return Ok(None) };
        let first = reply.message().await?.unwrap_or_default();
        expect(first["method"] == "notifications/progress", || format!("began with {first}"))?;
        drop(reply);
        self.echo().await?;
        passed("closed while it ran; the next call is answered", ())
    }

    async fn cancel_a_call(&mut self) -> Outcome<()> {
        let Some(mut reply) = self.slow_call(60).await? else { return Ok(None) };
        let first = reply.message().await?.unwrap_or_default();
        expect(first["method"] == "notifications/progress", || format!("began with {first}"))?;
        let id = self.last_id;
        self.notify("notifications/cancelled", json!({"requestId": id, "reason": "tried"})).await?;
        while let Some(message) = reply.message().await? {
            let is_result = message["id"] == id && message["result"].is_object();
            expect(!is_result, || "the call came to its end".to_owned())?;
        }
        passed("the stream ended without a result", ())
    }

    async fn listen(&mut self) -> Outcome<()> {
        let params = json!({"notifications": {"toolsListChanged": true}});
        let mut reply = self.request("subscriptions/listen", params).await?;
        if reply.status == StatusCode::NOT_FOUND {
            // The one server behind this endpoint has no subscriptions.
            return Ok(None);
        }
        expect(reply.status == StatusCode::OK && reply.is_events, || reply.unexpected())?;
        let first = reply.message().await?.unwrap_or_default();
        expect(first["method"] == "notifications/subscriptions/acknowledged", || {
            format!("began with {first}")
        })?;
        let id = &first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
        expect(*id == self.last_id, || format!("acknowledged for {id}, not {}", self.last_id))?;
        passed(format!("acknowledged {}", first["params"]["notifications"]), ())
    }

    async fn initialize(gateway: Gateway) -> Outcome<Self> {
        let mut session = Self { gateway, id: None, era: LEGACY, last_id: 0, tools: Vec::new() };
        let params = json!({
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "test_client", "version": env!("CARGO_PKG_VERSION")},
        });
        let mut reply = session.request("initialize", params).await?;
        let answer = reply.answer().await?;
        expect(answer["result"]["protocolVersion"] == LEGACY, || format!("answered with {answer}"))?;
        session.id.clone_from(&reply.session);
        passed(answer["result"]["serverInfo"]["name"].to_string(), session)
    }

    async fn initialized(&self) -> Outcome<()> {
        self.notify("notifications/initialized", json!({})).await?;
        passed("202", ())
    }

    async fn ping(&mut self) -> Outcome<()> {
        self.call("ping", json!({})).await?;
        passed("answered", ())
    }

    async fn get_stream(&self) -> Outcome<()> {
        let mut reply = self.gateway.send(Method::GET, &self.gateway.path, self.headers(), None).await?;
        expect(reply.status == StatusCode::OK && reply.is_events, || reply.unexpected())?;
        expect(reply.chunk().await?.is_some(), || "the stream ended at once".to_owned())?;
        passed("open", ())
    }

    async fn delete(&mut self) -> Outcome<()> {
        if self.id.is_none() {
            return Ok(None);
        }
        let reply = self.gateway.send(Method::DELETE, &self.gateway.path, self.headers(), None).await?;
        expect(reply.status.is_success(), || reply.unexpected())?;
        let after = self.request("ping", json!({})).await?;
        expect(after.status == StatusCode::NOT_FOUND, || after.unexpected())?;
        passed("ended, and unknown afterwards", ())
    }
}

// ---- The client ----

/// Where requests go, and with which credential.
#[derive(Clone)]
struct Gateway {
    authority: String,
    path: String,
    token: Option<String>,
}

/// How requests are made: in the one era or, with what `initialize` gave, in the other.
struct Session {
    gateway: Gateway,
    era: &'static str,
    id: Option<HeaderValue>,
    last_id: u64,
    tools: Vec<Value>,
}

/// An answer, read as it comes. Dropped before its end, the connection is closed.
struct Reply {
    status: StatusCode,
    session: Option<HeaderValue>,
    is_events: bool,
    body: Incoming,
    /// The beginning of what has not come whole.
    buffer: Vec<u8>,
    id: Option<u64>,
}

impl Gateway {
    fn new(url: &str) -> Result<Self> {
        let url: Uri = url.parse()?;
        expect(url.scheme_str() == Some("http"), || "only http:// URLs can be reached".to_owned())?;
        let authority = url.authority().ok_or("a host is missing")?.to_string();
        Ok(Self { authority, path: url.path().to_owned(), token: None })
    }

    /// Sends one request on a connection of its own and waits for the head of the answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Value>,
    ) -> Result<Reply> {
        let has_port = self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let address = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let stream = TcpStream::connect(&address).await.map_err(|error| format!("{address}: {error}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let id = body.as_ref().and_then(|body| body["id"].as_u64());
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .body(Full::new(bytes))?;
        request.headers_mut().extend(headers);
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert("accept", accept);
        if let Some(token) = &self.token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        let (head, body) = sender.send_request(request).await?.into_parts();
        let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok());
        Ok(Reply {
            status: head.status,
            session: head.headers.get("mcp-session-id").cloned(),
            is_events: content_type.is_some_and(|value| value.starts_with("text/event-stream")),
            body,
            buffer: Vec::new(),
            id,
        })
    }
}

impl Session {
    fn modern(gateway: Gateway) -> Self {
        Self { gateway, era: MODERN, id: None, last_id: 0, tools: Vec::new() }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("mcp-protocol-version", HeaderValue::from_static(self.era));
        if let Some(id) = &self.id {
            headers.insert("mcp-session-id", id.clone());
        }
        headers
    }

    /// Sends a request with a new id, and with what the era wants beside it.
    async fn request(&mut self, method: &str, mut params: Value) -> Result<Reply> {
        self.last_id += 1;
        let mut headers = self.headers();
        if self.era == MODERN {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
            headers.insert("mcp-method", method.parse()?);
            let subject = match method {
                "tools/call" | "prompts/get" => params["name"].as_str(),
                "resources/read" => params["uri"].as_str(),
                _ => None,
            };
            if let Some(subject) = subject {
                headers.insert(HeaderName::from_static("mcp-name"), subject.parse()?);
            }
        }
        let message = json!({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params});
        self.gateway.send(Method::POST, &self.gateway.path, headers, Some(message)).await
    }

    /// The result of a request, whatever comes before it.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let mut answer = self.request(method, params).await?.answer().await?;
        expect(answer["result"].is_object(), || format!("answered with {answer}"))?;
        Ok(answer["result"].take())
    }

    async fn notify(&self, method: &str, params: Value) -> Result<()> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let reply =
            self.gateway.send(Method::POST, &self.gateway.path, self.headers(), Some(message)).await?;
        expect(reply.status == StatusCode::ACCEPTED, || reply.unexpected())
    }
}

impl Reply {
    fn unexpected(&self) -> String {
        format!("answered with HTTP {}", self.status)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The next message: of a stream as soon as it is there, else the one there is.
    async fn message(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(message) = self.event()? {
                return Ok(Some(message));
            }
            if let Some(bytes) = self.chunk().await? {
                // Lines of a stream may end in CR LF; JSON has no bare CR.
                self.buffer.extend(bytes.iter().filter(|byte| **byte != b'\r'));
                continue;
            }
            let rest = std::mem::take(&mut self.buffer);
            // What is left of a stream is no event.
            return if self.is_events || rest.is_empty() {
                Ok(None)
            } else {
                Ok(Some(serde_json::from_slice(&rest)?))
            };
        }
    }

    /// Takes events from the buffer up to the first that carries a message.
    fn event(&mut self) -> Result<Option<Value>> {
        while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n").filter(|_| self.is_events)
        {
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let lines = std::str::from_utf8(&event)?.lines();
            let data: Vec<_> = lines.filter_map(|line| line.strip_prefix("data:")).collect();
            let data = data.join("\n");
            // Comments keep a stream alive; an event without data opens one that can be resumed.
            if !data.trim().is_empty() {
                return Ok(Some(serde_json::from_str(&data)?));
            }
        }
        Ok(None)
    }

    /// The answer to the request, results and errors alike.
    async fn answer(&mut self) -> Result<Value> {
        while let Some(message) = self.message().await? {
            if message["id"].as_u64() == self.id && message.get("method").is_none() {
                return Ok(message);
            }
        }
        Err(format!("{}, without an answer", self.unexpected()).into())
    }
}
