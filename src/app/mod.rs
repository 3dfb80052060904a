//! The application: builds every part from a `Config`, runs them, and shuts them down in order.
//!
//! The only folder that knows all others. `run` has the commands of the program;
//! `gateway` starts and stops; `config_sync` keeps what is served in step with the
//! configuration files and the store; `background` holds the periodic tasks; `stdio` serves one client that
//! starts this program.

mod background;
mod check;
mod common_parts;
mod config_sync;
mod control_plane;
mod drain;
mod error;
mod file_limit;
mod file_watch;
mod first_key;
mod gateway;
mod greeting;
mod handover;
mod keyring;
mod private_dir;
mod run;
mod shutdown_signals;
mod startup_info;
mod stdio;

pub use check::{check, check_before_start, date_warnings};
pub use config_sync::{ConfigLoader, Publisher};
pub use error::AppError;
pub use file_limit::shortage;
pub use first_key::FirstKey;
pub use gateway::{App, Launch};
pub use greeting::print_greeting;
pub use handover::Inheritance;
pub use run::{connect, serve_network, serve_one_client};
pub use startup_info::{StartupInfo, StartupKeys};
pub use stdio::{check_endpoint, for_one_client};
