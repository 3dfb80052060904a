//! One request as its handler sees it: arguments, who asks, and the ways to speak to the client while the
//! request is under way. The eras differ behind these methods, not in front of them.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::{
    content::Stop,
    hub::{Hub, random_id},
    message::{self, Params},
    protocol::{Era, Level, RpcError, meta},
    replay::Replay,
    session::Session,
    sse::Sender,
};

/// Who asks, in either era.
#[derive(Clone, Debug)]
pub struct Client {
    /// The revision that is spoken.
    pub version: &'static str,
    /// `ClientCapabilities`.
    pub capabilities: Value,
    /// `Implementation`, null when not told. Not verified.
    pub info: Value,
    /// Messages below this level are not sent; none at all without one.
    pub log_level: Option<Level>,
    /// Legacy only.
    pub session: Option<Rc<Session>>,
}

/// One request under way.
pub struct Call {
    /// The era that it speaks.
    pub era: Era,
    /// `params`, without further checks.
    pub params: Params,
    /// Who asks.
    pub client: Client,
    /// Everyone else, to be told of changes.
    pub hub: Rc<Hub>,
    /// Where messages about this request go.
    pub stream: Sender,
    /// The client may come back to it.
    pub replay: Option<Rc<Replay>>,
}

/// Something to ask the client for: a request in the Legacy era, an `inputRequests` entry in the Modern one.
#[derive(Clone, Debug)]
pub struct Input {
    method: &'static str,
    params: Value,
}

impl Input {
    /// Asks the user to fill in a form.
    pub fn form(message: &str, schema: &Value) -> Self {
        Self {
            method: "elicitation/create",
            params: json!({ "message": message, "requestedSchema": schema }),
        }
    }

    /// Asks the user to visit a URL (from 2025-11-25).
    pub fn url(message: &str, url: &str) -> Self {
        Self {
            method: "elicitation/create",
            params: json!({ "mode": "url", "message": message, "url": url }),
        }
    }

    /// Asks the client's model.
    pub fn sampling(prompt: &str, tokens_max: u32) -> Self {
        let messages = json!([{ "role": "user", "content": { "type": "text", "text": prompt } }]);
        Self {
            method: "sampling/createMessage",
            params: json!({ "messages": messages, "maxTokens": tokens_max }),
        }
    }

    /// Asks for the client's folders.
    pub fn roots() -> Self {
        Self { method: "roots/list", params: json!({}) }
    }

    fn is_url(&self) -> bool {
        self.params["mode"] == "url"
    }

    /// What the client must have declared, in the shape of `ClientCapabilities`.
    fn capability(&self) -> Value {
        match self.method {
            "sampling/createMessage" => json!({ "sampling": {} }),
            "roots/list" => json!({ "roots": {} }),
            _ if self.is_url() => json!({ "elicitation": { "url": {} } }),
            _ => json!({ "elicitation": {} }),
        }
    }

    fn is_allowed(&self, capabilities: &Value) -> bool {
        let elicitation = &capabilities["elicitation"];
        match self.method {
            "sampling/createMessage" => capabilities["sampling"].is_object(),
            "roots/list" => capabilities["roots"].is_object(),
            _ if self.is_url() => elicitation["url"].is_object(),
            // An empty object means forms only.
            _ => elicitation.is_object() && (elicitation["form"].is_object() || elicitation["url"].is_null()),
        }
    }

    /// Is this an answer at all? What is not is asked again.
    fn is_answer(&self, answer: &Value) -> bool {
        match self.method {
            "sampling/createMessage" => !answer["content"].is_null(),
            "roots/list" => answer["roots"].is_array(),
            _ => answer["action"].is_string(),
        }
    }
}

impl Call {
    /// An argument of a tool or prompt; null when absent.
    pub fn argument(&self, name: &str) -> &Value {
        self.params.get("arguments").map_or(&Value::Null, |arguments| &arguments[name])
    }

    /// A text argument that must be there.
    pub fn text(&self, name: &str) -> Result<&str, Stop> {
        let missing = || RpcError::invalid_params(format!("The argument {name} must be a string"));
        self.argument(name).as_str().ok_or_else(|| missing().into())
    }

    /// A whole number of at most `max`, `default` when absent.
    pub fn number(&self, name: &str, default: u64, max: u64) -> Result<u64, Stop> {
        let argument = self.argument(name);
        let number = if argument.is_null() { Some(default) } else { argument.as_u64() };
        number.filter(|number| *number <= max).ok_or_else(|| {
            RpcError::invalid_params(format!("The argument {name} must be a whole number from 0 to {max}"))
                .into()
        })
    }

    /// The client's name for progress messages, if it wants them.
    pub fn progress_token(&self) -> Option<&Value> {
        self.params.get("_meta").map(|meta| &meta["progressToken"]).filter(|token| !token.is_null())
    }

    /// Tells how far the work is, if the client wants to know.
    pub async fn progress(&self, progress: u64, total: u64, text: &str) {
        if let Some(token) = self.progress_token() {
            let params =
                json!({ "progressToken": token, "progress": progress, "total": total, "message": text });
            self.send(message::notification("notifications/progress", &params)).await;
        }
    }

