//! Routing: maps a request path to an endpoint, and the name of a tool, prompt or resource to a server.
//!
//! Invariant: a [`RouteTable`] never changes after it is built. A change publishes a new table, and a request
//! sees exactly one table.
//!
//! Does not know: connections, sessions, or which upstreams are available.

mod config;
mod endpoint;
mod names;
mod table;
mod tool_view;

pub use config::{EndpointConfig, EndpointMember, EndpointMembers, NamePrefix};
pub use endpoint::{Endpoint, EndpointId, EndpointShape, RoutedServer};
pub use names::{Destination, NameIndex, OriginalName, SEPARATOR, UriTemplate};
pub use table::{RouteTable, UnknownServerError};
pub use tool_view::{ToolOverride, ToolView};
