//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use http::Uri;
use mcpload::bounds::{ErrorsMax, parse_duration, parse_errors_max};
use mcpload::compare::By;

/// Headings of the help.
const INSTEAD: &str = "Instead of what the scenario says";
const BOUNDS: &str = "What has to hold";
const RATES: &str = "Where to look";
const REPORTS: &str = "Reports";

const EXAMPLES: &str = "\
Examples:
  mcpload run small http://127.0.0.1:12009/mcp --key-file key
  mcpload run mixed http://127.0.0.1:12009/mcp --rate 500 --p99-max 20ms --html report.html
  mcpload sweep small http://127.0.0.1:12009/mcp --p99-max 5ms
  mcpload compare before.json after.json --worse-max 10%
  mcpload scenarios small > mine.toml

The key is taken from --key, --key-file or METAMCP_KEY.
Exit status: 0 good; 1 answers were wrong or a bound is broken; 64 a mistake in what was asked for;
69 the target does not answer rightly even once; 74 a file cannot be written.";

/// Measures an MCP gateway or server over Streamable HTTP, and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "mcpload", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a scenario once
    Run(RunArgs),
    /// Looks for the highest rate that a target bears
    Sweep(SweepArgs),
    /// Shows runs beside each other
    Compare(CompareArgs),
    /// Lists the scenarios that come with the program, or prints one
    Scenarios {
        /// The one to print
        name: Option<String>,
    },
}

/// Whom to ask what.
#[derive(Debug, Args)]
pub struct Ask {
    /// A TOML file, or the name of a scenario that comes with the program
    pub scenario: PathBuf,
    /// The MCP endpoint
    pub url: Uri,
    /// The API key, sent as `Authorization: Bearer`; other users of the machine can see it here
    #[arg(long, env = "METAMCP_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// A file with the API key in its first line; goes before --key
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Goes with every request; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// PEM file of the authorities that the target's certificate may be signed by [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A process on this machine to watch: its CPU time and memory go into the report
    #[arg(long)]
    pub pid: Option<u32>,
    /// Threads that make the load [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Says nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,
    /// Instead of what the scenario says
    #[command(flatten)]
    pub instead: Instead,
}

/// Instead of what the scenario says.
#[derive(Debug, Args)]
#[command(next_help_heading = INSTEAD)]
pub struct Instead {
    /// modern, legacy, or both
    #[arg(long, value_parser = ["modern", "legacy", "both"])]
    pub era: Option<String>,
    /// Connections at once
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=mcpload::scenario::CONNECTIONS_MAX))]
    pub connections: Option<u64>,
    /// Seconds to measure
    #[arg(long, short, value_name = "S", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Seconds before, which do not count
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub warm_up: Option<f64>,
    /// How long one answer may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Idle connections to hold meanwhile
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=mcpload::scenario::CONNECTIONS_MAX))]
    pub idle_connections: Option<u64>,
    /// Event streams to hold meanwhile
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=mcpload::scenario::CONNECTIONS_MAX))]
    pub idle_streams: Option<u64>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Whom to ask what.
    #[command(flatten)]
    pub ask: Ask,
    /// Requests a second, sent when they are due (open loop); 0: as fast as answers come (closed loop)
    #[arg(long, short, value_name = "N", value_parser = rate, help_heading = INSTEAD)]
    pub rate: Option<f64>,
    /// Ends after so many requests, warm-up included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = INSTEAD)]
    pub requests: Option<u64>,
    /// What p99 may be, as in 5ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = BOUNDS)]
    pub p99_max: Option<Duration>,
    /// How many errors may be: a count, or a share as in 0.5%
    #[arg(long, value_name = "N|%", default_value = "0", value_parser = parse_errors_max, help_heading = BOUNDS)]
    pub errors_max: ErrorsMax,
    /// How much the memory of --pid may grow, from a quarter of the time to the end
    #[arg(long, value_name = "%", value_parser = percent, requires = "pid", help_heading = BOUNDS)]
    pub growth_max: Option<f64>,
    /// Where to write the report.
    #[command(flatten)]
    pub output: Output,
}

/// Where to write a report.
#[derive(Debug, Args)]
pub struct Output {
    /// Writes everything that was found, for `mcpload compare` and for scripts
    #[arg(long, value_name = "FILE", help_heading = REPORTS)]
    pub json: Option<PathBuf>,
    /// Writes a page with plots
    #[arg(long, value_name = "FILE", help_heading = REPORTS)]
    pub html: Option<PathBuf>,
}

/// Arguments of `sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Whom to ask what.
    #[command(flatten)]
    pub ask: Ask,
    /// The first rate
    #[arg(long, value_name = "N", default_value = "100", value_parser = rate_above_zero, help_heading = RATES)]
    pub from: f64,
    /// The last rate
    #[arg(long, value_name = "N", default_value = "100000", value_parser = rate_above_zero, help_heading = RATES)]
    pub to: f64,
    /// What p99 may be
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration, help_heading = BOUNDS)]
    pub p99_max: Duration,
    /// How many errors may be: a count, or a share as in 0.5%
    #[arg(long, value_name = "N|%", default_value = "0", value_parser = parse_errors_max, help_heading = BOUNDS)]
    pub errors_max: ErrorsMax,
    /// Where to write the report.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// What `mcpload run --json` wrote; the others are compared with the first
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The best first
    #[arg(long)]
    pub sort: Option<By>,
    /// Exit status 1 if rate or p99 of one is clearly worse by more than this, or has more errors
    #[arg(long, value_name = "%", value_parser = percent)]
    pub worse_max: Option<f64>,
}

fn within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| format!("write a number from {low} to {high}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.0, mcpload::scenario::SECONDS_MAX)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.0, mcpload::scenario::RATE_MAX)
}

fn rate_above_zero(text: &str) -> Result<f64, String> {
    within(text, 0.01, mcpload::scenario::RATE_MAX)
}

fn percent(text: &str) -> Result<f64, String> {
    within(text.trim_end_matches('%'), 0.0, 1000.0).map(|percent| percent / 100.0)
}
