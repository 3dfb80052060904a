//! What programs learn of the gateway and its secrets, and what they are started with.

use super::*;
use crate::support::ENCRYPTION_KEY;

const JWT_SECRET: &str = "canary-jwt-0123456789abcdef0123456789abcdef";

/// The secrets of a gateway that are in its environment.
const SECRETS: [(&str, &str); 4] = [
    ("ENCRYPTION_KEY", ENCRYPTION_KEY),
    ("JWT_SECRET", JWT_SECRET),
    ("AWS_SECRET_ACCESS_KEY", "canary-foreign"),
    ("METAMCP_KEY", "canary-key"),
];

/// The server `a` of a gateway that has secrets in its environment.
fn with_secrets(args: &[&str], lines: &str) -> Setup {
    SECRETS.iter().fold(setup(args, lines), |setup, (name, value)| setup.variable(name, value))
}

/// The text of a file as the program reads it, or its error.
#[track_caller]
fn read_by_program(gateway: &Gateway, path: &str) -> String {
    let arguments = json!({"path": path, "show": true}).to_string();
    tool_text(&Client::once(gateway.address, &modern_call(PATH, "read", &arguments)))
}

/// The gateway's child processes, and theirs.
fn family(gateway: &Gateway) -> Vec<u32> {
    descendants(gateway.pid()).into_iter().map(|(pid, _)| pid).collect()
}

#[test]
fn no_variable_of_the_gateway_reaches_a_program() {
    let setup = with_secrets(&[], "env = { TOKEN = \"t\", PASSED = \"${GIVEN}\" }");
    let setup = setup.variable("GIVEN", "passed on");
    for gateway in [setup.start(), setup.start().restart()] {
        let told = tool_text(&Client::once(gateway.address, &modern_call(PATH, "env", "{}")));
        let mut seen = vec![told, read_by_program(&gateway, "/proc/self/environ")];
        for text in &seen {
            assert!(text.contains("TOKEN=t") && text.contains("PASSED=passed on"), "{text}");
        }
        // Of the processes in between, too.
        let family = family(&gateway);
        assert!(family.len() >= 2, "{family:?}");
        seen.extend(family.iter().filter_map(|pid| {
            let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }));
        for text in seen {
            for (name, value) in SECRETS {
                assert!(!text.contains(name) && !text.contains(value), "{name}: {text}");
            }
            assert!(!text.contains("GIVEN="), "{text}");
        }
    }
}

/// A process list is readable by every user of the machine.
#[test]
fn no_secret_is_in_the_arguments_of_a_process() {
    let gateway = with_secrets(&[], "env = { TOKEN = \"canary-token\" }").keys().start();
    let key = gateway.key.clone().unwrap();
    let call = modern_call(PATH, "echo", r#"{"text":"x"}"#).with("Authorization", format!("Bearer {key}"));
    assert_eq!(tool_text(&Client::once(gateway.address, &call)), "x");
    let processes = [vec![gateway.pid()], family(&gateway)].concat();
    assert!(processes.len() >= 3, "{processes:?}");
    for pid in processes {
        let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let words = String::from_utf8_lossy(&bytes);
        let secrets = SECRETS.iter().map(|(_, value)| *value).chain([key.as_str(), "canary-token"]);
        for secret in secrets {
            assert!(!words.contains(secret), "{words:?}");
        }
    }
}

/// As another process of the same user: the keeper of the program, which has no secrets, can be read.
#[test]
fn a_program_cannot_read_the_memory_of_the_gateway() {
    let Some(setup) = with_secrets(&[], "env = { TOKEN = \"t\" }").without_capabilities() else { return };
    let gateway = setup.start();
    assert_eq!(read_by_program(&gateway, "/nowhere"), "No such file or directory (os error 2)");
    let keeper = family(&gateway)[0];
    let readable = read_by_program(&gateway, &format!("/proc/{keeper}/environ"));
    assert!(readable.contains("TOKEN=t"), "{readable}");
    for file in ["environ", "mem", "maps", "auxv"] {
        let text = read_by_program(&gateway, &format!("/proc/{}/{file}", gateway.pid()));
        assert!(text.contains("Permission denied"), "{file}: {text}");
    }
}

#[test]
fn arguments_are_passed_on_as_they_are() {
    let marker = env::temp_dir().join(format!("metamcp-arguments-{}", std::process::id()));
    let touch = format!("touch {}", marker.display());
    let odd = [
        &format!("; {touch}"),
        &format!("$({touch})"),
        &format!("`{touch}`"),
        &format!("| {touch}"),
        &format!("& {touch} &"),
        &format!("\n{touch}\n"),
        "$HOME",
        "*",
        "~",
        "",
        "' \" \\",
        "--",
        "ä😀",
    ];
    let gateway = setup(&odd, "").start();
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let words = [&[program], &odd[..]].concat().join("\0") + "\0";
    assert_eq!(read_by_program(&gateway, "/proc/self/cmdline"), words);
    assert!(!marker.exists(), "an argument was run by a shell");
}
