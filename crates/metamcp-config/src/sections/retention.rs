use std::time::Duration;

/// How long usage and audit records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The period of usage counters.
    pub usage: Duration,
    /// The period of entries in the audit log.
    pub audit: Duration,
}
