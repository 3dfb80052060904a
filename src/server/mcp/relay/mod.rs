//! Relays the response of an upstream to the client. Bytes pass as they arrive, with back-pressure, and what
//! the request holds is released after the last of them.

mod held;
mod refuser;
mod response_relay;
mod stream;
mod tagging;
mod whole;

pub use held::RequestResources;
pub use refuser::ServerRequestRefuser;
pub use response_relay::Relay;
pub use stream::COMMENT;
