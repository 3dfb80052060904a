//! An MCP server over standard input and output that can misbehave in the ways that real ones do. Test
//! equipment.
//!
//! What it does besides is said by its arguments: `banner` and `stderr` come before the first message, `mute`
//! never answers, `stubborn` ignores the end of its input and SIGTERM, `fork` leaves a process behind that
//! does the same, `after=PATH` reads nothing before there is such a file.

#![allow(clippy::disallowed_methods, reason = "its threads are its own, and so is its environment")]
#![allow(clippy::unwrap_used, reason = "a server for tests that fails by panicking is one that fails")]

use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// Calls of `echo` so far.
static ECHOED: AtomicUsize = AtomicUsize::new(0);

/// Ids of its own requests, and who waits for the answers.
static ASKED: Mutex<Vec<(String, mpsc::Sender<Value>)>> = Mutex::new(Vec::new());

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is = |word: &str| args.iter().any(|arg| arg == word);
    if is("crash") {
        eprintln!("no use");
        std::process::exit(3);
    }
    if is("stubborn") {
        become_stubborn(&args);
        return;
    }
    if is("fork") {
        leave_behind();
    }
    if is("stderr") {
        eprint!("{}", "x".repeat(300 << 10));
        eprintln!();
    }
    if is("banner") {
        println!("Welcome to the fixture!\n{{\"not\": \"a message\"}}\n\n[]");
    }
    for path in args.iter().filter_map(|arg| arg.strip_prefix("after=")) {
        while !std::path::Path::new(path).exists() {
            thread::park_timeout(Duration::from_millis(10));
        }
    }
    for line in stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line.unwrap()) else { std::process::exit(4) };
        if is("mute") {
            continue;
        }
        if is_ready_at_once(&message) {
            // A thread would cost more than the answer.
            take(&message, &args);
            continue;
        }
        let args = args.clone();
        // Each on its own: answers come in the order in which they are ready.
        thread::spawn(move || take(&message, &args));
    }
}

/// Whether it is an echo that does not wait.
fn is_ready_at_once(message: &Value) -> bool {
    let params = &message["params"];
    params["name"] == "echo" && params["arguments"]["ms"].as_u64().unwrap_or(0) == 0
}

/// A shell that ignores SIGTERM, and sleeps on when its input has ended.
fn become_stubborn(args: &[String]) {
    let rest: Vec<&String> = args.iter().filter(|arg| *arg != "stubborn").collect();
    let own = std::env::current_exe().unwrap();
    let script = r#"trap '' TERM; "$0" "$@"; sleep 60; sleep 60"#;
    drop(Command::new("sh").arg("-c").arg(script).arg(own).args(rest).status());
}

/// A process of its own group and session, whose parent is gone: a server behind a wrapper.
fn leave_behind() {
    let script = "setsid sh -c \"trap '' TERM; sleep 61\" >/dev/null 2>&1 </dev/null &";
    drop(Command::new("sh").arg("-c").arg(script).stdin(Stdio::null()).stdout(Stdio::null()).status());
}

fn say(message: &Value) {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    let mut out = stdout().lock();
    drop(out.write_all(&line));
    drop(out.flush());
}

fn take(message: &Value, args: &[String]) {
    let (id, method) = (&message["id"], message["method"].as_str());
    let Some(method) = method else {
        let waiting = ASKED.lock().unwrap().iter().position(|(asked, _)| id == asked);
        if let Some(at) = waiting {
            let (_, sender) = ASKED.lock().unwrap().swap_remove(at);
            drop(sender.send(message.clone()));
        }
        return;
    };
    if id.is_null() {
        if method == "notifications/cancelled" {
            eprintln!("cancelled {}", message["params"]["requestId"]);
        }
        return;
    }
    let modern = !args.iter().any(|arg| arg == "legacy");
    let result = match method {
        "initialize" => {
            let revision = &message["params"]["protocolVersion"];
            let capabilities =
                json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}});
            let told = &message["params"]["capabilities"];
            Ok(
                json!({"protocolVersion": revision, "capabilities": capabilities, "instructions": told.to_string(),
                "serverInfo": {"name": "fixture", "version": "1"}}),
            )
        }
        "server/discover" if modern => {
            Ok(json!({"resultType": "complete", "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}}, "serverInfo": {"name": "fixture", "version": "1"}}))
        }
        "server/discover" if args.iter().any(|arg| arg == "strict") => std::process::exit(5),
        "tools/list" => {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            let names =
                ["echo", "progress", "ask", "update", "log", "die", "env", "pid", "flood", "hang", "read"];
            let inquire = json!({"name": "inquire", "inputSchema": {"type": "object"}});
            Ok(json!({"tools": names.map(tool).into_iter().chain([inquire]).collect::<Vec<_>>()}))
        }
        "resources/list" => Ok(json!({"resources": []})),
        "resources/subscribe" | "resources/unsubscribe" | "ping" | "logging/setLevel" => {
            eprintln!("{method} {}", message["params"]["uri"]);
            Ok(json!({}))
        }
        "tools/call" if message["params"]["name"] == "inquire" && modern => Ok(inquire_modern(message)),
        "tools/call" => call(message),
        _ => Err(json!({"code": -32601, "message": "Method not found"})),
    };
    say(&match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
    });
}

