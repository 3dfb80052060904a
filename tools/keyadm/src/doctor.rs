//! Checks an installation, and says what to do about each problem. Changes nothing, except that opening a database of an
//! earlier version migrates its schema.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use metamcp_config::certificates::PemFiles;
use metamcp_config::sections::TlsFiles;
use metamcp_config::{Flags, ProcessEnv};
use metamcp_store::auth::{FirstStartError, Sealer, parse_jwt_secret};
use metamcp_store::store::{JwtKeyRow, JwtPhase, KeyRow, KeyStatus, RowSealer, SealedRow, Store};
use serde_json::json;

use crate::clock::now;
use crate::failure::Failure;
use crate::installation::{DATABASE, Installation};
use crate::output::CommandOutput;
use crate::table::{line, printable};
use crate::{key_view, rekey, sealed_rows, time};

/// The result of one check.
struct Finding {
    subject: &'static str,
    severity: Severity,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Ok,
    /// Works, but something may go wrong.
    Warning,
    /// Something does not work, or is not safe.
    Error,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "wrong",
        }
    }
}

/// All findings, in the order of the checks.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, subject: &'static str, severity: Severity, text: impl Into<String>) {
        self.0.push(Finding { subject, severity, text: text.into() });
    }

    fn ok(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(subject, Severity::Ok, text);
    }

    fn warn(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(subject, Severity::Warning, text);
    }

    fn error(&mut self, subject: &'static str, text: impl Into<String>) {
        self.add(subject, Severity::Error, text);
    }
}

/// Runs all checks; the exit code is 1 if any of them found an error.
pub async fn run(
    installation: &Installation,
    config: Option<PathBuf>,
    json: bool,
) -> Result<CommandOutput, Failure> {
    let mut found = Findings::default();
    check_config(installation, config, &mut found);
    if let Ok(data_dir) = installation.data_dir() {
        check_files(data_dir, installation.uses_database_server(), &mut found);
    }
    let sealer = check_secrets(installation, &mut found);
    match installation.existing_store().await {
        Ok(store) => {
            found.ok("store", "the database answers, and its schema is up to date");
            check_missing_secret(installation, Some(&store), &mut found).await;
            if let Err(error) = check_store(installation, &store, sealer.as_ref(), &mut found).await {
                found.error("store", error.to_string());
            }
        }
        Err(failure) => {
            found.error("store", failure.to_string());
            check_missing_secret(installation, None, &mut found).await;
        }
    }
    let has_errors = found.0.iter().any(|finding| finding.severity == Severity::Error);
    let text = if json { report_json(&found) } else { report(&found) };
    Ok(CommandOutput { text, code: u8::from(has_errors) })
}

fn check_config(installation: &Installation, file: Option<PathBuf>, found: &mut Findings) {
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => return found.error("config", format!("cannot read the current directory: {error}")),
    };
    let data_dir = installation.data_dir().ok().map(Path::to_owned);
    let cli =
        metamcp_config::Cli { command: None, flags: Flags { config: file, data_dir, ..Flags::default() } };
    match metamcp_config::load(&cli, &ProcessEnv, &cwd) {
        Ok(config) => {
            let files: Vec<String> = config.sources.iter().map(|path| path.display().to_string()).collect();
            let from = if files.is_empty() {
                "no file, so every default applies".to_owned()
            } else {
                files.join(", ")
            };
            found.ok(
                "config",
                format!("{} servers, {} endpoints ({from})", config.servers.len(), config.endpoints.len()),
            );
            for notice in &config.notices {
                found.warn("config", notice.to_string());
            }
            if let Some(files) = &config.server.tls {
                check_tls(files, found);
            }
        }
        Err(mistakes) => found.error("config", mistakes.to_string()),
    }
}

/// Checks the files of `[server.tls]`, as `metamcp check` does.
fn check_tls(files: &TlsFiles, found: &mut Findings) {
    let contents = match PemFiles::read(files) {
        Ok(contents) => contents,
        Err(error) => return found.error("tls", error.to_string()),
    };
    if let Err(error) = contents.check() {
        return found.error("tls", error.to_string());
    }
    let warnings = contents.date_warnings();
    if warnings.is_empty() {
        found.ok("tls", format!("{} and its key can be used", files.cert.display()));
    }
    for text in warnings {
        found.warn("tls", text);
    }
}

/// Checks that only the owner can read the files, and that one user owns all of them: the gateway cannot write what root
/// created.
fn check_files(data_dir: &Path, has_server: bool, found: &mut Findings) {
    let Ok(folder) = data_dir.metadata() else {
        let text = format!("there is no data directory {}; the first start creates it", data_dir.display());
        return if has_server { found.ok("files", text) } else { found.warn("files", text) };
    };
    let before = found.0.len();
    check_mode(data_dir, &folder, "700", found);
    let wal = [format!("{DATABASE}-wal"), format!("{DATABASE}-shm")];
    for name in [DATABASE, "secrets.toml", "keyring.sealed"].into_iter().chain(wal.iter().map(String::as_str))
    {
        let path = data_dir.join(name);
        let Ok(file) = path.symlink_metadata() else { continue };
        if file.is_symlink() {
            found.warn("files", format!("{} is a symbolic link; its target is not checked", path.display()));
            continue;
        }
        check_mode(&path, &file, "600", found);
        if file.uid() != folder.uid() {
            let text = format!(
                "{0} belongs to user {1}, its directory to {2}: the gateway may not be able to use it; run \
                 `chown {2} {0}`, and run keyadm as that user",
                path.display(),
                file.uid(),
                folder.uid()
            );
            found.error("files", text);
        }
    }
    if found.0.len() == before {
        found.ok(
            "files",
            format!("{} and the files in it are accessible to the owner alone", data_dir.display()),
        );
    }
}

