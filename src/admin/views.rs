//! Request and response bodies other than definitions and problems. They are the source of the OpenAPI
//! schemas.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::catalog::{ApprovalStatus, QuarantineReason, ServerState};
use crate::upstream::UpstreamStatus;
use crate::upstream::stdio::ProcessStats;
use metamcp_core::base::UsageLabel;
use metamcp_store::definition::FieldError;
use metamcp_store::store::{AuditRow, UsageRow};
use metamcp_store::tool_pins::{PinChange, format_code_points};

/// An API key to exchange for a token.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of what is read by hand, so that the key is wiped")]
pub struct TokenRequest {
    /// The key as printed by `keyadm`.
    #[schema(example = "mcp_...")]
    api_key: String,
}

/// A short-lived token in exchange for an API key.
#[derive(Serialize, ToSchema)]
pub struct TokenResponse<'a> {
    /// The token, to be sent as `Authorization: Bearer`.
    pub access_token: &'a str,
    /// Always `Bearer` (RFC 6750).
    pub token_type: &'static str,
    /// The lifetime in seconds.
    pub expires_in: u64,
}

/// The process is alive.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok` while the process runs.
    pub status: &'static str,
}

/// Whether the gateway accepts requests. With a key, also the state of the servers.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the word that probes look for")]
pub struct Ready {
    /// `false` while the gateway drains.
    pub ready: bool,
    /// `true` while the store is unavailable. The gateway continues with what it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<bool>,
    /// The state of the store, while it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<ReadyStore>,
    /// The servers of the endpoints that the key may enter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<ReadyServer>>,
    /// Servers and endpoints that are not served as defined, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Vec<String>>,
    /// Conditions that need attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<Warning>>,
}

/// The store, while it is degraded.
#[derive(Serialize, ToSchema)]
pub struct ReadyStore {
    /// Whether the server responds to requests.
    pub answers: bool,
    /// Since when it does not respond, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Why it does not respond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The time of the keys in use, in seconds since 1970, if they come from a snapshot instead of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_as_of: Option<u64>,
}

/// The state of one server.
#[derive(Serialize, ToSchema)]
pub struct ReadyServer {
    /// The name of the server.
    pub name: String,
    /// `ok`, or why its items are missing from lists of 2026-07-28.
    pub modern: String,
    #[serde(flatten)]
    pub condition: ServerCondition,
}

/// Whether a server works, from the outcome of recent calls and of fetching its lists. The server is not asked for it.
#[derive(Default, Serialize, ToSchema)]
pub struct ServerCondition {
    /// `unknown`: it has neither answered nor failed yet; `ok`; `failing`: the last request did not reach it, or its lists
    /// cannot be fetched; `disabled`.
    pub state: &'static str,
    /// Why it fails. For administrators only, because it may name the server's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it fails, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Time until the next probe, while the circuit breaker is open: until then requests are rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
    /// The last failure of any kind, even if the server responds again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// The processes of a `stdio` server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<ServerProcesses>,
}

/// The processes of a server.
#[derive(Serialize, ToSchema)]
pub struct ServerProcesses {
    /// `running`; `idle`: none runs, because none is needed; `failed`: the last one failed, and the next call
    /// starts another.
    pub state: &'static str,
    /// Processes that are running.
    pub running: usize,
    /// Processes started so far.
    pub started: u64,
    /// Processes started to replace a failed one.
    pub restarts: u64,
    /// The last failure, even if another process runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

/// A failure of a server.
#[derive(Serialize, ToSchema)]
pub struct LastFailure {
    /// What was being done.
    #[schema(example = "connecting")]
    pub stage: &'static str,
    /// What went wrong. For administrators only, because it may name the server's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it happened, in seconds since 1970.
    pub at: u64,
}

impl ServerCondition {
    /// Reasons of failures are included for administrators only.
    pub fn new(state: ServerState, status: UpstreamStatus, is_admin: bool) -> Self {
        let UpstreamStatus { retry_in, last_failure, processes, .. } = status;
        let last_failure = last_failure.map(|failure| LastFailure {
            stage: failure.stage.text(),
            reason: is_admin.then_some(failure.reason),
            at: failure.at,
        });
        // Rounded up, so that a retry is not too early.
        let retry_in_seconds =
            retry_in.map(|wait| wait.as_millis().div_ceil(1000)).and_then(|s| s.try_into().ok());
        let processes = processes.map(|processes| ServerProcesses::new(processes, is_admin));
        let name = state.as_str();
        let (reason, since) = match state {
            ServerState::Failing(failure) => (is_admin.then_some(failure.reason), failure.since),
            ServerState::Unknown | ServerState::Ok => (None, None),
        };
        Self { state: name, reason, since, retry_in_seconds, last_failure, processes }
    }

