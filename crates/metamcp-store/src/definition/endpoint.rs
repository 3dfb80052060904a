//! Endpoint definitions: a named set of servers, with filters and overrides for their tools.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::fields::{FieldError, FieldErrors, ObjectReader};
use crate::store::{EndpointRow, EndpointServer, EndpointSpec, PrefixMode, ServerRow, ToolOverride, Uuid};
use metamcp_config::server::tool_metadata::{
    check_annotations, check_description, check_listed_name, check_server_tool_name, check_title,
};
use metamcp_core::base::{EndpointName, Glob, InvalidName};

/// A named set of servers, served at `/mcp/NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Endpoint)]
#[serde(deny_unknown_fields)]
pub struct EndpointDocument {
    /// Letters, digits, `-` and `_`, and not a UUID.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$", example = "work")]
    pub name: String,
    /// How tools are named. Default: `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<PrefixKeyword>,
    /// The servers, in the order in which their tools are listed, without duplicates. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub servers: Option<Vec<EndpointServerDocument>>,
}

/// How an endpoint names tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Prefix)]
#[serde(rename_all = "lowercase")]
pub enum PrefixKeyword {
    Always,
    /// The tool's name as the server lists it.
    Never,
}

/// A server of an endpoint, and which of its tools the endpoint shows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = EndpointServer)]
#[serde(deny_unknown_fields)]
pub struct EndpointServerDocument {
    /// The name or UUID of a stored server.
    #[schema(min_length = 1, max_length = 64)]
    pub server: String,
    /// Globs (`*`, `?`) that a tool's name at the server must match. Without any, all tools match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub allow: Option<Vec<String>>,
    /// Globs of tools to hide; they take precedence over `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub deny: Option<Vec<String>>,
    /// At most one override per tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub overrides: Option<Vec<ToolOverrideDocument>>,
}

/// What an endpoint shows of a tool in place of what its server lists.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ToolOverride)]
#[serde(deny_unknown_fields)]
pub struct ToolOverrideDocument {
    /// The tool's name at the server.
    #[schema(min_length = 1, max_length = 128)]
    pub tool: String,
    /// The complete name of the tool at this endpoint, without a prefix; it replaces the other name. Letters,
    /// digits, `_`, `-`, `.` and `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_./-]+$")]
    pub name: Option<String>,
    /// The title shown to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub title: Option<String>,
    /// The description shown to models.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 16384)]
    pub description: Option<String>,
    /// The tool's annotations: at most 4096 bytes of JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub annotations: Option<Value>,
}

/// A validated endpoint definition. Whether its servers exist is not checked yet.
#[derive(Debug, Clone)]
pub struct EndpointDefinition {
    name: EndpointName,
    prefix: PrefixMode,
    servers: Vec<EndpointMember>,
}

/// A server of an endpoint, by name or UUID.
#[derive(Debug, Clone)]
struct EndpointMember {
    reference: String,
    pointer: String,
    /// The filters and overrides, with a placeholder for the server's id.
    rules: EndpointServer,
}

impl EndpointDefinition {
    /// Reads a whole definition. On failure returns every error, not only the first.
    pub fn read(value: &Value) -> Result<Self, FieldErrors> {
        let mut errors = FieldErrors::new();
        let endpoint = read_endpoint(value, &mut errors);
        match endpoint {
            Some(endpoint) if errors.is_empty() => Ok(endpoint),
            _ => Err(errors),
        }
    }

    pub fn name(&self) -> &EndpointName {
        &self.name
    }

    /// Looks up the servers in `servers` and returns the definition in the form the store takes.
    pub fn into_spec(self, servers: &[ServerRow]) -> Result<EndpointSpec, FieldErrors> {
        let mut errors = FieldErrors::new();
        let mut members: Vec<EndpointServer> = Vec::with_capacity(self.servers.len());
        for EndpointMember { reference, pointer, rules } in self.servers {
            let id = Uuid::parse_str(&reference).ok();
            let row = servers.iter().find(|row| Some(row.id) == id || row.name == reference);
            match row {
                None => errors.push(FieldError::new(pointer, "names a server that is not in the store")),
                Some(row) if members.iter().any(|member| member.server_id == row.id) => {
                    errors.push(FieldError::new(pointer, "names a server that is listed already"));
                }
                Some(row) => members.push(EndpointServer { server_id: row.id, ..rules }),
            }
        }
        let name = self.name.as_str().to_owned();
        if errors.is_empty() {
            Ok(EndpointSpec { name, prefix: self.prefix, servers: members })
        } else {
            Err(errors)
        }
    }
}

/// Returns the document of a row. Servers are given by name, or by UUID if `name_of` does not know them.
pub fn endpoint_document(row: &EndpointRow, name_of: impl Fn(Uuid) -> Option<String>) -> Value {
    let member = |server: &EndpointServer| {
        let overrides: Vec<Value> = server.overrides.iter().map(override_document).collect();
        json!({
            "server": name_of(server.server_id).unwrap_or_else(|| server.server_id.to_string()),
            "allow": server.allow,
            "deny": server.deny,
            "overrides": overrides,
        })
    };
    let servers: Vec<Value> = row.servers.iter().map(member).collect();
    json!({"name": row.name, "prefix": row.prefix.as_str(), "servers": servers})
}

