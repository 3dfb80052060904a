//! The checks, each of which makes one or a few requests.

use std::collections::HashSet;

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::client::{Gateway, LEGACY, MODERN, Reply, Result, Session, expect};

/// A list with more pages than this is assumed never to end.
const PAGES_MAX: usize = 1000;

/// The result of a check: a detail to print, and a value for later checks. `None` if the check cannot be made.
pub type Outcome<T> = Result<Option<(String, T)>>;

impl Gateway {
    pub async fn health(&self) -> Outcome<()> {
        let reply = self.send(Method::GET, "/health", HeaderMap::new(), None).await?;
        expect(reply.status == StatusCode::OK, || reply.unexpected())?;
        passed("200", ())
    }

    pub async fn wrong_key(&self) -> Outcome<()> {
        let mut gateway = self.clone();
        gateway.token = Some("not-a-key".into());
        let reply = Session::modern(gateway).request("server/discover", json!({})).await?;
        expect(reply.status == StatusCode::UNAUTHORIZED, || reply.unexpected())?;
        passed("401", ())
    }

    pub async fn exchange(&self, key: &str) -> Outcome<String> {
        let body = json!({"api_key": key});
        let mut reply = self.send(Method::POST, "/api/v1/auth/token", HeaderMap::new(), Some(body)).await?;
        expect(reply.status == StatusCode::OK, || reply.unexpected())?;
        let answer = reply.message().await?.unwrap_or_default();
        let token = answer["access_token"].as_str().ok_or("no access_token in the answer")?;
        passed(format!("for {} seconds", answer["expires_in"]), token.to_owned())
    }
}

impl Session {
    pub async fn discover(&mut self) -> Outcome<()> {
        let result = self.call("server/discover", json!({})).await?;
        let versions = result["supportedVersions"].as_array().ok_or("no supportedVersions")?;
        expect(versions.contains(&json!(MODERN)), || format!("{MODERN} is not among {versions:?}"))?;
        passed(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"].to_string(), ())
    }

    /// Reads all pages of a list; no item may occur twice.
    pub async fn list(&mut self, method: &str, key: &str, id: &str) -> Outcome<Vec<Value>> {
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

    /// Finds a tool by its own name, behind any prefix.
    pub fn tool(&self, names: &[&str]) -> Option<Value> {
        let own_name = |tool: &&Value| {
            let name = tool["name"].as_str().unwrap_or_default();
            names.contains(&name.rsplit_once("__").map_or(name, |(_, own_name)| own_name))
        };
        self.tools.iter().find(own_name).cloned()
    }

    pub async fn echo(&mut self) -> Outcome<()> {
        const TEXT: &str = "Grüße, \"gateway\" \u{1f680}";
        let Some(tool) = self.tool(&["echo"]) else { return Ok(None) };
        let argument = tool["inputSchema"]["required"][0].as_str().unwrap_or("text");
        let params = json!({"name": tool["name"], "arguments": {argument: TEXT}});
        let result = self.call("tools/call", params).await?;
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        expect(text.contains(TEXT), || format!("{TEXT:?} was sent, and {text:?} came back"))?;
        passed(tool["name"].to_string(), ())
    }

    pub async fn no_such_tool(&mut self) -> Outcome<()> {
        let mut reply = self.request("tools/call", json!({"name": "no-such-tool", "arguments": {}})).await?;
        let answer = reply.answer().await?;
        // SDKs up to 2025-11-25 return a result with `isError` instead of an error.
        let refused = answer["error"]["code"] == -32602 || answer["result"]["isError"] == true;
        expect(refused, || format!("answered with {answer}"))?;
        passed(answer["error"]["message"].to_string(), ())
    }

    /// Calls a tool that takes `steps` steps and reports progress.
    pub async fn slow_call(&mut self, steps: u32) -> Result<Option<Reply>> {
        let Some(tool) = self.tool(&["countdown", "walk"]) else { return Ok(None) };
        let arguments = json!({"steps": steps});
        let params =
            json!({"name": tool["name"], "arguments": arguments, "_meta": {"progressToken": "token"}});
        self.request("tools/call", params).await.map(Some)
    }

    pub async fn progress(&mut self) -> Outcome<()> {
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

    pub async fn get_prompt(&mut self, prompt: Option<&Value>) -> Outcome<()> {
        let Some(prompt) = prompt else { return Ok(None) };
        let arguments = prompt["arguments"].as_array().cloned().unwrap_or_default();
        let arguments: Map<_, _> =
            arguments.iter().filter_map(|a| Some((a["name"].as_str()?.to_owned(), json!("Ada")))).collect();
        let params = json!({"name": prompt["name"], "arguments": arguments});
        let result = self.call("prompts/get", params).await?;
        expect(result["messages"][0].is_object(), || format!("no message in {result}"))?;
        passed(prompt["name"].to_string(), ())
    }

    pub async fn read_resource(&mut self, resource: Option<&Value>) -> Outcome<()> {
        let Some(resource) = resource else { return Ok(None) };
        let result = self.call("resources/read", json!({"uri": resource["uri"]})).await?;
        let content = &result["contents"][0];
        expect(content["uri"] == resource["uri"], || format!("other contents: {result}"))?;
        passed(resource["uri"].to_string(), ())
    }

    /// Closes the connection of a long call, and checks that the next call works.
    pub async fn close_a_call(&mut self) -> Outcome<()> {
        let Some(mut reply) = self.slow_call(60).await? else { return Ok(None) };
        let first = reply.message().await?.unwrap_or_default();
        expect(first["method"] == "notifications/progress", || format!("began with {first}"))?;
        drop(reply);
        self.echo().await?;
        passed("closed while it ran; the next call is answered", ())
    }

    pub async fn cancel_a_call(&mut self) -> Outcome<()> {
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

    pub async fn listen(&mut self) -> Outcome<()> {
        let params = json!({"notifications": {"toolsListChanged": true}});
        let mut reply = self.request("subscriptions/listen", params).await?;
        if reply.status == StatusCode::NOT_FOUND {
            // The only server of this endpoint has no subscriptions.
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

    pub async fn initialize(gateway: Gateway) -> Outcome<Self> {
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

    pub async fn initialized(&self) -> Outcome<()> {
        self.notify("notifications/initialized", json!({})).await?;
        passed("202", ())
    }

    pub async fn ping(&mut self) -> Outcome<()> {
        self.call("ping", json!({})).await?;
        passed("answered", ())
    }

    pub async fn get_stream(&self) -> Outcome<()> {
        let mut reply = self.gateway.send(Method::GET, &self.gateway.path, self.headers(), None).await?;
        expect(reply.status == StatusCode::OK && reply.is_events, || reply.unexpected())?;
        expect(reply.chunk().await?.is_some(), || "the stream ended at once".to_owned())?;
        passed("open", ())
    }

    pub async fn delete(&mut self) -> Outcome<()> {
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

#[expect(clippy::unnecessary_wraps, reason = "it stands where a check ends")]
fn passed<T>(detail: impl Into<String>, value: T) -> Outcome<T> {
    Ok(Some((detail.into(), value)))
}
