//! The `metamcp` program: arguments, configuration, serve, drain.

use std::future::{Future, pending};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use metamcp::app::{App, AppError, Greeting, Reload, shortage, stdio};
use metamcp::base::EndpointName;
use metamcp::child::give_up_huge_pages;
use metamcp::config::{self, Cli, Command, Config, ConnectArgs, EXIT_USAGE, LogConfig, LogFormat, Summary};
use metamcp::server::Door;
use metamcp::telemetry;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = metamcp::child::run_if_asked() {
        return code;
    }
    let cli = config::parse();
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => {
            eprintln!("metamcp: the current directory cannot be read: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let command = cli.chosen();
    if let Command::Connect(args) = &command {
        return connect(&cli, args, &cwd);
    }
    let config = match config::load(&cli, &config::ProcessEnv, &cwd) {
        Ok(config) => config,
        Err(mistakes) => return wrong(&mistakes),
    };
    let to = match command {
        Command::Check => {
            println!("{}", Summary(&config));
            if let Some(text) = shortage(&config) {
                println!("notice     {text}");
            }
            return ExitCode::SUCCESS;
        }
        Command::Stdio(args) => Audience::OneClient(args.endpoint),
        Command::Serve | Command::Connect(_) => Audience::Network,
    };
    serve(config, cli, cwd, to)
}

/// Whom the gateway serves.
enum Audience {
    /// Whoever reaches its address.
    Network,
    /// The client that started it, and which of its endpoints.
    OneClient(Option<EndpointName>),
}

fn wrong(mistakes: &config::Mistakes) -> ExitCode {
    eprintln!("{mistakes}");
    ExitCode::from(EXIT_USAGE)
}

/// Starts logging; an exit code when that cannot be.
fn log(config: &LogConfig) -> Result<(), ExitCode> {
    let format = match config.format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::start(format, &config.filter).map_err(|error| {
        eprintln!("metamcp: the log filter {:?} cannot be used: {error}", config.filter);
        ExitCode::from(EXIT_USAGE)
    })
}

fn connect(cli: &Cli, args: &ConnectArgs, cwd: &Path) -> ExitCode {
    let config = match config::load_connect(cli, args, &config::ProcessEnv, cwd) {
        Ok(config) => config,
        Err(mistakes) => return wrong(&mistakes),
    };
    if let Err(code) = log(&config.log) {
        return code;
    }
    end(block_on(stdio::connect(config)))
}

/// Runs it on this thread, with what it leaves there.
fn block_on(work: impl Future<Output = Result<(), AppError>>) -> Result<(), AppError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(AppError::Signals)?;
    LocalSet::new().block_on(&runtime, work)
}

