//! The application: builds every part from a `Config`, runs them, and shuts them down in order.
//!
//! The only folder that knows all others. `gateway` starts and stops; `config_sync` keeps what is served in step with the
//! configuration files and the store; `background` holds the periodic tasks; `stdio` and `connect` are the programs for
//! clients that start programs.

mod background;
mod config_sync;
mod connect;
mod control_plane;
mod error;
mod file_limit;
mod gateway;
mod keyring;
mod private_dir;
mod shutdown_signals;
mod startup_info;
pub mod stdio;
mod tls;

pub use config_sync::{ConfigLoader, Publisher};
pub use error::AppError;
pub use file_limit::shortage;
pub use gateway::App;
pub use startup_info::StartupInfo;
