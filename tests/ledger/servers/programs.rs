//! Servers that the gateway starts as programs: their configuration, their processes, and what they have recorded.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::Era;
use super::record::{RECORD_BYTES, Record};
use crate::ledger::Ledger;

/// The programs of one run.
pub struct Programs {
    /// Where they append their records; removed at the end.
    records: PathBuf,
}

/// Names and eras.
pub const PROGRAMS: [(&str, Era); 3] =
    [("pipe", Era::Legacy), ("tube", Era::Modern), (STUBBORN, Era::Modern)];

/// The program that ignores the end of its input and SIGTERM (B9).
const STUBBORN: &str = "stubborn";

impl Programs {
    pub fn new(seed: u64) -> Self {
        let name = format!("metamcp-ledger-{}-{seed}", std::process::id());
        Self { records: std::env::temp_dir().join(name) }
    }

    /// Their tables in the configuration.
    pub fn toml(&self) -> String {
        let program = env!("CARGO_BIN_EXE_metamcp-ledger-program");
        let table = |(name, era): &(&str, Era)| {
            let era = if *era == Era::Legacy { "legacy" } else { "modern" };
            let records = self.records.display();
            let (command, args) = if *name == STUBBORN {
                // A signal that is ignored stays so in the program.
                let line = format!("trap '' TERM; exec {program} {era} {records} {STUBBORN}");
                ("sh", format!("\"-c\", {line:?}"))
            } else {
                (program, format!("{era:?}, \"{records}\""))
            };
            format!(
                "[servers.{name}]\ncommand = {command:?}\nargs = [{args}]\nera = {era:?}\nidle_timeout = \"1s\"\n"
            )
        };
        PROGRAMS.iter().map(table).collect()
    }

    /// Sends a signal, named as kill(1) does, to one of the gateway's processes of these programs.
    pub fn signal(gateway: u32, signal: &str) -> Option<u32> {
        let pid = Self::find(gateway)?;
        drop(Command::new("kill").args([signal, &pid.to_string()]).status());
        Some(pid)
    }

    /// A process of a program: a child of a child of the gateway.
    fn find(gateway: u32) -> Option<u32> {
        children(gateway).into_iter().flat_map(children).find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("metamcp-ledger-program"))
        })
    }

    /// Enters what they have executed into the ledger.
    pub fn enter(&self, ledger: &Ledger) {
        let bytes = fs::read(&self.records).unwrap_or_default();
        for record in bytes.as_chunks::<RECORD_BYTES>().0 {
            match Record::read(*record) {
                Record::Execution { tag, canary } => ledger.execute(tag, canary),
                Record::Violation => {
                    ledger.report(None, "a program received what it must not, see the log".into());
                }
            }
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.records));
    }
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
