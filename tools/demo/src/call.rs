//! One request as its handler sees it: the arguments, the client, and ways to send messages to the client while the request
//! is in flight. The methods hide the differences between the eras.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::{
    handler_result::HandlerError,
    hub::{Hub, random_id},
    message::{self, Params},
    protocol::{Era, LogLevel, RpcError, meta},
    replay::Replay,
    session::Session,
    sse::Sender,
};

/// The client that sent a request, in either era.
#[derive(Clone, Debug)]
pub struct Client {
    /// The protocol revision of the request.
    pub version: &'static str,
    pub capabilities: Value,
    /// The client's `Implementation`, null if not sent. Not verified.
    pub info: Value,
    /// The lowest level of log messages to send; `None` sends none.
    pub log_level: Option<LogLevel>,
    /// The session, in the Legacy era only.
    pub session: Option<Rc<Session>>,
}

/// One request in flight.
pub struct Call {
    /// The era of the request.
    pub era: Era,
    /// The `params`, not validated further.
    pub params: Params,
    /// The client that sent it.
    pub client: Client,
    /// All other clients, to notify of changes.
    pub hub: Rc<Hub>,
    /// Receives the messages that belong to this request.
    pub stream: Sender,
    /// The stored events of the stream, if it can be resumed.
    pub replay: Option<Rc<Replay>>,
}

/// Input to request from the client: a request in the Legacy era, an `inputRequests` entry in the Modern one.
#[derive(Clone, Debug)]
pub struct InputRequest {
    method: &'static str,
    params: Value,
}

impl InputRequest {
    /// Requests that the user fills in a form.
    pub fn form(message: &str, schema: &Value) -> Self {
        Self {
            method: "elicitation/create",
            params: json!({ "message": message, "requestedSchema": schema }),
        }
    }

    /// Requests that the user visits a URL (since 2025-11-25).
    pub fn url(message: &str, url: &str) -> Self {
        Self {
            method: "elicitation/create",
            params: json!({ "mode": "url", "message": message, "url": url }),
        }
    }

    /// Requests a completion from the client's model.
    pub fn sampling(prompt: &str, tokens_max: u32) -> Self {
        let messages = json!([{ "role": "user", "content": { "type": "text", "text": prompt } }]);
        Self {
            method: "sampling/createMessage",
            params: json!({ "messages": messages, "maxTokens": tokens_max }),
        }
    }

    /// Requests the client's root folders.
    pub fn roots() -> Self {
        Self { method: "roots/list", params: json!({}) }
    }

    fn is_url(&self) -> bool {
        self.params["mode"] == "url"
    }

    /// Returns the capability that the client must have declared, in the form of `ClientCapabilities`.
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
            // An empty `elicitation` object means forms only.
            _ => elicitation.is_object() && (elicitation["form"].is_object() || elicitation["url"].is_null()),
        }
    }

    /// Whether `answer` has the form of an answer. If not, the input is requested again.
    fn is_answer(&self, answer: &Value) -> bool {
        match self.method {
            "sampling/createMessage" => !answer["content"].is_null(),
            "roots/list" => answer["roots"].is_array(),
            _ => answer["action"].is_string(),
        }
    }
}

impl Call {
    /// Returns an argument of a tool or prompt; null if absent.
    pub fn argument(&self, name: &str) -> &Value {
        self.params.get("arguments").map_or(&Value::Null, |arguments| &arguments[name])
    }

    /// Returns a required string argument.
    pub fn text(&self, name: &str) -> Result<&str, HandlerError> {
        let missing = || RpcError::invalid_params(format!("The argument {name} must be a string"));
        self.argument(name).as_str().ok_or_else(|| missing().into())
    }

    /// Returns an integer argument from 0 to `max`; `default` if absent.
    pub fn number(&self, name: &str, default: u64, max: u64) -> Result<u64, HandlerError> {
        let argument = self.argument(name);
        let number = if argument.is_null() { Some(default) } else { argument.as_u64() };
        number.filter(|number| *number <= max).ok_or_else(|| {
            RpcError::invalid_params(format!("The argument {name} must be a whole number from 0 to {max}"))
                .into()
        })
    }

    /// Returns the progress token, if the client wants progress notifications.
    pub fn progress_token(&self) -> Option<&Value> {
        self.params.get("_meta").map(|meta| &meta["progressToken"]).filter(|token| !token.is_null())
    }

    /// Sends a progress notification, if the client wants them.
    pub async fn progress(&self, progress: u64, total: u64, text: &str) {
        if let Some(token) = self.progress_token() {
            let params =
                json!({ "progressToken": token, "progress": progress, "total": total, "message": text });
            self.send(message::notification("notifications/progress", &params)).await;
        }
    }

