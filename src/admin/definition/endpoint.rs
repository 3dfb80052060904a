//! One endpoint: a named set of servers, and what it shows of their tools.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::fields::{Errors, FieldError, Fields};
use crate::base::{EndpointName, Glob, InvalidName};
use crate::store::{EndpointRow, EndpointServer, EndpointSpec, PrefixMode, ServerRow, ToolOverride, Uuid};

/// A named set of servers, behind `/mcp/NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Endpoint)]
#[serde(deny_unknown_fields)]
pub struct EndpointDocument {
    /// Letters, digits, `-` and `_`. Not a UUID.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$", example = "work")]
    pub name: String,
    /// How tools are named. Default: `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<PrefixWord>,
    /// In the order in which their tools are listed; none twice. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub servers: Option<Vec<EndpointServerDocument>>,
}

/// How an endpoint names tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Prefix)]
#[serde(rename_all = "lowercase")]
pub enum PrefixWord {
    /// `{server}__{tool}`.
    Always,
    /// The server's own name.
    Never,
}

/// A server of an endpoint, and what is shown of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = EndpointServer)]
#[serde(deny_unknown_fields)]
pub struct EndpointServerDocument {
    /// A stored server, by name or UUID.
    #[schema(min_length = 1, max_length = 64)]
    pub server: String,
    /// Globs (`*`, `?`) over the server's own names of its tools; none: every tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub allow: Option<Vec<String>>,
    /// Globs; they win over `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub deny: Option<Vec<String>>,
    /// None twice for a tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1000)]
    pub overrides: Option<Vec<ToolOverrideDocument>>,
}

/// What an endpoint says of a tool in place of what its server says.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ToolOverride)]
#[serde(deny_unknown_fields)]
pub struct ToolOverrideDocument {
    /// The server's own name of it.
    #[schema(min_length = 1, max_length = 128)]
    pub tool: String,
    /// The whole name it is listed and called by here, without a prefix; its other name is gone. Letters, digits,
    /// `_`, `-`, `.` and `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_./-]+$")]
    pub name: Option<String>,
    /// Shown to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub title: Option<String>,
    /// Shown to models.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 16384)]
    pub description: Option<String>,
    /// The tool's annotations: at most 4096 bytes of JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub annotations: Option<Value>,
}

/// An endpoint whose definition holds, but for the servers it names.
#[derive(Debug, Clone)]
pub struct Endpoint {
    name: EndpointName,
    prefix: PrefixMode,
    servers: Vec<Member>,
}

/// A server of an endpoint, by what it was called.
#[derive(Debug, Clone)]
struct Member {
    reference: String,
    pointer: String,
    /// Without its server's id.
    shows: EndpointServer,
}

impl Endpoint {
    /// Reads a whole definition and tells everything that is wrong with it.
    pub fn read(value: &Value) -> Result<Self, Errors> {
        let mut errors = Errors::new();
        let endpoint = read(value, &mut errors);
        match endpoint {
            Some(endpoint) if errors.is_empty() => Ok(endpoint),
            _ => Err(errors),
        }
    }

    /// Its name.
    pub fn name(&self) -> &EndpointName {
        &self.name
    }

    /// For the store, with the servers it names looked up among these.
    pub fn spec(self, servers: &[ServerRow]) -> Result<EndpointSpec, Errors> {
        let mut errors = Errors::new();
        let mut found: Vec<EndpointServer> = Vec::with_capacity(self.servers.len());
        for Member { reference, pointer, shows } in self.servers {
            let id = Uuid::parse_str(&reference).ok();
            let row = servers.iter().find(|row| Some(row.id) == id || row.name == reference);
            match row {
                None => errors.push(FieldError::new(pointer, "names a server that is not stored here")),
                Some(row) if found.iter().any(|other| other.server_id == row.id) => {
                    errors.push(FieldError::new(pointer, "names a server that is there already"));
                }
                Some(row) => found.push(EndpointServer { server_id: row.id, ..shows }),
            }
        }
        let name = self.name.as_str().to_owned();
        if errors.is_empty() {
            Ok(EndpointSpec { name, prefix: self.prefix, servers: found })
        } else {
            Err(errors)
        }
    }
}