fn override_document(tool: &ToolOverride) -> Value {
    let mut value = json!(tool);
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

fn read_endpoint(value: &Value, errors: &mut FieldErrors) -> Option<EndpointDefinition> {
    let mut fields = ObjectReader::new(value, "", errors)?;
    fields.ignore(&READ_ONLY);
    let name = fields.required("name", errors).and_then(|text| {
        if Uuid::parse_str(text).is_ok() {
            let detail = "is a UUID; endpoints are looked up by name or UUID, so a name must not be a UUID";
            errors.push(FieldError::new("/name", detail));
            return None;
        }
        let invalid = |invalid: InvalidName| errors.push(FieldError::new("/name", invalid.redacted()));
        EndpointName::new(text).map_err(invalid).ok()
    });
    let keywords = [("always", PrefixMode::Always), ("never", PrefixMode::Never)];
    let prefix = fields.keyword("prefix", &keywords, errors).unwrap_or(PrefixMode::Always);
    let items = fields.array("servers", SERVERS_MAX, errors);
    let servers = items
        .iter()
        .enumerate()
        .filter_map(|(at, item)| read_member(item, &format!("/servers/{at}"), errors));
    let servers = servers.collect();
    fields.finish(errors);
    Some(EndpointDefinition { name: name?, prefix, servers })
}

fn read_member(value: &Value, pointer: &str, errors: &mut FieldErrors) -> Option<EndpointMember> {
    let mut fields = ObjectReader::new(value, pointer, errors)?;
    let reference = fields.required("server", errors).map(str::to_owned);
    let mut globs = |key: &'static str| -> Vec<String> {
        let (texts, at) = (fields.texts(key, RULES_MAX, errors), fields.pointer_to(key));
        for (index, glob) in texts.iter().enumerate() {
            let pointer = format!("{at}/{index}");
            if let Err(invalid) = Glob::new(glob) {
                errors.push(FieldError::new(pointer, invalid.redacted()));
            } else if texts[..index].contains(glob) {
                errors.push(FieldError::new(pointer, "is a duplicate"));
            }
        }
        texts.into_iter().map(str::to_owned).collect()
    };
    let (allow, deny) = (globs("allow"), globs("deny"));
    let (items, at) = (fields.array("overrides", RULES_MAX, errors), fields.pointer_to("overrides"));
    let mut overrides: Vec<ToolOverride> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let pointer = format!("{at}/{index}");
        let Some(tool_override) = read_tool_override(item, &pointer, errors) else { continue };
        if overrides.iter().any(|other| other.tool == tool_override.tool) {
            errors.push(FieldError::new(format!("{pointer}/tool"), "has an override already"));
        }
        overrides.push(tool_override);
    }
    fields.finish(errors);
    let rules = EndpointServer { server_id: Uuid::nil(), allow, deny, overrides };
    Some(EndpointMember { reference: reference?, pointer: format!("{pointer}/server"), rules })
}

fn read_tool_override(value: &Value, pointer: &str, errors: &mut FieldErrors) -> Option<ToolOverride> {
    let mut fields = ObjectReader::new(value, pointer, errors)?;
    let tool = fields.required("tool", errors);
    let mut checked = |key: &'static str, check: fn(&str) -> Result<(), String>| {
        let text = fields.text(key, errors)?;
        if let Err(detail) = check(text) {
            errors.push(FieldError::new(fields.pointer_to(key), detail));
        }
        Some(text.to_owned())
    };
    let name = checked("name", check_listed_name);
    let title = checked("title", check_title);
    let description = checked("description", check_description);
    if let Some(Err(detail)) = tool.map(check_server_tool_name) {
        errors.push(FieldError::new(fields.pointer_to("tool"), detail));
    }
    let annotations = fields.value("annotations").cloned();
    if let Some(Err(detail)) = annotations.as_ref().map(check_annotations) {
        errors.push(FieldError::new(fields.pointer_to("annotations"), detail));
    }
    fields.finish(errors);
    Some(ToolOverride { tool: tool?.to_owned(), name, title, description, annotations })
}

/// Members that only the gateway writes. They are accepted and ignored, so that an endpoint can be sent back
/// as it was read.
const READ_ONLY: [&str; 6] = ["id", "version", "created_at", "changed_at", "served", "reason"];

/// Each server is asked for its lists; a thousand is a large installation.
const SERVERS_MAX: usize = 1000;

/// Globs and overrides of one server: more than a server has tools.
const RULES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &Value, expected: &[&str]) {
        let found = EndpointDefinition::read(value).err().unwrap_or_default();
        let pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, expected, "{value}: {found:?}");
        assert!(!format!("{found:?}").contains("hunter2"), "an error quotes a value: {found:?}");
    }

    #[test]
    fn errors_quote_no_value() {
        check(&json!({"name": "a", "servers": [{"server": "hunter2", "allow": ["hunter2*"]}]}), &[]);
        check(&json!({"name": "hunter2 ", "prefix": "hunter2"}), &["/name", "/prefix"]);
        let member = json!({"server": "a", "allow": ["hunter2 "], "deny": ["b", "b"], "overrides": [{"tool": "t", "name": "hunter2 "}]});
        let pointers = ["/servers/0/allow/0", "/servers/0/deny/1", "/servers/0/overrides/0/name"];
        check(&json!({"name": "a", "servers": [member]}), &pointers);
    }
}
