//! Relays the response of an upstream to the client. Bytes pass as they arrive, with back-pressure, and what
//! the request holds is released after the last of them.

mod request_resources;
mod refuser;
mod response_relay;
mod relayed_stream;
mod find_answer;
mod event_tagger;
mod event_pass_through;

pub use refuser::ServerRequestRefuser;
pub use relayed_stream::{COMMENT, connection_ends, credential_ended, gateway_stops, session_ended};
pub use request_resources::RequestResources;
pub use response_relay::Relay;
