//! What each key used in a day and a month, added up with the usage that is applied.

use super::error::StoreError;
use super::handle::{Store, transact};
use super::quotas::{KeyTotals, Period, UsedAmount};
use super::transaction::{AccessMode, Transaction};
use super::value::Value;

impl Store {
    /// What each key with a quota used in the day and the month of `unix_s`, as far as it was delivered, by key id. Keys without
    /// a call are missing. Cancel safe.
    pub async fn key_totals(&self, unix_s: u64) -> Result<Vec<(String, KeyTotals)>, StoreError> {
        transact!(self, AccessMode::Read, |tx| find(tx, unix_s))
    }
}

async fn find<T: Transaction>(tx: &mut T, unix_s: u64) -> Result<Vec<(String, KeyTotals)>, StoreError> {
    let begins = Period::ALL.map(|period| Value::from(period.begin(unix_s)));
    let mut found: Vec<(String, KeyTotals)> = Vec::new();
    for mut row in tx.query(SELECT, &begins).await? {
        let key_id = row.text()?;
        let period = row.word(Period::parse)?;
        let amount = UsedAmount { calls: row.int()?, bytes: row.int()? };
        if found.last().is_none_or(|(last, _)| *last != key_id) {
            found.push((key_id, KeyTotals::default()));
        }
        if let Some((_, totals)) = found.last_mut() {
            *totals.of_mut(period) = amount;
        }
    }
    Ok(found)
}

/// Adds what a key used at `unix_s` to its totals.
pub(super) async fn add<T: Transaction>(
    tx: &mut T,
    key_id: &str,
    unix_s: u64,
    amount: UsedAmount,
) -> Result<(), StoreError> {
    let [day, month] = Period::ALL.map(|period| Value::from(period.begin(unix_s)));
    let values = [Value::from(key_id), day, month, amount.calls.into(), amount.bytes.into()];
    tx.execute(ADD, &values).await.map(drop)
}

const ADD: &str = "INSERT INTO key_totals (key_id, period, begins_at, calls, bytes) \
    VALUES ($1, 'day', $2, $4, $5), ($1, 'month', $3, $4, $5) \
    ON CONFLICT (period, begins_at, key_id) DO UPDATE SET \
        calls = key_totals.calls + excluded.calls, bytes = key_totals.bytes + excluded.bytes";

const SELECT: &str = "SELECT key_id, period, calls, bytes FROM key_totals \
    WHERE ((period = 'day' AND begins_at = $1) OR (period = 'month' AND begins_at = $2)) \
      AND key_id IN (SELECT key_id FROM api_keys WHERE quotas IS NOT NULL) ORDER BY key_id";