/// Asks the client something, a method and its params, and gives the whole answer.
fn ask(id: &str, question: &Value) -> Value {
    let (sender, answer) = mpsc::channel();
    ASKED.lock().unwrap().push((id.to_owned(), sender));
    let mut request = question.clone();
    request["jsonrpc"] = json!("2.0");
    request["id"] = json!(id);
    say(&request);
    answer.recv().unwrap()
}

/// One question a round; what was answered so far is in the state.
fn inquire_modern(message: &Value) -> Value {
    let params = &message["params"];
    let questions = params["arguments"]["questions"].as_array().unwrap();
    let state = params["requestState"].as_str().unwrap_or("[]");
    let mut answers: Vec<Value> = serde_json::from_str(state).unwrap();
    let answer = &params["inputResponses"][answers.len().to_string()];
    if !answer.is_null() {
        answers.push(answer.clone());
    }
    let at = answers.len();
    if at == questions.len() {
        let text = Value::from(answers).to_string();
        return json!({"resultType": "complete", "content": [{"type": "text", "text": text}]});
    }
    let state = Value::from(answers).to_string();
    let mut question = questions[at].clone();
    if let Some(params) = question["params"].as_object_mut() {
        // This era has no such thing.
        params.remove("elicitationId");
    }
    json!({"resultType": "input_required", "inputRequests": {at.to_string(): question}, "requestState": state})
}

/// The keeper, or all of this group.
fn kill(signal: i32, is_keeper: bool) {
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    if is_keeper {
        rustix::process::kill_process(rustix::process::getppid().unwrap(), signal).unwrap();
    } else {
        rustix::process::kill_current_process_group(signal).unwrap();
    }
}

/// What a call says, or what is said of it.
fn echo(message: &Value, text: &str) -> String {
    if text == "_meta" { message["params"]["_meta"].to_string() } else { text.to_owned() }
}

/// Logs a text, at once or later.
fn log(text: &Value, later_ms: u64) {
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message",
        "params": {"level": "info", "data": text}});
    if later_ms == 0 {
        return say(&log);
    }
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(later_ms));
        say(&log);
    });
}

fn call(message: &Value) -> Result<Value, Value> {
    let (name, arguments) = (message["params"]["name"].as_str(), &message["params"]["arguments"]);
    let token = &message["params"]["_meta"]["progressToken"];
    let number = |key: &str| arguments[key].as_u64().unwrap_or(0);
    let text = match name {
        Some("echo") => {
            ECHOED.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(number("ms")));
            echo(message, arguments["text"].as_str().unwrap_or_default())
        }
        Some("progress") => {
            for step in 1..=number("steps") {
                say(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": step}}));
            }
            "done".to_owned()
        }
        Some("ask") => ask(&format!("q{}", message["id"]), &json!({"method": "roots/list"})).to_string(),
        Some("inquire") => {
            let questions = arguments["questions"].as_array().unwrap();
            let answers = questions
                .iter()
                .enumerate()
                .map(|(at, question)| ask(&format!("i{at}-{}", message["id"]), question));
            Value::from(answers.collect::<Vec<_>>()).to_string()
        }
        Some("update") => {
            say(&json!({"jsonrpc": "2.0", "method": "notifications/resources/updated",
                "params": {"uri": arguments["uri"]}}));
            "done".to_owned()
        }
        Some("log") => {
            log(&arguments["text"], number("later_ms"));
            "done".to_owned()
        }
        Some("die") => std::process::exit(6),
        Some("kill") => {
            kill(i32::try_from(number("signal")).unwrap(), arguments["whom"] == "keeper");
            "done".to_owned()
        }
        Some("hang") => {
            eprintln!("hanging");
            loop {
                thread::park();
            }
        }
        Some("flood") => {
            let block = vec![b'x'; 1 << 16];
            while stdout().lock().write_all(&block).is_ok() {}
            "done".to_owned()
        }
        Some("env") => {
            let env: Vec<_> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
            let fds: Vec<_> = std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect();
            json!({"env": env, "fds": fds, "cwd": std::env::current_dir().unwrap()}).to_string()
        }
        Some("read") => match std::fs::read(arguments["path"].as_str().unwrap_or_default()) {
            Ok(bytes) if arguments["show"] == true => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(bytes) => format!("read {}", bytes.len()),
            Err(error) => error.to_string(),
        },
        Some("echoed") => ECHOED.load(Ordering::Relaxed).to_string(),
        Some("pid") => std::process::id().to_string(),
        _ => return Err(json!({"code": -32602, "message": "Unknown tool"})),
    };
    Ok(json!({"content": [{"type": "text", "text": text}]}))
}
