//! The `metamcp-connect` program: `metamcp connect` without a gateway, for every desktop.

use std::process::ExitCode;

use metamcp_config::{ConnectCli, EXIT_USAGE, ProcessEnv, load_connect, parse};
use metamcp_connect::connect;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

fn main() -> ExitCode {
    let cli = parse::<ConnectCli>();
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => return fail(EXIT_USAGE, format_args!("cannot read the current directory: {error}")),
    };
    let config = match load_connect(cli.log_format, &cli.args, &ProcessEnv, &cwd) {
        Ok(config) => config,
        Err(errors) => return fail(EXIT_USAGE, errors),
    };
    if let Err(error) = config.log.install() {
        return fail(EXIT_USAGE, format_args!("invalid log filter {:?}: {error}", config.log.filter));
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, error),
    };
    match LocalSet::new().block_on(&runtime, connect(config, stop_signal())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, error),
    }
}

fn fail(code: u8, error: impl std::fmt::Display) -> ExitCode {
    eprintln!("metamcp-connect: {error}");
    ExitCode::from(code)
}

/// Waits for Ctrl-C, or SIGTERM where there is one. Never resolves if no handler can be installed; the end of the
/// client's input still ends the program.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                Ok(()) = tokio::signal::ctrl_c() => return,
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
