//! `metamcp-manual FOLDER`: writes the manual pages and shell completions of all programs, for packages. They come from
//! the definitions of the command lines themselves, so that they cannot differ from `--help`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// The shells for which Debian has a folder of completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: metamcp-manual FOLDER");
        return ExitCode::from(64);
    };
    match write_all(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("metamcp-manual: cannot write to {}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}

/// Writes `man/PROGRAM.1` and `man/PROGRAM-COMMAND.1`, and `completions/` with the names that each shell looks for.
fn write_all(folder: &Path) -> io::Result<()> {
    let pages = folder.join("man");
    let completions = folder.join("completions");
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let programs =
        [metamcp_config::Cli::command(), metamcp_config::ConnectCli::command(), keyadm::args::Cli::command()];
    for program in programs {
        let name = program.get_name().to_owned();
        for shell in SHELLS {
            let mut file = File::create(completions.join(file_name(shell, &name)))?;
            clap_complete::generate(shell, &mut program.clone(), &name, &mut file);
        }
        // The page of `metamcp-connect` is also that of `metamcp connect`, which is the same bridge: the later one is kept.
        clap_mangen::generate_to(program.version(env!("CARGO_PKG_VERSION")), &pages)?;
    }
    Ok(())
}

fn file_name(shell: Shell, program: &str) -> String {
    match shell {
        Shell::Bash => program.to_owned(),
        Shell::Zsh => format!("_{program}"),
        other => format!("{program}.{other}"),
    }
}
