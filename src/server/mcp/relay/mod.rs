//! A upstream's answer on its way to the client: bytes pass as they come, with backpressure, and what the
//! request holds is held until the last of them.

mod held;
mod relay;
mod stream;
mod tagging;
mod whole;

pub use held::Held;
pub use relay::Relay;
pub use stream::COMMENT;
