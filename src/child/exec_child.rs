use std::ffi::OsString;
use std::process::ExitCode;

use super::exec::{COMMAND, EXIT_NOT_RUN, LAUNCHER_ROLE, REAPER_ROLE, print_error};
use super::spawn_spec::SpawnSpec;
use super::{launcher, reaper};

/// Runs as a reaper or launcher if the arguments of this process ask for it.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    let (role, spec, program) = (args.next(), args.next(), args.collect::<Vec<OsString>>());
    let spec = spec.and_then(|text| SpawnSpec::parse(text.to_str()?));
    let code = match (role.as_ref().and_then(|role| role.to_str()), spec) {
        (Some(REAPER_ROLE), Some(spec)) => reaper::run(&spec, &program),
        (Some(LAUNCHER_ROLE), Some(spec)) => launcher::run(&spec, &program),
        _ => {
            print_error(&format!("`{COMMAND}` is for metamcp itself; see metamcp --help"));
            ExitCode::from(EXIT_NOT_RUN)
        }
    };
    Some(code)
}
