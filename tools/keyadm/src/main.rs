//! `keyadm`: makes, lists and switches off API keys.
//!
//! Talks to the store, never over HTTP, and works while the gateway runs. Results go to the standard output,
//! everything said about them to the standard error, so that a script can take the one without the other.

mod args;
mod failure;
mod place;
mod report;
mod time;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use metamcp::auth::{KeyId, KeyRequest, create_key};
use metamcp::store::{Grants, KeyStatus, Store};

use args::{Cli, Command, Keys};
use failure::Failure;
use place::{Absent, Installation};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no mistakes.
            let code = if error.use_stderr() { 64 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match start(cli) {
        Ok(output) => print(&output),
        Err(failure) => {
            eprintln!("keyadm: {failure}");
            failure.exit_code()
        }
    }
}

fn print(output: &str) -> ExitCode {
    let mut stdout = std::io::stdout();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as in `keyadm keys list | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyadm: cannot write the result: {error}");
            ExitCode::from(74)
        }
    }
}

fn start(cli: Cli) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Unavailable(format!("cannot start: {error}")))?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> Result<String, Failure> {
    let installation = Installation::find(cli.place)?;
    let Command::Keys(command) = cli.command;
    match command {
        Keys::Create { name, description, expires, json } => {
            let expires_at = expires.map(|text| time::parse_end(&text, now())).transpose()?;
            let request = KeyRequest { name, description, grants: Grants::everything(), expires_at };
            create(&installation, request, json).await
        }
        Keys::List { include_inactive, json } => {
            let mut rows = installation.store(Absent::Refuse).await?.keys().await?.rows;
            rows.retain(|row| include_inactive || row.status == KeyStatus::Active);
            Ok(if json { report::list_json(&rows, now()) } else { report::table(&rows, now()) })
        }
        Keys::Inactivate { id, json } => {
            let id = key_id(&id)?;
            inactivate(&installation.store(Absent::Refuse).await?, id, json).await
        }
    }
}

async fn create(installation: &Installation, request: KeyRequest, json: bool) -> Result<String, Failure> {
    request.check(now())?;
    let sealer = installation.sealer()?;
    let store = installation.store(Absent::Create).await?;
    let (key, row) = create_key(&store, &sealer, request, place::audit()).await?;
    if json {
        return Ok(report::created_json(&key, &row));
    }
    eprintln!(
        "Made the key {:?} with the id {}. It is shown this once and stored nowhere:",
        row.name, row.key_id
    );
    Ok(format!("{}\n", key.expose()))
}

async fn inactivate(store: &Store, id: KeyId, json: bool) -> Result<String, Failure> {
    let row = store.key(id.as_str()).await?;
    let row = row.ok_or_else(|| Failure::Data(format!("there is no key with the id {id}")))?;
    let changed = row.status == KeyStatus::Active;
    if changed {
        store.set_key_status(id.as_str(), KeyStatus::Inactive, place::audit()).await?;
    }
    if json {
        return Ok(report::inactivated_json(&row, changed));
    }
    let what = if changed { "is off now" } else { "was off already" };
    Ok(format!("The key {:?} with the id {id} {what}.\n", row.name))
}

fn key_id(text: &str) -> Result<KeyId, Failure> {
    if text.starts_with("mcp_") {
        return Err(Failure::Usage(
            "give the id alone: the 12 characters between `mcp_` and the next `_`. A key on a command line \
             stays in the shell's history; take it for disclosed"
                .into(),
        ));
    }
    KeyId::parse(text).ok_or_else(|| {
        Failure::Usage("a key id has 12 letters and digits; `keyadm keys list` shows them".into())
    })
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
