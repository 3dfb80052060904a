//! Programs that are defined in the store: those on the gateway's list are run, and nothing else ever is, whoever asks
//! and however it came there.

use std::fs;
use std::time::Instant;

use crate::support::{Client, Gateway, PATIENCE, Peer, Request, Response, Setup, modern_call};
use metamcp_store::store::{Audit, Grants, Role, Secrets, ServerKind, ServerSpec, new_id};
use serde_json::{Value, json};

const SERVERS: &str = "/api/v1/mcp/servers";
const FIXTURE: &str = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");

/// Leaves a file behind where it is run.
const TOUCH: &str = "/usr/bin/touch";

/// What must come out nowhere.
const CANARY: &str = "hunter2";

/// A gateway with an administrator, which runs the fixture.
struct House {
    gateway: Gateway,
    admin: String,
}

impl House {
    fn new() -> Self {
        let gateway = Setup::new().with(&listing(FIXTURE)).keys().start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        Self { gateway, admin }
    }

    /// The same, which runs another program instead.
    fn restart_with(self, command: &str) -> Self {
        fs::write(self.gateway.path().join("metamcp.toml"), listing(command)).unwrap();
        Self { gateway: self.gateway.restart(), admin: self.admin }
    }

    fn rest(&self, method: &str, path: &str, body: &Value) -> Response {
        let request = Request::new(method, path).with("X-API-Key", &self.admin);
        let request = match body {
            Value::Null => request,
            body => request.with("Content-Type", "application/json").body(body.to_string()),
        };
        Client::once(self.gateway.address, &request)
    }

    /// A stored server, once it is known what becomes of it.
    #[track_caller]
    fn shown(&self, name: &str) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.rest("GET", &format!("{SERVERS}/{name}"), &Value::Null);
            assert_eq!(found.status, 200, "{}", found.text());
            let found = found.json();
            if found["reason"].as_str().is_none_or(|reason| !reason.contains("not served yet")) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{found}");
        }
    }

    /// The text that a tool of a server answers.
    #[track_caller]
    fn call(&self, server: &str, tool: &str) -> String {
        let request = modern_call(&format!("/servers/{server}/mcp"), tool, r#"{"text":"said"}"#);
        let answer = Client::once(
            self.gateway.address,
            &request.with("Authorization", format!("Bearer {}", self.admin)),
        );
        let message = match answer.header("content-type") {
            Some("text/event-stream") => answer.events().pop().unwrap(),
            _ => answer.json(),
        };
        let text = message["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text: {message}")).to_owned()
    }

    /// Refused for its command, and told which key would allow it.
    #[track_caller]
    fn check_refused(&self, method: &str, path: &str, body: &Value) {
        let refused = self.rest(method, path, body);
        assert_eq!(refused.status, 422, "{method} {path}: {}", refused.text());
        let error = &refused.json()["errors"][0];
        assert_eq!(error["pointer"], "/command");
        assert!(error["detail"].as_str().unwrap().contains("`stdio_commands` in [admin]"), "{error}");
    }

    /// Neither served nor looked at, and told why.
    #[track_caller]
    fn check_unserved(&self, name: &str, command: &str) {
        let shown = self.shown(name);
        let reason = shown["reason"].as_str().unwrap_or_default();
        assert_eq!(shown["served"], false, "{shown}");
        assert!(reason.contains(command) && reason.contains("`stdio_commands` in [admin]"), "{reason}");
        let tested = self.rest("POST", &format!("{SERVERS}/{name}/test"), &Value::Null);
        assert_eq!(tested.status, 409, "{}", tested.text());
        assert!(tested.text().contains("`stdio_commands` in [admin]"), "{}", tested.text());
        let asked = modern_call(&format!("/servers/{name}/mcp"), "echo", "{}");
        let asked = asked.with("Authorization", format!("Bearer {}", self.admin));
        assert_eq!(Client::once(self.gateway.address, &asked).status, 404);
    }
}

fn listing(command: &str) -> String {
    format!("[admin]\nstdio_commands = [{command:?}]\nstdio_env = [\"TOKEN\", \"MORE\"]\n")
}

fn program(name: &str, command: &str) -> Value {
    json!({"name": name, "kind": "stdio", "command": command, "args": [CANARY], "env": {"TOKEN": CANARY}})
}

