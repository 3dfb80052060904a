//! What goes over the wire beside definitions and problems. The OpenAPI document is made of these.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::definition::FieldError;
use crate::catalog::{Change, Held, Vetted, code_points};
use crate::store::{AuditRow, UsageRow};
use crate::upstream::Condition;
use crate::upstream::stdio::Processes;

/// An API key, to be exchanged.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of what is read by hand, so that the key is wiped")]
pub struct TokenRequest {
    /// As `keyadm` printed it.
    #[schema(example = "mcp_...")]
    api_key: String,
}

/// A token.
#[derive(Serialize, ToSchema)]
pub struct TokenResponse<'a> {
    /// For `Authorization: Bearer`.
    pub access_token: &'a str,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
}

/// The process lives.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: &'static str,
}

/// Whether requests are welcome. With a key also what is behind.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the word that probes look for")]
pub struct Ready {
    /// `false` while the gateway is on its way out.
    pub ready: bool,
    /// `true` while the store is away; what is known goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<bool>,
    /// What is wrong with the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<ReadyStore>,
    /// The servers behind `/mcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<ReadyServer>>,
    /// What is not served as it was asked for, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Vec<String>>,
    /// What is to be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<Warning>>,
}

/// The store, while something is wrong with it.
#[derive(Serialize, ToSchema)]
pub struct ReadyStore {
    /// Whether it answers.
    pub answers: bool,
    /// Since when it does not, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of which time the keys are that are gone by, in seconds since 1970, when they are not the store's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_as_of: Option<u64>,
}

/// One server.
#[derive(Serialize, ToSchema)]
pub struct ReadyServer {
    /// Its name.
    pub name: String,
    /// `ok`, or why its items are missing from lists of 2026-07-28.
    pub modern: String,
    /// How calls have found it.
    #[serde(flatten)]
    pub condition: ServerCondition,
}

/// How calls have found a server of late. Nothing is asked of it for this.
#[derive(Serialize, ToSchema)]
pub struct ServerCondition {
    /// `ok`; `failing`: the last request did not reach it; `left alone`: so many did not that one is let through now and
    /// then, and the others are refused at once.
    pub state: &'static str,
    /// Until one is let through, while it is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
    /// The last failure of any kind, also when it answers again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Of a server that is a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<ServerProcesses>,
}

/// How the processes of a server are.
#[derive(Serialize, ToSchema)]
pub struct ServerProcesses {
    /// `running`; `idle`: none runs, for nobody asks it anything; `failed`: the last one failed, and the next is started
    /// when somebody asks.
    pub state: &'static str,
    /// How many run.
    pub running: usize,
    /// Started so far.
    pub started: u64,
    /// Of these, in place of one that had failed.
    pub restarts: u64,
    /// How the last one failed that did, also when another runs by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

/// How a server failed.
#[derive(Serialize, ToSchema)]
pub struct LastFailure {
    /// What was being done.
    #[schema(example = "connecting")]
    pub stage: &'static str,
    /// What went wrong, for those who administer: it may name the server's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl ServerCondition {
    /// Why it failed is for those who administer.
    pub fn new(condition: Condition, is_admin: bool) -> Self {
        let Condition { left_alone, failures_in_a_row, last_failure, processes } = condition;
        let state = match (left_alone, failures_in_a_row) {
            (Some(_), _) => "left alone",
            (None, 1..) => "failing",
            (None, 0) => "ok",
        };
        let last_failure = last_failure.map(|failure| LastFailure {
            stage: failure.stage.text(),
            reason: is_admin.then_some(failure.reason),
            at: failure.at,
        });
        // Not a moment too early.
        let retry_in_seconds =
            left_alone.map(|wait| wait.as_millis().div_ceil(1000)).and_then(|s| s.try_into().ok());
        let processes = processes.map(|processes| ServerProcesses::new(processes, is_admin));
        Self { state, retry_in_seconds, last_failure, processes }
    }
}

impl ServerProcesses {
    fn new(processes: Processes, is_admin: bool) -> Self {
        let state = processes.state();
        let Processes { running, started, restarts, last_failure, .. } = processes;
        let last_failure = last_failure.map(|failure| LastFailure {
            stage: failure.stage.text(),
            reason: is_admin.then_some(failure.message),
            at: failure.at,
        });
        Self { state, running, started, restarts, last_failure }
    }
}

/// Something to be looked at.
#[derive(Serialize, ToSchema)]
pub struct Warning {
    /// Of tools.
    pub names: Vec<String>,
    /// What about them.
    pub text: &'static str,
}

/// Which tools of a server are not as they were approved, and which hold what nobody sees.
#[derive(Serialize, ToSchema)]
pub struct ServerVetting {
    /// Those that wait to be approved, as the database has them. Held back where `changed_tools` is `quarantine`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub waiting: Vec<ToolChange>,
    /// Why all of its tools are held back, where it is not for what they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<&'static str>,
    /// Tools whose texts hold characters that a person does not see and a model reads. They pass as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub odd: Vec<OddTool>,
}

/// A tool that is not as it was approved.
#[derive(Serialize, ToSchema)]
pub struct ToolChange {
    /// The server's own name of it.
    pub name: String,
    /// Which of its members are other than when it was last approved; left out: it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<&'static str>>,
    /// Of what it is now, in hexadecimal digits.
    pub digest: String,
    /// When it was seen first, in seconds since 1970.
    pub since: u64,
}

/// A tool whose texts hold characters that nobody sees.
#[derive(Serialize, ToSchema)]
pub struct OddTool {
    /// The server's own name of it.
    pub name: String,
    /// Some of them.
    #[schema(example = json!(["U+202E"]))]
    pub code_points: Vec<String>,
}

/// What is to be approved.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveTools {
    /// These; left out: all that wait.
    pub tools: Option<Vec<ApproveTool>>,
}

