//! The context in which one server definition is read, shared by the readers of its parts.

use std::collections::BTreeMap;

use super::super::fields::{FieldError, FieldErrors};
use super::definition::ServerDefinition;
use super::policy::DefinitionRules;
use metamcp_config::server::SEALED_PLACEHOLDER;

pub(super) struct DefinitionReader<'a> {
    /// The definition in the store that this one replaces.
    pub(super) stored: Option<&'a ServerDefinition>,
    pub(super) rules: &'a DefinitionRules,
    pub(super) errors: &'a mut FieldErrors,
}

impl DefinitionReader<'_> {
    pub(super) fn fail(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::new(pointer, detail));
    }

    /// Returns the secret as written or, if `written` is the placeholder, the stored secret.
    pub(super) fn resolve_sealed(
        &mut self,
        stored: Option<&String>,
        written: &str,
        pointer: &str,
    ) -> Option<String> {
        if written != SEALED_PLACEHOLDER {
            return Some(written.to_owned());
        }
        if stored.is_none() {
            let detail = "has no stored value for this address, or for this command with these arguments; \
                          write the value itself";
            self.fail(pointer, detail);
        }
        stored.cloned()
    }
}

/// Replaces every value with the placeholder. `None` for an empty map.
pub(super) fn seal_values(values: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let sealed = values.keys().map(|name| (name.clone(), SEALED_PLACEHOLDER.to_owned())).collect();
    (!values.is_empty()).then_some(sealed)
}

/// Headers of an `http` server, and variables of a `stdio` server. HTTP servers usually accept 100 header
/// fields, and the headers of the client are forwarded as well.
pub(super) const PAIRS_MAX: usize = 64;
