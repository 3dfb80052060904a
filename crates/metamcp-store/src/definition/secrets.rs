//! Secrets of a server definition, kept apart from the rest so that the rest can be shown, stored unencrypted
//! and logged.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::store::Plaintext;

/// The secrets of a server definition. Zeroized on drop.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSecrets {
    /// The full address, if its redacted form differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Values of request headers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Arguments of a program, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Values of environment variables, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl ServerSecrets {
    /// Whether there is nothing to seal.
    pub fn is_empty(&self) -> bool {
        self.url.is_none() && self.headers.is_empty() && self.args.is_empty() && self.env.is_empty()
    }

    /// Serializes the secrets for sealing. Without secrets, nothing is sealed.
    pub fn to_plain(&self) -> Plaintext {
        if self.is_empty() {
            return Plaintext::nothing();
        }
        Plaintext::new(serde_json::to_vec(self).expect("maps of texts are JSON"))
    }

    /// Deserializes opened secrets. `None` if this program did not write them.
    pub fn from_plain(plain: &Plaintext) -> Option<Self> {
        if plain.expose().is_empty() {
            return Some(Self::default());
        }
        serde_json::from_slice(plain.expose()).ok()
    }
}

impl fmt::Debug for ServerSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("headers", &self.headers.keys())
            .field("args", &self.args.len())
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

impl Drop for ServerSecrets {
    fn drop(&mut self) {
        self.url.zeroize();
        self.args.zeroize();
        self.headers.values_mut().chain(self.env.values_mut()).for_each(Zeroize::zeroize);
    }
}
