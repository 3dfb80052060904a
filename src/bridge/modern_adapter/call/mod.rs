//! One call of a Modern client at a Legacy server: a task, from the first request to the response of the last
//! retry.
//!
//! - `task`: opens the session, sends the call, and serves it until it ends.
//! - `hold`: asks the client for input and waits for its retry.
//! - `messages`: decides what a message of the server means for the call.
//! - `finish`: writes the final response.

mod finish;
mod hold;
mod messages;
mod task;

pub use task::CallTask;
