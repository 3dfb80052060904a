//! Deletes what is older than its retention period, in small steps: usage, the audit log, and the records of applied usage
//! batches.
//!
//! A batch may be sent again as long as its journal exists, possibly forever. When the record of a source is deleted, the
//! *floor* is raised: a batch that ends at or before the floor is not applied any more, whether it was before or not,
//! because the usage of its time is deleted. The floor is in the database, so that it holds whatever the clocks and the
//! configurations of the processes that send batches.

use std::time::Duration;

use metamcp_config::sections::RetentionPolicy;

use super::error::StoreError;
use super::handle::{Engine, Store, transact};
use super::transaction::{AccessMode, Transaction, query_one};
use super::value::Value;

/// What a run deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The number of deleted usage counters.
    pub usage: u64,
    /// Deleted entries of the audit log.
    pub audit: u64,
    /// Deleted totals of keys.
    pub totals: u64,
    /// Deleted records of applied batches.
    pub sources: u64,
    /// Whether there may be more to delete.
    pub more: bool,
    /// Whether old rows were kept because the clock may be wrong.
    pub doubted: bool,
}

impl Store {
    /// Deletes some of the rows that are past their retention period at `now` (seconds since 1970), or at the time of the
    /// database if that is earlier, so that a clock that is ahead deletes nothing. [`StoreError::Locked`] while another
    /// process does the same.
    ///
    /// An embedded database has no clock of its own to compare with. There, rows of a kind are kept if nothing was written
    /// for a whole retention period after the newest of them: either the gateway was not used for that long, and keeping
    /// the old rows does no harm, or the clock jumped ahead. [`PruneReport::doubted`] reports it.
    ///
    /// Cancel safe: for each kind, the deletion takes effect entirely or not at all.
    pub async fn retire(&self, retention: &RetentionPolicy, now: u64) -> Result<PruneReport, StoreError> {
        let now = self.clock().await?.map_or(now, |database| database.min(now));
        let (usage, usage_doubted) = self.cutoff(now, retention.usage).await?;
        let (audit, audit_doubted) = self.cutoff(now, retention.audit).await?;
        let floor = usage.saturating_sub(MARGIN.as_secs());
        let usage = transact!(self, AccessMode::Retire, |tx| delete(tx, DELETE_USAGE, usage))?;
        let audit = transact!(self, AccessMode::Retire, |tx| delete(tx, DELETE_AUDIT, audit))?;
        let (totals, _) = self.cutoff(now, TOTALS_KEPT).await?;
        let totals = transact!(self, AccessMode::Retire, |tx| delete(tx, DELETE_TOTALS, totals))?;
        let sources = transact!(self, AccessMode::Retire, |tx| delete_sources(tx, floor))?;
        let more = [usage, audit, totals, sources].contains(&ROWS_MAX);
        Ok(PruneReport { usage, audit, totals, sources, more, doubted: usage_doubted || audit_doubted })
    }

    /// Rows before the returned time are deleted. Zero when the clock is in doubt.
    async fn cutoff(&self, now: u64, kept: Duration) -> Result<(u64, bool), StoreError> {
        let since = now.saturating_sub(kept.as_secs());
        let doubted = match &self.engine {
            Engine::Sqlite(_) => transact!(self, AccessMode::Read, |tx| has_gap(tx, since, kept))?,
            Engine::Postgres(_) => false,
        };
        Ok(if doubted { (0, true) } else { (since, false) })
    }
}

/// Whether nothing was written for a period of `kept` after the newest row before `since`.
async fn has_gap<T: Transaction>(tx: &mut T, since: u64, kept: Duration) -> Result<bool, StoreError> {
    let Some(mut row) = query_one(tx, NEWEST_BEFORE, &[since.into()]).await? else { return Ok(false) };
    let newest: u64 = row.int()?;
    let until = newest.saturating_add(kept.as_secs());
    Ok(tx.query(WRITTEN_BETWEEN, &[since.into(), until.into()]).await?.is_empty())
}

async fn delete<T: Transaction>(tx: &mut T, sql: &str, before: u64) -> Result<u64, StoreError> {
    tx.execute(sql, &[before.into(), ROWS_MAX.into()]).await
}

async fn delete_sources<T: Transaction>(tx: &mut T, floor: u64) -> Result<u64, StoreError> {
    let values: [Value; 2] = [floor.into(), ROWS_MAX.into()];
    if tx.query(SELECT_SOURCES, &values).await?.is_empty() {
        return Ok(0);
    }
    tx.execute(RAISE_FLOOR, &values[..1]).await?;
    tx.execute(DELETE_LOWER_FLOORS, &values[..1]).await?;
    tx.execute(DELETE_SOURCES, &values).await
}

/// The limit of one transaction: a few milliseconds, for which others may wait.
const ROWS_MAX: u64 = 1000;

/// The distance of the floor from the oldest usage that is kept, so that no batch is refused whose hour may still be
/// queried.
const MARGIN: Duration = Duration::from_hours(7 * 24);

/// The month before, too, so that a clock that was set back finds its totals.
const TOTALS_KEPT: Duration = Duration::from_hours(62 * 24);

const NEWEST_BEFORE: &str = "SELECT at FROM (SELECT max(hour) AS at FROM usage WHERE hour < $1 \
    UNION ALL SELECT max(at) FROM audit_log WHERE at < $1) WHERE at IS NOT NULL ORDER BY at DESC LIMIT 1";

const WRITTEN_BETWEEN: &str = "SELECT 1 FROM usage WHERE hour >= $1 AND hour < $2 \
    UNION ALL SELECT 1 FROM audit_log WHERE at >= $1 AND at < $2 LIMIT 1";

const DELETE_USAGE: &str = "DELETE FROM usage WHERE (hour, key_id, server, tool) IN \
    (SELECT hour, key_id, server, tool FROM usage WHERE hour < $1 ORDER BY hour LIMIT $2)";

const DELETE_AUDIT: &str =
    "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2)";

const DELETE_TOTALS: &str = "DELETE FROM key_totals WHERE (period, begins_at, key_id) IN \
    (SELECT period, begins_at, key_id FROM key_totals WHERE begins_at < $1 ORDER BY begins_at LIMIT $2)";

const SELECT_SOURCES: &str =
    "SELECT source FROM usage_batches WHERE source <> '' AND applied_at <= $1 LIMIT $2";

const DELETE_SOURCES: &str = "DELETE FROM usage_batches WHERE (source, sequence) IN \
    (SELECT source, sequence FROM usage_batches WHERE source <> '' AND applied_at <= $1 LIMIT $2)";

/// The floor is stored as the sequence of a source with an empty name.
const RAISE_FLOOR: &str = "INSERT INTO usage_batches (source, sequence, applied_at) \
    SELECT '', CAST($1 AS BIGINT), CAST($1 AS BIGINT) \
    WHERE NOT EXISTS (SELECT 1 FROM usage_batches WHERE source = '' AND sequence >= $1)";

const DELETE_LOWER_FLOORS: &str = "DELETE FROM usage_batches WHERE source = '' AND sequence < $1";
