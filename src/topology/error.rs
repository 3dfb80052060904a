//! Parts of the configuration that cannot be served.

use metamcp_core::base::{EndpointName, ServerName};
use metamcp_http::InvalidTarget;

/// A server or an endpoint that is not served as configured. Contains no address and no credential.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server's address is not usable.
    #[error("server `{server}` is not served: {source}")]
    Target { server: ServerName, source: InvalidTarget },
    /// The first server of the name is served.
    #[error("server `{0}` is defined twice; the second definition is ignored")]
    DuplicateServer(ServerName),
    /// Its tools would be named like those of another server, and a key for that server's tools would reach them. A
    /// name takes precedence over an alias, and an earlier alias over a later one.
    #[error(
        "server `{server}` is not served: its alias `{alias}` is the name or the alias of server `{holder}`; \
         choose another alias"
    )]
    AliasTaken { server: ServerName, alias: ServerName, holder: ServerName },
    /// An override names a tool like those of another server.
    #[error(
        "endpoint `{endpoint}` hides tool {tool:?} of server `{server}`: its name there, `{name}`, has the prefix of \
         server `{holder}`; choose another name"
    )]
    ToolNameTaken {
        endpoint: EndpointName,
        server: ServerName,
        /// The server's own name of the tool.
        tool: String,
        /// The name that the endpoint gives it.
        name: String,
        /// The server whose prefix that name has.
        holder: ServerName,
    },
    /// The first endpoint of the name is served.
    #[error("endpoint `{0}` is defined twice; the second definition is ignored")]
    DuplicateEndpoint(EndpointName),
    /// The endpoint is served with its other servers.
    #[error("endpoint `{endpoint}` is served without server `{server}`, which does not exist")]
    UnknownServer { endpoint: EndpointName, server: ServerName },
}
