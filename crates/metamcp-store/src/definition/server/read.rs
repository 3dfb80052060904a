//! Reads a whole server definition from JSON.

use metamcp_config::server::{EraChoice, MODERN_OVER_SSE};

use serde_json::Value;

use super::super::fields::{FieldErrors, ObjectReader};
use super::super::secrets::ServerSecrets;
use super::definition::ServerDefinition;
use super::document::ServerDocument;
use super::http::{read_address, read_headers};
use super::keywords::KindKeyword;
use super::policy::DefinitionRules;
use super::program::read_program;
use super::reader::DefinitionReader;
use super::settings::SettingsReader;
use crate::store::Uuid;
use metamcp_config::server::settings::{DEFAULTS, SETTINGS, ServerSetting};
use metamcp_core::base::ServerName;

impl ServerDefinition {
    /// Reads a whole definition. On failure returns every error, not only the first.
    ///
    /// `stored` is the definition that this one replaces; values written as `(sealed)` are taken from it.
    pub fn read(value: &Value, stored: Option<&Self>, rules: &DefinitionRules) -> Result<Self, FieldErrors> {
        let mut errors = FieldErrors::new();
        let server = read_server(&mut DefinitionReader { stored, rules, errors: &mut errors }, value);
        match server {
            Some(server) if errors.is_empty() => Ok(server),
            _ => Err(errors),
        }
    }
}

fn read_server(reader: &mut DefinitionReader<'_>, value: &Value) -> Option<ServerDefinition> {
    let mut fields = ObjectReader::new(value, "", reader.errors)?;
    fields.ignore(&READ_ONLY);
    let mut document = ServerDocument::default();
    let mut secrets = ServerSecrets::default();

    let name = fields.required("name", reader.errors).and_then(|text| read_name(reader, "/name", text));
    let alias = fields.text("alias", reader.errors).and_then(|text| read_name(reader, "/alias", text));
    document.alias = alias.as_ref().map(|alias| alias.as_str().to_owned());
    document.kind = read_kind(reader, &mut fields);
    document.enabled = fields.flag("enabled", reader.errors);
    document.allow_private = fields.flag("allow_private", reader.errors);
    let mut source = SettingsReader { fields: &mut fields, errors: reader.errors };
    let settings = DEFAULTS.override_from(&mut source);
    let is_set = |setting: &&ServerSetting| value.get(setting.key).is_some_and(|value| !value.is_null());
    let shown = |setting: &ServerSetting| (setting.key.to_owned(), setting.to_json(settings));
    document.settings = SETTINGS.iter().filter(is_set).map(shown).collect();
    if document.kind == KindKeyword::Sse && settings.era == EraChoice::Modern {
        reader.fail("/era", MODERN_OVER_SSE);
    }
    let (address, headers) = match document.kind {
        KindKeyword::Http | KindKeyword::Sse => {
            reject_members(reader, &mut fields, value, &STDIO_MEMBERS, "stdio");
            let address = read_address(reader, &mut fields, &mut document, &mut secrets);
            let headers = read_headers(reader, &mut fields, address.as_ref(), &mut document, &mut secrets);
            (address, headers)
        }
        KindKeyword::Stdio => {
            reject_members(reader, &mut fields, value, &HTTP_MEMBERS, "http");
            (read_program(reader, &mut fields, &mut document, &mut secrets), Vec::new())
        }
    };
    fields.finish(reader.errors);
    let name = name?;
    name.as_str().clone_into(&mut document.name);
    Some(ServerDefinition { document, secrets, name, alias, address, headers, settings })
}

fn read_name(reader: &mut DefinitionReader<'_>, pointer: &str, text: &str) -> Option<ServerName> {
    if Uuid::parse_str(text).is_ok() {
        reader
            .fail(pointer, "is a UUID; servers are looked up by name or UUID, so a name must not be a UUID");
        return None;
    }
    ServerName::new(text).map_err(|invalid| reader.fail(pointer, invalid.redacted())).ok()
}

/// Reads `kind`, or `protocol`, which other gateways and older clients call it.
fn read_kind(reader: &mut DefinitionReader<'_>, fields: &mut ObjectReader<'_>) -> KindKeyword {
    let keywords = [("http", KindKeyword::Http), ("sse", KindKeyword::Sse), ("stdio", KindKeyword::Stdio)];
    let key = match (fields.value("kind").is_some(), fields.value(KIND_ALIAS).is_some()) {
        (true, true) => {
            reader
                .fail("/protocol", "is another name for `kind`, which is present too; leave one of them out");
            "kind"
        }
        (true, false) => "kind",
        (false, true) => KIND_ALIAS,
        (false, false) => {
            reader.fail("/kind", "is missing; it is one of \"http\", \"sse\", \"stdio\"");
            "kind"
        }
    };
    let kind = fields.keyword(key, &keywords, reader.errors).unwrap_or_default();
    if !reader.rules.served_kinds.contains(&kind.into()) {
        let served: Vec<&str> = reader.rules.served_kinds.iter().map(|kind| kind.as_str()).collect();
        reader.fail(
            format!("/{key}"),
            format!("is not supported by this version; supported: {}", served.join(", ")),
        );
    }
    kind
}

/// Reports members that belong to another kind of server, which would otherwise be dropped silently.
fn reject_members(
    reader: &mut DefinitionReader<'_>,
    fields: &mut ObjectReader<'_>,
    value: &Value,
    keys: &[&'static str],
    kind: &str,
) {
    for key in keys.iter().filter(|key| value.get(**key).is_some_and(|value| !value.is_null())) {
        reader.fail(fields.pointer_to(key), format!("applies to {kind} servers only; leave it out"));
    }
    fields.ignore(keys);
}

/// Accepted in place of `kind`; the two must not be given together.
pub const KIND_ALIAS: &str = "protocol";

const HTTP_MEMBERS: [&str; 2] = ["url", "headers"];

const STDIO_MEMBERS: [&str; 5] = ["command", "args", "cwd", "env", "sharing"];

/// Members that only the gateway writes. They are accepted and ignored, so that a server can be sent back as
/// it was read.
const READ_ONLY: [&str; 9] =
    ["id", "version", "created_at", "changed_at", "source", "served", "reason", "condition", "vetting"];
