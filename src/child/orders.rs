use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a keeper and a stand-in are told, as one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Who starts the process: when that one is gone, so is it.
    pub parent: u32,
    /// The user to become, which only root can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Likewise the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Open files that it begins with, where `limits` says nothing: it may raise that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Whether it may have huge pages again, which the gateway gave up for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub huge_pages: bool,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// Where it may read and write, if that is confined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
}

/// Limits of the kernel (`setrlimit(2)`); what is not said is as it is for the gateway. Each holds for one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space. Node reserves tens of GiB that it never uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes of data: heap and private writable mappings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Open descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Processes and threads of its user, whoever started them. Does not hold for root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Seconds of processor time, after which it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<u64>,
    /// Bytes of a file that it writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
}

/// Landlock: what of the file system is open to the server. All else is closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Read and executed.
    pub read: Vec<PathBuf>,
    /// Read, executed and written.
    pub write: Vec<PathBuf>,
    /// Whether it does not start at all where the kernel has no Landlock.
    pub required: bool,
}

impl Orders {
    /// As one argument.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers and paths of UTF-8 are JSON")
    }

    /// From one argument.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_through_an_argument() {
        let check = |orders: Orders| assert_eq!(Orders::read(&orders.to_text()), Some(orders));
        let plain = Orders {
            parent: 7,
            uid: None,
            gid: None,
            files: None,
            huge_pages: false,
            limits: Limits::default(),
            confinement: None,
        };
        check(plain.clone());
        check(Orders {
            uid: Some(1000),
            gid: Some(1000),
            files: Some(1024),
            huge_pages: true,
            limits: Limits { open_files: Some(64), memory_bytes: Some(1 << 40), ..Limits::default() },
            confinement: Some(Confinement {
                read: vec!["/usr".into()],
                write: vec!["/tmp/a b".into()],
                required: true,
            }),
            ..plain
        });
        assert_eq!(Orders::read("serve"), None);
    }
}
