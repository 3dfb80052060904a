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

use super::exec::{EXIT_NOT_RUN, print_error, to_pid};
use super::file_limit::set_file_limit;
use super::huge_pages::enable_huge_pages;
use super::orphans::CORE_BYTES;
use super::spawn_spec::SpawnSpec;
use metamcp_config::server::{Confinement, ProcessLimits};

/// Becomes the program, unless any part of the spec fails: a limit that cannot be set is never ignored
/// silently.
pub fn run(spec: &SpawnSpec, program: &[OsString]) -> ExitCode {
    let [program, args @ ..] = program else { return fail("no program is given") };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return fail(&format!("the server cannot be bound to its reaper: {error}"));
    }
    // The reaper may have ended before that.
    if getppid() != to_pid(spec.parent) {
        return fail("the reaper has ended");
    }
    if let Some(files) = spec.files.filter(|_| spec.limits.open_files.is_none())
        && let Err(text) = set_file_limit(files)
    {
        return fail(&text);
    }
    if spec.huge_pages
        && let Err(text) = enable_huge_pages()
    {
        return fail(&text);
    }
    if let Err(text) = set_limits(&spec.limits) {
        return fail(&text);
    }
    if let Some(confinement) = &spec.confinement
        && let Err(text) = confine(confinement)
    {
        return fail(&text);
    }
    let error = Command::new(program).args(args).exec();
    fail(&format!("cannot run {}: {error}", program.display()))
}

fn fail(text: &str) -> ExitCode {
    print_error(text);
    ExitCode::from(EXIT_NOT_RUN)
}

fn set_limits(limits: &ProcessLimits) -> Result<(), String> {
    let all = [
        ("memory", Resource::As, limits.memory_bytes),
        ("data", Resource::Data, limits.data_bytes),
        ("open_files", Resource::Nofile, limits.open_files),
        ("processes", Resource::Nproc, limits.processes),
        ("cpu", Resource::Cpu, limits.cpu_s),
        ("file_size", Resource::Fsize, limits.file_bytes),
        // A core dump would be a file full of other people's calls.
        ("core", Resource::Core, Some(CORE_BYTES)),
    ];
    for (name, resource, value) in all {
        let Some(value) = value else { continue };
        let both = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, both).map_err(|error| format!("the limit `{name}` cannot be set: {error}"))?;
    }
    Ok(())
}

/// Denies access to all files that are not listed.
fn confine(confinement: &Confinement) -> Result<(), String> {
    let Confinement { read, write, required } = confinement;
    let failed = |error: RulesetError| format!("Landlock cannot be set up: {error}");
    let level = if *required { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    // If Landlock is required, the rights of Linux 5.13, the first with Landlock, must exist; later ones are
    // optional.
    let ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(failed)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LATEST))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let ruleset = allow(ruleset, read, AccessFs::from_read(LATEST))?;
    let ruleset = allow(ruleset, write, AccessFs::from_all(LATEST))?;
    let status = ruleset.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        if *required {
            return Err("this kernel has no Landlock; set confine.required = false to go without".to_owned());
        }
        print_error("this kernel has no Landlock: the file system is not confined");
    }
    Ok(())
}

fn allow(
    mut ruleset: landlock::RulesetCreated,
    paths: &[PathBuf],
    access: landlock::BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, String> {
    for path in paths {
        let shown = path.display();
        let fd = PathFd::new(path).map_err(|error| format!("{shown} cannot be opened: {error}"))?;
        // The library leaves out directory rights for a file.
        let rule = PathBeneath::new(fd, access);
        ruleset =
            ruleset.add_rule(rule).map_err(|error| format!("{shown} cannot be confined to: {error}"))?;
    }
    Ok(ruleset)
}

/// The newest rights that the library knows. Older kernels apply those that they have.
const LATEST: ABI = ABI::V9;
