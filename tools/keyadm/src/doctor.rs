//! What is wrong with an installation, and what to do about it. Changes nothing but the schema of a database that an
//! earlier version made.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use metamcp::auth::{Sealer, parse_encryption_key, parse_jwt_secret};
use metamcp::config::{self, Flags, ProcessEnv};
use metamcp::store::{Binder, Bound, JwtKeyRow, JwtPhase, KeyRow, KeyStatus, Store};
use serde_json::json;

use crate::failure::Failure;
use crate::place::{DATABASE, Installation};
use crate::table::{line, printable};
use crate::{Done, bound, keys, now, rekey, time};

/// What one look has found.
struct Finding {
    about: &'static str,
    verdict: Verdict,
    text: String,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, and something may go wrong.
    Warn,
    /// Something does not work, or is not safe.
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warn => "warning",
            Self::Bad => "wrong",
        }
    }
}

/// Everything that was found, in the order in which it is looked at.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, about: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.0.push(Finding { about, verdict, text: text.into() });
    }

    fn good(&mut self, about: &'static str, text: impl Into<String>) {
        self.add(about, Verdict::Good, text);
    }

    fn warn(&mut self, about: &'static str, text: impl Into<String>) {
        self.add(about, Verdict::Warn, text);
    }

    fn bad(&mut self, about: &'static str, text: impl Into<String>) {
        self.add(about, Verdict::Bad, text);
    }
}

pub async fn run(place: &Installation, config: Option<PathBuf>, json: bool) -> Result<Done, Failure> {
    let mut found = Findings::default();
    look_at_config(place, config, &mut found);
    if let Ok(data_dir) = place.data_dir() {
        look_at_files(data_dir, place.has_server(), &mut found);
    }
    let sealer = look_at_secrets(place, &mut found);
    match place.store_as_it_is().await {
        Ok(store) => {
            found.good("store", "the database answers, and its schema is that of this version");
            if let Err(error) = look_at_store(&store, sealer.as_ref(), &mut found).await {
                found.bad("store", error.to_string());
            }
        }
        Err(failure) => found.bad("store", failure.to_string()),
    }
    let is_bad = found.0.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(Done { text: if json { report_json(&found) } else { report(&found) }, code: u8::from(is_bad) })
}

fn look_at_config(place: &Installation, file: Option<PathBuf>, found: &mut Findings) {
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => return found.bad("config", format!("the current directory cannot be read: {error}")),
    };
    let data_dir = place.data_dir().ok().map(Path::to_owned);
    let cli = config::Cli { command: None, flags: Flags { config: file, data_dir, ..Flags::default() } };
    match config::load(&cli, &ProcessEnv, &cwd) {
        Ok(config) => {
            let files: Vec<String> = config.sources.iter().map(|path| path.display().to_string()).collect();
            let from =
                if files.is_empty() { "no file, so every default".to_owned() } else { files.join(", ") };
            found.good(
                "config",
                format!("{} servers, {} endpoints ({from})", config.servers.len(), config.endpoints.len()),
            );
            for notice in &config.skipped {
                found.warn("config", notice.to_string());
            }
        }
        Err(mistakes) => found.bad("config", mistakes.to_string()),
    }
}

/// Nobody else may read them, and one user owns them all: what root made, the gateway cannot write.
fn look_at_files(data_dir: &Path, has_server: bool, found: &mut Findings) {
    let Ok(folder) = data_dir.metadata() else {
        let text = format!("there is no data directory {}; the first start makes it", data_dir.display());
        return if has_server { found.good("files", text) } else { found.warn("files", text) };
    };
    let before = found.0.len();
    check_mode(data_dir, &folder, "700", found);
    let wal = [format!("{DATABASE}-wal"), format!("{DATABASE}-shm")];
    for name in [DATABASE, "secrets.toml", "keyring.sealed"].into_iter().chain(wal.iter().map(String::as_str))
    {
        let path = data_dir.join(name);
        let Ok(file) = path.symlink_metadata() else { continue };
        if file.is_symlink() {
            found.warn("files", format!("{} is a link: what it leads to is not checked", path.display()));
            continue;
        }
        check_mode(&path, &file, "600", found);
        if file.uid() != folder.uid() {
            let text = format!(
                "{0} belongs to user {1}, its folder to {2}: the gateway may not be able to use it; run \
                 `chown {2} {0}`, and keyadm as that user",
                path.display(),
                file.uid(),
                folder.uid()
            );
            found.bad("files", text);
        }
    }
    if found.0.len() == before {
        found.good("files", format!("{} and what is in it are for their owner alone", data_dir.display()));
    }
}

