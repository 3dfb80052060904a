//! The contents of a session id: everything that is needed to rebuild the session, sealed.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use metamcp_core::base::KeyId;
use metamcp_core::protocol::{ClientCapabilities, Revision};
use metamcp_store::auth::{Purpose, Sealer};

/// The contents of a session id. Layout of the sealed bytes, all fields but the last of fixed size:
///
/// ```text
/// format 1 | key id 12 | revision 1 | capabilities 1 | created 8 (Unix s, big endian) | random 16 | scope
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionClaims {
    /// The API key that opened the session.
    pub key_id: KeyId,
    pub revision: Revision,
    /// The capabilities that the client declared.
    pub capabilities: ClientCapabilities,
    /// Seconds since the Unix epoch.
    pub created_s: u64,
    pub key: SessionKey,
    /// The scope of the endpoint that the session was opened with.
    pub scope: Arc<str>,
}

/// 128 random bits that identify a session within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub [u8; 16]);

impl SessionKey {
    /// The key of sessions without an id.
    pub const NONE: Self = Self([0; 16]);
}

/// The first of the sealed bytes. Another layout has another value.
const FORMAT: u8 = 1;

const KEY_ID_BYTES: usize = 12;

const FIXED_BYTES: usize = 1 + KEY_ID_BYTES + 1 + 1 + 8 + 16;

/// Longer ids are not decoded. Ours are shorter, since a scope has at most 80 bytes.
const ID_BYTES_MAX: usize = 512;

impl SessionClaims {
    /// Seals the claims into a session id of visible ASCII (MCP 2025-03-26, session management).
    pub fn to_id(&self, sealer: &Sealer) -> String {
        let mut plain = Vec::with_capacity(FIXED_BYTES + self.scope.len());
        plain.push(FORMAT);
        plain.extend_from_slice(self.key_id.as_bytes());
        plain.push(self.revision.to_byte());
        plain.push(self.capabilities.to_byte());
        plain.extend_from_slice(&self.created_s.to_be_bytes());
        plain.extend_from_slice(&self.key.0);
        plain.extend_from_slice(self.scope.as_bytes());
        URL_SAFE_NO_PAD.encode(sealer.seal(Purpose::Session, &[], &plain))
    }

    /// Opens a session id. Returns `None` if it is not ours or was altered.
    pub fn from_id(id: &[u8], sealer: &Sealer) -> Option<Self> {
        if id.len() > ID_BYTES_MAX {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(id).ok()?;
        let plain = sealer.open(Purpose::Session, &[], &sealed).ok()?;
        Self::from_plain(&plain)
    }

    fn from_plain(plain: &[u8]) -> Option<Self> {
        let (format, rest) = plain.split_first()?;
        let (key_id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>()?;
        let (revision, rest) = rest.split_first()?;
        let (capabilities, rest) = rest.split_first()?;
        let (created, rest) = rest.split_first_chunk::<8>()?;
        let (key, scope) = rest.split_first_chunk::<16>()?;
        (*format == FORMAT).then_some(())?;
        Some(Self {
            key_id: KeyId::from_bytes(key_id)?,
            revision: Revision::from_byte(*revision)?,
            capabilities: ClientCapabilities::from_byte(*capabilities),
            created_s: u64::from_be_bytes(*created),
            key: SessionKey(*key),
            scope: std::str::from_utf8(scope).ok()?.into(),
        })
    }
}
