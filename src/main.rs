//! The `metamcp` program: reads arguments and configuration, then runs the chosen command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use metamcp::app::{self, AppError, Inheritance, shortage};
use metamcp::child::disable_huge_pages;
use metamcp_config::{Cli, Command, Config, ConnectArgs, EXIT_USAGE, LogConfig, LogFormat, Summary};
use metamcp_core::base::EndpointName;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = metamcp::child::run_if_asked() {
        return code;
    }
    let cli: Cli = metamcp_config::parse();
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => {
            eprintln!("metamcp: cannot read the current directory: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let command = cli.chosen();
    if let Command::Connect(args) = &command {
        return connect(cli.flags.log_format, args, &cwd);
    }
    let config = match metamcp_config::load(&cli, &metamcp_config::ProcessEnv, &cwd) {
        Ok(config) => config,
        Err(mistakes) => return print_mistakes(&mistakes),
    };
    let audience = match command {
        Command::Check => return check(config),
        Command::Stdio(args) => Audience::SingleClient(args.endpoint),
        Command::Serve | Command::Connect(_) => Audience::Network,
    };
    serve(config, cli, cwd, audience)
}

/// Prints what would be served, and every reason why the gateway would not start.
fn check(mut config: Config) -> ExitCode {
    demo::plan(&mut config);
    print!("{}", Summary(&config));
    if let Some(text) = shortage(&config) {
        println!("notice     {text}");
    }
    for text in app::date_warnings(&config) {
        println!("notice     {text}");
    }
    match print_refusals(&app::check(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// Prints why the gateway does not start, and returns the exit code if there is a reason.
fn print_refusals(mistakes: &[AppError]) -> Result<(), ExitCode> {
    for mistake in mistakes {
        eprintln!("metamcp: {mistake}");
    }
    if mistakes.is_empty() { Ok(()) } else { Err(ExitCode::from(EXIT_USAGE)) }
}

/// Whom the gateway serves.
enum Audience {
    /// Clients that connect to its address.
    Network,
    /// The client that started it, at one of its endpoints.
    SingleClient(Option<EndpointName>),
}

fn print_mistakes(mistakes: &metamcp_config::ConfigErrors) -> ExitCode {
    eprintln!("{mistakes}");
    ExitCode::from(EXIT_USAGE)
}

/// Starts logging, or prints the error and returns the exit code.
fn init_logging(config: &LogConfig) -> Result<(), ExitCode> {
    config.install().map_err(|error| {
        eprintln!("metamcp: invalid log filter {:?}: {error}", config.filter);
        ExitCode::from(EXIT_USAGE)
    })
}

fn connect(log_format: Option<LogFormat>, args: &ConnectArgs, cwd: &Path) -> ExitCode {
    let config = match metamcp_config::load_connect(log_format, args, &metamcp_config::ProcessEnv, cwd) {
        Ok(config) => config,
        Err(mistakes) => return print_mistakes(&mistakes),
    };
    if let Err(code) = init_logging(&config.log) {
        return code;
    }
    exit(app::connect(config))
}

fn exit(result: Result<(), AppError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Stopping on a signal is what was asked for.
        Err(error @ AppError::Stopped) => {
            tracing::info!("{error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("metamcp: {error}");
            // A name on the command line.
            if matches!(error, AppError::NoEndpoint { .. }) {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn serve(mut config: Config, cli: Cli, cwd: PathBuf, audience: Audience) -> ExitCode {
    disable_huge_pages();
    if let Err(code) = init_logging(&config.log) {
        return code;
    }
    let is_single_client = matches!(audience, Audience::SingleClient(_));
    let adapt = move |config| if is_single_client { app::for_one_client(config) } else { config };
    config = adapt(config);
    // Before anything is created.
    if let Err(code) = print_refusals(&app::check_before_start(&config)) {
        return code;
    }
    if let Audience::SingleClient(endpoint) = &audience
        && let Err(error) = app::check_endpoint(&config, endpoint.as_ref())
    {
        return exit(Err(error));
    }
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    // Before the thread of the demonstration server: it changes the environment.
    let inheritance = match audience {
        Audience::Network => Inheritance::receive(&metamcp_config::ProcessEnv),
        Audience::SingleClient(_) => Ok(None),
    };
    let inheritance = match inheritance {
        Ok(inheritance) => inheritance,
        Err(error) => return exit(Err(error.into())),
    };
    let demo = demo::start(&config);
    demo::add(demo.as_ref(), &mut config);
    let load_config = Box::new(move || {
        let mut config = metamcp_config::load(&cli, &metamcp_config::ProcessEnv, &cwd)?;
        demo::add(demo.as_ref(), &mut config);
        Ok(adapt(config))
    });
    exit(match audience {
        Audience::Network => app::serve_network(config, load_config, inheritance, app::print_greeting),
        Audience::SingleClient(endpoint) => app::serve_one_client(config, load_config, endpoint),
    })
}

#[cfg(feature = "demo")]
mod demo {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use metamcp_config::Config;
    use metamcp_config::server::ServerAddress;
    use metamcp_core::base::ServerName;

    /// The name and address of the demonstration server.
    pub struct Demo(ServerName, ServerAddress);

    /// Starts the demonstration server if no server is configured, on a thread of this process and a free port.
    pub fn start(config: &Config) -> Option<Demo> {
        if !config.servers.is_empty() {
            return None;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let url = format!("http://{}/mcp", listener.local_addr().ok()?).parse().ok()?;
        let name = ServerName::new("demo").ok()?;
        let served = thread::Builder::new().name("demo".into()).spawn(move || {
            let Err(error) = metamcp_demo::serve(listener);
            tracing::error!(%error, "demonstration server ended");
        });
        served.is_ok().then_some(Demo(name, ServerAddress::Http(url)))
    }

    /// Adds it to a configuration that is only described. It has no address yet.
    pub fn plan(config: &mut Config) {
        let address = "http://127.0.0.1/mcp".parse().map(ServerAddress::Http);
        if let (true, Ok(name), Ok(address)) = (config.servers.is_empty(), ServerName::new("demo"), address) {
            config.set_fallback_server(&name, address);
        }
    }

    /// Adds it to a configuration, to be served while there is no other server.
    pub fn add(demo: Option<&Demo>, config: &mut Config) {
        if let Some(Demo(name, address)) = demo {
            config.set_fallback_server(name, address.clone());
        }
    }
}

#[cfg(not(feature = "demo"))]
mod demo {
    use metamcp_config::Config;

    /// The feature `demo` is off, so there is no demonstration server.
    pub enum Demo {}

    pub fn start(_config: &Config) -> Option<Demo> {
        None
    }

    pub fn plan(_config: &mut Config) {}

    pub fn add(_demo: Option<&Demo>, _config: &mut Config) {}
}
