/// How far the gateway is on its way out. Only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownPhase {
    /// Serving.
    Serve,
    /// Not ready any more, but every request is still answered: load balancers go elsewhere meanwhile.
    Unready,
    /// No new connections; what is under way may end.
    Drain,
    /// What is still under way is told so and ended.
    Abort,
}
