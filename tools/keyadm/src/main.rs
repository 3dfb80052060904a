//! The program `keyadm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyadm::main()
}
