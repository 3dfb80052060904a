//! The schemas of the OpenAPI document, from the types that are read and written.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, schema::Schema};

use super::problem::ProblemDocument;
use super::views;
use metamcp_config::server::settings::{
    DEFAULTS, ERAS, Keywords, SETTINGS, ServerSetting, SettingValues, TOOL_PIN_POLICIES,
};
use metamcp_store::definition::{
    EndpointDocument, EndpointServerDocument, FieldError, PrefixKeyword, SERVED_KINDS, ServerDocument,
    SharingKeyword, ToolOverrideDocument,
};
use metamcp_store::store::ServerKind;

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn schemas() -> Value {
    let mut schemas = Map::new();
    add::<FieldError>(&mut schemas);
    add::<ProblemDocument<'_>>(&mut schemas);
    add::<ServerDocument>(&mut schemas);
    add::<SharingKeyword>(&mut schemas);
    add::<EndpointDocument>(&mut schemas);
    add::<EndpointServerDocument>(&mut schemas);
    add::<ToolOverrideDocument>(&mut schemas);
    add::<PrefixKeyword>(&mut schemas);
    add::<views::Health>(&mut schemas);
    add::<views::Ready>(&mut schemas);
    add::<views::ReadyStore>(&mut schemas);
    add::<views::ReadyServer>(&mut schemas);
    add::<views::ServerCondition>(&mut schemas);
    add::<views::ServerProcesses>(&mut schemas);
    add::<views::LastFailure>(&mut schemas);
    add::<views::Warning>(&mut schemas);
    add::<views::TokenRequest>(&mut schemas);
    add::<views::TokenResponse<'_>>(&mut schemas);
    add::<views::TestResult>(&mut schemas);
    add::<views::TestSummary>(&mut schemas);
    add::<views::ServerApprovalStatus>(&mut schemas);
    add::<views::ToolChange>(&mut schemas);
    add::<views::ToolWithInvisibleCharacters>(&mut schemas);
    add::<views::ApproveTools>(&mut schemas);
    add::<views::ApproveTool>(&mut schemas);
    add::<views::ApprovedTools>(&mut schemas);
    add::<views::Usage>(&mut schemas);
    add::<views::AuditEntry>(&mut schemas);
    add::<views::SessionView>(&mut schemas);
    add::<views::ImportReport>(&mut schemas);
    add::<views::ImportItem>(&mut schemas);
    add::<views::ImportOutcome>(&mut schemas);
    schemas.insert("Era".into(), keywords(ERA, &ERAS));
    schemas.insert("ChangedTools".into(), keywords(CHANGED_TOOLS, &TOOL_PIN_POLICIES));
    for setting in SETTINGS {
        if let Some(schema) = setting_schema(setting) {
            schemas["Server"]["properties"][setting.key] = schema;
        }
    }
    served_only(&mut schemas["Server"]);
    written(&mut schemas, "Server", &["name", "kind"], &STANDING);
    schemas["Server"]["required"] = json!(["name", "source", "served"]);
    for whole in ["ServerWrite", "ServerPut"] {
        schemas[whole]["oneOf"] =
            json!([of_kind("http", "url"), of_kind("sse", "url"), of_kind("stdio", "command")]);
    }
    written(&mut schemas, "Endpoint", &["name"], &STANDING);
    Value::Object(schemas)
}

fn add<T: ToSchema>(schemas: &mut Map<String, Value>) {
    let schema: RefOr<Schema> = T::schema();
    schemas.insert(T::name().into_owned(), serde_json::to_value(schema).expect("a schema is JSON"));
}

/// The schema of a member that takes one of these words.
fn keywords<T>(description: &str, keywords: Keywords<T>) -> Value {
    let words: Vec<_> = keywords.iter().map(|(word, _)| word).collect();
    json!({"type": "string", "description": description, "enum": words})
}

/// The schema of a setting, unless the REST API does not have it.
fn setting_schema(setting: &ServerSetting) -> Option<Value> {
    let default = setting.to_json(DEFAULTS).to_string().replace('"', "`");
    let description = format!("{} Default: {default}.", setting.description);
    let keyword = |name| json!({"$ref": format!("#/components/schemas/{name}"), "description": description});
    match &setting.values {
        SettingValues::Duration(..) => {
            Some(json!({"type": ["string", "null"], "description": description, "pattern": DURATION}))
        }
        SettingValues::Count(range, _) => Some(json!({
            "type": ["integer", "null"], "description": description,
            "minimum": range.start(), "maximum": range.end(),
        })),
        SettingValues::Era(..) => Some(json!({"oneOf": [keyword("Era"), {"type": "null"}]})),
        SettingValues::ChangedTools(..) => {
            Some(json!({"oneOf": [keyword("ChangedTools"), {"type": "null"}]}))
        }
        SettingValues::Flag(..) => None,
    }
}

/// Restricts `kind` to the kinds that this version serves, and adds the members that only the gateway writes.
fn served_only(server: &mut Value) {
    let served = SERVED_KINDS.map(ServerKind::as_str);
    server["properties"]["kind"] = json!({
        "type": "string", "enum": served,
        "description": "The transport: Streamable HTTP (`http`), HTTP+SSE of 2024-11-05 (`sse`), or a child process (`stdio`), if the gateway may run the program. Requests may write `protocol` in place of `kind`, but not both",
    });
    server["properties"]["source"] = json!({
        "type": "string", "enum": ["file", "store"], "readOnly": true,
        "description": "Where the server is defined. A server of a file has no id, version or times, and cannot be changed here (409)",
    });
    server["properties"]["condition"] =
        json!({"$ref": "#/components/schemas/ServerCondition", "readOnly": true});
    server["properties"]["vetting"] = json!({"$ref": "#/components/schemas/ServerVetting", "readOnly": true});
}

/// The members that are required for a kind.
fn of_kind(kind: &str, required: &str) -> Value {
    json!({"properties": {"kind": {"const": kind}}, "required": [required]})
}

/// A duration with a unit.
const DURATION: &str = "^[0-9]{1,9}(ms|s|m|h|d)$";

const ERA: &str = "The protocol revisions that the gateway uses with a server.";

const CHANGED_TOOLS: &str = "What to do with a tool whose definition differs from the approved one. The first definition that a server\n\
     lists counts as approved.";

/// Members that say whether a row is served, and if not, why.
const STANDING: [(&str, &str); 2] = [("served", "boolean"), ("reason", "string")];

/// Derives the schemas of the requests (create, replace without the name, which is in the path, and patch)
/// and of the response with its read-only members. Read-only members may be sent back, and are ignored.
fn written(
    schemas: &mut Map<String, Value>,
    name: &str,
    required: &[&str],
    more: &[(&'static str, &'static str)],
) {
    let mut document = schemas[name].clone();
    let common =
        [("id", "string"), ("version", "integer"), ("created_at", "integer"), ("changed_at", "integer")];
    for (key, kind) in common.iter().chain(more) {
        document["properties"][*key] = json!({"type": kind, "readOnly": true});
    }
    let mut form = |suffix: &str, required: Vec<&str>| {
        let mut form = document.clone();
        form["required"] = json!(required);
        if required.is_empty()
            && let Some(members) = form.as_object_mut()
        {
            members.remove("required");
        }
        schemas.insert(format!("{name}{suffix}"), form);
    };
    form("Write", required.to_vec());
    form("Put", required.iter().copied().filter(|key| *key != "name").collect());
    form("Patch", Vec::new());
    let shown = required.iter().copied().chain(common.iter().map(|(key, _)| *key));
    form("", shown.collect());
}
