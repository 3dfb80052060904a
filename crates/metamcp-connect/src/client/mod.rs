//! The client as the bridge sees it: its pipes, the messages it writes on them, and its requests in flight.
//!
//! Knows nothing of HTTP, except how a message becomes a request (`message`).

mod lines;
mod message;
mod oversized;
mod pipes;
mod requests;

pub use lines::{Line, LineReader};
pub use message::ClientMessage;
pub use oversized::find_request_id;
pub use pipes::StdioClient;
pub use requests::ClientRequests;