/// A row as its document; servers by name, or by UUID where the name is not among `names`.
pub fn document_of(row: &EndpointRow, name_of: impl Fn(Uuid) -> Option<String>) -> Value {
    let member = |of: &EndpointServer| {
        let overrides: Vec<Value> = of.overrides.iter().map(shown).collect();
        json!({
            "server": name_of(of.server_id).unwrap_or_else(|| of.server_id.to_string()),
            "allow": of.allow,
            "deny": of.deny,
            "overrides": overrides,
        })
    };
    let servers: Vec<Value> = row.servers.iter().map(member).collect();
    json!({"name": row.name, "prefix": row.prefix.as_str(), "servers": servers})
}

fn shown(of: &ToolOverride) -> Value {
    let mut value = json!(of);
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

fn read(value: &Value, errors: &mut Errors) -> Option<Endpoint> {
    let mut fields = Fields::of(value, "", errors)?;
    fields.ignore(&READ_ONLY);
    let name = fields.required("name", errors).and_then(|text| {
        if Uuid::parse_str(text).is_ok() {
            let detail = "is a UUID; endpoints are found by either, so a name must not look like one";
            errors.push(FieldError::new("/name", detail));
            return None;
        }
        let invalid = |invalid: InvalidName| errors.push(FieldError::new("/name", invalid.unquoted()));
        EndpointName::new(text).map_err(invalid).ok()
    });
    let words = [("always", PrefixMode::Always), ("never", PrefixMode::Never)];
    let prefix = fields.word("prefix", &words, errors).unwrap_or(PrefixMode::Always);
    let items = fields.array("servers", SERVERS_MAX, errors);
    let servers =
        items.iter().enumerate().filter_map(|(at, item)| member(item, &format!("/servers/{at}"), errors));
    let servers = servers.collect();
    fields.finish(errors);
    Some(Endpoint { name: name?, prefix, servers })
}

fn member(value: &Value, pointer: &str, errors: &mut Errors) -> Option<Member> {
    let mut fields = Fields::of(value, pointer, errors)?;
    let reference = fields.required("server", errors).map(str::to_owned);
    let mut globs = |key: &'static str| -> Vec<String> {
        let (texts, at) = (fields.texts(key, RULES_MAX, errors), fields.at(key));
        for (index, glob) in texts.iter().enumerate() {
            let pointer = format!("{at}/{index}");
            if let Err(invalid) = Glob::new(glob) {
                errors.push(FieldError::new(pointer, invalid.unquoted()));
            } else if texts[..index].contains(glob) {
                errors.push(FieldError::new(pointer, "is there already"));
            }
        }
        texts.into_iter().map(str::to_owned).collect()
    };
    let (allow, deny) = (globs("allow"), globs("deny"));
    let (items, at) = (fields.array("overrides", RULES_MAX, errors), fields.at("overrides"));
    let mut overrides: Vec<ToolOverride> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let pointer = format!("{at}/{index}");
        let Some(found) = tool_override(item, &pointer, errors) else { continue };
        if overrides.iter().any(|other| other.tool == found.tool) {
            errors.push(FieldError::new(format!("{pointer}/tool"), "has an override already"));
        }
        overrides.push(found);
    }
    fields.finish(errors);
    let shows = EndpointServer { server_id: Uuid::nil(), allow, deny, overrides };
    Some(Member { reference: reference?, pointer: format!("{pointer}/server"), shows })
}

