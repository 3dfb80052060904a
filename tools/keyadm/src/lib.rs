//! `keyadm`: administers a metamcp installation: its API keys, servers and endpoints, the keys that sign tokens, and the
//! key that seals secrets.
//!
//! Works on the store directly, never over HTTP, also while the gateway runs. Results go to standard output and messages
//! about them to standard error, so that a script can separate them.

mod access_error;
mod actor;
mod approve;
pub mod args;
mod backup;
mod clock;
mod doctor;
mod endpoint_edit;
mod failure;
mod file_access;
mod history;
mod import_metamcp;
mod input;
mod installation;
mod inventory;
mod jwt;
mod key_endpoints;
mod key_request;
mod key_set;
mod key_view;
mod keys;
mod output;
mod program_search;
mod rekey;
mod sealed_rows;
mod server_edit;
mod servers;
mod table;
mod time;

use clap::{CommandFactory, Parser};
use serde_json::json;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use args::{Cli, Command, Endpoints, Servers};
use failure::Failure;
use installation::{Installation, MissingDatabase};
use output::CommandOutput;

/// Runs the program with the arguments of this process. A library, so that the manual pages can be made from [`args`].
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` arrive here too, and are not errors.
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

fn print(output: &CommandOutput) -> ExitCode {
    let mut stdout = std::io::stdout();
    match stdout.write_all(output.text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::from(output.code),
        // The reader has stopped early, as in `keyadm keys list | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(output.code),
        Err(error) => {
            eprintln!("keyadm: cannot write the result: {error}");
            ExitCode::from(74)
        }
    }
}

fn start(cli: Cli) -> Result<CommandOutput, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Unavailable(format!("cannot start: {error}")))?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> Result<CommandOutput, Failure> {
    let Cli { location, json, command } = cli;
    let access = command.access();
    let find = || Installation::find(location.clone(), access);
    Ok(match command {
        Command::Keys(command) => keys::run(command, &find()?, json).await?.into(),
        Command::Jwt(command) => jwt::run(command, &find()?, json).await?.into(),
        Command::Rekey { add_version: true, .. } => rekey::add_version(&find()?, json)?.into(),
        Command::Rekey { drop_old: true, .. } => rekey::drop_old(&find()?, json).await?.into(),
        Command::Rekey { .. } => rekey::run(&find()?, json).await?,
        Command::Migrate => migrate(&find()?, json).await?.into(),
        Command::Backup { file } => backup::run(&find()?, &file, json).await?.into(),
        Command::Doctor { config } => doctor::run(&find()?, config, json).await?,
        Command::Audit(args) => history::audit(args, &find()?, json).await?.into(),
        Command::Usage(args) => history::usage(args, &find()?, json).await?.into(),
        Command::Servers(Servers::Add(args)) => servers::add(args, &find()?, json).await?.into(),
        Command::Servers(Servers::Import(args)) => servers::import(args, &find()?, json).await?,
        Command::Servers(Servers::Edit(args)) => server_edit::edit(args, &find()?, json).await?.into(),
        Command::Servers(Servers::Existing(command)) => {
            inventory::servers(command, &find()?, json).await?.into()
        }
        Command::Endpoints(Endpoints::Add { name, settings }) => {
            endpoint_edit::add(&name, &settings, &find()?, json).await?.into()
        }
        Command::Endpoints(Endpoints::Edit { endpoint, rename, settings }) => {
            endpoint_edit::edit(&endpoint.name, rename, &settings, &find()?, json).await?.into()
        }
        Command::Endpoints(Endpoints::Existing(command)) => {
            inventory::endpoints(command, &find()?, json).await?.into()
        }
        Command::ImportMetamcp { into, dry_run } => {
            let (from, into) = Installation::find_source_and_target(location.clone(), into, access)?;
            import_metamcp::run(&from, &into, dry_run, json).await?
        }
        Command::Completions { shell } => completions(shell).into(),
    })
}

async fn migrate(installation: &Installation, json: bool) -> Result<String, Failure> {
    // Opening the store migrates it.
    let store = installation.store(MissingDatabase::Create).await?;
    let keys = store.keys().await?.rows.len();
    Ok(if json {
        table::line(&json!({"migrated": true, "keys": keys}))
    } else {
        format!("The database schema is up to date. The database has {keys} API keys.\n")
    })
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keyadm", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
