//! Reads the configuration from all of its sources.

use std::path::Path;

use super::cli::Cli;
use super::mistakes::{ConfigErrors, Diagnostics};
use super::raw::{Env, Raw, Variables, find_data_dir};
use super::resolve;
use super::types::{Base, Config};

/// Reads the whole configuration. On failure returns every error, not only the first. `cwd` must be absolute;
/// relative paths start there, and `.env`, `metamcp.toml` and `mcp.json` are looked for there first.
pub fn load(cli: &Cli, env: &dyn Env, cwd: &Path) -> Result<Config, ConfigErrors> {
    let report = Diagnostics::default();
    let raw = Raw::read(cli, env, cwd, &report);
    resolve::resolve(&raw, report)
}

/// Reads the environment and `.env` only. `data_dir` is the value of a flag, which takes precedence.
pub fn load_base(data_dir: Option<&Path>, env: &dyn Env, cwd: &Path) -> Result<Base, ConfigErrors> {
    let report = Diagnostics::default();
    let variables = Variables::read(env, cwd, &report);
    let data_dir = find_data_dir(data_dir, &variables, cwd, &report);
    let base = resolve::base(data_dir, &variables, &report);
    report.finish().map(|_| base)
}
