use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use metamcp_config::sections::RecordsFile;
use metamcp_core::base::{RequestId, ServerName};
use metamcp_store::auth::Identity;

use super::json::RecordFormatter;
use super::*;
use crate::telemetry::traces::TraceContext;

fn record(target: Option<CallTarget>) -> CallRecord {
    let trace = TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    CallRecord {
        request_id: RequestId { second: 16, worker: 1, count: 255 },
        began_unix_ms: 1_785_240_000_123,
        call: CallDescription {
            identity: Identity::sample("AAAAAAAAAAAA"),
            scope: Some("e/default".into()),
            method: "tools/call".into(),
            target,
            id: Some("\"a\\u0000\"".into()),
            trace: trace.map(|context| context.trace),
            bytes_in: 10,
        },
        server: Some(ServerName::new("files").expect("it is a name")),
        outcome: CallOutcome::Answer,
        error: None,
        duration_ms: 7,
        bytes_out: 20,
    }
}

fn line(record: &CallRecord) -> String {
    let mut line = Vec::new();
    RecordFormatter::default().write(&mut line, record);
    String::from_utf8(line).expect("JSON is UTF-8")
}

#[test]
fn a_record_is_one_line() {
    let start = r#"{"time":"2026-07-28T12:00:00.123Z","key_id":"AAAAAAAAAAAA","key":"sample","#;
    let full = r#""endpoint":"default","server":"files","method":"tools/call","tool":"read","outcome":"answer","duration_ms":7,"bytes_in":10,"bytes_out":20,"request_id":"10-1-ff","id":"a\u0000","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#;
    assert_eq!(line(&record(Some(CallTarget::new(TargetKind::Tool, "read")))), format!("{start}{full}"));
    let mut bare = record(None);
    (bare.call.scope, bare.call.id, bare.call.trace, bare.server) =
        (None, Some("not JSON".into()), None, None);
    (bare.outcome, bare.error) = (CallOutcome::Refusal, Some("timed_out"));
    let rest = r#""method":"tools/call","outcome":"refused","error":"timed_out","duration_ms":7,"bytes_in":10,"bytes_out":20,"request_id":"10-1-ff"}"#;
    assert_eq!(line(&bare), format!("{start}{rest}"));
}