fn end(outcome: Result<(), AppError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // As whoever told it wanted.
        Err(error @ AppError::Stopped) => {
            tracing::info!("{error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("metamcp: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mut config: Config, cli: Cli, cwd: PathBuf, to: Audience) -> ExitCode {
    give_up_huge_pages();
    if let Err(code) = log(&config.log) {
        return code;
    }
    for notice in &config.skipped {
        tracing::warn!("{notice}");
    }
    let demo = demo::start(&config);
    demo::add(demo.as_ref(), &mut config);
    let is_for_one = matches!(to, Audience::OneClient(_));
    let fit = move |config| if is_for_one { stdio::for_one_client(config) } else { config };
    let reload = Box::new(move || {
        let mut config = config::load(&cli, &config::ProcessEnv, &cwd)?;
        demo::add(demo.as_ref(), &mut config);
        Ok(fit(config))
    });
    end(match to {
        Audience::Network => block_on(run(config, reload)),
        Audience::OneClient(endpoint) => block_on(stdio::serve(fit(config), reload, endpoint)),
    })
}

async fn run(config: Config, reload: Reload) -> Result<(), AppError> {
    let app = App::start(config, Door::Public, reload).await?;
    // Nobody may be reading; that is no reason to stop.
    let _ = greet(&app.greeting);
    app.run(pending()).await
}

/// How to go on from here, for the one who started it.
fn greet(greeting: &Greeting) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let Greeting { url, first_key, asks_for_key, servers, endpoints, is_demo } = greeting;
    let is_demo = *is_demo;
    writeln!(out, "metamcp {} listens on {url}", env!("CARGO_PKG_VERSION"))?;
    for (name, servers) in endpoints {
        let path = if name.as_str() == "default" { String::new() } else { format!("/{name}") };
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        writeln!(out, "  {url}/mcp{path}  ->  {}", servers.join(", "))?;
    }
    for server in servers {
        writeln!(out, "  {url}/servers/{server}/mcp")?;
    }
    if !asks_for_key {
        writeln!(out, "\nAnyone on this machine may call: no credential is asked for (--no-auth).")?;
    }
    if is_demo {
        writeln!(out, "\nNo server is configured, so a demonstration server stands behind it.")?;
        writeln!(out, "To use your own, write mcp.json or metamcp.toml here: see docs/CONFIGURATION.md")?;
    }
    let key = match (first_key, asks_for_key) {
        (Some(key), _) => {
            writeln!(out, "\nYour first API key, shown this once and stored nowhere:\n\n  {key}")?;
            key.as_str()
        }
        (None, true) => "$METAMCP_KEY",
        (None, false) => return try_it(&mut out, url, None, is_demo),
    };
    try_it(&mut out, url, Some(key), is_demo)
}

fn try_it(out: &mut impl std::io::Write, url: &str, key: Option<&str>, is_demo: bool) -> std::io::Result<()> {
    let credential = key.map_or(String::new(), |key| format!("\n    -H 'Authorization: Bearer {key}' \\"));
    // A shell does not expand a variable between single quotes.
    let credential =
        credential.replace("'Authorization: Bearer $METAMCP_KEY'", "\"Authorization: Bearer $METAMCP_KEY\"");
    let (name, arguments) =
        if is_demo { ("demo__echo", r#"{"text":"hello"}"#) } else { ("SERVER__TOOL", "{}") };
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    writeln!(
        out,
        "\nTry it:\n\n  curl -sS {url}/mcp \\{credential}\n    -H 'Content-Type: application/json' \\\n    \
         -H 'Accept: application/json, text/event-stream' \\\n    -H 'MCP-Protocol-Version: 2026-07-28' \\\n    \
         -H 'Mcp-Method: tools/call' -H 'Mcp-Name: {name}' \\\n    \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"{name}\",\"arguments\":{arguments},{meta}}}}}'"
    )?;
    let headers = key.map_or(String::new(), |key| {
        format!(",\n        \"headers\": {{ \"Authorization\": \"Bearer {key}\" }}")
    });
    writeln!(
        out,
        "\nFor an MCP client:\n\n  {{\n    \"mcpServers\": {{\n      \"metamcp\": {{\n        \"type\": \"http\",\n        \
         \"url\": \"{url}/mcp\"{headers}\n      }}\n    }}\n  }}\n"
    )?;
    out.flush()
}

#[cfg(feature = "demo")]
mod demo {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use metamcp::base::ServerName;
    use metamcp::config::Config;
    use metamcp::upstream::Address;

    /// What the demonstration server is called, and where it is.
    pub struct Demo(ServerName, Address);

    /// Starts the demonstration server for a gateway that has nothing else, on a thread of this process and a port
    /// that is free.
    pub fn start(config: &Config) -> Option<Demo> {
        if !config.servers.is_empty() {
            return None;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let url = format!("http://{}/mcp", listener.local_addr().ok()?).parse().ok()?;
        let name = ServerName::new("demo").ok()?;
        let served = thread::Builder::new().name("demo".into()).spawn(move || {
            let Err(error) = metamcp_demo::serve(listener);
            tracing::error!(%error, "the demonstration server ended");
        });
        served.is_ok().then_some(Demo(name, Address::Http(url)))
    }

    /// Has it stand behind the gateway, while that has nothing else.
    pub fn add(demo: Option<&Demo>, config: &mut Config) {
        if let Some(Demo(name, address)) = demo {
            config.set_stand_in(name, address.clone());
        }
    }
}

#[cfg(not(feature = "demo"))]
mod demo {
    use metamcp::config::Config;

    /// Built without one.
    pub enum Demo {}

    /// There is none.
    pub fn start(_config: &Config) -> Option<Demo> {
        None
    }

    /// There is none.
    pub fn add(_demo: Option<&Demo>, _config: &mut Config) {}
}
