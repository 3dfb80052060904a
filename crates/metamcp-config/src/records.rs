//! The `[records]` section.

use std::path::Path;

use super::defaults as d;
use super::expand::Context;
use super::section::Section;
use super::traces::{Signal, collector_headers, collector_url};
use crate::sections::{RecordsCollector, RecordsConfig, RecordsFile, RecordsTarget};

/// The values of `target`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Off,
    File,
    Syslog,
    Otlp,
}

/// Reads `[records]`. `None` if calls are not recorded. Settings of other targets are validated too.
pub(super) fn read(root: &Section<'_>, data_dir: &Path, context: Context<'_>) -> Option<RecordsConfig> {
    let section = root.child("records");
    let words =
        [("off", Target::Off), ("file", Target::File), ("syslog", Target::Syslog), ("otlp", Target::Otlp)];
    let target = section.word("target", &words, Target::Off);
    let file = file(&section, data_dir);
    let socket = section.text("socket").map_or(d::SYSLOG_SOCKET, |written| written.value).into();
    let collector = collector(&section, context);
    let queue_max = section.count("queue_max", d::RECORDS_QUEUE);
    let place = section.place().below("endpoint");
    let has_endpoint = section.has("endpoint");
    section.finish();
    let target = match target {
        Target::Off => return None,
        Target::File => RecordsTarget::File(file),
        Target::Syslog => RecordsTarget::Syslog(socket),
        Target::Otlp => {
            if collector.is_none() && !has_endpoint {
                context.report.mistake(&place, "is missing; write \"http://host:4318\"");
            }
            RecordsTarget::Otlp(collector?)
        }
    };
    Some(RecordsConfig { target, queue_max })
}

fn file(section: &Section<'_>, data_dir: &Path) -> RecordsFile {
    let path = section.text("file").map(|written| {
        let directory = section.directory().unwrap_or(Path::new(""));
        directory.join(written.value)
    });
    RecordsFile {
        path: path.unwrap_or_else(|| data_dir.join(d::RECORDS_FILE)),
        // The group may be that of a log shipper. The rest of the machine has no business with the file.
        mode: section.word("file_mode", &[("0600", 0o600), ("0640", 0o640)], 0o600),
        bytes_max: section.size("file_bytes_max", d::RECORDS_FILE_BYTES),
        kept_max: section.count("files_kept_max", d::RECORDS_FILES_KEPT),
    }
}

fn collector(section: &Section<'_>, context: Context<'_>) -> Option<RecordsCollector> {
    let endpoint =
        section.text("endpoint").and_then(|written| collector_url(&written, Signal::Logs, context));
    let headers = collector_headers(section, context);
    let timeout = section.duration("timeout", d::TRACES_TIMEOUT);
    let service = section.text("service").map_or(d::SERVICE, |written| written.value).to_owned();
    Some(RecordsCollector { endpoint: endpoint?, headers, timeout, service })
}

#[cfg(test)]
mod tests {
    use super::super::mistakes::Diagnostics;
    use super::super::raw::Variables;
    use super::super::section::TomlFile;
    use super::super::tests::env;
    use super::*;

    #[track_caller]
    fn check(toml: &str, expected: Result<&str, &str>) {
        let report = Diagnostics::default();
        let env = env(&[("T", "x")]);
        let variables = Variables::process(&env);
        let context = Context { variables: &variables, report: &report, workspace: None };
        let toml = format!("[records]\n{toml}");
        let file = TomlFile::parse("/etc/metamcp.toml".into(), &toml, &report);
        let config = read(&Section::root(file.as_ref(), &report), Path::new("/data"), context);
        let shown = config.map_or("off".to_owned(), |RecordsConfig { target, queue_max }| match target {
            RecordsTarget::File(RecordsFile { path, mode, bytes_max, kept_max }) => {
                format!("{} {mode:o} {bytes_max} {kept_max} {queue_max}", path.display())
            }
            RecordsTarget::Syslog(socket) => socket.display().to_string(),
            RecordsTarget::Otlp(RecordsCollector { endpoint, headers, timeout, service }) => {
                format!("{endpoint} {} {timeout:?} {service}", headers.len())
            }
        });
        match (report.finish().map(|_| shown), expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected, "{toml}"),
            (Err(mistakes), Err(expected)) => {
                assert!(mistakes.to_string().contains(expected), "{toml}: {mistakes}");
            }
            (shown, _) => panic!("{toml}: {shown:?}, not {expected:?}"),
        }
    }

    #[test]
    fn targets_are_read() {
        check("", Ok("off"));
        check("target = 'off'\nfile = 'x'", Ok("off"));
        check("target = 'file'", Ok("/data/calls.jsonl 600 104857600 10 16384"));
        check(
            "target = 'file'\nfile = 'log/c'\nfile_mode = '0640'\nfile_bytes_max = '1MiB'\nfiles_kept_max = 2\nqueue_max = 64",
            Ok("/etc/log/c 640 1048576 2 64"),
        );
        check("target = 'file'\nfile = '/var/log/c'", Ok("/var/log/c 600 104857600 10 16384"));
        check("target = 'syslog'", Ok("/dev/log"));
        check("target = 'syslog'\nsocket = '/run/s'", Ok("/run/s"));
        check("target = 'otlp'\nendpoint = 'http://c:4318'", Ok("http://c:4318/v1/logs 0 10s metamcp"));
        check(
            "target = 'otlp'\nendpoint = 'https://c/x'\nservice = 's'\ntimeout = '1s'\nheaders = { A = '${T}' }",
            Ok("https://c/x 1 1s s"),
        );
    }

    #[test]
    fn mistakes_are_reported() {
        check("target = 'journal'", Err("write \"off\", \"file\", \"syslog\" or \"otlp\""));
        check("target = 'otlp'", Err("records.endpoint: is missing"));
        check("target = 'otlp'\nendpoint = 'ftp://c'", Err("records.endpoint"));
        check("file_mode = '0644'", Err("write \"0600\" or \"0640\""));
        check("file_bytes_max = '1KiB'", Err("out of range"));
        check("files_kept_max = 0", Err("out of range"));
        check("queue_max = 1", Err("out of range"));
        check("level = 'info'", Err("is unknown"));
    }
}
