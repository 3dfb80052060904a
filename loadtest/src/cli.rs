//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use http::Uri;
use mcpload::bounds::{ErrorLimit, parse_duration, parse_error_limit};
use mcpload::compare::SortKey;

// Headings of the help.
const OVERRIDES: &str = "Scenario overrides";
const BOUNDS: &str = "Bounds";
const RATES: &str = "Rates";
const REPORTS: &str = "Reports";

const EXAMPLES: &str = "\
Examples:
  mcpload run small http://127.0.0.1:12009/mcp --key-file key
  mcpload run mixed http://127.0.0.1:12009/mcp --rate 500 --p99-max 20ms --html report.html
  mcpload sweep small http://127.0.0.1:12009/mcp --p99-max 5ms
  mcpload compare before.json after.json --worse-max 10%
  mcpload scenarios small > mine.toml

The key is read from --key, --key-file or METAMCP_KEY.
Exit status: 0 good; 1 wrong responses or a broken bound; 64 invalid arguments or scenario;
69 target unreachable, or wrong response in the preflight; 74 cannot write a file.";

/// Load generator for MCP gateways and servers over Streamable HTTP that checks every response.
#[derive(Debug, Parser)]
#[command(name = "mcpload", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario once
    Run(RunArgs),
    /// Search for the highest rate that the target sustains
    Sweep(SweepArgs),
    /// Compare the reports of runs
    Compare(CompareArgs),
    /// List the built-in scenarios, or print one
    Scenarios {
        /// The scenario to print
        name: Option<String>,
    },
}

/// The arguments that `run` and `sweep` share.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// A TOML file, or the name of a built-in scenario
    pub scenario: PathBuf,
    /// The URL of the MCP endpoint
    pub url: Uri,
    /// The API key, sent as `Authorization: Bearer`; visible to other users of the machine
    #[arg(long, env = "METAMCP_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// A file with the API key in its first line; takes precedence over --key
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A header for every request; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// PEM file of trusted certificate authorities [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A process on this machine whose CPU time and memory are reported
    #[arg(long)]
    pub pid: Option<u32>,
    /// Worker threads [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Do not show the progress
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub overrides: ScenarioOverrides,
}

/// Values that replace those of the scenario.
#[derive(Debug, Args)]
#[command(next_help_heading = OVERRIDES)]
pub struct ScenarioOverrides {
    /// The protocol era: modern, legacy, or both
    #[arg(long, value_parser = ["modern", "legacy", "both"])]
    pub era: Option<String>,
    /// Connections to keep open at once
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=mcpload::scenario::CONNECTIONS_MAX))]
    pub connections: Option<u64>,
    /// Duration of the measurement in seconds
    #[arg(long, short, value_name = "S", value_parser = parse_seconds)]
    pub seconds: Option<f64>,
    /// Duration of the warm-up in seconds, which is not measured
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub warm_up: Option<f64>,
    /// Timeout of one response
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Idle connections during the load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=mcpload::scenario::CONNECTIONS_MAX))]
    pub idle_connections: Option<u64>,
    /// Idle event streams during the load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=mcpload::scenario::CONNECTIONS_MAX))]
    pub idle_streams: Option<u64>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Requests per second, sent when they are due (open loop); 0: as fast as responses arrive (closed loop)
    #[arg(long, short, value_name = "N", value_parser = parse_rate, help_heading = OVERRIDES)]
    pub rate: Option<f64>,
    /// End after this many requests, warm-up included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = OVERRIDES)]
    pub requests: Option<u64>,
    /// Highest p99 latency, as in 5ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = BOUNDS)]
    pub p99_max: Option<Duration>,
    /// Most errors: a count, or a share of requests as in 0.5%
    #[arg(long, value_name = "N|%", default_value = "0", value_parser = parse_error_limit, help_heading = BOUNDS)]
    pub errors_max: ErrorLimit,
    /// Most growth of the memory of --pid, from a quarter of the time to the end
    #[arg(long, value_name = "%", value_parser = parse_percent, requires = "pid", help_heading = BOUNDS)]
    pub growth_max: Option<f64>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where to write the report.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Write the report as JSON, for `mcpload compare` and for scripts
    #[arg(long, value_name = "FILE", help_heading = REPORTS)]
    pub json: Option<PathBuf>,
    /// Write the report as an HTML page with plots
    #[arg(long, value_name = "FILE", help_heading = REPORTS)]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SweepArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// The lowest rate to try first
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_positive_rate, help_heading = RATES)]
    pub from: f64,
    /// The highest rate to try
    #[arg(long, value_name = "N", default_value = "100000", value_parser = parse_positive_rate, help_heading = RATES)]
    pub to: f64,
    /// Highest p99 latency that still passes
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration, help_heading = BOUNDS)]
    pub p99_max: Duration,
    /// Most errors: a count, or a share of requests as in 0.5%
    #[arg(long, value_name = "N|%", default_value = "0", value_parser = parse_error_limit, help_heading = BOUNDS)]
    pub errors_max: ErrorLimit,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Reports of `mcpload run --json`; the others are compared with the first
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Sort by this, best first
    #[arg(long)]
    pub sort: Option<SortKey>,
    /// Exit with status 1 if rate or p99 of a run is significantly worse by more than this, or if it has more errors
    #[arg(long, value_name = "%", value_parser = parse_percent)]
    pub worse_max: Option<f64>,
}

fn parse_within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| format!("write a number from {low} to {high}"))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    parse_within(text, 0.0, mcpload::scenario::SECONDS_MAX)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    parse_within(text, 0.0, mcpload::scenario::RATE_MAX)
}

fn parse_positive_rate(text: &str) -> Result<f64, String> {
    parse_within(text, 0.01, mcpload::scenario::RATE_MAX)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    parse_within(text.trim_end_matches('%'), 0.0, 1000.0).map(|percent| percent / 100.0)
}