    /// Writes to the client's log, if it wants messages of that level.
    pub async fn log(&self, level: Level, data: &Value) {
        // A Legacy client may change its level while the call runs.
        let wanted = match &self.client.session {
            Some(session) => Some(session.log_level.get()),
            None => self.client.log_level,
        };
        if wanted.is_some_and(|wanted| level >= wanted) {
            let params = json!({ "level": level.name(), "logger": "metamcp-demo", "data": data });
            self.send(message::notification("notifications/message", &params)).await;
        }
    }

    /// A client that is gone is no error: in the Legacy era its call runs on.
    async fn send(&self, message: Value) {
        let _ = self.stream.send(message).await;
    }

    /// Ends the connection under this call, if the client can come back to the stream (SEP-1699).
    pub fn disconnect(&self) {
        if let Some(replay) = &self.replay {
            replay.disconnect();
        }
    }

    /// Asks the client for one thing.
    pub async fn ask(&self, key: &str, input: Input) -> Result<Value, Stop> {
        let mut answers = self.ask_all(&[(key, input)], None).await?;
        Ok(answers.remove(key).unwrap_or_default())
    }

    /// Asks for several things at once. In the Modern era `state` comes back with the answers, see
    /// [`Call::state`]; in the Legacy era it is not needed, since the handler itself waits.
    pub async fn ask_all(
        &self,
        inputs: &[(&str, Input)],
        state: Option<&str>,
    ) -> Result<Map<String, Value>, Stop> {
        let denied = inputs.iter().find(|(_, input)| !input.is_allowed(&self.client.capabilities));
        match (&self.client.session, denied) {
            (None, Some((_, input))) => Err(RpcError::missing_capability(&input.capability()).into()),
            (Some(_), Some((_, input))) => {
                Err(Stop::Failed(format!("The client did not declare what {} needs", input.method)))
            }
            (None, None) => self.collect(inputs, state),
            (Some(session), None) => {
                let mut answers = Map::new();
                for (key, input) in inputs {
                    answers.insert((*key).to_owned(), self.request(session, input).await?);
                }
                Ok(answers)
            }
        }
    }

    /// Modern: the answers are either all there, or the client is asked for them.
    fn collect(&self, inputs: &[(&str, Input)], state: Option<&str>) -> Result<Map<String, Value>, Stop> {
        let none = Value::Null;
        let given = self.params.get("inputResponses").unwrap_or(&none);
        if !given.is_object() && self.params.contains_key("inputResponses") {
            return Err(RpcError::invalid_params("inputResponses must be an object").into());
        }
        if inputs.iter().all(|(key, input)| input.is_answer(&given[*key])) {
            return Ok(inputs.iter().map(|(key, _)| ((*key).to_owned(), given[*key].clone())).collect());
        }
        let entry = |input: &Input| json!({ "method": input.method, "params": input.params });
        Err(Stop::InputRequired {
            requests: inputs.iter().map(|(key, input)| ((*key).to_owned(), entry(input))).collect(),
            state: state.map(|state| self.hub.seal(&self.purpose(), state)),
        })
    }

    /// Legacy: a request on the stream of this call.
    async fn request(&self, session: &Session, input: &Input) -> Result<Value, Stop> {
        let mut params = input.params.clone();
        let elicitation = if input.is_url() { random_id() } else { None };
        if let Some(id) = &elicitation {
            params["elicitationId"] = json!(id);
        }
        let reply = session.request(&self.stream, input.method, &params).await;
        let answer = match reply {
            None => return Err(Stop::Failed("The client went away before it answered".to_owned())),
            Some(Err(error)) => return Err(Stop::Failed(format!("The client refused: {}", error.message))),
            Some(Ok(answer)) => answer,
        };
        if let Some(id) = elicitation.filter(|_| answer["action"] == "accept") {
            let params = json!({ "elicitationId": id });
            self.send(message::notification("notifications/elicitation/complete", &params)).await;
        }
        Ok(answer)
    }

    /// Modern: what this server told the client to bring back, `None` in the first round.
    pub fn state(&self) -> Result<Option<String>, Stop> {
        let Some(sealed) = self.params.get("requestState") else { return Ok(None) };
        let opened = sealed.as_str().and_then(|sealed| self.hub.open(&self.purpose(), sealed));
        match opened {
            Some(state) => Ok(Some(state)),
            None => {
                Err(RpcError::invalid_params("requestState was not made by this server for this request")
                    .into())
            }
        }
    }

    /// A state is good only for the tool or prompt that it was made for.
    fn purpose(&self) -> String {
        let name = |key: &str| self.params.get(key).and_then(Value::as_str).unwrap_or_default();
        format!("{}\n{}", name("name"), name("uri"))
    }

    /// `params._meta` of a Modern request; null in the Legacy era.
    pub fn meta(&self) -> &Value {
        self.params.get("_meta").unwrap_or(&Value::Null)
    }
}

/// The client of a Modern request, whose `_meta` was checked before.
pub fn modern_client(meta: &Value, version: &'static str) -> Result<Client, RpcError> {
    let level = match &meta[meta::LOG_LEVEL] {
        Value::Null => None,
        level => match level.as_str().and_then(Level::parse) {
            Some(level) => Some(level),
            None => return Err(RpcError::invalid_params("The log level is unknown")),
        },
    };
    Ok(Client {
        version,
        capabilities: meta[meta::CLIENT_CAPABILITIES].clone(),
        info: meta[meta::CLIENT_INFO].clone(),
        log_level: level,
        session: None,
    })
}
