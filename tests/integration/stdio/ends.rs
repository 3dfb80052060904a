//! How processes end, and what is told and left then.

use super::*;

/// A keeper, its server, and what that left behind in a session of its own.
fn family(gateway: &Gateway, session: &str) -> (u32, Vec<u32>) {
    let server: u32 = tool_text(&call(gateway, session, "pid", "{}")).parse().unwrap();
    let all = descendants(gateway.pid());
    let keeper = all
        .iter()
        .map(|(pid, _)| *pid)
        .find(|pid| descendants(*pid).iter().any(|(below, _)| *below == server) && *pid != server);
    let keeper = keeper.unwrap();
    (keeper, descendants(keeper).into_iter().map(|(pid, _)| pid).chain([keeper]).collect())
}

#[test]
fn a_server_that_kills_its_group_or_its_keeper_leaves_nothing() {
    let gateway = setup(&["legacy", "fork"], "era = \"legacy\"").start();
    let session = open_session(&gateway, PATH, None);
    // SIGHUP, SIGINT and SIGKILL; the last row is for the keeper to shrug off.
    for (whom, signal, is_end) in [
        ("group", 1, true),
        ("group", 2, true),
        ("group", 9, true),
        ("keeper", 9, true),
        ("keeper", 1, false),
    ] {
        let (keeper, family) = family(&gateway, &session);
        assert!(family.len() >= 3, "{family:?}");
        call(&gateway, &session, "kill", &format!(r#"{{"whom":{whom:?},"signal":{signal}}}"#));
        if is_end {
            until(&format!("{whom} {signal}: all are gone"), || family.iter().all(|pid| is_gone(*pid)));
            until("none is left unburied", || {
                descendants(gateway.pid()).iter().all(|(_, state)| *state != 'Z')
            });
        }
        until("the next call is served", || {
            call(&gateway, &session, "echo", r#"{"text":"x"}"#).text().contains("\"x\"")
        });
        assert_eq!(is_gone(keeper), is_end, "{whom} {signal}");
    }
}

#[test]
fn a_keeper_that_was_stopped_sees_that_the_gateway_was_killed() {
    let gateway = setup(&["legacy", "fork"], "era = \"legacy\"").start();
    let session = open_session(&gateway, PATH, None);
    let (keeper, family) = family(&gateway, &session);
    let keeper = rustix::process::Pid::from_raw(i32::try_from(keeper).unwrap()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::STOP).unwrap();
    // Which kills it.
    drop(gateway);
    until("all are gone", || family.iter().all(|pid| is_gone(*pid)));
}

/// One that crashes at every call is started less and less often, and holds up nobody else.
#[test]
fn a_client_whose_calls_crash_its_process_waits_alone() {
    let gateway = setup(&["legacy"], "sharing = \"session\"\nera = \"legacy\"").start();
    let session = open_session(&gateway, PATH, None);
    let begun = Instant::now();
    let mut waits = false;
    for _ in 0..20 {
        let died = call(&gateway, &session, "die", "{}");
        waits = waits || died.text().contains("times in a row; the next try is in");
    }
    assert!(waits, "{:?}", begun.elapsed());
    let starts = gateway.log().matches("server process failed").count();
    assert!(starts <= 10, "{starts} starts in {:?}", begun.elapsed());
    let begun = Instant::now();
    let other = open_session(&gateway, PATH, None);
    assert_eq!(tool_text(&call(&gateway, &other, "echo", r#"{"text":"x"}"#)), "x");
    println!("the other was served after {:?}", begun.elapsed());
}

#[test]
fn a_client_is_told_why_a_program_does_not_start() {
    let fixture = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let check = |lines: &str, expected: &str| {
        let gateway = Setup::new().with(&format!("[servers.a]\n{lines}\nera = \"legacy\"")).start();
        let refused = Client::connect(gateway.address).ask(&initialize(PATH)).text();
        let expected = format!("server `a` did not start: {expected}");
        assert!(refused.contains(&expected) && refused.contains("; the call did not run"), "{refused}");
        assert!(!refused.contains("hunter2") && !refused.contains("no use"), "{refused}");
    };
    let crash = format!("command = {fixture:?}\nargs = [\"crash\", \"hunter2\"]");
    check(&crash, "its program ended with exit status 3");
    check("command = \"no-such-npx\"", "its program `no-such-npx` was not found");
    check(
        "command = \"/bin/sh\"\nargs = [\"-c\", \"exec >/dev/null; kill -9 $$\"]",
        "its program was killed by signal 9",
    );
    check(
        &format!("command = {fixture:?}\nargs = [\"mute\"]\nstart_timeout = \"500ms\""),
        "it did not answer within start_timeout",
    );
}

#[test]
fn a_spare_that_ends_at_once_has_failed() {
    let lines = "command = \"/bin/false\"\nprewarm = true\nera = \"legacy\"";
    let gateway = Setup::new().with(&format!("[servers.a]\n{lines}")).start();
    until("it is noted", || gateway.log().contains("reason=\"its program ended with exit status 1\""));
}

#[test]
fn the_log_says_that_a_wrapper_left_its_server() {
    let lines = "command = \"/bin/sh\"\nargs = [\"-c\", \"sleep 60 & exit 0\"]\nera = \"legacy\"";
    let gateway = Setup::new().with(&format!("[servers.a]\n{lines}")).start();
    let refused = Client::connect(gateway.address).ask(&initialize(PATH)).text();
    assert!(refused.contains("its program ended with exit status 0"), "{refused}");
    assert!(gateway.log().contains("so the processes that it started are ended too"), "{}", gateway.log());
}

/// It ignores the end of its input and SIGTERM, and so does what it left behind.
#[test]
fn a_stubborn_server_ends_soon_after_its_last_session() {
    let gateway = setup(&["stubborn", "legacy", "fork"], "sharing = \"session\"\nera = \"legacy\"").start();
    let session = open_session(&gateway, PATH, None);
    let (_, family) = family(&gateway, &session);
    assert!(family.len() >= 4, "{family:?}");
    let left =
        Client::connect(gateway.address).ask(&Request::new("DELETE", PATH).with("Mcp-Session-Id", session));
    assert!(left.status < 300, "{}", left.status);
    let took =
        until_within("all are gone", Duration::from_secs(5), || family.iter().all(|pid| is_gone(*pid)));
    println!("gone after {took:?}");
}

/// Stops the program of a session, as one that hangs, and gives its process.
fn stop(gateway: &Gateway, session: &str) -> u32 {
    let pid: u32 = tool_text(&call(gateway, session, "pid", "{}")).parse().unwrap();
    let target = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(target, rustix::process::Signal::STOP).unwrap();
    pid
}

#[test]
fn a_server_that_stops_reading_is_ended() {
    let gateway = setup(&["legacy"], "sharing = \"session\"\nera = \"legacy\"").start();
    let session = open_session(&gateway, PATH, None);
    let pid = stop(&gateway, &session);
    // More than a pipe holds.
    let text = "x".repeat(1 << 20);
    let mut client = Client::connect(gateway.address);
    client.send(&legacy_call(PATH, &session, "1", "echo", &format!(r#"{{"text":"{text}"}}"#)).bytes());
    // It has half a minute for that, and then some seconds to end.
    until_within("it is ended", Duration::from_mins(1), || is_gone(pid));
    let refused = client.response();
    assert!(message(&refused)["error"].is_object(), "{}", refused.text());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

/// Resident memory without the code of the program, which is read as it is used.
fn heap_bytes(gateway: &Gateway) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Floods of programs that are cut off, and messages to programs that do not read, on many processes.
#[test]
fn memory_is_returned_after_floods() {
    let gateway = setup(&["legacy"], "sharing = \"session\"\nera = \"legacy\"").start();
    let warm_up = open_session(&gateway, PATH, None);
    assert_eq!(tool_text(&call(&gateway, &warm_up, "echo", r#"{"text":"x"}"#)), "x");
    let before = heap_bytes(&gateway);
    // In the long form about the memory that 16 floods of 16 MiB take at once.
    let (floods, calls) = if is_long() { (16, 24) } else { (4, 6) };
    thread::scope(|scope| {
        for _ in 0..floods {
            scope.spawn(|| {
                let session = open_session(&gateway, PATH, None);
                let cut = call(&gateway, &session, "flood", "{}");
                assert!(message(&cut)["error"].is_object(), "{}", cut.text());
            });
        }
    });
    let text = "x".repeat(2 << 20);
    let deaf: Vec<(String, Vec<Client>)> = (0..floods)
        .map(|_| {
            let session = open_session(&gateway, PATH, None);
            stop(&gateway, &session);
            let request = legacy_call(PATH, &session, "1", "echo", &format!(r#"{{"text":"{text}"}}"#));
            let waiting = (0..calls).map(|_| Client::connect(gateway.address)).collect::<Vec<Client>>();
            let waiting = waiting.into_iter().map(|mut client| {
                client.send(&request.bytes());
                client
            });
            (session.clone(), waiting.collect())
        })
        .collect();
    let peak = heap_bytes(&gateway);
    for (session, waiting) in deaf {
        drop(waiting);
        Client::connect(gateway.address).ask(&Request::new("DELETE", PATH).with("Mcp-Session-Id", session));
    }
    let grown = || heap_bytes(&gateway).saturating_sub(before) >> 20;
    println!("{} MiB before, {} MiB more at the peak", before >> 20, peak.saturating_sub(before) >> 20);
    let took = until_within("memory is returned", Duration::from_secs(30), || {
        thread::park_timeout(Duration::from_millis(500));
        grown() < 24
    });
    println!("{} MiB more after {took:?}", grown());
}
