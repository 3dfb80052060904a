//! The audit log: who changed what, written in the transaction of the change.

use serde_json::Value as Json;

use super::error::StoreError;
use super::handle::{Store, transact};
use super::page::{PagedRows, fetch_limit, page_size, to_page};
use super::transaction::{AccessMode, Transaction};
use super::value::{Row, Value, column_enum};

/// Who makes a change, and when. Every changing operation takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// A key id, `keyadm:USER`, or [`Audit::GATEWAY`]. Never empty.
    pub actor: String,
    /// Seconds since 1970. Also becomes the time of the changed row.
    pub at: u64,
}

column_enum! {
    /// The kinds of objects that changes are made to.
    ObjectKind {
        /// An API key; its id is the key id.
        Key = "key",
        /// A server; its id is a UUID.
        Server = "server",
        /// An endpoint; its id is a UUID.
        Endpoint = "endpoint",
        /// A token signing key; its id is the kid.
        JwtKey = "jwt_key",
    }
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Greater than the id of every earlier entry.
    pub id: u64,
    /// Unix time in seconds.
    pub at: u64,
    pub actor: String,
    /// What was done: `key.create`, `server.replace`, ...
    pub action: String,
    pub object_kind: ObjectKind,
    /// The object's id; `*` for many objects at once.
    pub object_id: String,
    /// The object before the change, without secrets. `None` if it did not exist.
    pub before: Option<Json>,
    /// The object after the change, without secrets. `None` if it was deleted.
    pub after: Option<Json>,
}

/// Selects entries of the audit log. Each `None` matches everything.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub object_kind: Option<ObjectKind>,
    pub object_id: Option<String>,
    /// Entries at this second or later.
    pub from: Option<u64>,
    /// Entries before this second.
    pub until: Option<u64>,
}

impl Audit {
    /// The actor of changes that the gateway makes by itself.
    pub const GATEWAY: &'static str = "metamcp";

    /// A change by `actor`, now.
    pub fn by(actor: impl Into<String>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { actor: actor.into(), at: now.map_or(0, |since| since.as_secs()) }
    }
}

impl Store {
    /// A page of entries, newest first. `before` is the cursor from the page before. Cancel safe.
    pub async fn audit(
        &self,
        filter: AuditFilter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<PagedRows<AuditRow, u64>, StoreError> {
        let limit = page_size(limit);
        let rows = transact!(self, AccessMode::Read, |tx| find(tx, &filter, before, limit))?;
        Ok(to_page(rows, limit, |row| row.id))
    }
}

/// What an operation changed, for the audit log.
pub(super) struct Change {
    pub action: &'static str,
    pub kind: ObjectKind,
    pub id: String,
    pub before: Option<Json>,
    pub after: Option<Json>,
}

pub(super) async fn record<T: Transaction>(
    tx: &mut T,
    audit: &Audit,
    change: Change,
) -> Result<(), StoreError> {
    let values = [
        audit.at.into(),
        Value::from(&audit.actor),
        change.action.into(),
        change.kind.as_str().into(),
        (&change.id).into(),
        change.before.as_ref().into(),
        change.after.as_ref().into(),
    ];
    tx.execute(INSERT, &values).await.map(drop)
}

async fn find<T: Transaction>(
    tx: &mut T,
    filter: &AuditFilter,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditRow>, StoreError> {
    let values = [
        before.into(),
        Value::from(filter.actor.as_ref()),
        filter.action.as_ref().into(),
        filter.object_kind.map(ObjectKind::as_str).into(),
        filter.object_id.as_ref().into(),
        filter.from.into(),
        filter.until.into(),
        fetch_limit(limit),
    ];
    tx.query(SELECT, &values).await?.into_iter().map(read).collect()
}

fn read(mut row: Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        id: row.int()?,
        at: row.int()?,
        actor: row.text()?,
        action: row.text()?,
        object_kind: row.word(ObjectKind::parse)?,
        object_id: row.text()?,
        before: row.optional_json()?,
        after: row.optional_json()?,
    })
}

const INSERT: &str = "INSERT INTO audit_log (at, actor, action, object_kind, object_id, before, after)
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

const SELECT: &str = "SELECT id, at, actor, action, object_kind, object_id, before, after FROM audit_log
    WHERE (CAST($1 AS BIGINT) IS NULL OR id < $1)
      AND (CAST($2 AS TEXT) IS NULL OR actor = $2)
      AND (CAST($3 AS TEXT) IS NULL OR action = $3)
      AND (CAST($4 AS TEXT) IS NULL OR object_kind = $4)
      AND (CAST($5 AS TEXT) IS NULL OR object_id = $5)
      AND (CAST($6 AS BIGINT) IS NULL OR at >= $6)
      AND (CAST($7 AS BIGINT) IS NULL OR at < $7)
    ORDER BY id DESC LIMIT $8";
