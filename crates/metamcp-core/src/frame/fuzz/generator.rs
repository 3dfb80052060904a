//! Messages of JSON-RPC made from decisions: most are valid, the others have a few errors.

use crate::fuzz::Choices;

/// Makes a message. All bytes decide something, so that a fuzzer that changes one changes a member or a value.
pub fn generate(bytes: &[u8]) -> Vec<u8> {
    let mut generator = Generator { choices: Choices::new(bytes), text: Vec::new() };
    generator.message();
    generator.spoil();
    generator.text
}

struct Generator<'a> {
    choices: Choices<'a>,
    text: Vec<u8>,
}

impl Generator<'_> {
    fn message(&mut self) {
        self.space();
        if self.choices.once_in(24) {
            self.text.push(b'[');
            self.envelope();
            self.add(b",");
            self.envelope();
            self.text.push(b']');
        } else {
            self.envelope();
        }
        self.space();
    }

    /// An envelope with the members of one kind of message, in any order, and rarely with one more.
    fn envelope(&mut self) {
        let mut names: Vec<&str> = match self.choices.below(8) {
            0 => vec!["jsonrpc", "method", "params"],
            1 => vec!["jsonrpc", "id", "result"],
            2 => vec!["jsonrpc", "id", "error"],
            3 => vec!["jsonrpc", "id", "method"],
            _ => vec!["jsonrpc", "id", "method", "params"],
        };
        if self.choices.once_in(6) {
            names.push(self.choices.pick(ENVELOPE));
        }
        let first = self.choices.below(names.len());
        names.rotate_left(first);
        self.object(&names, |generator, name| match name {
            "jsonrpc" if !generator.choices.once_in(32) => generator.add(br#""2.0""#),
            "id" if !generator.choices.once_in(16) => {
                let id = generator.choices.pick(IDS);
                generator.add(id);
            }
            "method" if !generator.choices.once_in(16) => {
                let method = generator.choices.pick(METHODS);
                generator.string(method);
            }
            "params" if !generator.choices.once_in(16) => generator.params(),
            "error" if !generator.choices.once_in(8) => generator.add(br#"{"code":-1,"message":"m"}"#),
            _ => generator.value(0),
        });
    }

    fn params(&mut self) {
        let names = self.some_of(PARAMS);
        self.object(&names, |generator, name| match name {
            "_meta" if !generator.choices.once_in(8) => generator.meta(),
            "ref" if !generator.choices.once_in(8) => {
                let names = generator.some_of(REF);
                generator.object(&names, |generator, _| generator.scalar());
            }
            "arguments" | "inputResponses" => generator.value(0),
            _ => generator.scalar(),
        });
    }

    fn meta(&mut self) {
        let names = self.some_of(META);
        self.object(&names, |generator, name| {
            if name.ends_with("Capabilities") { generator.value(0) } else { generator.scalar() }
        });
    }

    /// A few of the names, rarely one of them twice.
    fn some_of(&mut self, names: &[&'static str]) -> Vec<&'static str> {
        let mut some: Vec<&str> = Vec::new();
        for _ in 0..self.choices.below(5) {
            let name = self.choices.pick(names);
            if !some.contains(&name) || self.choices.once_in(24) {
                some.push(name);
            }
        }
        some
    }

    fn object(&mut self, names: &[&str], mut value: impl FnMut(&mut Self, &str)) {
        self.text.push(b'{');
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                self.text.push(b',');
            }
            self.space();
            self.string(name);
            self.space();
            self.text.push(b':');
            self.space();
            value(self, name);
            self.space();
        }
        self.text.push(b'}');
    }

    /// A value that is a few levels deep at most.
    fn value(&mut self, depth: u8) {
        match self.choices.below(6) {
            0 if depth < DEPTH_MAX => {
                let names = self.some_of(PARAMS);
                self.object(&names, |generator, _| generator.value(depth + 1));
            }
            1 if depth < DEPTH_MAX => {
                self.text.push(b'[');
                for at in 0..self.choices.below(4) {
                    if at > 0 {
                        self.text.push(b',');
                    }
                    self.value(depth + 1);
                    self.space();
                }
                self.text.push(b']');
            }
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) {
        match self.choices.below(4) {
            0 => {
                let text = self.choices.pick(TEXTS);
                self.string(text);
            }
            1 => {
                let length = self.choices.below(24);
                let text = String::from_utf8_lossy(self.choices.take(length)).into_owned();
                self.string(&text);
            }
            _ => {
                let scalar = self.choices.pick(SCALARS);
                self.add(scalar);
            }
        }
    }

    /// A string, in which rarely a character is escaped without need or is in another case.
    fn string(&mut self, text: &str) {
        let (escaped, other_case) = (self.choices.byte(), self.choices.byte());
        self.text.push(b'"');
        for (at, character) in text.chars().enumerate() {
            let character = match character {
                'k' if other_case == 1 => '\u{212a}',
                's' if other_case == 1 => '\u{17f}',
                letter if usize::from(other_case) == at + 2 => letter.to_ascii_uppercase(),
                letter => letter,
            };
            let is_escaped = usize::from(escaped) == at + 1 || escaped == u8::MAX;
            if is_escaped || matches!(character, '"' | '\\' | '\0'..='\x1f') {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    self.add(format!("\\u{unit:04x}").as_bytes());
                }
            } else {
                self.add(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        self.text.push(b'"');
    }

    fn space(&mut self) {
        if self.choices.once_in(8) {
            let space = self.choices.pick(SPACES);
            self.add(space);
        }
    }

    fn add(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    /// Rarely changes, inserts or removes a byte, or cuts the message.
    fn spoil(&mut self) {
        if self.text.is_empty() || !self.choices.once_in(8) {
            return;
        }
        let at = self.choices.below(self.text.len());
        let byte = self.choices.pick(MEANINGFUL);
        match self.choices.below(8) {
            0..3 => self.text[at] = byte,
            3..6 => self.text.insert(at, byte),
            6 => _ = self.text.remove(at),
            _ => self.text.truncate(at),
        }
    }
}

/// Levels of a value that is not read. The scanner's own limit is a case of its tests.
const DEPTH_MAX: u8 = 4;

const ENVELOPE: &[&str] = &["id", "method", "params", "result", "error", "jsonrpc", "x", ""];

pub(in crate::frame) const PARAMS: &[&str] = &[
    "name",
    "uri",
    "cursor",
    "taskId",
    "level",
    "protocolVersion",
    "requestId",
    "progressToken",
    "ref",
    "requestState",
    "inputResponses",
    "arguments",
    "_meta",
    "x",
    "",
];

pub(in crate::frame) const META: &[&str] = &[
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "progressToken",
    "io.modelcontextprotocol/subscriptionId",
    "io.modelcontextprotocol/logLevel",
    "vendor/x",
];

pub(in crate::frame) const REF: &[&str] = &["name", "uri", "type", "x"];

pub(in crate::frame) const METHODS: &[&str] = &[
    "tools/call",
    "prompts/get",
    "resources/read",
    "resources/subscribe",
    "tools/list",
    "initialize",
    "completion/complete",
    "notifications/progress",
    "notifications/cancelled",
    "tasks/get",
    "logging/setLevel",
    "custom/x",
    "ping",
];

const IDS: &[&[u8]] =
    &[b"1", b"0", b"-7", b"\"a\"", b"\"\"", b"\"\\u0061\"", b"9007199254740993", b"null", b"1.5"];

const TEXTS: &[&str] =
    &["a", "", "b__echo", "\u{e9}\u{1f600}", "{\"id\":1}", "\",\"", "a\\", "\n\t\0", "2025-06-18"];

const SCALARS: &[&[u8]] = &[
    b"0",
    b"-0",
    b"7",
    b"1.5",
    b"1e3",
    b"1E-400",
    b"1e400",
    b"123456789012345678901234567890",
    b"true",
    b"false",
    b"null",
    b"{}",
    b"[]",
    b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    b"\"\\ud83d\\ude00\"",
    b"\"\\ud800\"",
];

const SPACES: &[&[u8]] =
    &[b" ", b"\n", b"\r\n\t ", b"                                                                "];

/// Bytes that one of the parsers gives a meaning.
const MEANINGFUL: &[u8] = b"{}[]:,\"\\ueE+-.019tfn \n\r\t\x00\x0c\x1f\x7f\xef\xbb\xbf\xed\xa0\xff";