#[test]
fn a_program_on_the_list_is_run_and_its_secrets_come_out_nowhere() {
    let house = House::new();
    let mut said = String::new();
    let created = house.rest("POST", SERVERS, &program("p", FIXTURE));
    assert_eq!(created.status, 201, "{}", created.text());
    said += &created.text();
    let shown = house.shown("p");
    assert_eq!(shown["served"], true, "{shown}");
    assert_eq!((&shown["args"], &shown["env"]), (&json!(["(sealed)"]), &json!({"TOKEN": "(sealed)"})));
    assert_eq!(house.call("p", "echo"), "said");
    let given: Value = serde_json::from_str(&house.call("p", "env")).unwrap();
    let given = given["env"].as_array().unwrap();
    assert!(given.contains(&format!("TOKEN={CANARY}").into()));
    let tested = house.rest("POST", &format!("{SERVERS}/p/test"), &Value::Null).json();
    assert_eq!((&tested["ok"], &tested["found"]["era"]), (&json!(true), &json!("modern")), "{tested}");

    // Sent back as it is shown it stays what it is; a patch may keep what it does not know.
    let put = house.rest("PUT", &format!("{SERVERS}/p"), &shown);
    assert_eq!((put.status, &put.json()["version"]), (200, &shown["version"]));
    let patch = json!({"args": ["(sealed)", "legacy"], "env": {"MORE": CANARY}});
    let patched = house.rest("PATCH", &format!("{SERVERS}/p"), &patch);
    assert_eq!(
        (patched.status, &patched.json()["args"]),
        (200, &json!(["(sealed)", "(sealed)"])),
        "{}",
        patched.text()
    );
    said += &patched.text();
    assert_eq!(house.shown("p")["served"], true);
    let tested = house.rest("POST", &format!("{SERVERS}/p/test"), &Value::Null).json();
    assert_eq!((&tested["ok"], &tested["found"]["era"]), (&json!(true), &json!("legacy")), "{tested}");
    let stray = house.rest("PATCH", &format!("{SERVERS}/p"), &json!({"args": ["a", "b", "(sealed)"]}));
    assert_eq!((stray.status, &stray.json()["errors"][0]["pointer"]), (422, &json!("/args/2")));

    let file = json!({"mcpServers": {"q": {"command": FIXTURE, "args": [CANARY], "env": {"TOKEN": CANARY}}}});
    let imported = house.rest("POST", "/api/v1/import", &file);
    assert_eq!(imported.json()["items"][0]["outcome"], "create", "{}", imported.text());
    assert_eq!(house.shown("q")["served"], true);
    assert_eq!(house.call("q", "echo"), "said");

    for path in [SERVERS, "/api/v1/audit", "/ready"] {
        said += &house.rest("GET", path, &Value::Null).text();
    }
    said += &imported.text();
    assert!(said.contains("(sealed)") && !said.contains(CANARY), "{said}");
    assert!(!house.gateway.log().contains(CANARY), "{}", house.gateway.log());
    for name in ["metamcp.sqlite", "metamcp.sqlite-wal"] {
        let bytes = fs::read(house.gateway.keys().database().with_file_name(name)).unwrap_or_default();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{name}");
    }
}

#[test]
fn what_is_not_on_the_list_is_neither_taken_nor_run() {
    let house = House::new();
    let marker = house.gateway.path().join("was-run");
    let touch = |name: &str| json!({"name": name, "kind": "stdio", "command": TOUCH, "args": [marker.to_str().unwrap()]});
    assert_eq!(house.rest("POST", SERVERS, &program("p", FIXTURE)).status, 201);
    house.check_refused("POST", SERVERS, &touch("t"));
    house.check_refused("PUT", &format!("{SERVERS}/t"), &touch("t"));
    house.check_refused("PUT", &format!("{SERVERS}/p"), &touch("p"));
    let patch = json!({"command": TOUCH, "args": ["x"], "env": null});
    house.check_refused("PATCH", &format!("{SERVERS}/p"), &patch);
    for command in [&format!("{FIXTURE} "), &FIXTURE.replacen('/', "//", 1), "metamcp-stdio-fixture", "npx"] {
        house.check_refused("POST", SERVERS, &program("t", command));
    }
    let file =
        json!({"mcpServers": {"t": {"command": TOUCH}, "v": {"command": FIXTURE, "args": ["${HOME}"]}}});
    let imported = house.rest("POST", "/api/v1/import?replace=true", &file).json();
    for (at, pointer) in [(0, "/mcpServers/t/command"), (1, "/mcpServers/v/args/0")] {
        let item = &imported["items"][at];
        assert_eq!(
            (&item["outcome"], &item["errors"][0]["pointer"]),
            (&json!("fail"), &json!(pointer)),
            "{item}"
        );
    }

    // One that came into the store by another way.
    let definition = json!({"command": TOUCH, "args": [marker.to_str().unwrap()]});
    house.gateway.keys().run(async |store| {
        let spec =
            ServerSpec { name: "t".into(), kind: ServerKind::Stdio, definition, secrets: Secrets::Keep };
        store.insert_server(new_id(), spec, Audit::by("test")).await.unwrap();
    });
    house.check_unserved("t", TOUCH);
    assert_eq!((house.shown("p")["served"].clone(), house.call("p", "echo")), (json!(true), "said".into()));

    // One that is on the list no more; the other is, and is run.
    let house = house.restart_with("/usr/bin/true");
    house.check_unserved("p", FIXTURE);
    house.check_unserved("t", TOUCH);
    let ready = house.rest("GET", "/ready", &Value::Null).json();
    assert_eq!(ready["left_out"].as_array().map(Vec::len), Some(2), "{ready}");
    assert!(!marker.exists(), "a program was run that nobody allowed");
    let house = house.restart_with(TOUCH);
    house.check_unserved("p", FIXTURE);
    assert_eq!(house.shown("t")["served"], true);
    let tested = house.rest("POST", &format!("{SERVERS}/t/test"), &Value::Null).json();
    assert_eq!(tested["ok"], false, "it is no server");
    assert!(marker.exists(), "it would have been seen if it had been run before");
}

