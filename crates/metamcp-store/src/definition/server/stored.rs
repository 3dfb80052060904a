//! Conversion between server definitions and rows of the store.

use serde_json::{Value, json};

use super::super::secrets::ServerSecrets;
use super::definition::ServerDefinition;
use super::policy::DefinitionRules;
use crate::auth::Sealer;
use crate::store::{self, RowSealer, ServerRow, ServerSpec};

/// Why a stored definition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoredServerError {
    /// The seal of its secrets does not verify.
    #[error(
        "server `{0}` was altered outside of keyadm and the gateway, sealed with another ENCRYPTION_KEY, or created \
         before rows were bound to one: supply the ENCRYPTION_KEY that sealed it, write the whole definition again \
         (PUT, or `keyadm servers import --replace`), or remove it (`keyadm servers remove`)"
    )]
    Unsealable(String),
    /// The row was edited by hand, or written by a later version.
    #[error("this version cannot read the definition of server `{0}`: {1}")]
    Invalid(String, String),
}

impl ServerDefinition {
    /// Opens the secrets of a row and reads its definition.
    pub fn from_row(row: &ServerRow, sealer: &Sealer) -> Result<Self, StoredServerError> {
        let plain =
            sealer.open_row(store::SealedRow::Server(row)).as_ref().and_then(ServerSecrets::from_plain);
        let secrets = plain.ok_or_else(|| StoredServerError::Unsealable(row.name.clone()))?;
        let mut value = server_document(row);
        if let Some(url) = &secrets.url {
            value["url"] = url.as_str().into();
        }
        for (key, values) in [("headers", &secrets.headers), ("env", &secrets.env)] {
            if !values.is_empty() {
                value[key] = json!(values);
            }
        }
        if !secrets.args.is_empty() {
            value["args"] = json!(secrets.args);
        }
        Self::read(&value, None, &DefinitionRules::stored()).map_err(|errors| {
            let details: Vec<_> = errors.iter().map(|e| format!("{} {}", e.pointer, e.detail)).collect();
            StoredServerError::Invalid(row.name.clone(), details.join("; "))
        })
    }

    /// Returns the definition in the form the store takes. The store seals the secrets.
    pub fn to_spec(&self) -> ServerSpec {
        let secrets = store::Secrets::Set(self.secrets.to_plain());
        let mut definition = self.to_json();
        if let Some(members) = definition.as_object_mut() {
            members.remove("name");
            members.remove("kind");
        }
        ServerSpec { name: self.document.name.clone(), kind: self.kind(), definition, secrets }
    }
}

/// Returns the document of a row without opening its secrets.
pub fn server_document(row: &ServerRow) -> Value {
    let mut members = row.definition.as_object().cloned().unwrap_or_default();
    members.insert("name".into(), row.name.as_str().into());
    members.insert("kind".into(), row.kind.as_str().into());
    Value::Object(members)
}
