//! The demonstration content: three tools, a resource, a resource template and a prompt.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    call::Call,
    content::{ServerContent, structured, text, text_resource, user_prompt},
    handler_result::{HandlerError, HandlerResult},
    protocol::{Era, LogLevel, RpcError},
};

const README_URI: &str = "demo://readme";
const README: &str = "This is the demonstration server of metamcp. \
    Call `echo`, `add` or `countdown`; read `demo://greeting/{name}`; get the prompt `greet`.";

/// The part of `demo://greeting/{name}` before the variable.
const GREETING_URI: &str = "demo://greeting/";

/// A countdown occupies a connection, so it is limited: to 10 minutes by these two.
const STEPS_MAX: u64 = 600;
const STEP_MS_MAX: u64 = 1_000;

/// The names that completion suggests.
const NAMES: [&str; 4] = ["Ada", "Alan", "Barbara", "Grace"];

#[derive(Clone, Copy, Debug, Default)]
pub struct Demo;

impl ServerContent for Demo {
    fn info(&self) -> Value {
        json!({ "name": "metamcp-demo", "title": "metamcp demonstration", "version": env!("CARGO_PKG_VERSION") })
    }

    fn instructions(&self) -> Option<&str> {
        Some("A few harmless tools to try a client with.")
    }

    fn tools(&self, _era: Era) -> Vec<Value> {
        vec![
            json!({
                "name": "echo",
                "description": "Returns the text it is given",
                "inputSchema": {
                    "type": "object",
                    "properties": { "text": { "type": "string" } },
                    "required": ["text"],
                },
                "annotations": { "readOnlyHint": true, "idempotentHint": true, "openWorldHint": false },
            }),
            json!({
                "name": "add",
                "description": "Adds two numbers",
                "inputSchema": {
                    "type": "object",
                    "properties": { "a": { "type": "number" }, "b": { "type": "number" } },
                    "required": ["a", "b"],
                },
                "outputSchema": {
                    "type": "object",
                    "properties": { "sum": { "type": "number" } },
                    "required": ["sum"],
                },
                "annotations": { "readOnlyHint": true, "idempotentHint": true, "openWorldHint": false },
            }),
            json!({
                "name": "countdown",
                "description": "Counts down to zero and reports progress at each step; can be cancelled",
                "inputSchema": {
                    "type": "object",
                    "properties": {
                        "steps": { "type": "integer", "minimum": 0, "maximum": STEPS_MAX, "default": 5 },
                        "delay_ms": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": STEP_MS_MAX,
                            "default": 200,
                            "description": "Time between two steps in milliseconds",
                        },
                    },
                },
                "annotations": { "readOnlyHint": true, "idempotentHint": true, "openWorldHint": false },
            }),
        ]
    }

    fn resources(&self) -> Vec<Value> {
        vec![
            json!({ "uri": README_URI, "name": "readme", "title": "What this is", "mimeType": "text/plain" }),
        ]
    }

    fn resource_templates(&self) -> Vec<Value> {
        vec![json!({
            "uriTemplate": format!("{GREETING_URI}{{name}}"),
            "name": "greeting",
            "title": "A greeting by name",
            "mimeType": "text/plain",
        })]
    }

    fn prompts(&self) -> Vec<Value> {
        vec![json!({
            "name": "greet",
            "title": "Greet somebody",
            "description": "Asks the model for a friendly greeting",
            "arguments": [{ "name": "name", "description": "Whom to greet", "required": true }],
        })]
    }

    async fn call_tool(&self, name: &str, call: &Call) -> HandlerResult {
        match name {
            "echo" => Ok(text(call.text("text")?)),
            "add" => add(call),
            "countdown" => countdown(call).await,
            _ => Err(RpcError::invalid_params("Unknown tool").into()),
        }
    }

    async fn get_prompt(&self, name: &str, call: &Call) -> HandlerResult {
        match name {
            "greet" => {
                Ok(user_prompt(&format!("Please greet {} in one friendly sentence.", call.text("name")?)))
            }
            _ => Err(RpcError::invalid_params("Unknown prompt").into()),
        }
    }

    async fn read_resource(&self, uri: &str, call: &Call) -> HandlerResult {
        match uri.strip_prefix(GREETING_URI) {
            Some(name) if !name.is_empty() => {
                Ok(text_resource(uri, "text/plain", &format!("Hello, {name}!")))
            }
            None if uri == README_URI => Ok(text_resource(uri, "text/plain", README)),
            _ => Err(RpcError::resource_not_found(call.era, uri).into()),
        }
    }

    fn complete(&self, _reference: &Value, argument: &str, prefix: &str) -> Vec<String> {
        let matches = NAMES.iter().filter(|name| argument == "name" && name.starts_with(prefix));
        matches.map(|name| (*name).to_owned()).collect()
    }
}

fn add(call: &Call) -> HandlerResult {
    let (a, b) = (call.argument("a"), call.argument("b"));
    // The sum of integers is an integer, unless it overflows.
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(structured(&json!({ "sum": sum })));
    }
    let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else {
        return Err(HandlerError::Failed("a and b must be numbers".to_owned()));
    };
    let sum = a + b;
    if !sum.is_finite() {
        return Err(HandlerError::Failed("The sum is too large".to_owned()));
    }
    Ok(structured(&json!({ "sum": sum })))
}

/// A long call with progress. Cancellation needs no code here: it drops the future.
async fn countdown(call: &Call) -> HandlerResult {
    let steps = call.number("steps", 5, STEPS_MAX)?;
    let delay = Duration::from_millis(call.number("delay_ms", 200, STEP_MS_MAX)?);
    for done in 0..steps {
        tokio::time::sleep(delay).await;
        call.progress(done + 1, steps, &format!("{} to go", steps - done - 1)).await;
        call.log(LogLevel::Debug, &json!({ "done": done + 1, "of": steps })).await;
    }
    Ok(text("Lift-off!"))
}