fn tool_override(value: &Value, pointer: &str, errors: &mut Errors) -> Option<ToolOverride> {
    let mut fields = Fields::of(value, pointer, errors)?;
    let tool = fields.required("tool", errors);
    let mut checked = |key: &'static str, check: fn(&str) -> Result<(), String>| {
        let text = fields.text(key, errors)?;
        if let Err(wrong) = check(text) {
            errors.push(FieldError::new(fields.at(key), wrong));
        }
        Some(text.to_owned())
    };
    let name = checked("name", check_listed_name);
    let title = checked("title", check_title);
    let description = checked("description", check_description);
    if let Some(Err(wrong)) = tool.map(check_own_name) {
        errors.push(FieldError::new(fields.at("tool"), wrong));
    }
    let annotations = fields.value("annotations").cloned();
    if let Some(Err(wrong)) = annotations.as_ref().map(check_annotations) {
        errors.push(FieldError::new(fields.at("annotations"), wrong));
    }
    fields.finish(errors);
    Some(ToolOverride { tool: tool?.to_owned(), name, title, description, annotations })
}

/// Whether a tool may be listed by that name.
pub fn check_listed_name(name: &str) -> Result<(), String> {
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
    };
    if (1..=NAME_MAX).contains(&name.len()) && is_name(name) {
        Ok(())
    } else {
        Err(format!("is not a name: use 1 to {NAME_MAX} of A-Z a-z 0-9 _ - . /"))
    }
}

/// Whether a server may call a tool so.
pub fn check_own_name(tool: &str) -> Result<(), String> {
    if (1..=NAME_MAX).contains(&tool.len()) && !tool.contains(char::is_control) {
        Ok(())
    } else {
        Err(format!("is not a name of 1 to {NAME_MAX} bytes"))
    }
}

/// Whether a tool may be given that title.
pub fn check_title(text: &str) -> Result<(), String> {
    check_text(text, TITLE_MAX)
}

/// Whether a tool may be described so.
pub fn check_description(text: &str) -> Result<(), String> {
    check_text(text, DESCRIPTION_MAX)
}

/// Whether a tool may be annotated so.
pub fn check_annotations(value: &Value) -> Result<(), String> {
    if !value.is_object() {
        return Err("is not an object".to_owned());
    }
    if value.to_string().len() > ANNOTATIONS_BYTES_MAX {
        return Err(format!("has more than {ANNOTATIONS_BYTES_MAX} bytes as JSON"));
    }
    Ok(())
}

fn check_text(text: &str, chars_max: usize) -> Result<(), String> {
    if text.chars().count() > chars_max || text.contains('\0') {
        return Err(format!("has more than {chars_max} characters, or a NUL"));
    }
    Ok(())
}

/// What only the gateway writes.
const READ_ONLY: [&str; 6] = ["id", "version", "created_at", "changed_at", "served", "reason"];

/// Each is asked for its lists; a thousand is a large installation.
const SERVERS_MAX: usize = 1000;

/// Globs and overrides of one server: more than it has tools.
const RULES_MAX: usize = 1000;

/// The specification's limit of a tool name (MCP 2026-07-28, tools).
const NAME_MAX: usize = 128;

/// One line.
const TITLE_MAX: usize = 256;

/// It goes into a model's context.
const DESCRIPTION_MAX: usize = 16_384;

/// A title and a few hints; it is in every list.
const ANNOTATIONS_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &Value, expected: &[&str]) {
        let found = Endpoint::read(value).err().unwrap_or_default();
        let pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, expected, "{value}: {found:?}");
        assert!(!format!("{found:?}").contains("hunter2"), "a mistake quotes a value: {found:?}");
    }

    #[test]
    fn mistakes_quote_no_value() {
        check(&json!({"name": "a", "servers": [{"server": "hunter2", "allow": ["hunter2*"]}]}), &[]);
        check(&json!({"name": "hunter2 ", "prefix": "hunter2"}), &["/name", "/prefix"]);
        let member = json!({"server": "a", "allow": ["hunter2 "], "deny": ["b", "b"], "overrides": [{"tool": "t", "name": "hunter2 "}]});
        let pointers = ["/servers/0/allow/0", "/servers/0/deny/1", "/servers/0/overrides/0/name"];
        check(&json!({"name": "a", "servers": [member]}), &pointers);
    }
}
