//! What is old is taken out, a little at a time: usage, the audit log, and what is remembered of batches of usage.
//!
//! A batch may be sent again as long as the journal it is in exists, which may be for ever. So its source is forgotten
//! only together with a mark, the *floor*: a batch that ends at or before it is over, applied or not, since what it
//! counts was taken out with the usage of its time. The floor is in the database, so that it holds whatever the clocks
//! and the configuration of the processes say that send batches.

use std::time::Duration;

use super::session::{Access, Session, query_one, transact};
use super::value::Value;
use super::{Engine, Store, StoreError};

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Counters of usage.
    pub usage: Duration,
    /// The audit log.
    pub audit: Duration,
}

/// What was taken out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    /// Counters of usage.
    pub usage: u64,
    /// Entries of the audit log.
    pub audit: u64,
    /// Sources of batches of usage.
    pub sources: u64,
    /// Whether there may be more.
    pub more: bool,
    /// Whether something old was left, because the clock may be wrong.
    pub doubted: bool,
}

impl Store {
    /// Takes out some of what is older than it is to be kept, at `now` seconds since 1970 or the time of the database,
    /// whichever is earlier: a clock that is ahead costs nothing. [`StoreError::Locked`]: another process is at it.
    ///
    /// An embedded database has no clock of its own to compare with. There a kind is left alone while nothing was
    /// written within the time it is kept for after the newest of what would go, as [`Retired::doubted`] says: either
    /// nobody was there for that long, and what is old may as well stay, or the clock jumped ahead of it all.
    ///
    /// Cancel safe: of each kind it is either wholly done or not at all.
    pub async fn retire(&self, retention: &Retention, now: u64) -> Result<Retired, StoreError> {
        let now = self.clock().await?.map_or(now, |theirs| theirs.min(now));
        let (usage, usage_doubted) = self.since(now, retention.usage).await?;
        let (audit, audit_doubted) = self.since(now, retention.audit).await?;
        let floor = usage.saturating_sub(MARGIN.as_secs());
        let usage = transact!(self, Access::Retire, |session| delete(session, USAGE, usage))?;
        let audit = transact!(self, Access::Retire, |session| delete(session, AUDIT, audit))?;
        let sources = transact!(self, Access::Retire, |session| forget(session, floor))?;
        let more = [usage, audit, sources].contains(&ROWS_MAX);
        Ok(Retired { usage, audit, sources, more, doubted: usage_doubted || audit_doubted })
    }

    /// What is before goes: 0 where that is in doubt.
    async fn since(&self, now: u64, kept: Duration) -> Result<(u64, bool), StoreError> {
        let since = now.saturating_sub(kept.as_secs());
        let doubted = match &self.engine {
            Engine::Sqlite(_) => transact!(self, Access::Read, |session| leaps(session, since, kept))?,
            Engine::Postgres(_) => false,
        };
        Ok(if doubted { (0, true) } else { (since, false) })
    }
}

/// Whether nothing was written for as long as things are `kept`, between what is before `since` and what is not.
async fn leaps<S: Session>(session: &mut S, since: u64, kept: Duration) -> Result<bool, StoreError> {
    let Some(mut row) = query_one(session, NEWEST_BEFORE, &[since.into()]).await? else { return Ok(false) };
    let newest: u64 = row.int()?;
    let until = newest.saturating_add(kept.as_secs());
    Ok(session.query(WRITTEN, &[since.into(), until.into()]).await?.is_empty())
}

async fn delete<S: Session>(session: &mut S, sql: &str, before: u64) -> Result<u64, StoreError> {
    session.execute(sql, &[before.into(), ROWS_MAX.into()]).await
}

async fn forget<S: Session>(session: &mut S, floor: u64) -> Result<u64, StoreError> {
    let values: [Value; 2] = [floor.into(), ROWS_MAX.into()];
    if session.query(OVER, &values).await?.is_empty() {
        return Ok(0);
    }
    session.execute(LIFT_FLOOR, &values[..1]).await?;
    session.execute(SINK_FLOOR, &values[..1]).await?;
    session.execute(FORGET, &values).await
}

/// Of one transaction: a few milliseconds, for which others may wait.
const ROWS_MAX: u64 = 1000;

/// From the end of the usage that is kept to the floor: no batch is over whose hour may still be asked for.
const MARGIN: Duration = Duration::from_hours(7 * 24);

const NEWEST_BEFORE: &str = "SELECT at FROM (SELECT max(hour) AS at FROM usage WHERE hour < $1 \
    UNION ALL SELECT max(at) FROM audit_log WHERE at < $1) WHERE at IS NOT NULL ORDER BY at DESC LIMIT 1";

const WRITTEN: &str = "SELECT 1 FROM usage WHERE hour >= $1 AND hour < $2 \
    UNION ALL SELECT 1 FROM audit_log WHERE at >= $1 AND at < $2 LIMIT 1";

const USAGE: &str = "DELETE FROM usage WHERE (hour, key_id, server, tool) IN \
    (SELECT hour, key_id, server, tool FROM usage WHERE hour < $1 ORDER BY hour LIMIT $2)";

const AUDIT: &str =
    "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2)";

const OVER: &str = "SELECT source FROM usage_batches WHERE source <> '' AND applied_at <= $1 LIMIT $2";

const FORGET: &str = "DELETE FROM usage_batches WHERE (source, sequence) IN \
    (SELECT source, sequence FROM usage_batches WHERE source <> '' AND applied_at <= $1 LIMIT $2)";

/// The floor is kept as the sequence of a source without a name.
const LIFT_FLOOR: &str = "INSERT INTO usage_batches (source, sequence, applied_at) \
    SELECT '', CAST($1 AS BIGINT), CAST($1 AS BIGINT) \
    WHERE NOT EXISTS (SELECT 1 FROM usage_batches WHERE source = '' AND sequence >= $1)";

const SINK_FLOOR: &str = "DELETE FROM usage_batches WHERE source = '' AND sequence < $1";