    /// Sends a log message, if the client wants that level.
    pub async fn log(&self, level: LogLevel, data: &Value) {
        // Read at each message, since a Legacy client may change its level while the call runs.
        let min_level = match &self.client.session {
            Some(session) => Some(session.log_level.get()),
            None => self.client.log_level,
        };
        if min_level.is_some_and(|min_level| level >= min_level) {
            let params = json!({ "level": level.name(), "logger": "metamcp-demo", "data": data });
            self.send(message::notification("notifications/message", &params)).await;
        }
    }

    /// Ignores that the client is gone: in the Legacy era the call continues without it.
    async fn send(&self, message: Value) {
        let _ = self.stream.send(message).await;
    }

    /// Closes the connection of this call, if the client can resume the stream (SEP-1699).
    pub fn disconnect(&self) {
        if let Some(replay) = &self.replay {
            replay.disconnect();
        }
    }

    /// Requests one input from the client.
    pub async fn ask(&self, key: &str, input: InputRequest) -> Result<Value, HandlerError> {
        let mut answers = self.ask_all(&[(key, input)], None).await?;
        Ok(answers.remove(key).unwrap_or_default())
    }

    /// Requests several inputs at once. In the Modern era `state` comes back with the answers, see [`Call::state`]; in the
    /// Legacy era it is not needed, since the handler itself waits.
    pub async fn ask_all(
        &self,
        inputs: &[(&str, InputRequest)],
        state: Option<&str>,
    ) -> Result<Map<String, Value>, HandlerError> {
        let denied = inputs.iter().find(|(_, input)| !input.is_allowed(&self.client.capabilities));
        match (&self.client.session, denied) {
            (None, Some((_, input))) => Err(RpcError::missing_capability(&input.capability()).into()),
            (Some(_), Some((_, input))) => {
                Err(HandlerError::Failed(format!("The client did not declare what {} needs", input.method)))
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

    /// Modern era: takes the answers from the request, or ends the call to request them if any is missing.
    fn collect(
        &self,
        inputs: &[(&str, InputRequest)],
        state: Option<&str>,
    ) -> Result<Map<String, Value>, HandlerError> {
        let none = Value::Null;
        let given = self.params.get("inputResponses").unwrap_or(&none);
        if !given.is_object() && self.params.contains_key("inputResponses") {
            return Err(RpcError::invalid_params("inputResponses must be an object").into());
        }
        if inputs.iter().all(|(key, input)| input.is_answer(&given[*key])) {
            return Ok(inputs.iter().map(|(key, _)| ((*key).to_owned(), given[*key].clone())).collect());
        }
        let entry = |input: &InputRequest| json!({ "method": input.method, "params": input.params });
        Err(HandlerError::InputRequired {
            requests: inputs.iter().map(|(key, input)| ((*key).to_owned(), entry(input))).collect(),
            state: state.map(|state| self.hub.seal(&self.purpose(), state)),
        })
    }

    /// Legacy era: sends a request on the stream of this call and waits for the response.
    async fn request(&self, session: &Session, input: &InputRequest) -> Result<Value, HandlerError> {
        let mut params = input.params.clone();
        let elicitation = if input.is_url() { random_id() } else { None };
        if let Some(id) = &elicitation {
            params["elicitationId"] = json!(id);
        }
        let reply = session.request(&self.stream, input.method, &params).await;
        let answer = match reply {
            None => return Err(HandlerError::Failed("The client went away before it answered".to_owned())),
            Some(Err(error)) => {
                return Err(HandlerError::Failed(format!("The client refused: {}", error.message)));
            }
            Some(Ok(answer)) => answer,
        };
        if let Some(id) = elicitation.filter(|_| answer["action"] == "accept") {
            let params = json!({ "elicitationId": id });
            self.send(message::notification("notifications/elicitation/complete", &params)).await;
        }
        Ok(answer)
    }

    /// Modern era: returns the state that this server asked the client to send back; `None` in the first round.
    pub fn state(&self) -> Result<Option<String>, HandlerError> {
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

    /// The context that a state is sealed with: it is valid only for the same tool, prompt or resource.
    fn purpose(&self) -> String {
        let name = |key: &str| self.params.get(key).and_then(Value::as_str).unwrap_or_default();
        format!("{}\n{}", name("name"), name("uri"))
    }

    /// Returns `params._meta` of a Modern request; null in the Legacy era.
    pub fn meta(&self) -> &Value {
        self.params.get("_meta").unwrap_or(&Value::Null)
    }
}

/// Reads the client of a Modern request. The required members of `_meta` must have been validated.
pub fn modern_client(meta: &Value, version: &'static str) -> Result<Client, RpcError> {
    let level = match &meta[meta::LOG_LEVEL] {
        Value::Null => None,
        level => match level.as_str().and_then(LogLevel::parse) {
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
