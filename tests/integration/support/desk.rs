//! A client that starts a program, as desktop clients do: `metamcp stdio` or `metamcp connect`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::gateway::{Dir, Setup};
use super::{MODERN, PATIENCE, clear_environment};

/// The program, running; killed when dropped.
pub struct Desk {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    /// Came while something else was waited for.
    kept: Vec<Value>,
    dir: Dir,
}

impl Desk {
    /// `metamcp connect` to that URL.
    pub fn connect(url: &str, args: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start(Setup::new().place(), &[&["connect", url], args].concat(), variables)
    }

    /// `metamcp stdio` in front of these servers.
    pub fn stdio(setup: &Setup, args: &[&str]) -> Self {
        let data = if args.contains(&"--data-dir") { &[][..] } else { &["--data-dir", "data"] };
        Self::start(setup.place(), &[&["stdio"], data, args].concat(), &[])
    }

    fn start(dir: Dir, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_metamcp"));
        clear_environment(&mut command).envs(variables.iter().copied()).current_dir(dir.path()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test may have seen enough.
                drop(sender.send(line));
            }
        });
        let input = child.stdin.take();
        Self { child, input, output, kept: Vec::new(), dir }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What it said on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap()
    }

    /// These bytes on its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    pub fn say(&mut self, message: &str) {
        self.write(format!("{message}\n").as_bytes());
    }

    /// The next message.
    #[track_caller]
    pub fn heard(&mut self) -> Value {
        if !self.kept.is_empty() {
            return self.kept.remove(0);
        }
        self.next().unwrap_or_else(|| panic!("it ended: {}", self.log()))
    }

    /// The next line, which is to be a message; `None` at the end.
    #[track_caller]
    fn next(&mut self) -> Option<Value> {
        match self.output.recv_timeout(PATIENCE) {
            Ok(line) => {
                let message: Value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert_eq!(message["jsonrpc"], "2.0", "{line}");
                Some(message)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing came: {}", self.log()),
        }
    }

    /// The first message of which that holds; those before it are kept.
    #[track_caller]
    pub fn find(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&holds) {
            return self.kept.remove(at);
        }
        loop {
            let Some(message) = self.next() else { panic!("it ended: {:?} {}", self.kept, self.log()) };
            if holds(&message) {
                return message;
            }
            self.kept.push(message);
        }
    }

    /// The answer to the request with that id.
    #[track_caller]
    pub fn answer(&mut self, id: &Value) -> Value {
        self.find(|message| message["method"].is_null() && message["id"] == *id)
    }

    /// A message with that method.
    #[track_caller]
    pub fn told(&mut self, method: &str) -> Value {
        self.find(|message| message["method"] == method)
    }

    /// Asks, and gives the answer.
    #[track_caller]
    pub fn ask(&mut self, id: &Value, method: &str, params: &Value) -> Value {
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
        self.answer(id)
    }

    /// A Legacy handshake; gives the answer to `initialize`.
    #[track_caller]
    pub fn open(&mut self, capabilities: &Value) -> Value {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
            "clientInfo": {"name": "desk", "version": "1"}});
        let opened = self.ask(&json!(0), "initialize", &params);
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        opened
    }

    /// Ends its input, and waits for its end; gives what it said on the way too.
    #[track_caller]
    pub fn end(&mut self) -> (ExitStatus, Vec<Value>) {
        drop(self.input.take());
        let status = self.ended();
        (status, std::mem::take(&mut self.kept))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        while let Some(message) = self.next() {
            self.kept.push(message);
        }
        assert!(began.elapsed() < PATIENCE, "it did not end: {}", self.log());
        self.child.wait().unwrap()
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap().success());
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("the program's log:\n{}", self.log());
        }
    }
}

/// The params of a Modern request.
pub fn modern_params(mut params: Value) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}});
    params
}

/// The text in an answer to a call.
#[track_caller]
pub fn text(answer: &Value) -> &str {
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {answer}"))
}