fn check_mode(path: &Path, metadata: &Metadata, mode: &str, found: &mut Findings) {
    let bits = metadata.permissions().mode() & 0o777;
    if bits & 0o077 != 0 {
        let path = path.display();
        let text = format!("{path} is accessible to others (mode {bits:o}): run `chmod {mode} {path}`");
        found.error("files", text);
    }
}

fn check_secrets(installation: &Installation, found: &mut Findings) -> Option<Sealer> {
    match installation.secret("JWT_SECRET").map(|text| text.map(|text| parse_jwt_secret(&text))) {
        Ok(Some(Err(weak))) => {
            found.error("secrets", format!("{}: {weak}", installation.jwt_secret_place()));
        }
        Ok(_) => {}
        Err(failure) => found.error("secrets", failure.to_string()),
    }
    // Else it was reported above, or is by `check_missing_secret`.
    let Ok(Some(text)) = installation.secret("ENCRYPTION_KEY") else { return None };
    match installation.parse_sealer(&text) {
        Ok((sealer, versions)) => {
            let more = if versions > 1 {
                format!(", and opens {} older versions", versions - 1)
            } else {
                String::new()
            };
            found.ok(
                "secrets",
                format!(
                    "ENCRYPTION_KEY seals with version {}{more} ({})",
                    sealer.current_version(),
                    installation.encryption_key_place()
                ),
            );
            Some(sealer)
        }
        Err(failure) => {
            found.error("secrets", failure.to_string());
            None
        }
    }
}

/// Without `ENCRYPTION_KEY`, checks that the database has nothing that is sealed with it.
async fn check_missing_secret(installation: &Installation, store: Option<&Store>, found: &mut Findings) {
    let (Ok(None), Ok(data_dir)) = (installation.secret("ENCRYPTION_KEY"), installation.data_dir()) else {
        return;
    };
    let has_sealed_rows = match store {
        Some(store) => store.has_sealed_rows().await.unwrap_or_default(),
        None => false,
    };
    if has_sealed_rows {
        return found.error("secrets", FirstStartError::missing(data_dir).to_string());
    }
    let text = "ENCRYPTION_KEY is neither in the environment nor in secrets.toml: the gateway generates one at its first \
                start; replicas that share a database need the same one";
    found.warn("secrets", text);
}

async fn check_store(
    installation: &Installation,
    store: &Store,
    sealer: Option<&Sealer>,
    found: &mut Findings,
) -> Result<(), Failure> {
    if let Some(database_time) = store.clock().await? {
        check_clock(database_time, now(), found);
    }
    let rows = store.keys().await?.rows;
    check_keys(&rows, found);
    let jwt_keys = store.jwt_keys().await?.rows;
    check_jwt_keys(&jwt_keys, found);
    let Some(sealer) = sealer else { return Ok(()) };
    let Seals { invalid, valid_count } = check_seals(store, sealer, &rows, &jwt_keys).await?;
    if valid_count == 0 && !invalid.is_empty() {
        found.error("sealed", installation.wrong_encryption_key().to_string());
        return Ok(());
    }
    if !invalid.is_empty() {
        for text in invalid.iter().take(NAMED_MAX) {
            found.error("sealed", text);
        }
        if invalid.len() > NAMED_MAX {
            found.error("sealed", format!("and {} more rows do not open", invalid.len() - NAMED_MAX));
        }
        return Ok(());
    }
    match rekey::count_other_versions(store, sealer.current_version()).await? {
        0 => found.ok(
            "sealed",
            format!("everything opens, and all of it is sealed with version {}", sealer.current_version()),
        ),
        left => found.warn(
            "sealed",
            format!(
                "everything opens, but {left} values are not sealed with version {}: run `keyadm rekey`",
                sealer.current_version()
            ),
        ),
    }
    Ok(())
}

/// The seals of all rows.
struct Seals {
    /// What to do about each row whose seal is not valid.
    invalid: Vec<String>,
    valid_count: usize,
}

