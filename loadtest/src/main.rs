//! `mcpload`, a load generator for MCP gateways and servers.
//!
//! Results go to standard output; progress and errors go to standard error.

mod cli;

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue};
use mcpload::bounds::Bounds;
use mcpload::client::Target;
use mcpload::compare::compare;
use mcpload::net::NetworkConnector;
use mcpload::preflight::preflight;
use mcpload::progress::ProgressDisplay;
use mcpload::report::{self, RunReport};
use mcpload::run::{self, Executor, RunSettings};
use mcpload::scenario::{BUILTIN_SCENARIOS, EraSelection, IdleProfile, Scenario, builtin_scenario};
use mcpload::sweep::{RateSearch, Sweep, SweepStep};

use cli::{Cli, Command, CompareArgs, RunArgs, ScenarioOverrides, SweepArgs, TargetArgs};

/// An error that ends the program.
struct CliError {
    exit_code: u8,
    text: String,
}

// Exit codes of `sysexits.h`.
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const CANNOT_WRITE: u8 = 74;

/// Attempts at a rate before it counts as broken. A single stall of the machine says nothing about the target.
const ATTEMPTS: u32 = 2;

/// The longest key in a key file.
const KEY_BYTES_MAX: usize = 16 << 10;

impl CliError {
    fn usage(text: impl Into<String>) -> Self {
        Self { exit_code: USAGE, text: text.into() }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are returned as errors, too.
            let code = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match execute(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("mcpload: {}", error.text);
            ExitCode::from(error.exit_code)
        }
    }
}

/// Runs a command. `false` if responses were wrong or a bound broke.
fn execute(cli: Cli) -> Result<bool, CliError> {
    match cli.command {
        Command::Run(args) => block_on(run_once(args)),
        Command::Sweep(args) => block_on(run_sweep(args)),
        Command::Compare(args) => compare_reports(&args),
        Command::Scenarios { name } => print_scenarios(name.as_deref()).map(|()| true),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError { exit_code: UNAVAILABLE, text: error.to_string() })?.block_on(work)
}

async fn run_once(args: RunArgs) -> Result<bool, CliError> {
    let mut scenario = read_scenario(&args.target)?;
    if let Some(rate) = args.rate {
        scenario.load.rate = Some(rate).filter(|rate| *rate > 0.0);
    }
    scenario.load.requests = args.requests.or(scenario.load.requests);
    let bounds = Bounds { p99_max: args.p99_max, errors_max: args.errors_max, growth_max: args.growth_max };
    let session = LoadSession::new(&args.target, scenario).await?;
    let report = session.measure(session.scenario.clone(), &bounds).await?;
    print(&report::render_text(&report))?;
    write_file(args.output.json.as_deref(), || to_json(&report))?;
    write_file(args.output.html.as_deref(), || report::render_run(&report))?;
    Ok(report.is_good())
}

async fn run_sweep(args: SweepArgs) -> Result<bool, CliError> {
    let session = LoadSession::new(&args.target, read_scenario(&args.target)?).await?;
    let bounds = Bounds { p99_max: Some(args.p99_max), errors_max: args.errors_max, growth_max: None };
    let p99_max_us = args.p99_max.as_secs_f64() * 1e6;
    let url = session.target.redact(&session.url);
    let mut sweep = Sweep::new(&session.scenario.name, &url, p99_max_us);
    let mut search = RateSearch::new(args.from, args.to);
    while let Some(rate) = search.next() {
        let mut has_held = false;
        for _ in 0..ATTEMPTS {
            let mut scenario = session.scenario.clone();
            scenario.load.rate = Some(rate);
            let step = SweepStep::new(rate, &session.measure(scenario, &bounds).await?);
            let result = if step.held { "held".to_owned() } else { format!("broken: {}", step.why) };
            if !args.target.quiet {
                eprintln!("{} requests/s: {result}", report::format_count(rate));
            }
            has_held = step.held;
            sweep.steps.push(step);
            if has_held || session.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        search.record(rate, has_held);
        if session.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    sweep.knee = search.knee();
    print(&sweep.render_text())?;
    write_file(args.output.json.as_deref(), || to_json(&sweep))?;
    write_file(args.output.html.as_deref(), || report::render_sweep(&sweep))?;
    Ok(sweep.knee.is_some())
}

fn compare_reports(args: &CompareArgs) -> Result<bool, CliError> {
    let read = |path: &std::path::PathBuf| {
        let report = RunReport::read(path).map_err(CliError::usage)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, report))
    };
    let reports = args.files.iter().map(read).collect::<Result<Vec<_>, CliError>>()?;
    let comparison = compare(&reports, args.sort, args.worse_max);
    print(&comparison.text)?;
    Ok(!comparison.is_worse)
}

fn print_scenarios(name: Option<&str>) -> Result<(), CliError> {
    if let Some(name) = name {
        let names = || BUILTIN_SCENARIOS.map(|(name, _)| name).join(", ");
        let text = builtin_scenario(name)
            .ok_or_else(|| CliError::usage(format!("there is no scenario {name}; use one of {}", names())))?;
        return print(text);
    }
    let mut text = String::new();
    for (name, scenario) in BUILTIN_SCENARIOS {
        let scenario =
            Scenario::parse(name, scenario).map_err(|errors| CliError::usage(errors.to_string()))?;
        // Writing to a String never fails.
        let _ = writeln!(text, "{name:10} {}", scenario.about);
    }
    print(&text)
}

