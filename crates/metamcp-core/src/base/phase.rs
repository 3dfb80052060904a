/// The phases of the gateway's shutdown, in order. A phase is never left for an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownPhase {
    /// The gateway serves requests.
    Serve,
    /// A successor process accepts the new connections. Requests on open connections are served, and each response of
    /// HTTP/1.1 ends its connection.
    HandOver,
    /// The readiness probe fails, so that load balancers stop sending requests. Requests are still served.
    Unready,
    /// New connections are refused; requests in flight may complete.
    Drain,
    /// The remaining requests are answered with an error and ended.
    Abort,
}
