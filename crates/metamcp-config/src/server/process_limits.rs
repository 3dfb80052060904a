use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Limits of the kernel (`setrlimit(2)`), each for one process. Limits that are not set are those of the
/// gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Bytes of address space. Node reserves tens of GiB that it never uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes of data: heap and private writable mappings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Most open file descriptors (`RLIMIT_NOFILE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Processes and threads of the user, whoever started them. Does not apply to root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Seconds of processor time, after which the process is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<u64>,
    /// Bytes of a file that the process writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
}

/// The part of the file system that a server may use, enforced by Landlock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// May be read and executed.
    pub read: Vec<PathBuf>,
    /// May be read, executed and written.
    pub write: Vec<PathBuf>,
    /// Whether the server must not start if the kernel has no Landlock.
    pub required: bool,
}
