//! Who used what: counters by hour, added to in batches, each exactly once.

use super::page::{Paged, fetched, limit, paged};
use super::session::{Access, Session, transact};
use super::value::{Row, Value};
use super::{Store, StoreError};

/// What is counted apart from everything else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageKey {
    /// Seconds since 1970; rounded down to the full hour when it is stored.
    pub hour: u64,
    /// The key id.
    pub key_id: String,
    /// The server's name; empty for what no server was asked.
    pub server: String,
    /// The tool's name; empty for what is not a call of a tool.
    pub tool: String,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that failed too.
    pub calls: u64,
    /// Those that the gateway could not bring to an answer.
    pub errors: u64,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub bytes_out: u64,
    /// From the request's last byte to the answer's.
    pub milliseconds: u64,
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// What it counts.
    pub key: UsageKey,
    /// What it has counted.
    pub counts: Counts,
}

/// What one process has counted since the batch before. A source sends its batches in order, and any of them again:
/// each is applied exactly once.
#[derive(Debug, Clone)]
pub struct UsageBatch {
    /// The process, under a name it keeps when it is restarted. Not empty.
    pub source: String,
    /// Rises from batch to batch of a source.
    pub sequence: u64,
    /// Seconds since 1970.
    pub at: u64,
    /// What is added.
    pub rows: Vec<UsageRow>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was added.
    Now,
    /// It, or a later one of its source, had been added before, or it is of a time whose usage is no longer kept;
    /// nothing was changed.
    Before,
}

/// Which counters are asked for. `None` asks for all.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// Hours that begin at this second or later.
    pub from: Option<u64>,
    /// Hours that begin before this second.
    pub until: Option<u64>,
    /// Exactly this key.
    pub key_id: Option<String>,
    /// Exactly this server.
    pub server: Option<String>,
    /// Exactly this tool.
    pub tool: Option<String>,
}

impl Store {
    /// Adds a batch to the counters, unless that was done before.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all; send the batch again to be sure.
    pub async fn apply_usage(&self, mut batch: UsageBatch) -> Result<Applied, StoreError> {
        for row in &mut batch.rows {
            row.key.hour -= row.key.hour % HOUR_S;
        }
        // All in the same order: two processes never wait for each other crosswise.
        batch.rows.sort_by(|one, other| one.key.cmp(&other.key));
        transact!(self, Access::Count, |session| apply(session, &batch))
    }

    /// Counters by hour, key, server and tool, beginning behind `after`. Cancel safe.
    pub async fn usage(
        &self,
        filter: UsageFilter,
        after: Option<UsageKey>,
        items: usize,
    ) -> Result<Paged<UsageRow, UsageKey>, StoreError> {
        let limit = limit(items);
        let rows = transact!(self, Access::Read, |session| find(session, &filter, after.as_ref(), limit))?;
        Ok(paged(rows, limit, |row| row.key.clone()))
    }
}

async fn apply<S: Session>(session: &mut S, batch: &UsageBatch) -> Result<Applied, StoreError> {
    let values = [Value::from(&batch.source), batch.sequence.into(), batch.at.into()];
    // Whoever comes second waits here for the first one's end, and then finds the row.
    if session.execute(CLAIM, &values).await? == 0 {
        return Ok(Applied::Before);
    }
    for UsageRow { key, counts } in &batch.rows {
        let values = [
            key.hour.into(),
            Value::from(&key.key_id),
            (&key.server).into(),
            (&key.tool).into(),
            counts.calls.into(),
            counts.errors.into(),
            counts.bytes_in.into(),
            counts.bytes_out.into(),
            counts.milliseconds.into(),
        ];
        session.execute(ADD, &values).await?;
    }
    session.execute(SETTLE, &[(&batch.source).into(), batch.sequence.into()]).await?;
    Ok(Applied::Now)
}

async fn find<S: Session>(
    session: &mut S,
    filter: &UsageFilter,
    after: Option<&UsageKey>,
    limit: usize,
) -> Result<Vec<UsageRow>, StoreError> {
    let values = [
        filter.from.into(),
        filter.until.into(),
        Value::from(filter.key_id.as_ref()),
        filter.server.as_ref().into(),
        filter.tool.as_ref().into(),
        after.map(|key| key.hour).into(),
        after.map(|key| &key.key_id).into(),
        after.map(|key| &key.server).into(),
        after.map(|key| &key.tool).into(),
        fetched(limit),
    ];
    session.query(SELECT, &values).await?.into_iter().map(read).collect()
}

fn read(mut row: Row) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        key: UsageKey { hour: row.int()?, key_id: row.text()?, server: row.text()?, tool: row.text()? },
        counts: Counts {
            calls: row.int()?,
            errors: row.int()?,
            bytes_in: row.int()?,
            bytes_out: row.int()?,
            milliseconds: row.int()?,
        },
    })
}

/// One counter's time.
const HOUR_S: u64 = 3_600;

/// The time of a source is that of its latest batch: a clock that was set back does not make it older. What ends at
/// the floor or before it is over: see `retention`.
const CLAIM: &str = "INSERT INTO usage_batches (source, sequence, applied_at) \
    SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CASE WHEN known.at > $3 THEN known.at ELSE CAST($3 AS BIGINT) END \
    FROM (SELECT coalesce(max(applied_at), 0) AS at FROM usage_batches WHERE source = $1) AS known \
    WHERE NOT EXISTS (SELECT 1 FROM usage_batches WHERE source = $1 AND sequence >= $2) \
      AND NOT EXISTS (SELECT 1 FROM usage_batches WHERE source = '' AND sequence >= $3) \
    ON CONFLICT (source, sequence) DO NOTHING";

/// The newest of a source is enough to know those before it.
const SETTLE: &str = "DELETE FROM usage_batches WHERE source = $1 AND sequence < $2";

const ADD: &str = "INSERT INTO usage (hour, key_id, server, tool, calls, errors, bytes_in, bytes_out, milliseconds) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
    ON CONFLICT (hour, key_id, server, tool) DO UPDATE SET \
        calls = usage.calls + excluded.calls, errors = usage.errors + excluded.errors, \
        bytes_in = usage.bytes_in + excluded.bytes_in, bytes_out = usage.bytes_out + excluded.bytes_out, \
        milliseconds = usage.milliseconds + excluded.milliseconds";

const SELECT: &str =
    "SELECT hour, key_id, server, tool, calls, errors, bytes_in, bytes_out, milliseconds FROM usage
    WHERE (CAST($1 AS BIGINT) IS NULL OR hour >= $1)
      AND (CAST($2 AS BIGINT) IS NULL OR hour < $2)
      AND (CAST($3 AS TEXT) IS NULL OR key_id = $3)
      AND (CAST($4 AS TEXT) IS NULL OR server = $4)
      AND (CAST($5 AS TEXT) IS NULL OR tool = $5)
      AND (CAST($6 AS BIGINT) IS NULL OR (hour, key_id, server, tool) > ($6, $7, $8, $9))
    ORDER BY hour, key_id, server, tool LIMIT $10";
