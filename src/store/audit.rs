//! Who changed what: written in the transaction of the change itself.

use serde_json::Value as Json;

use super::page::{Paged, paged};
use super::session::{Access, Session, transact};
use super::value::{Row, Value, words};
use super::{Store, StoreError};

/// Who makes a change, and when. Every changing operation takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// A key id, or `keyadm:USER`, or `metamcp` for what it does by itself. Never empty.
    pub actor: String,
    /// Seconds since 1970. Becomes the time of the changed row.
    pub at: u64,
}

words! {
    /// What a change was made to.
    ObjectKind {
        /// An API key; its id is the key id.
        Key = "key",
        /// A server; its id is a UUID.
        Server = "server",
        /// An endpoint; its id is a UUID.
        Endpoint = "endpoint",
        /// A key that signs tokens; its id is the kid.
        JwtKey = "jwt_key",
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Greater than that of every earlier change.
    pub id: u64,
    /// Seconds since 1970.
    pub at: u64,
    /// See [`Audit::actor`].
    pub actor: String,
    /// `key.create`, `server.replace`, ...
    pub action: String,
    /// What was changed.
    pub object_kind: ObjectKind,
    /// Which one; `*` for many at once.
    pub object_id: String,
    /// Without secrets; `None`: it was not there.
    pub before: Option<Json>,
    /// Without secrets; `None`: it is not there any more.
    pub after: Option<Json>,
}

/// Which changes are asked for. `None` asks for all.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Exactly this actor.
    pub actor: Option<String>,
    /// Exactly this action.
    pub action: Option<String>,
    /// This kind of object.
    pub object_kind: Option<ObjectKind>,
    /// Exactly this object.
    pub object_id: Option<String>,
    /// From this second on.
    pub from: Option<u64>,
    /// Before this second.
    pub until: Option<u64>,
}

impl Audit {
    /// What the gateway does by itself.
    pub const GATEWAY: &'static str = "metamcp";

    /// By `actor`, now.
    pub fn by(actor: impl Into<String>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { actor: actor.into(), at: now.map_or(0, |since| since.as_secs()) }
    }
}

impl Store {
    /// Changes, newest first. `before`: the cursor of the page before. Cancel safe.
    pub async fn audit(
        &self,
        filter: AuditFilter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Paged<AuditRow, u64>, StoreError> {
        let limit = super::page::limit(limit);
        let rows = transact!(self, Access::Read, |session| find(session, &filter, before, limit))?;
        Ok(paged(rows, limit, |row| row.id))
    }
}

/// What an operation has to say about itself.
pub(super) struct Change {
    pub action: &'static str,
    pub kind: ObjectKind,
    pub id: String,
    pub before: Option<Json>,
    pub after: Option<Json>,
}

pub(super) async fn record<S: Session>(
    session: &mut S,
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
    session.execute(INSERT, &values).await.map(drop)
}

async fn find<S: Session>(
    session: &mut S,
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
        super::page::fetched(limit),
    ];
    session.query(SELECT, &values).await?.into_iter().map(read).collect()
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
