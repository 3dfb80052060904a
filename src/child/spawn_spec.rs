use metamcp_config::server::{Confinement, ProcessLimits};
use serde::{Deserialize, Serialize};

/// How to run a program; passed to the reaper and the launcher as one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnSpec {
    /// The process id of the parent. The child ends with it.
    pub parent: u32,
    /// The user to run as, which only root can set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group to run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The soft limit of open files, unless `limits` has one. The program may raise it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Whether to enable huge pages again, which the gateway disabled for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub huge_pages: bool,
    #[serde(default)]
    pub limits: ProcessLimits,
    /// Which files it may read and write; `None` for no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
}

impl SpawnSpec {
    /// Encodes it as one argument.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers and paths of UTF-8 are JSON")
    }

    /// Decodes it from one argument.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_an_argument() {
        let check = |spec: SpawnSpec| assert_eq!(SpawnSpec::parse(&spec.to_text()), Some(spec));
        let plain = SpawnSpec {
            parent: 7,
            uid: None,
            gid: None,
            files: None,
            huge_pages: false,
            limits: ProcessLimits::default(),
            confinement: None,
        };
        check(plain.clone());
        check(SpawnSpec {
            uid: Some(1000),
            gid: Some(1000),
            files: Some(1024),
            huge_pages: true,
            limits: ProcessLimits {
                open_files: Some(64),
                memory_bytes: Some(1 << 40),
                ..ProcessLimits::default()
            },
            confinement: Some(Confinement {
                read: vec!["/usr".into()],
                write: vec!["/tmp/a b".into()],
                required: true,
            }),
            ..plain
        });
        assert_eq!(SpawnSpec::parse("serve"), None);
    }
}