async fn check_seals(
    store: &Store,
    sealer: &Sealer,
    keys: &[KeyRow],
    jwt_keys: &[JwtKeyRow],
) -> Result<Seals, Failure> {
    let (servers, endpoints) = (store.servers().await?.rows, store.endpoints().await?.rows);
    // Inactive keys too: another writer may have deactivated them.
    let keys = keys.iter().map(|row| (format!("the key {}", row.key_id), SealedRow::Key(row)));
    let jwt_keys = jwt_keys.iter().map(|row| (format!("the token key {}", row.kid), SealedRow::JwtKey(row)));
    let servers = servers.iter().map(|row| (format!("the server {}", row.name), SealedRow::Server(row)));
    let endpoints =
        endpoints.iter().map(|row| (format!("the endpoint {}", row.name), SealedRow::Endpoint(row)));
    let pins = store.tool_pins().await?;
    let pins = pins.iter().map(|row| (format!("the tool pins of {}", row.server), SealedRow::ToolPins(row)));
    let rows = keys.chain(jwt_keys).chain(servers).chain(endpoints).chain(pins);
    let (mut invalid, mut valid_count) = (Vec::new(), 0);
    for (name, row) in rows {
        if sealer.open_row(row).is_some() {
            valid_count += 1;
        } else {
            invalid.push(format!("{name} does not open: {}", sealed_rows::explain_invalid(sealer, row)));
        }
    }
    Ok(Seals { invalid, valid_count })
}

fn check_clock(database_time: u64, own_time: u64, found: &mut Findings) {
    let skew = database_time.abs_diff(own_time);
    let text = format!("the clocks of this machine and of the database differ by {skew} s");
    if skew > CLOCK_SKEW_MAX_S {
        found.error(
            "clock",
            format!("{text}: replicas refuse each other's tokens; synchronize both with NTP"),
        );
    } else if skew > CLOCK_SKEW_WARN_S {
        found.warn("clock", format!("{text}: check that NTP synchronizes both"));
    } else {
        found.ok("clock", text);
    }
}

fn check_keys(rows: &[KeyRow], found: &mut Findings) {
    let usable: Vec<_> =
        rows.iter().filter(|row| row.status == KeyStatus::Active && !key_view::has_ended(row)).collect();
    if usable.is_empty() {
        found.warn("keys", "no key is active: create one with `keyadm keys create --name NAME`");
    } else {
        found.ok("keys", format!("{} of {} keys are active", usable.len(), rows.len()));
    }
    for row in usable {
        if let Some(end) = row.ends_at().filter(|end| *end < now() + EXPIRES_SOON_S) {
            let name = printable(&row.name);
            let text = format!(
                "the key {name:?} ({}) expires {}: run `keyadm keys rotate {0} --expires WHEN`",
                row.key_id,
                time::format(end)
            );
            found.warn("keys", text);
        }
    }
}

fn check_jwt_keys(rows: &[JwtKeyRow], found: &mut Findings) {
    let of = |phase| rows.iter().find(move |row| row.phase == phase);
    match of(JwtPhase::Active) {
        Some(row) => {
            found.ok(
                "tokens",
                format!("the key {} signs tokens since {}", row.kid, time::format(row.changed_at)),
            );
        }
        None if rows.is_empty() => {
            found.warn(
                "tokens",
                "no key signs tokens yet: the gateway's next start adds JWT_SECRET to the database",
            );
        }
        None => found.error("tokens", "no key signs tokens: run `keyadm jwt rotate`, or restart the gateway"),
    }
    let waits = of(JwtPhase::Next).filter(|row| row.changed_at + ROTATION_MAX_S < now());
    if let Some(row) = waits {
        let since = time::format(row.changed_at);
        found.warn(
            "tokens",
            format!("the key {} waits to sign tokens since {since}: run `keyadm jwt rotate`", row.kid),
        );
    }
}

fn report(found: &Findings) -> String {
    let mut text = String::new();
    for Finding { subject, severity, text: message } in &found.0 {
        let mut head = format!("{:7}  {subject:7}", severity.word());
        for line in message.lines() {
            text.extend([head.as_str(), "  ", &printable(line), "\n"]);
            head = " ".repeat(16);
        }
    }
    text
}

fn report_json(found: &Findings) -> String {
    let entries = found.0.iter().map(
        |finding| json!({"about": finding.subject, "verdict": finding.severity.word(), "text": finding.text}),
    );
    let is_good = found.0.iter().all(|finding| finding.severity != Severity::Error);
    line(&json!({"good": is_good, "findings": entries.collect::<Vec<_>>()}))
}

/// Tokens are accepted from 30 s before their validity until 30 s after it.
const CLOCK_SKEW_MAX_S: u64 = 30;

/// Machines with NTP differ by a fraction of a second.
const CLOCK_SKEW_WARN_S: u64 = 5;

/// Enough time to rotate a key.
const EXPIRES_SOON_S: u64 = 7 * 86_400;

/// A rotation takes seconds; after an hour it was interrupted.
const ROTATION_MAX_S: u64 = 3_600;

/// Rows that are listed; further ones are counted.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(database_time: u64, expected: &str) {
        let mut found = Findings::default();
        check_clock(database_time, 1000, &mut found);
        assert_eq!(found.0[0].severity.word(), expected, "{}", found.0[0].text);
    }

    #[test]
    fn clock_skew_is_reported() {
        check(1000, "ok");
        check(995, "ok");
        check(1006, "warning");
        check(970, "warning");
        check(1031, "wrong");
        check(0, "wrong");
        check(u64::MAX, "wrong");
    }
}