/// A tool to be approved.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveTool {
    /// The server's own name of it.
    pub name: String,
    /// Only as it was looked at; left out: as it is now.
    pub digest: Option<String>,
}

/// What was approved.
#[derive(Serialize, ToSchema)]
pub struct ApprovedTools {
    /// Each as it is now.
    pub approved: Vec<ToolChange>,
}

impl ServerVetting {
    /// `None`: nothing is to be said.
    pub fn new(vetted: Vetted) -> Option<Self> {
        let Vetted { waiting, held, odd } = vetted;
        let of_tool = |(name, odd)| OddTool { name, code_points: code_points(&odd) };
        let view = Self {
            waiting: waiting.into_iter().map(ToolChange::from).collect(),
            held: held.map(Held::text),
            odd: odd.into_iter().map(of_tool).collect(),
        };
        (!view.waiting.is_empty() || view.held.is_some() || !view.odd.is_empty()).then_some(view)
    }
}

impl From<Change> for ToolChange {
    fn from(Change { tool, changed, digest, since }: Change) -> Self {
        Self { name: tool, changed, digest, since }
    }
}

/// What a look at a server found.
#[derive(Serialize, ToSchema)]
pub struct TestResult {
    /// Whether it answered and listed.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<TestFound>,
    /// How long it took.
    pub milliseconds: u64,
}

/// What a server showed.
#[derive(Serialize, ToSchema)]
pub struct TestFound {
    /// `modern` or `legacy`.
    pub era: &'static str,
    /// How many.
    pub tools: usize,
    /// How many.
    pub prompts: usize,
    /// How many.
    pub resources: usize,
    /// How many.
    pub resource_templates: usize,
}

/// One counter.
#[derive(Serialize, ToSchema)]
pub struct Usage {
    /// When its hour began, in seconds since 1970.
    hour: u64,
    /// Whose calls.
    key_id: String,
    /// Of which server; empty for what no server was asked.
    server: String,
    /// Of which tool; empty for what is not a call of a tool.
    tool: String,
    /// Those that failed too.
    calls: u64,
    /// Those that the gateway could not bring to an answer. An error that a server answers is an answer.
    errors: u64,
    /// From clients.
    bytes_in: u64,
    /// To clients.
    bytes_out: u64,
    /// From the request's last byte to the answer's.
    milliseconds: u64,
}

impl From<UsageRow> for Usage {
    fn from(UsageRow { key, counts }: UsageRow) -> Self {
        Self {
            hour: key.hour,
            key_id: key.key_id,
            server: key.server,
            tool: key.tool,
            calls: counts.calls,
            errors: counts.errors,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            milliseconds: counts.milliseconds,
        }
    }
}

/// One administrative change.
#[derive(Serialize, ToSchema)]
pub struct AuditEntry {
    /// Greater than that of every earlier change.
    id: u64,
    /// Seconds since 1970.
    at: u64,
    /// A key id, or `keyadm:USER`, or `metamcp`.
    actor: String,
    /// As `server.create`.
    action: String,
    /// `key`, `server`, `endpoint` or `jwt_key`.
    object_kind: &'static str,
    /// Which; `*` for many at once.
    object_id: String,
    /// Without secrets; null: it was not there.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// Without secrets; null: it is not there any more.
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

/// A session that this process holds. Its id is for its client alone.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    /// The key that opened it.
    pub key_id: String,
    /// `e/NAME` of an endpoint, `s/NAME` of a server.
    pub endpoint: String,
    /// The protocol revision.
    pub revision: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970.
    pub last_used_at: u64,
    /// Whether its client has an event stream open.
    pub has_stream: bool,
    /// Whether no call is under way.
    pub is_quiet: bool,
}

/// What became of each server of a file.
#[derive(Serialize, ToSchema)]
pub struct ImportReport {
    /// In the order of the file.
    pub items: Vec<ImportItem>,
}

/// What became of one.
#[derive(Serialize, ToSchema)]
pub struct ImportItem {
    /// As written.
    pub name: String,
    /// What was done.
    pub outcome: ImportOutcome,
    /// The server's, where there is one now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is to be said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Every field that is wrong, from the root of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

/// What was done.
#[derive(Serialize, ToSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub enum ImportOutcome {
    /// It is new.
    Create,
    /// It is there in place of another.
    Replace,
    /// It was so already.
    Keep,
    /// It is left out, and why is said.
    Skip,
    /// It is wrong.
    Fail,
}
