//! Usage counters by hour, key, server, and tool, prompt or resource. Batches of increments are applied exactly once.

use std::collections::BTreeMap;

use super::error::StoreError;
use super::handle::{Store, transact};
use super::key_totals;
use super::page::{PagedRows, fetch_limit, page_size, to_page};
use super::quotas::UsedAmount;
use super::transaction::{AccessMode, Transaction};
use super::value::{Row, Value};

/// The labels of a counter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageKey {
    /// Seconds since 1970; rounded down to the full hour when stored.
    pub hour: u64,
    pub key_id: String,
    /// The server's name; empty for a request that no server was asked.
    pub server: String,
    /// What was asked for, as [`metamcp_core::base::UsageLabel`] writes it: the tool's name, `prompt NAME`, or `resource URI`;
    /// empty for other requests.
    pub tool: String,
}

/// The values of a counter, or increments of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Requests, including those that failed.
    pub calls: u64,
    /// Requests that the gateway could not get a response for.
    pub errors: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// From the last byte of the request to the last byte of the response.
    pub milliseconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    pub key: UsageKey,
    pub counts: UsageCounts,
}

/// The increments of one process since its previous batch. A source sends its batches in order, and may repeat any of
/// them: each is applied exactly once.
#[derive(Debug, Clone)]
pub struct UsageBatch {
    /// Names the process; stays the same when it is restarted. Not empty.
    pub source: String,
    /// Rises with every batch of a source.
    pub sequence: u64,
    /// The end of the batch's interval, in seconds since 1970.
    pub at: u64,
    pub rows: Vec<UsageRow>,
}

/// What applying a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// The increments were added.
    Now,
    /// Nothing was changed: this batch, or a later one of its source, was applied before, or usage of its time is no longer
    /// kept.
    Before,
}

/// Selects counters. Each `None` matches everything.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// Hours that begin at this second or later.
    pub from: Option<u64>,
    /// Hours that begin before this second.
    pub until: Option<u64>,
    pub key_id: Option<String>,
    pub server: Option<String>,
    pub tool: Option<String>,
}

impl From<UsageCounts> for UsedAmount {
    fn from(counts: UsageCounts) -> Self {
        Self { calls: counts.calls, bytes: counts.bytes_in.saturating_add(counts.bytes_out) }
    }
}

impl Store {
    /// Adds a batch to the counters, unless it was applied before.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all; send the batch again to be sure.
    pub async fn apply_usage(&self, mut batch: UsageBatch) -> Result<ApplyOutcome, StoreError> {
        for row in &mut batch.rows {
            row.key.hour -= row.key.hour % HOUR_S;
        }
        // All transactions lock rows in the same order, so that no two deadlock.
        batch.rows.sort_by(|one, other| one.key.cmp(&other.key));
        transact!(self, AccessMode::Count, |tx| apply(tx, &batch))
    }

    /// When each key last called a server, in seconds since 1970, by key id: up to a minute behind the usage that was
    /// applied. Keys without a call are missing. Cancel safe.
    pub async fn key_uses(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        transact!(self, AccessMode::Read, |tx| find_uses(tx))
    }

    /// A page of counters by hour, key, server and tool, starting after `after`. Cancel safe.
    pub async fn usage(
        &self,
        filter: UsageFilter,
        after: Option<UsageKey>,
        items: usize,
    ) -> Result<PagedRows<UsageRow, UsageKey>, StoreError> {
        let limit = page_size(items);
        let rows = transact!(self, AccessMode::Read, |tx| find(tx, &filter, after.as_ref(), limit))?;
        Ok(to_page(rows, limit, |row| row.key.clone()))
    }
}

async fn apply<T: Transaction>(tx: &mut T, batch: &UsageBatch) -> Result<ApplyOutcome, StoreError> {
    let values = [Value::from(&batch.source), batch.sequence.into(), batch.at.into()];
    // A concurrent transaction with the same batch waits here for the first one to end, and then finds its row.
    if tx.execute(CLAIM, &values).await? == 0 {
        return Ok(ApplyOutcome::Before);
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
        tx.execute(ADD, &values).await?;
    }
    let mut used: BTreeMap<&str, UsedAmount> = BTreeMap::new();
    for UsageRow { key, counts } in &batch.rows {
        let sum = used.entry(&key.key_id).or_default();
        *sum = sum.plus((*counts).into());
    }
    for (key_id, amount) in used {
        tx.execute(NOTE_USE, &[Value::from(key_id), batch.at.into(), USE_INTERVAL_S.into()]).await?;
        key_totals::add(tx, key_id, batch.at, amount).await?;
    }
    tx.execute(SETTLE, &[(&batch.source).into(), batch.sequence.into()]).await?;
    Ok(ApplyOutcome::Now)
}

async fn find<T: Transaction>(
    tx: &mut T,
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
        fetch_limit(limit),
    ];
    tx.query(SELECT, &values).await?.into_iter().map(read).collect()
}

async fn find_uses<T: Transaction>(tx: &mut T) -> Result<BTreeMap<String, u64>, StoreError> {
    let rows = tx.query(SELECT_USES, &[]).await?;
    rows.into_iter().map(|mut row| Ok((row.text()?, row.int()?))).collect()
}

fn read(mut row: Row) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        key: UsageKey { hour: row.int()?, key_id: row.text()?, server: row.text()?, tool: row.text()? },
        counts: UsageCounts {
            calls: row.int()?,
            errors: row.int()?,
            bytes_in: row.int()?,
            bytes_out: row.int()?,
            milliseconds: row.int()?,
        },
    })
}

/// The interval of a counter.
const HOUR_S: u64 = 3_600;

/// A key in use writes its row once in this time, not with every batch.
const USE_INTERVAL_S: u64 = 60;

const NOTE_USE: &str = "INSERT INTO key_uses (key_id, last_used_at) VALUES ($1, $2) \
    ON CONFLICT (key_id) DO UPDATE SET last_used_at = excluded.last_used_at \
        WHERE excluded.last_used_at >= key_uses.last_used_at + $3";

const SELECT_USES: &str = "SELECT key_id, last_used_at FROM key_uses ORDER BY key_id";

/// The time of a source is that of its latest batch: a clock that was set back does not make it older. Batches that end at
/// or before the floor are not applied: see `retention`.
const CLAIM: &str = "INSERT INTO usage_batches (source, sequence, applied_at) \
    SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CASE WHEN known.at > $3 THEN known.at ELSE CAST($3 AS BIGINT) END \
    FROM (SELECT coalesce(max(applied_at), 0) AS at FROM usage_batches WHERE source = $1) AS known \
    WHERE NOT EXISTS (SELECT 1 FROM usage_batches WHERE source = $1 AND sequence >= $2) \
      AND NOT EXISTS (SELECT 1 FROM usage_batches WHERE source = '' AND sequence >= $3) \
    ON CONFLICT (source, sequence) DO NOTHING";

/// The newest batch of a source is enough to recognize those before it.
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
