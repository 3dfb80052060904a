//! `keyadm`: administers an installation: its keys, servers and endpoints, what signs tokens and what seals.
//!
//! Talks to the store, never over HTTP, and works while the gateway runs. Results go to the standard output,
//! everything said about them to the standard error, so that a script can take the one without the other.

mod approve;
mod args;
mod bound;
mod doctor;
mod failure;
mod fleet;
mod history;
mod import;
mod jwt;
mod keys;
mod place;
mod rekey;
mod servers;
mod table;
mod time;
mod who;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use serde_json::json;

use args::{Cli, Command, Servers};
use failure::Failure;
use place::{Absent, Installation};

/// A result, and the exit code that goes with it.
pub struct Done {
    /// For the standard output.
    pub text: String,
    /// 0 unless something has to be seen to.
    pub code: u8,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self { text, code: 0 }
    }
}

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
        Ok(done) => print(&done),
        Err(failure) => {
            eprintln!("keyadm: {failure}");
            failure.exit_code()
        }
    }
}

fn print(done: &Done) -> ExitCode {
    let mut stdout = std::io::stdout();
    match stdout.write_all(done.text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::from(done.code),
        // Whoever reads has seen enough, as in `keyadm keys list | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(done.code),
        Err(error) => {
            eprintln!("keyadm: cannot write the result: {error}");
            ExitCode::from(74)
        }
    }
}

fn start(cli: Cli) -> Result<Done, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Unavailable(format!("cannot start: {error}")))?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> Result<Done, Failure> {
    let Cli { place, json, command } = cli;
    let used = command.used();
    let find = || Installation::find(place.clone(), used);
    Ok(match command {
        Command::Keys(command) => keys::run(command, &find()?, json).await?.into(),
        Command::Jwt(command) => jwt::run(command, &find()?, json).await?.into(),
        Command::Rekey { add_version: true, .. } => rekey::add_version(&find()?, json)?.into(),
        Command::Rekey { drop_old: true, .. } => rekey::drop_old(&find()?, json).await?.into(),
        Command::Rekey { .. } => rekey::run(&find()?, json).await?,
        Command::Migrate => migrate(&find()?, json).await?.into(),
        Command::Doctor { config } => doctor::run(&find()?, config, json).await?,
        Command::Audit(asked) => history::audit(asked, &find()?, json).await?.into(),
        Command::Usage(asked) => history::usage(asked, &find()?, json).await?.into(),
        Command::Servers(Servers::Add(asked)) => servers::add(asked, &find()?, json).await?.into(),
        Command::Servers(Servers::Import(asked)) => servers::import(asked, &find()?, json).await?,
        Command::Servers(Servers::There(command)) => fleet::servers(command, &find()?, json).await?.into(),
        Command::Endpoints(command) => fleet::endpoints(command, &find()?, json).await?.into(),
        Command::ImportMetamcp { into, dry_run } => {
            let (from, into) = Installation::find_both(place.clone(), into, used)?;
            import::run(&from, &into, dry_run, json).await?
        }
        Command::Completions { shell } => completions(shell).into(),
    })
}

/// Whoever opens the store brings it up to date.
async fn migrate(installation: &Installation, json: bool) -> Result<String, Failure> {
    let store = installation.store(Absent::Create).await?;
    let keys = store.keys().await?.rows.len();
    Ok(if json {
        table::line(&json!({"migrated": true, "keys": keys}))
    } else {
        format!("The database has the schema of this version; {keys} keys are in it.\n")
    })
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keyadm", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
