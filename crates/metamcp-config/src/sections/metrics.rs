//! `[metrics]`: who may read the metrics.

/// Who may read the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Nobody; nothing is counted.
    Off,
    /// Administrators, or everybody if no key is required.
    Key,
    /// Everybody who can connect.
    Open,
}