#[test]
fn hostile_names_are_escaped() {
    let check = |name: &str, escaped: &str| {
        for (kind, member) in
            [(TargetKind::Tool, "tool"), (TargetKind::Prompt, "prompt"), (TargetKind::Resource, "uri")]
        {
            let found = line(&record(Some(CallTarget::new(kind, name))));
            assert!(found.contains(&format!(",\"{member}\":\"{escaped}\",")), "{name:?}: {found}");
            assert!(found.bytes().all(|byte| byte >= b' '), "{found:?}");
            let parsed: serde_json::Value = serde_json::from_str(&found).expect("it is JSON");
            assert_eq!(parsed[member], name);
        }
    };
    check("plain", "plain");
    check("a\"b\\c", r#"a\"b\\c"#);
    check("line\r\nend\t", r"line\r\nend\t");
    check("\0\u{1}\u{1b}[2J", r"\u0000\u0001\u001b[2J");
    check("\",\"key\":\"root", r#"\",\"key\":\"root"#);
    check("\u{e4}\u{1f600}\u{2028}", "\u{e4}\u{1f600}\u{2028}");
}

#[test]
fn names_and_ids_are_bounded() {
    let length = |kind, name: &str| CallTarget::new(kind, name).name.len();
    assert_eq!(length(TargetKind::Tool, &"x".repeat(1000)), 256);
    assert_eq!(length(TargetKind::Resource, &"x".repeat(1000)), 512);
    // A character is not cut in two.
    assert_eq!(length(TargetKind::Prompt, &"\u{20ac}".repeat(1000)), 255);
    assert_eq!(CallDescription::short_id(&[b'1'; 128]).map(|id| id.len()), Some(128));
    assert_eq!(CallDescription::short_id(&[b'1'; 129]), None);
    assert_eq!(CallDescription::short_id(b"\"\xff\""), None);
}

#[test]
fn times_have_milliseconds() {
    let mut formatter = RecordFormatter::default();
    let mut check = |unix_ms, expected: &str| {
        let mut line = Vec::new();
        formatter.write(&mut line, &CallRecord { began_unix_ms: unix_ms, ..record(None) });
        let start = format!(r#"{{"time":"{expected}","#);
        assert!(line.starts_with(start.as_bytes()), "{}", String::from_utf8_lossy(&line));
    };
    check(0, "1970-01-01T00:00:00.000Z");
    check(1_785_240_000_999, "2026-07-28T12:00:00.999Z");
    check(1_785_240_000_012, "2026-07-28T12:00:00.012Z");
    check(1_785_240_001_000, "2026-07-28T12:00:01.000Z");
    check(u64::MAX, "9999-12-30T22:00:00.615Z");
}

/// A directory, gone when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("metamcp-records-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn open(&self, bytes_max: usize, kept_max: usize) -> FileLog {
        let config = RecordsFile { path: self.0.join("calls"), mode: 0o600, bytes_max, kept_max };
        FileLog::open(config).expect("it opens")
    }

    /// The names of the files with their contents, in order.
    fn files(&self) -> Vec<(String, String)> {
        let entries =
            fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("an entry").path());
        let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut files: Vec<_> =
            entries.map(|path| (name(&path), fs::read_to_string(&path).expect("text"))).collect();
        files.sort();
        files
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn lines(texts: &[&str]) -> Lines {
    let mut lines = Lines::default();
    for text in texts {
        lines.push(|line| line.extend_from_slice(text.as_bytes()));
    }
    lines
}

/// Writes as the writer does, until all is written.
#[track_caller]
fn write(log: &mut impl RecordSink, texts: &[&str]) {
    let mut lines = lines(texts);
    while !lines.is_empty() {
        let (written, outcome) = log.write(&lines);
        assert!(outcome.is_ok() && written > 0, "{outcome:?}");
        lines.remove(written);
    }
}

#[track_caller]
fn check_files(dir: &Dir, expected: &[(&str, &str)]) {
    let files = dir.files();
    let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(files, expected);
}

#[test]
fn a_file_is_rotated_at_the_boundary() {
    let dir = Dir::new("rotate");
    let mut log = dir.open(8, 2);
    // Exactly full: not yet rotated.
    write(&mut log, &["aaa", "bbb"]);
    check_files(&dir, &[("calls", "aaa\nbbb\n")]);
    write(&mut log, &["c"]);
    check_files(&dir, &[("calls", "c\n"), ("calls.1", "aaa\nbbb\n")]);
    // A batch is divided between files, never a line; a line over the limit has a file of its own.
    write(&mut log, &["dddd", "ee", "123456789"]);
    check_files(&dir, &[("calls", "123456789\n"), ("calls.1", "ee\n"), ("calls.2", "c\ndddd\n")]);
    let mode = fs::metadata(dir.0.join("calls")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_torn_line_is_ended_before_the_next() {
    let dir = Dir::new("torn");
    fs::write(dir.0.join("calls"), "whole\nhal").expect("it is written");
    write(&mut dir.open(100, 1), &["next"]);
    check_files(&dir, &[("calls", "whole\nhal\nnext\n")]);
}

#[test]
fn another_program_may_rotate_the_file() {
    let dir = Dir::new("logrotate");
    let mut log = dir.open(100, 1);
    write(&mut log, &["a"]);
    fs::rename(dir.0.join("calls"), dir.0.join("old")).expect("it is renamed");
    write(&mut log, &["b"]);
    log.reopen();
    write(&mut log, &["c"]);
    check_files(&dir, &[("calls", "c\n"), ("old", "a\nb\n")]);
}

#[test]
fn a_file_that_cannot_be_rotated_grows() {
    let dir = Dir::new("stuck");
    // The place of the renamed file is taken by a directory that is not empty.
    let mut log = dir.open(4, 1);
    write(&mut log, &["aaa"]);
    fs::create_dir_all(dir.0.join("calls.1/x")).expect("a directory");
    write(&mut log, &["bbb", "ccc"]);
    assert_eq!(fs::read_to_string(dir.0.join("calls")).expect("text"), "aaa\nbbb\nccc\n");
}

#[test]
fn a_full_disk_takes_no_line() {
    let config = RecordsFile { path: "/dev/full".into(), mode: 0o600, bytes_max: 1 << 20, kept_max: 1 };
    let mut log = FileLog::open(config).expect("it opens");
    let (written, outcome) = log.write(&lines(&["a", "b"]));
    assert_eq!((written, outcome.map_err(|error| error.kind())), (0, Err(io::ErrorKind::StorageFull)));
}

#[test]
fn syslog_gets_one_message_for_each_record() {
    let dir = Dir::new("syslog");
    let path = dir.0.join("log");
    let mut syslog = Syslog::new(path.clone());
    let mut formatted = Lines::default();
    formatted.push(|line| RecordFormatter::default().write(line, &record(None)));
    // Nobody listens: the record stays with the writer.
    assert_eq!(syslog.write(&formatted).0, 0);
    for _restart in 0..2 {
        let daemon = UnixDatagram::bind(&path).expect("a socket");
        while syslog.write(&formatted).0 == 0 {}
        let mut message = [0; 4096];
        let bytes = daemon.recv(&mut message).expect("a message");
        let expected = format!(
            "<134>1 2026-07-28T12:00:00.123Z - metamcp {} call - {}",
            std::process::id(),
            line(&record(None))
        );
        assert_eq!(std::str::from_utf8(&message[..bytes]), Ok(&*expected));
        fs::remove_file(&path).expect("it is removed");
    }
}

#[test]
fn lines_are_counted_by_their_ends() {
    let mut lines = lines(&["a", "bb", "ccc"]);
    for (bytes, expected) in [(0, (0, 0)), (1, (0, 0)), (2, (1, 2)), (4, (1, 2)), (5, (2, 5)), (99, (3, 9))] {
        assert_eq!(lines.complete_in(bytes), expected, "{bytes}");
    }
    lines.remove(1);
    assert_eq!(lines.iter().collect::<Vec<_>>(), [&b"bb\n"[..], b"ccc\n"]);
    assert_eq!((lines.count(), lines.complete_in(3)), (2, (1, 3)));
}
