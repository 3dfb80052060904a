/// Whether clients must present a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Clients authenticate with API keys or access tokens.
    Keys,
    /// Every client is the same anonymous client. Allowed on loopback only.
    Open,
}
