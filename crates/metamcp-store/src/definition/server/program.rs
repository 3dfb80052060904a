//! Reads the members of `stdio` servers: the command, its arguments, its variables and its directory.

use std::path::Path;

use super::super::fields::{ObjectReader, child_pointer};
use super::super::secrets::ServerSecrets;
use super::definition::ServerDefinition;
use super::document::ServerDocument;
use super::keywords::SharingKeyword;
use super::policy::{CommandPolicy, DefinitionRules};
use super::reader::{DefinitionReader, PAIRS_MAX, seal_values};
use metamcp_config::server::{
    AllowlistViolation, ProcessSettings, Program, SEALED_PLACEHOLDER, ServerAddress, StdioAllowlist, settings,
};

pub(super) fn read_program(
    reader: &mut DefinitionReader<'_>,
    fields: &mut ObjectReader<'_>,
    document: &mut ServerDocument,
    secrets: &mut ServerSecrets,
) -> Option<ServerAddress> {
    let command = read_command(reader, fields);
    let cwd = read_cwd(reader, fields);
    let args = fields.texts("args", ARGS_MAX, reader.errors);
    let stored = stored_secrets(reader, command, cwd, &args);
    read_args(reader, &args, stored, secrets);
    if let (Some(command), Some(allowlist)) = (command, allowlist_of(reader.rules))
        && allowlist.check_command(command, &secrets.args) == Err(AllowlistViolation::Args)
    {
        reader.fail("/args", AllowlistViolation::Args.to_string());
    }
    read_env(reader, fields, stored, secrets);
    let keywords = [
        ("auto", SharingKeyword::Auto),
        ("shared", SharingKeyword::Shared),
        ("key", SharingKeyword::Key),
        ("session", SharingKeyword::Session),
    ];
    document.sharing = fields.keyword("sharing", &keywords, reader.errors);
    document.env = seal_values(&secrets.env);
    document.command = command.map(str::to_owned);
    document.cwd = cwd.map(str::to_owned);
    document.args =
        (!secrets.args.is_empty()).then(|| vec![SEALED_PLACEHOLDER.to_owned(); secrets.args.len()]);
    let defaults = settings::default_process_settings();
    let sharing = document.sharing.map_or(defaults.sharing, Into::into);
    Some(ServerAddress::Stdio(Box::new(Program {
        command: command?.to_owned(),
        args: secrets.args.clone(),
        env: secrets.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        cwd: cwd.map(Into::into),
        settings: ProcessSettings { sharing, ..defaults },
    })))
}

/// The stored secrets, if they were stored for the same program: a secret of one program is never passed to
/// another. For a launcher such as `npx` the arguments select the program, so the stored arguments must be
/// repeated; more may follow.
fn stored_secrets<'a>(
    reader: &DefinitionReader<'a>,
    command: Option<&str>,
    cwd: Option<&str>,
    args: &[&str],
) -> Option<&'a ServerSecrets> {
    let is_same_program = |stored: &&ServerDefinition| {
        let stored_args = &stored.secrets.args;
        stored.document.command.as_deref() == command
            && stored.document.cwd.as_deref() == cwd
            && stored_args.len() <= args.len()
            && stored_args
                .iter()
                .zip(args)
                .all(|(stored, written)| *written == SEALED_PLACEHOLDER || written == stored)
    };
    reader.stored.filter(is_same_program).map(|stored| &stored.secrets)
}

fn read_args(
    reader: &mut DefinitionReader<'_>,
    args: &[&str],
    stored: Option<&ServerSecrets>,
    secrets: &mut ServerSecrets,
) {
    for (at, written) in args.iter().enumerate() {
        let pointer = format!("/args/{at}");
        let stored = stored.and_then(|stored| stored.args.get(at));
        let Some(arg) = reader.resolve_sealed(stored, written, &pointer) else { continue };
        if arg.contains('\0') {
            reader.fail(pointer, "contains a NUL character");
        }
        secrets.args.push(arg);
    }
}

fn read_env(
    reader: &mut DefinitionReader<'_>,
    fields: &mut ObjectReader<'_>,
    stored: Option<&ServerSecrets>,
    secrets: &mut ServerSecrets,
) {
    for (name, written) in fields.text_map("env", PAIRS_MAX, reader.errors) {
        let pointer = child_pointer("/env", name);
        let stored = stored.and_then(|stored| stored.env.get(name));
        let Some(value) = reader.resolve_sealed(stored, written, &pointer) else { continue };
        let allowed = allowlist_of(reader.rules).map_or(Ok(()), |allowlist| allowlist.check_variable(name));
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            reader.fail(
                pointer,
                "is not a valid variable: the name must not contain `=`, and neither part a NUL",
            );
        } else if let Err(violation) = allowed {
            reader.fail(pointer, violation.to_string());
        } else {
            secrets.env.insert(name.to_owned(), value);
        }
    }
}

fn read_cwd<'a>(reader: &mut DefinitionReader<'_>, fields: &mut ObjectReader<'a>) -> Option<&'a str> {
    let cwd = fields.text("cwd", reader.errors)?;
    let is_valid = Path::new(cwd).is_absolute() && !cwd.contains('\0') && cwd.len() <= PATH_BYTES_MAX;
    if !is_valid {
        reader.fail("/cwd", "is not an absolute path of at most 4096 bytes");
    } else if let Some(Err(violation)) = allowlist_of(reader.rules).map(|allowlist| allowlist.check_dir(cwd))
    {
        reader.fail("/cwd", violation.to_string());
    }
    Some(cwd)
}

fn read_command<'a>(reader: &mut DefinitionReader<'_>, fields: &mut ObjectReader<'a>) -> Option<&'a str> {
    let command = fields.required("command", reader.errors)?;
    let error = match &reader.rules.commands {
        _ if command.trim().is_empty() || command.contains('\0') || command.len() > PATH_BYTES_MAX => {
            Some("does not name a program".to_owned())
        }
        CommandPolicy::Any => None,
        CommandPolicy::Absolute => {
            (!Path::new(command).is_absolute()).then(|| "is not an absolute path".to_owned())
        }
        CommandPolicy::Allowlisted(allowlist) => match allowlist.check_command(command, &[]) {
            Err(violation @ AllowlistViolation::Command(_)) => Some(violation.to_string()),
            // The arguments are checked once they are read, and reported at `/args`.
            _ => None,
        },
    };
    if let Some(error) = error {
        reader.fail("/command", error);
    }
    Some(command)
}

fn allowlist_of(rules: &DefinitionRules) -> Option<&StdioAllowlist> {
    match &rules.commands {
        CommandPolicy::Any | CommandPolicy::Absolute => None,
        CommandPolicy::Allowlisted(allowlist) => Some(allowlist),
    }
}

/// `PATH_MAX` of Linux, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// More than any command line in use.
const ARGS_MAX: usize = 256;
