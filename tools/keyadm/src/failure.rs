//! Why a command fails, and its exit code (sysexits.h).

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

use metamcp_store::auth::{CreateKeyError, FirstStartError, RotateError, SealerError, SecretsError};
use metamcp_store::store::StoreError;

use crate::access_error;

/// Why a command fails. Nothing was changed, unless the text says otherwise.
#[derive(Debug)]
pub enum Failure {
    /// Invalid arguments or settings: `EX_USAGE`.
    Usage(String),
    /// Input or stored data does not allow it: `EX_DATAERR`.
    Data(String),
    /// The store or the secrets cannot be accessed: `EX_UNAVAILABLE`.
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

impl From<SealerError> for Failure {
    fn from(error: SealerError) -> Self {
        Self::Data(error.to_string())
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::Io { path, kind: kind @ ErrorKind::PermissionDenied, .. } => {
                Self::Unavailable(access_error::explain(&path, &kind.into()))
            }
            SecretsError::Io { .. } => Self::Unavailable(error.to_string()),
            SecretsError::Exposed { .. } | SecretsError::Syntax { .. } => Self::Data(error.to_string()),
        }
    }
}

impl From<FirstStartError> for Failure {
    fn from(error: FirstStartError) -> Self {
        match error {
            FirstStartError::Secrets(error) => error.into(),
            FirstStartError::Store(error) => error.into(),
            FirstStartError::Missing { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<RotateError> for Failure {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Secrets(error) => error.into(),
            RotateError::Key(_) => Self::Data(error.to_string()),
            RotateError::Busy => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<CreateKeyError> for Failure {
    fn from(error: CreateKeyError) -> Self {
        match error {
            CreateKeyError::Name
            | CreateKeyError::Description
            | CreateKeyError::Past
            | CreateKeyError::Grants(_) => Self::Usage(error.to_string()),
            CreateKeyError::OtherEncryptionKey | CreateKeyError::Malformed(_) => {
                Self::Data(error.to_string())
            }
            CreateKeyError::Hash => Self::Unavailable(error.to_string()),
            CreateKeyError::Store(error) => error.into(),
        }
    }
}