/// The connection test takes no definition: what its body says is neither run nor connected to.
#[test]
fn a_connection_test_takes_no_definition() {
    let (house, peer) = (House::new(), Peer::script([]));
    let marker = house.gateway.path().join("was-run");
    assert_eq!(house.rest("POST", SERVERS, &program("p", FIXTURE)).status, 201);
    assert_eq!(house.shown("p")["served"], true);
    let touch = json!({"name": "p", "kind": "stdio", "command": TOUCH, "args": [marker.to_str().unwrap()]});
    let url = format!("http://{}/mcp", peer.address);
    let bodies = [
        touch.clone(),
        json!({"command": TOUCH, "args": [marker.to_str().unwrap()]}),
        json!({"url": url}),
        json!({"name": "p", "kind": "http", "url": url}),
        json!({"mcpServers": {"p": touch}}),
    ];
    let test = format!("{SERVERS}/p/test");
    for body in &bodies {
        let tested = house.rest("POST", &test, body);
        assert!(tested.status == 200 || (400..500).contains(&tested.status), "{body}: {}", tested.text());
        let request = Request::new("POST", &test).with("Content-Type", "application/json");
        let request = request.with("X-API-Key", house.gateway.key.as_deref().unwrap());
        let refused = Client::once(house.gateway.address, &request.body(body.to_string()));
        assert_eq!(refused.status, 403, "a client key: {}", refused.text());
        assert_eq!(house.rest("POST", &format!("{SERVERS}/test"), body).status, 405);
    }
    assert!(!marker.exists(), "a command of a request was run");
    assert_eq!(peer.connections(), 0, "an address of a request was connected to");
    assert_eq!(house.call("p", "echo"), "said");
}

#[test]
fn a_program_on_the_list_is_not_made_another_by_what_it_is_given() {
    let house = House::new();
    assert_eq!(house.rest("POST", SERVERS, &program("p", FIXTURE)).status, 201);
    // Refused when it is sent, and where it lies already.
    for (name, key) in [("LD_PRELOAD", "decides what a program loads"), ("OTHER", "`stdio_env` in [admin]")] {
        let refused = house.rest("PATCH", &format!("{SERVERS}/p"), &json!({"env": {name: "/tmp/hook.so"}}));
        let error = &refused.json()["errors"][0];
        assert_eq!((refused.status, &error["pointer"]), (422, &json!(format!("/env/{name}"))), "{error}");
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.contains(name) && detail.contains(key), "{detail}");
    }
    for (more, said) in [
        (json!({"env": {"LD_PRELOAD": "/tmp/hook.so"}}), ["\"LD_PRELOAD\"", "`stdio_env`"]),
        (json!({"cwd": "/tmp"}), ["\"/tmp\"", "`stdio_dirs` in [admin]"]),
    ] {
        let mut definition = json!({"command": FIXTURE});
        definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        house.gateway.keys().run(async |store| {
            let spec =
                ServerSpec { name: "l".into(), kind: ServerKind::Stdio, definition, secrets: Secrets::Keep };
            store.insert_server(new_id(), spec, Audit::by("test")).await.unwrap();
        });
        let shown = house.shown("l");
        let reason = shown["reason"].as_str().unwrap_or_default();
        assert!(shown["served"] == false && said.iter().all(|said| reason.contains(said)), "{shown}");
        assert_eq!(house.rest("DELETE", &format!("{SERVERS}/l"), &Value::Null).status, 204);
    }
}

#[test]
fn a_program_that_cannot_be_started_says_why_to_those_who_administer() {
    let absent = "/no/such/program";
    let house = House::new().restart_with(absent);
    let made = house.rest(
        "POST",
        SERVERS,
        &json!({"name": "n", "kind": "stdio", "command": absent, "args": [CANARY]}),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let tested = house.rest("POST", &format!("{SERVERS}/n/test"), &Value::Null).json();
    let reason = tested["reason"].as_str().unwrap();
    assert!(reason.contains("No such file or directory") && !reason.contains(CANARY), "{tested}");
}