    /// The condition of a server that is not served because it is disabled.
    pub fn disabled() -> Self {
        Self { state: "disabled", ..Self::default() }
    }
}

impl ServerProcesses {
    fn new(processes: ProcessStats, is_admin: bool) -> Self {
        let state = processes.state();
        let ProcessStats { running, started, restarts, last_failure, .. } = processes;
        let last_failure = last_failure.map(|failure| LastFailure {
            stage: failure.stage.text(),
            reason: is_admin.then_some(failure.message),
            at: failure.at,
        });
        Self { state, running, started, restarts, last_failure }
    }
}

/// A condition that needs attention.
#[derive(Serialize, ToSchema)]
pub struct Warning {
    /// The names of the affected tools.
    pub names: Vec<String>,
    /// A description of the condition.
    pub text: &'static str,
}

/// Tools of a server that changed since they were approved, or that contain invisible characters.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerVetting)]
pub struct ServerApprovalStatus {
    /// Tools that wait for approval, as recorded in the database. They are quarantined if `changed_tools` is
    /// `quarantine`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub waiting: Vec<ToolChange>,
    /// Why all tools of the server are quarantined, if the reason is not their definitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<&'static str>,
    /// Tools whose texts contain characters that people cannot see and models read. They are passed on
    /// unchanged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub odd: Vec<ToolWithInvisibleCharacters>,
}

/// A tool whose definition changed since it was approved.
#[derive(Serialize, ToSchema)]
pub struct ToolChange {
    /// The tool's name at the server.
    pub name: String,
    /// The members that changed since the last approval. Missing if the tool was never approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<&'static str>>,
    /// The digest of the current definition, in hexadecimal.
    pub digest: String,
    /// When this definition was first seen, in seconds since 1970.
    pub since: u64,
}

/// A tool whose texts contain invisible characters.
#[derive(Serialize, ToSchema)]
#[schema(as = OddTool)]
pub struct ToolWithInvisibleCharacters {
    /// The tool's name at the server.
    pub name: String,
    /// Some of the characters.
    #[schema(example = json!(["U+202E"]))]
    pub code_points: Vec<String>,
}

/// The tools to approve.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveTools {
    /// The tools to approve. If missing, all that wait for approval.
    pub tools: Option<Vec<ApproveTool>>,
}

/// A tool to approve.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveTool {
    /// The tool's name at the server.
    pub name: String,
    /// Approves the tool only if it still has this digest. If missing, its current definition is approved.
    pub digest: Option<String>,
}

/// The tools that were approved.
#[derive(Serialize, ToSchema)]
pub struct ApprovedTools {
    /// Each tool with its current definition.
    pub approved: Vec<ToolChange>,
}

impl ServerApprovalStatus {
    /// Returns `None` if there is nothing to report.
    pub fn new(vetted: ApprovalStatus) -> Option<Self> {
        let ApprovalStatus { waiting, quarantine: held, invisible_chars: odd } = vetted;
        let of_tool =
            |(name, odd)| ToolWithInvisibleCharacters { name, code_points: format_code_points(&odd) };
        let view = Self {
            waiting: waiting.into_iter().map(ToolChange::from).collect(),
            held: held.map(QuarantineReason::text),
            odd: odd.into_iter().map(of_tool).collect(),
        };
        (!view.waiting.is_empty() || view.held.is_some() || !view.odd.is_empty()).then_some(view)
    }
}

impl From<PinChange> for ToolChange {
    fn from(PinChange { tool, changed, digest, since }: PinChange) -> Self {
        Self { name: tool, changed, digest, since }
    }
}

/// The result of testing a server.
#[derive(Serialize, ToSchema)]
pub struct TestResult {
    /// Whether the server responded and its items were listed.
    pub ok: bool,
    /// Why the test failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the server offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<TestSummary>,
    /// How long the test took.
    pub milliseconds: u64,
}

