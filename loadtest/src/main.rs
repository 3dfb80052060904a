//! `mcpload`: measures an MCP gateway or server, and checks every answer.
//!
//! Results go to the standard output, what is said about them to the standard error.

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
use mcpload::net::Network;
use mcpload::preflight::preflight;
use mcpload::progress::Shown;
use mcpload::report::{self, Report};
use mcpload::run::{self, Place, Run};
use mcpload::scenario::{Eras, Idle, SHIPPED, Scenario, shipped};
use mcpload::sweep::{Search, Step, Sweep};

use cli::{Ask, Cli, Command, CompareArgs, Instead, RunArgs, SweepArgs};

/// Why nothing came of it.
struct Failure {
    code: u8,
    text: String,
}

/// `sysexits.h`.
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const CANNOT_WRITE: u8 = 74;

/// A rate counts as broken when it was so often: one stall of the machine says nothing about the target.
const ATTEMPTS: u32 = 2;

/// A file with more is no key.
const KEY_BYTES_MAX: usize = 16 << 10;

impl Failure {
    fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into() }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no mistakes.
            let code = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match start(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("mcpload: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// `false`: something was wrong with what was measured.
fn start(cli: Cli) -> Result<bool, Failure> {
    match cli.command {
        Command::Run(args) => block_on(run_once(args)),
        Command::Sweep(args) => block_on(sweep(args)),
        Command::Compare(args) => compared(&args),
        Command::Scenarios { name } => scenarios(name.as_deref()).map(|()| true),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure { code: UNAVAILABLE, text: error.to_string() })?.block_on(work)
}

async fn run_once(args: RunArgs) -> Result<bool, Failure> {
    let mut scenario = scenario(&args.ask)?;
    if let Some(rate) = args.rate {
        scenario.load.rate = Some(rate).filter(|rate| *rate > 0.0);
    }
    scenario.load.requests = args.requests.or(scenario.load.requests);
    let bounds = Bounds { p99_max: args.p99_max, errors_max: args.errors_max, growth_max: args.growth_max };
    let session = Session::new(&args.ask, scenario).await?;
    let report = session.measure(session.scenario.clone(), &bounds).await?;
    print(&report::table(&report))?;
    write(args.output.json.as_deref(), || json(&report))?;
    write(args.output.html.as_deref(), || report::html(&report))?;
    Ok(report.is_good())
}

async fn sweep(args: SweepArgs) -> Result<bool, Failure> {
    let session = Session::new(&args.ask, scenario(&args.ask)?).await?;
    let bounds = Bounds { p99_max: Some(args.p99_max), errors_max: args.errors_max, growth_max: None };
    let p99_max_us = args.p99_max.as_secs_f64() * 1e6;
    let url = session.target.without_key(&session.url);
    let mut sweep = Sweep::new(&session.scenario.name, &url, p99_max_us);
    let mut search = Search::new(args.from, args.to);
    while let Some(rate) = search.next() {
        let mut held = false;
        for _ in 0..ATTEMPTS {
            let mut scenario = session.scenario.clone();
            scenario.load.rate = Some(rate);
            let step = Step::of(rate, &session.measure(scenario, &bounds).await?);
            let said = if step.held { "held".to_owned() } else { format!("broken: {}", step.why) };
            if !args.ask.quiet {
                eprintln!("{} requests/s: {said}", report::number(rate));
            }
            held = step.held;
            sweep.steps.push(step);
            if held || session.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        search.seen(rate, held);
        if session.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    sweep.knee = search.knee();
    print(&sweep.table())?;
    write(args.output.json.as_deref(), || json(&sweep))?;
    write(args.output.html.as_deref(), || report::sweep_html(&sweep))?;
    Ok(sweep.knee.is_some())
}

fn compared(args: &CompareArgs) -> Result<bool, Failure> {
    let named = |path: &std::path::PathBuf| {
        let report = Report::read(path).map_err(Failure::usage)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, report))
    };
    let reports = args.files.iter().map(named).collect::<Result<Vec<_>, Failure>>()?;
    let compared = compare(&reports, args.sort, args.worse_max);
    print(&compared.text)?;
    Ok(!compared.is_worse)
}

fn scenarios(name: Option<&str>) -> Result<(), Failure> {
    if let Some(name) = name {
        let names = || SHIPPED.map(|(name, _)| name).join(", ");
        let text = shipped(name).ok_or_else(|| {
            Failure::usage(format!("there is no scenario {name}; write one of {}", names()))
        })?;
        return print(text);
    }
    let mut text = String::new();
    for (name, scenario) in SHIPPED {
        let scenario =
            Scenario::parse(name, scenario).map_err(|mistakes| Failure::usage(mistakes.to_string()))?;
        // Writing to a String never fails.
        let _ = writeln!(text, "{name:10} {}", scenario.about);
    }
    print(&text)
}

/// What all runs of one command have in common.
struct Session {
    scenario: Scenario,
    target: Arc<Target>,
    url: String,
    threads: usize,
    pid: Option<u32>,
    quiet: bool,
    stop: Arc<AtomicBool>,
}

impl Session {
    async fn new(ask: &Ask, scenario: Scenario) -> Result<Self, Failure> {
        let unavailable = |text: String| Failure { code: UNAVAILABLE, text };
        let (key, headers) = (key(ask)?, headers(&ask.headers)?);
        if ask.url.host().is_none() {
            return Err(Failure::usage(format!("{} is no http:// or https:// URL", ask.url)));
        }
        let network = Network::new(&ask.url, ask.ca.as_deref()).await.map_err(unavailable)?;
        let load = &scenario.load;
        let target = Target::new(&ask.url, key, headers, load.timeout, load.ids, Arc::new(network));
        let target = Arc::new(target.map_err(Failure::usage)?);
        let scenario = preflight(&target, scenario).await.map_err(unavailable)?;
        let stop = Arc::new(AtomicBool::new(false));
        let interrupted = Arc::clone(&stop);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.store(true, Ordering::Relaxed);
            }
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = ask.threads.map_or_else(|| (cores / 2).max(1), usize::from);
        let url = ask.url.to_string();
        Ok(Self { scenario, target, url, threads, pid: ask.pid, quiet: ask.quiet, stop })
    }

    async fn measure(&self, scenario: Scenario, bounds: &Bounds) -> Result<Report, Failure> {
        let run = Run {
            scenario,
            target: Arc::clone(&self.target),
            place: Place::Threads(self.threads),
            pid: self.pid,
            stop: Arc::clone(&self.stop),
        };
        let mut shown = Shown::new(self.quiet);
        let measured = run::measure(&run, &mut |progress| shown.tell(progress)).await;
        shown.end();
        let measured = measured.map_err(|text| Failure { code: UNAVAILABLE, text })?;
        let mut report = Report::new(&run, &self.url, self.threads, &measured);
        report.bounds = bounds.judge(&report);
        Ok(report)
    }
}

fn scenario(ask: &Ask) -> Result<Scenario, Failure> {
    let mut scenario =
        Scenario::read(&ask.scenario).map_err(|mistakes| Failure::usage(mistakes.to_string()))?;
    let Instead { era, connections, seconds, warm_up, timeout, idle_connections, idle_streams } =
        &ask.instead;
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    if let Some(era) = era.as_deref().and_then(Eras::parse) {
        scenario.era = era;
    }
    let load = &mut scenario.load;
    load.connections = connections.map_or(load.connections, count);
    load.measure = seconds.map_or(load.measure, |seconds| Duration::from_secs_f64(seconds.max(0.1)));
    load.warm_up = warm_up.map_or(load.warm_up, Duration::from_secs_f64);
    load.timeout = timeout.unwrap_or(load.timeout);
    if idle_connections.is_some() || idle_streams.is_some() {
        let none = Idle { connections: 0, streams: 0, open_per_second: 500.0 };
        let idle = scenario.idle.get_or_insert(none);
        idle.connections = idle_connections.map_or(idle.connections, count);
        idle.streams = idle_streams.map_or(idle.streams, count);
    }
    Ok(scenario)
}

fn key(ask: &Ask) -> Result<Option<String>, Failure> {
    let Some(path) = &ask.key_file else {
        return Ok(ask.key.clone().filter(|key| !key.is_empty()));
    };
    let wrong = |text: &str| Failure::usage(format!("{}: {text}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() || line.len() > KEY_BYTES_MAX {
        return Err(wrong("has no key in its first line"));
    }
    Ok(Some(line.to_owned()))
}

fn headers(written: &[String]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (at, header) in written.iter().enumerate() {
        // Not shown: it may hold a credential.
        let wrong = || Failure::usage(format!("--header number {} is not NAME: VALUE", at + 1));
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        let mut value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn json(found: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(found).expect("texts, numbers and lists can be written") + "\n"
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads may have seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { code: CANNOT_WRITE, text: format!("cannot write the result: {error}") })
        }
        _ => Ok(()),
    }
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let failed = |error| Failure { code: CANNOT_WRITE, text: format!("{}: {error}", path.display()) };
    std::fs::write(path, text()).map_err(failed)
}
