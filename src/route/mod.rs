//! Routing: maps a request path to an endpoint, and the name of a tool, prompt or resource to a server.
//!
//! Invariant: a [`RouteTable`] never changes after it is built. A change publishes a new table, and a request
//! sees exactly one table.
//!
//! Does not know: connections, sessions, or which upstreams are available.

mod endpoint;
mod names;
mod table;

pub use endpoint::{Endpoint, EndpointId, EndpointShape, RoutedServer};
pub use names::{Destination, NameIndex, OriginalName, UriTemplate};
pub use table::{EndpointReference, RouteTable, UnknownServerError};
