//! What can go wrong, and the exit code that says so (sysexits.h).

use std::fmt;
use std::process::ExitCode;

use metamcp::auth::{CreateError, EncryptionKeyError, RotateError, SealerError, SecretsError};
use metamcp::store::StoreError;

/// Why nothing was done.
#[derive(Debug)]
pub enum Failure {
    /// Asked for in a way that cannot be: `EX_USAGE`.
    Usage(String),
    /// What was given or found does not fit: `EX_DATAERR`.
    Data(String),
    /// The store or the secrets cannot be reached: `EX_UNAVAILABLE`.
    Unavailable(String),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 64,
            Self::Data(_) => 65,
            Self::Unavailable(_) => 69,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Data(text) | Self::Unavailable(text)) = self;
        f.write_str(text)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Url(_) | StoreError::Unbound => Self::Usage(error.to_string()),
            StoreError::Conflict
            | StoreError::Exists { .. }
            | StoreError::NotFound(_)
            | StoreError::Dangling
            | StoreError::Closed(_)
            | StoreError::Invalid(_) => Self::Data(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<EncryptionKeyError> for Failure {
    fn from(error: EncryptionKeyError) -> Self {
        Self::Data(error.to_string())
    }
}

impl From<SealerError> for Failure {
    fn from(error: SealerError) -> Self {
        Self::Data(error.to_string())
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::Io { .. } => Self::Unavailable(error.to_string()),
            SecretsError::Exposed { .. } | SecretsError::Written { .. } => Self::Data(error.to_string()),
        }
    }
}

impl From<RotateError> for Failure {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Secrets(error) => error.into(),
            RotateError::Key(error) => error.into(),
        }
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Name | CreateError::Description | CreateError::Past | CreateError::Grants(_) => {
                Self::Usage(error.to_string())
            }
            CreateError::OtherEncryptionKey | CreateError::Malformed(_) => Self::Data(error.to_string()),
            CreateError::Hash => Self::Unavailable(error.to_string()),
            CreateError::Store(error) => error.into(),
        }
    }
}
