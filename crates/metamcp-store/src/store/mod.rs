//! The store: what must survive a restart. Keys, servers, endpoints, usage and the audit log.
//!
//! Two engines, SQLite and PostgreSQL, share one interface. Operations are written once, in SQL that both understand,
//! and run in a transaction of either.
//!
//! Invariants:
//! - All SQL is in this module and in `sql/`.
//! - Every change advances the epoch of its kind and writes to the audit log, in the transaction of the change.
//! - Rows that decide something are sealed under `ENCRYPTION_KEY` (`row_sealer.rs`).
//! - No caller's thread waits for the disk.
//!
//! Does not know: the contents of sealed bytes and definitions, who is asking, or the wire.

mod audit;
mod clock;
mod endpoints;
mod epochs;
mod error;
mod handle;
mod id;
mod jwt_keys;
mod key_totals;
mod keys;
mod metamcp;
mod page;
mod postgres;
mod quotas;
mod reseal;
mod retention;
mod row_sealer;
mod sealed_value;
mod servers;
mod sqlite;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
mod tool_pins;
mod transaction;
mod usage;
mod value;
mod version;
mod watch;

pub use audit::{Audit, AuditFilter, AuditRow, ObjectKind};
pub use endpoints::{EndpointRow, EndpointServer, EndpointSpec, Endpoints, PrefixMode, ToolOverride};
pub use epochs::Epochs;
pub use error::StoreError;
pub use handle::{Store, check_postgres_url, is_new_postgres};
pub use id::new_id;
pub use jwt_keys::{JwtAlgorithm, JwtKeyRow, JwtKeys, JwtPhase, NewJwtKey};
pub use keys::{Grants, KeyRequest, KeyRow, KeyStatus, Keys, NewKey, OldKeyPolicy, Rate, Role, Rotation};
pub use metamcp::{
    MalformedColumn, MetaEndpoint, MetaKey, MetaMcp, MetaMember, MetaNamespace, MetaServer, MetaTool,
};
pub use page::{PAGE_ITEMS_MAX, PagedRows};
pub use postgres::ForeignTables;
pub use quotas::{DAY_S, KeyTotals, Period, QuotaKind, Quotas, UsedAmount};
pub use reseal::{ResealedBatch, SealedKind, sqlite_has_sealed_rows};
pub use retention::PruneReport;
pub use row_sealer::{RowSealer, SealedRow};
pub use sealed_value::{Plaintext, SealedValue};
pub use servers::{Secrets, ServerKind, ServerRow, ServerSpec, Servers};
pub use tool_pins::{NewToolPins, ToolPinsRow};
pub use usage::{ApplyOutcome, UsageBatch, UsageCounts, UsageFilter, UsageKey, UsageRow};
pub use uuid::Uuid;
pub use version::{Outcome, UpsertResult, VersionMatch};
pub use watch::{StoreOutage, WatchState};

#[cfg(test)]
mod tests;