fn check_mode(path: &Path, metadata: &Metadata, mode: &str, found: &mut Findings) {
    let bits = metadata.permissions().mode() & 0o777;
    if bits & 0o077 != 0 {
        let path = path.display();
        found
            .bad("files", format!("{path} can be used by others (mode {bits:o}): run `chmod {mode} {path}`"));
    }
}

fn look_at_secrets(place: &Installation, found: &mut Findings) -> Option<Sealer> {
    match place.secret("JWT_SECRET").map(|text| text.map(|text| parse_jwt_secret(&text))) {
        Ok(Some(Err(weak))) => found.bad("secrets", weak.to_string()),
        Ok(_) => {}
        Err(failure) => found.bad("secrets", failure.to_string()),
    }
    let text = match place.secret("ENCRYPTION_KEY") {
        Ok(Some(text)) => text,
        Ok(None) => {
            let text = "there is no ENCRYPTION_KEY, neither in the environment nor in secrets.toml: the gateway makes \
                        one at its first start; behind one database all replicas must be given the same";
            found.warn("secrets", text);
            return None;
        }
        // Said above.
        Err(_) => return None,
    };
    let sealer = parse_encryption_key(&text)
        .map_err(Failure::from)
        .and_then(|keys| Ok((Sealer::new(&keys)?, keys.len())));
    match sealer {
        Ok((sealer, versions)) => {
            let more =
                if versions > 1 { format!(", {} older given too", versions - 1) } else { String::new() };
            found.good("secrets", format!("ENCRYPTION_KEY seals with version {}{more}", sealer.version()));
            Some(sealer)
        }
        Err(failure) => {
            found.bad("secrets", failure.to_string());
            None
        }
    }
}

async fn look_at_store(store: &Store, sealer: Option<&Sealer>, found: &mut Findings) -> Result<(), Failure> {
    if let Some(theirs) = store.clock().await? {
        look_at_clock(theirs, now(), found);
    }
    let rows = store.keys().await?.rows;
    look_at_keys(&rows, found);
    let ring = store.jwt_keys().await?.rows;
    look_at_ring(&ring, found);
    let Some(sealer) = sealer else { return Ok(()) };
    let closed = closed(store, sealer, &rows, &ring).await?;
    if !closed.is_empty() {
        for text in closed.iter().take(NAMED_MAX) {
            found.bad("sealed", text);
        }
        if closed.len() > NAMED_MAX {
            found.bad("sealed", format!("and {} more rows do not open", closed.len() - NAMED_MAX));
        }
        return Ok(());
    }
    match rekey::left(store, sealer.version()).await? {
        0 => found
            .good("sealed", format!("everything opens, and version {} seals all of it", sealer.version())),
        left => found.warn(
            "sealed",
            format!(
                "everything opens; {left} values are not sealed by version {}: run `keyadm rekey`",
                sealer.version()
            ),
        ),
    }
    Ok(())
}

/// What does not open, with what to do about each.
async fn closed(
    store: &Store,
    sealer: &Sealer,
    keys: &[KeyRow],
    ring: &[JwtKeyRow],
) -> Result<Vec<String>, Failure> {
    let (servers, endpoints) = (store.servers().await?.rows, store.endpoints().await?.rows);
    // Those that are off as well: they may have been switched off by somebody else.
    let keys = keys.iter().map(|row| (format!("the key {}", row.key_id), Bound::Key(row)));
    let ring = ring.iter().map(|row| (format!("the token key {}", row.kid), Bound::JwtKey(row)));
    let servers = servers.iter().map(|row| (format!("the server {}", row.name), Bound::Server(row)));
    let endpoints = endpoints.iter().map(|row| (format!("the endpoint {}", row.name), Bound::Endpoint(row)));
    let pins = store.tool_pins().await?;
    let pins = pins.iter().map(|row| (format!("what is approved of {}", row.server), Bound::ToolPins(row)));
    let rows = keys.chain(ring).chain(servers).chain(endpoints).chain(pins);
    let closed = rows.filter(|(_, row)| sealer.open_row(*row).is_none());
    Ok(closed.map(|(name, row)| format!("{name} does not open: {}", bound::closed(sealer, row))).collect())
}

