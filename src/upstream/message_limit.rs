//! The bound on notifications, responses and ends of sessions in flight to a server. It is apart from that of calls: when all
//! permits of calls are taken, a cancellation or the answer to an elicitation is what releases one.

use metamcp_config::server::ServerSettings;
use metamcp_http::InFlightLimit;

/// Such messages in flight to one server. A server accepts one without running anything, in about the time of a
/// round trip, so that 64 carry some thousands in a second.
pub const MESSAGES_IN_FLIGHT_MAX: usize = 64;

/// Such messages that wait for a permit, each for `queue_timeout`. As many calls as `in_flight_max` allows by default may be
/// cancelled at once, with room for as much progress; at some KiB each that is a few MiB.
const MESSAGES_QUEUED_MAX: usize = 1024;

/// Creates the limit for the messages of one server.
pub fn new_message_limit(settings: &ServerSettings) -> InFlightLimit {
    InFlightLimit::new(MESSAGES_IN_FLIGHT_MAX, MESSAGES_QUEUED_MAX, settings.queue_timeout)
}