/// What a server offers.
#[derive(Serialize, ToSchema)]
#[schema(as = TestFound)]
pub struct TestSummary {
    /// The protocol era: `modern` or `legacy`.
    pub era: &'static str,
    /// The number of tools.
    pub tools: usize,
    /// The number of prompts.
    pub prompts: usize,
    /// The number of resources.
    pub resources: usize,
    /// The number of resource templates.
    pub resource_templates: usize,
}

/// The usage of one tool, prompt or resource by one key in one hour.
#[derive(Serialize, ToSchema)]
pub struct Usage {
    /// The start of the hour, in seconds since 1970.
    hour: u64,
    /// The key that was used.
    key_id: String,
    /// The server. Empty for calls that did not go to a server.
    server: String,
    /// The tool. Empty for requests other than tool calls. `(other)` stands for all that have no row of their own.
    tool: String,
    /// The prompt. Empty for requests other than `prompts/get`. `(other)` as for tools.
    prompt: String,
    /// The URI of the resource. Empty for requests other than `resources/read`. `(other)` stands for all that the server does
    /// not list.
    resource: String,
    /// All calls, including failed ones.
    calls: u64,
    /// Calls that the gateway could not complete. An error returned by the server is a complete answer.
    errors: u64,
    /// Bytes received from clients.
    bytes_in: u64,
    /// Bytes sent to clients.
    bytes_out: u64,
    /// The sum of the times from the last byte of the request to the response.
    milliseconds: u64,
}

impl From<UsageRow> for Usage {
    fn from(UsageRow { key, counts }: UsageRow) -> Self {
        let [tool, prompt, resource] = match UsageLabel::parse(&key.tool) {
            UsageLabel::None => Default::default(),
            UsageLabel::Tool(name) => [name.into(), String::new(), String::new()],
            UsageLabel::Prompt(name) => [String::new(), name.into(), String::new()],
            UsageLabel::Resource(uri) => [String::new(), String::new(), uri.into()],
        };
        Self {
            hour: key.hour,
            key_id: key.key_id,
            server: key.server,
            tool,
            prompt,
            resource,
            calls: counts.calls,
            errors: counts.errors,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            milliseconds: counts.milliseconds,
        }
    }
}

/// One administrative change in the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditEntry {
    /// Greater than the id of every earlier change.
    id: u64,
    /// The time, in seconds since 1970.
    at: u64,
    /// A key id, or `keyadm:USER`, or `metamcp`.
    actor: String,
    /// The action, such as `server.create`.
    action: String,
    /// `key`, `server`, `endpoint` or `jwt_key`.
    object_kind: &'static str,
    /// The id of the object; `*` for several at once.
    object_id: String,
    /// The object before the change, without secrets. Null if it did not exist.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// The object after the change, without secrets. Null if it no longer exists.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            actor: row.actor,
            action: row.action,
            object_kind: row.object_kind.as_str(),
            object_id: row.object_id,
            before: row.before,
            after: row.after,
        }
    }
}

/// A session held by this process. Its id is known to its client only.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    /// The key that opened the session.
    pub key_id: String,
    /// `e/NAME` of an endpoint, `s/NAME` of a server.
    pub endpoint: String,
    /// The protocol revision that is spoken.
    pub revision: &'static str,
    /// When it was opened, in seconds since 1970.
    pub created_at: u64,
    /// When it was last used, in seconds since 1970.
    pub last_used_at: u64,
    /// Whether the client has an event stream open.
    pub has_stream: bool,
    /// Whether no call is in flight.
    pub is_quiet: bool,
}

/// The outcome of an import.
#[derive(Serialize, ToSchema)]
pub struct ImportReport {
    /// The entries, in the order of the file.
    pub items: Vec<ImportItem>,
}

/// The outcome of one entry.
#[derive(Serialize, ToSchema)]
pub struct ImportItem {
    /// The name as written in the file.
    pub name: String,
    /// What was done with the entry.
    pub outcome: ImportOutcome,
    /// The id of the stored server, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Details, such as the reason for a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Every invalid field. Pointers begin at the root of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

/// What was done with an entry of an imported file.
#[derive(Serialize, ToSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub enum ImportOutcome {
    /// A server was created.
    Create,
    /// An existing server was replaced.
    Replace,
    /// The server already had this definition.
    Keep,
    /// The entry was skipped; `detail` says why.
    Skip,
    /// The entry is invalid; `detail` and `errors` say why.
    Fail,
}
