//! The process that becomes the server's program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};
use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

use super::files::lower_files;
use super::orders::{Confinement, Limits, Orders};
use super::pages::take_huge_pages;
use super::strays::CORE_BYTES;
use super::{EXIT_NOT_RUN, pid, say};

/// What the arguments call it.
pub const ROLE: &str = "become";

/// Becomes the program, if nothing of what was ordered fails: a limit that cannot be set is not left out in silence.
pub fn run(orders: &Orders, program: &[OsString]) -> ExitCode {
    let [program, args @ ..] = program else { return fail("no program was named") };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return fail(&format!("the server cannot be bound to its keeper: {error}"));
    }
    // The keeper may have ended before that was asked for.
    if getppid() != pid(orders.parent) {
        return fail("the keeper has gone");
    }
    if let Some(files) = orders.files.filter(|_| orders.limits.open_files.is_none())
        && let Err(text) = lower_files(files)
    {
        return fail(&text);
    }
    if orders.huge_pages
        && let Err(text) = take_huge_pages()
    {
        return fail(&text);
    }
    if let Err(text) = limit(&orders.limits) {
        return fail(&text);
    }
    if let Some(confinement) = &orders.confinement
        && let Err(text) = confine(confinement)
    {
        return fail(&text);
    }
    let error = Command::new(program).args(args).exec();
    fail(&format!("cannot run {}: {error}", program.display()))
}

fn fail(text: &str) -> ExitCode {
    say(text);
    ExitCode::from(EXIT_NOT_RUN)
}

fn limit(limits: &Limits) -> Result<(), String> {
    let all = [
        ("memory", Resource::As, limits.memory_bytes),
        ("data", Resource::Data, limits.data_bytes),
        ("open_files", Resource::Nofile, limits.open_files),
        ("processes", Resource::Nproc, limits.processes),
        ("cpu", Resource::Cpu, limits.cpu_s),
        ("file_size", Resource::Fsize, limits.file_bytes),
        // A dump of a server's memory would be a file full of other people's calls.
        ("core", Resource::Core, Some(CORE_BYTES)),
    ];
    for (name, resource, value) in all {
        let Some(value) = value else { continue };
        let both = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, both).map_err(|error| format!("the limit `{name}` cannot be set: {error}"))?;
    }
    Ok(())
}

/// Closes the file system but for what is named.
fn confine(confinement: &Confinement) -> Result<(), String> {
    let Confinement { read, write, required } = confinement;
    let failed = |error: RulesetError| format!("Landlock cannot be set up: {error}");
    let level = if *required { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    // The rights of Linux 5.13, the first with Landlock, must be there where it is required; later ones add to it.
    let ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(failed)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LATEST))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let ruleset = open(ruleset, read, AccessFs::from_read(LATEST))?;
    let ruleset = open(ruleset, write, AccessFs::from_all(LATEST))?;
    let status = ruleset.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        if *required {
            return Err("this kernel has no Landlock; set confine.required = false to go without".to_owned());
        }
        say("this kernel has no Landlock: the file system is not confined");
    }
    Ok(())
}

fn open(
    mut ruleset: landlock::RulesetCreated,
    paths: &[PathBuf],
    access: landlock::BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, String> {
    for path in paths {
        let shown = path.display();
        let fd =
            PathFd::new(path).map_err(|error| format!("{shown} cannot be opened to the server: {error}"))?;
        // Rights of directories mean nothing on a file; the library leaves them out.
        let rule = PathBeneath::new(fd, access);
        ruleset =
            ruleset.add_rule(rule).map_err(|error| format!("{shown} cannot be confined to: {error}"))?;
    }
    Ok(ruleset)
}

/// The newest set of rights that the library knows; older kernels take what they have of it.
const LATEST: ABI = ABI::V9;
