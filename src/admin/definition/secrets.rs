//! What of a definition is sealed: apart from the rest, so that the rest may be shown, stored and logged.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::store::Plain;

/// Stands for a value that is stored and not shown. Sent back, it keeps that value.
pub const SEALED: &str = "(sealed)";

/// The values that are not shown. Wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The whole address, where what is shown of it leaves something out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Values of request headers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Arguments of a program, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Values of environment variables, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Secrets {
    /// Whether there is nothing to seal.
    pub fn is_empty(&self) -> bool {
        self.url.is_none() && self.headers.is_empty() && self.args.is_empty() && self.env.is_empty()
    }

    /// As they are sealed: where there are none, nothing is.
    pub fn to_plain(&self) -> Plain {
        if self.is_empty() {
            return Plain::nothing();
        }
        Plain::new(serde_json::to_vec(self).expect("maps of texts are JSON"))
    }

    /// As they were sealed; `None`: not by this program.
    pub fn from_plain(plain: &Plain) -> Option<Self> {
        if plain.expose().is_empty() {
            return Some(Self::default());
        }
        serde_json::from_slice(plain.expose()).ok()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("headers", &self.headers.keys())
            .field("args", &self.args.len())
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.url.zeroize();
        self.args.zeroize();
        self.headers.values_mut().chain(self.env.values_mut()).for_each(Zeroize::zeroize);
    }
}