/// What all runs of one command share.
struct LoadSession {
    scenario: Scenario,
    target: Arc<Target>,
    url: String,
    threads: usize,
    pid: Option<u32>,
    quiet: bool,
    stop: Arc<AtomicBool>,
}

impl LoadSession {
    async fn new(args: &TargetArgs, scenario: Scenario) -> Result<Self, CliError> {
        let unavailable = |text: String| CliError { exit_code: UNAVAILABLE, text };
        let (key, headers) = (read_key(args)?, parse_headers(&args.headers)?);
        if args.url.host().is_none() {
            return Err(CliError::usage(format!("{} is not an http:// or https:// URL", args.url)));
        }
        let network = NetworkConnector::new(&args.url, args.ca.as_deref()).await.map_err(unavailable)?;
        let load = &scenario.load;
        let target = Target::new(&args.url, key, headers, load.timeout, load.ids, Arc::new(network));
        let target = Arc::new(target.map_err(CliError::usage)?);
        let scenario = preflight(&target, scenario).await.map_err(unavailable)?;
        let stop = Arc::new(AtomicBool::new(false));
        let interrupted = Arc::clone(&stop);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.store(true, Ordering::Relaxed);
            }
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args.threads.map_or_else(|| (cores / 2).max(1), usize::from);
        let url = args.url.to_string();
        Ok(Self { scenario, target, url, threads, pid: args.pid, quiet: args.quiet, stop })
    }

    async fn measure(&self, scenario: Scenario, bounds: &Bounds) -> Result<RunReport, CliError> {
        let run = RunSettings {
            scenario,
            target: Arc::clone(&self.target),
            executor: Executor::Threads(self.threads),
            pid: self.pid,
            stop: Arc::clone(&self.stop),
        };
        let mut display = ProgressDisplay::new(self.quiet);
        let measurement = run::measure(&run, &mut |progress| display.update(progress)).await;
        display.clear();
        let measurement = measurement.map_err(|text| CliError { exit_code: UNAVAILABLE, text })?;
        let mut report = RunReport::new(&run, &self.url, self.threads, &measurement);
        report.bounds = bounds.evaluate(&report);
        Ok(report)
    }
}

fn read_scenario(args: &TargetArgs) -> Result<Scenario, CliError> {
    let mut scenario =
        Scenario::read(&args.scenario).map_err(|errors| CliError::usage(errors.to_string()))?;
    let ScenarioOverrides { era, connections, seconds, warm_up, timeout, idle_connections, idle_streams } =
        &args.overrides;
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    if let Some(era) = era.as_deref().and_then(EraSelection::parse) {
        scenario.era = era;
    }
    let load = &mut scenario.load;
    load.connections = connections.map_or(load.connections, count);
    load.measure = seconds.map_or(load.measure, |seconds| Duration::from_secs_f64(seconds.max(0.1)));
    load.warm_up = warm_up.map_or(load.warm_up, Duration::from_secs_f64);
    load.timeout = timeout.unwrap_or(load.timeout);
    if idle_connections.is_some() || idle_streams.is_some() {
        let none = IdleProfile { connections: 0, streams: 0, open_per_second: 500.0 };
        let idle = scenario.idle.get_or_insert(none);
        idle.connections = idle_connections.map_or(idle.connections, count);
        idle.streams = idle_streams.map_or(idle.streams, count);
    }
    Ok(scenario)
}

fn read_key(args: &TargetArgs) -> Result<Option<String>, CliError> {
    let Some(path) = &args.key_file else {
        return Ok(args.key.clone().filter(|key| !key.is_empty()));
    };
    let invalid = |text: &str| CliError::usage(format!("{}: {text}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| invalid(&format!("cannot be read: {error}")))?;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() || line.len() > KEY_BYTES_MAX {
        return Err(invalid("has no key in its first line"));
    }
    Ok(Some(line.to_owned()))
}

fn parse_headers(arguments: &[String]) -> Result<HeaderMap, CliError> {
    let mut headers = HeaderMap::new();
    for (index, header) in arguments.iter().enumerate() {
        // The header is not printed: it may hold a credential.
        let invalid = || CliError::usage(format!("--header number {} is not NAME: VALUE", index + 1));
        let (name, value) = header.split_once(':').ok_or_else(invalid)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| invalid())?;
        let mut value = HeaderValue::try_from(value.trim()).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn to_json(report: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(report).expect("a report is serializable") + "\n"
}

fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader may close the pipe early.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError { exit_code: CANNOT_WRITE, text: format!("cannot write the result: {error}") })
        }
        _ => Ok(()),
    }
}

fn write_file(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    let failed = |error| CliError { exit_code: CANNOT_WRITE, text: format!("{}: {error}", path.display()) };
    std::fs::write(path, text()).map_err(failed)
}
