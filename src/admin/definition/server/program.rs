//! A server that is a program: which may be run, and what is made of its members.

use std::path::Path;

use super::super::bounds;
use super::super::fields::{Fields, below};
use super::super::secrets::{SEALED, Secrets};
use super::allowed::{Allowed, Forbidden};
use super::{HEADERS_MAX, Reader, Rules, Server, ServerDocument, SharingWord, Unserved, sealed};
use crate::upstream::Address;
use crate::upstream::stdio::{self, Program, Sharing};

/// What this machine does for servers that are defined in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// What holds for a server that says nothing of private addresses.
    pub allow_private: bool,
    /// What of programs may be run.
    pub allowed: Allowed,
    /// Variables that every program is given beside its own, which count before these.
    pub inherited: Vec<(String, String)>,
}

/// Programs that may be named.
#[derive(Debug, Clone)]
pub enum Commands {
    /// Any: whether it is run is asked where it would be.
    Any,
    /// Any absolute path: whoever writes has a shell here, and the gateway has a list of its own.
    Absolute,
    /// These. Over the network, a definition must not run what its writer likes.
    Only(Allowed),
}

impl Serving {
    /// A stored program as it is run here, if it is.
    pub(super) fn program(&self, program: Box<Program>) -> Result<Box<Program>, Unserved> {
        self.check(&program).map_err(|(about, forbidden)| Unserved::Program(about, forbidden))?;
        let env = self.inherited.iter().cloned().chain(program.env).collect();
        Ok(Box::new(Program { env, ..*program }))
    }

    /// Whatever was allowed when it was written, and to whom: this machine's list counts, and what it says now.
    fn check(&self, program: &Program) -> Result<(), (String, Forbidden)> {
        let Program { command, args, env, cwd, .. } = program;
        let about_command =
            |forbidden: Forbidden| (format!("its command {command:?}"), forbidden.of(command));
        self.allowed.command(command, args).map_err(about_command)?;
        for (name, _) in env {
            self.allowed.variable(name).map_err(|forbidden| ("it".to_owned(), forbidden))?;
        }
        if let Some(cwd) = cwd {
            // What is no UTF-8 is on no list.
            let cwd = cwd.to_string_lossy();
            let about = |forbidden: Forbidden| (format!("its cwd {cwd:?}"), forbidden.of(&cwd));
            self.allowed.dir(&cwd).map_err(about)?;
        }
        Ok(())
    }
}

impl<'r> Reader<'r> {
    pub(super) fn program(
        &mut self,
        fields: &mut Fields<'_>,
        document: &mut ServerDocument,
        secrets: &mut Secrets,
    ) -> Option<Address> {
        let command = self.command(fields);
        let cwd = self.cwd(fields);
        let args = fields.texts("args", ARGS_MAX, self.errors);
        // What was stored for one program is not told to another; of one that starts programs, the arguments say which,
        // and there may be more behind them.
        let stays = |before: &&Server| {
            let stored = &before.secrets.args;
            before.document.command.as_deref() == command
                && before.document.cwd.as_deref() == cwd
                && stored.len() <= args.len()
                && stored.iter().zip(&args).all(|(stored, written)| *written == SEALED || written == stored)
        };
        let stored = self.before.filter(stays).map(|before| &before.secrets);
        for (at, written) in args.into_iter().enumerate() {
            let pointer = format!("/args/{at}");
            let stored = stored.and_then(|stored| stored.args.get(at));
            let Some(arg) = self.kept(stored, written, &pointer) else { continue };
            if arg.contains('\0') {
                self.wrong(pointer, "has a NUL in it");
            }
            secrets.args.push(arg);
        }
        if let (Some(command), Some(allowed)) = (command, self.allowed())
            && allowed.command(command, &secrets.args) == Err(Forbidden::Args)
        {
            self.wrong("/args", Forbidden::Args.to_string());
        }
        for (name, written) in fields.text_map("env", HEADERS_MAX, self.errors) {
            let pointer = below("/env", name);
            let stored = stored.and_then(|stored| stored.env.get(name));
            let Some(value) = self.kept(stored, written, &pointer) else { continue };
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                self.wrong(pointer, "is no variable: a name has no `=`, and neither part a NUL");
            } else if let Err(forbidden) = self.allowed().map_or(Ok(()), |allowed| allowed.variable(name)) {
                self.wrong(pointer, forbidden.to_string());
            } else {
                secrets.env.insert(name.to_owned(), value);
            }
        }
        let words =
            [("shared", SharingWord::Shared), ("key", SharingWord::Key), ("session", SharingWord::Session)];
        document.sharing = fields.word("sharing", &words, self.errors);
        document.env = sealed(&secrets.env);
        document.command = command.map(str::to_owned);
        document.cwd = cwd.map(str::to_owned);
        document.args = (!secrets.args.is_empty()).then(|| vec![SEALED.to_owned(); secrets.args.len()]);
        let defaults = bounds::program();
        let sharing = document.sharing.map_or(defaults.sharing, Into::into);
        Some(Address::Stdio(Box::new(Program {
            command: command?.to_owned(),
            args: secrets.args.clone(),
            env: secrets.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            cwd: cwd.map(Into::into),
            settings: stdio::Settings { sharing, ..defaults },
        })))
    }

    fn cwd<'a>(&mut self, fields: &mut Fields<'a>) -> Option<&'a str> {
        let cwd = fields.text("cwd", self.errors)?;
        let is_fit = Path::new(cwd).is_absolute() && !cwd.contains('\0') && cwd.len() <= PATH_BYTES_MAX;
        if !is_fit {
            self.wrong("/cwd", "is not an absolute path, or is longer than 4096 bytes");
        } else if let Some(Err(forbidden)) = self.allowed().map(|allowed| allowed.dir(cwd)) {
            self.wrong("/cwd", forbidden.to_string());
        }
        Some(cwd)
    }

    fn command<'a>(&mut self, fields: &mut Fields<'a>) -> Option<&'a str> {
        let command = fields.required("command", self.errors)?;
        let wrong = match &self.rules.commands {
            _ if command.trim().is_empty() || command.contains('\0') || command.len() > PATH_BYTES_MAX => {
                Some("names no program")
            }
            Commands::Any => None,
            Commands::Absolute => (!Path::new(command).is_absolute()).then_some("is not an absolute path"),
            Commands::Only(allowed) => match allowed.command(command, &[]) {
                Err(forbidden @ Forbidden::Command(_)) => {
                    let told = forbidden.to_string();
                    self.wrong("/command", told);
                    None
                }
                // Its arguments have a place of their own.
                _ => None,
            },
        };
        if let Some(wrong) = wrong {
            self.wrong("/command", wrong);
        }
        Some(command)
    }

    /// What whoever writes may have run, where that is not anything.
    fn allowed(&self) -> Option<&'r Allowed> {
        let rules: &'r Rules = self.rules;
        match &rules.commands {
            Commands::Any | Commands::Absolute => None,
            Commands::Only(allowed) => Some(allowed),
        }
    }
}

impl From<SharingWord> for Sharing {
    fn from(word: SharingWord) -> Self {
        match word {
            SharingWord::Shared => Self::Shared,
            SharingWord::Key => Self::Key,
            SharingWord::Session => Self::Session,
        }
    }
}

/// As long as Linux takes (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// More than any command line in use.
const ARGS_MAX: usize = 256;