fn look_at_clock(theirs: u64, ours: u64, found: &mut Findings) {
    let apart = theirs.abs_diff(ours);
    let text = format!("this machine's clock and the database's are {apart} s apart");
    if apart > CLOCK_APART_MAX_S {
        found.bad("clock", format!("{text}: tokens of one replica are refused by another; let NTP set both"));
    } else if apart > CLOCK_APART_WARN_S {
        found.warn("clock", format!("{text}: see that NTP sets both"));
    } else {
        found.good("clock", text);
    }
}

fn look_at_keys(rows: &[KeyRow], found: &mut Findings) {
    let usable: Vec<_> =
        rows.iter().filter(|row| row.status == KeyStatus::Active && !keys::is_over(row)).collect();
    if usable.is_empty() {
        found.warn("keys", "no key opens the gateway: make one with `keyadm keys create --name NAME`");
    } else {
        found.good("keys", format!("{} of {} keys open the gateway", usable.len(), rows.len()));
    }
    for row in usable {
        if let Some(end) = row.ends_at().filter(|end| *end < now() + EXPIRES_SOON_S) {
            let name = printable(&row.name);
            let text = format!(
                "the key {name:?} ({}) ends {}: `keyadm keys rotate {0} --expires WHEN`",
                row.key_id,
                time::format(end)
            );
            found.warn("keys", text);
        }
    }
}

fn look_at_ring(rows: &[JwtKeyRow], found: &mut Findings) {
    let of = |phase| rows.iter().find(move |row| row.phase == phase);
    match of(JwtPhase::Active) {
        Some(row) => {
            found.good("tokens", format!("the key {} signs since {}", row.kid, time::format(row.changed_at)));
        }
        None if rows.is_empty() => {
            found.warn(
                "tokens",
                "no key signs tokens yet: the gateway's next start puts JWT_SECRET into the ring",
            );
        }
        None => found.bad("tokens", "no key signs tokens: run `keyadm jwt rotate`, or restart the gateway"),
    }
    let waits = of(JwtPhase::Next).filter(|row| row.changed_at + ROTATES_S < now());
    if let Some(row) = waits {
        let since = time::format(row.changed_at);
        found.warn(
            "tokens",
            format!("the key {} waits to sign since {since}: run `keyadm jwt rotate`", row.kid),
        );
    }
}

fn report(found: &Findings) -> String {
    let mut text = String::new();
    for Finding { about, verdict, text: said } in &found.0 {
        let mut head = format!("{:7}  {about:7}", verdict.word());
        for line in said.lines() {
            text.extend([head.as_str(), "  ", &printable(line), "\n"]);
            head = " ".repeat(16);
        }
    }
    text
}

fn report_json(found: &Findings) -> String {
    let entries = found.0.iter().map(
        |finding| json!({"about": finding.about, "verdict": finding.verdict.word(), "text": finding.text}),
    );
    let is_good = found.0.iter().all(|finding| finding.verdict != Verdict::Bad);
    line(&json!({"good": is_good, "findings": entries.collect::<Vec<_>>()}))
}

/// Tokens are taken 30 s before their time and after it.
const CLOCK_APART_MAX_S: u64 = 30;

/// Two machines with NTP are a fraction of a second apart.
const CLOCK_APART_WARN_S: u64 = 5;

/// Time to do something about it.
const EXPIRES_SOON_S: u64 = 7 * 86_400;

/// A rotation takes seconds; after an hour it was broken off.
const ROTATES_S: u64 = 3_600;

/// Rows named; the count says how many there are.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(theirs: u64, expected: &str) {
        let mut found = Findings::default();
        look_at_clock(theirs, 1000, &mut found);
        assert_eq!(found.0[0].verdict.word(), expected, "{}", found.0[0].text);
    }

    #[test]
    fn clocks_apart_are_told() {
        check(1000, "ok");
        check(995, "ok");
        check(1006, "warning");
        check(970, "warning");
        check(1031, "wrong");
        check(0, "wrong");
        check(u64::MAX, "wrong");
    }
}
