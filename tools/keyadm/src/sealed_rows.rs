//! Rows are sealed with `ENCRYPTION_KEY`. Checks whether a seal is valid, and explains what to do if it is not.

use metamcp_store::auth::Sealer;
use metamcp_store::store::{KeyRow, KeyStatus, RowSealer, SealedRow, Store};

use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};

/// Opens the database for writes that seal rows.
pub async fn sealing_store(installation: &Installation, missing: MissingDatabase) -> Result<Store, Failure> {
    // The store first: a missing database is reported before a missing key.
    let store = installation.store(missing).await?;
    Ok(store.bound_by(installation.sealer().await?))
}

/// Opens the database for writes that seal rows only if `ENCRYPTION_KEY` is available.
pub async fn optionally_sealing_store(installation: &Installation) -> Result<Store, Failure> {
    let store = installation.store(MissingDatabase::Refuse).await?;
    Ok(find_sealer(installation).map_or_else(|| store.clone(), |sealer| store.bound_by(sealer)))
}

/// Returns the sealer to check rows with, if `ENCRYPTION_KEY` is available. Creates no key.
pub fn find_sealer(installation: &Installation) -> Option<Sealer> {
    let text = installation.secret("ENCRYPTION_KEY").ok()??;
    installation.parse_sealer(&text).ok().map(|(sealer, _)| sealer)
}

/// Whether the seal of a row is valid; `None` without a sealer.
pub fn is_valid(sealer: Option<&Sealer>, row: SealedRow<'_>) -> Option<bool> {
    sealer.map(|sealer| sealer.open_row(row).is_some())
}

/// Explains why the seal of a row is not valid, and what to do.
pub fn explain_invalid(sealer: &Sealer, row: SealedRow<'_>) -> String {
    let (sealed, version) = row.sealed();
    // Rows from before sealing was introduced have an empty seal.
    if !sealed.is_empty() && !sealer.has_key_version(version) {
        return format!(
            "sealed with version {version} of ENCRYPTION_KEY, which is missing: provide it too, as in \
             ENCRYPTION_KEY=\"2:<new>,1:<old>\""
        );
    }
    if let SealedRow::Key(row) = row
        && sealer.open_row(SealedRow::Key(&KeyRow { status: KeyStatus::Active, ..row.clone() })).is_some()
    {
        return format!(
            "deactivated without ENCRYPTION_KEY, or by another writer: run `keyadm keys activate {0}` and `keyadm keys \
             inactivate {0}` to seal it again, or delete it",
            row.key_id
        );
    }
    let remedy = match row {
        SealedRow::Key(row) => {
            format!("`keyadm keys delete {} --confirm`, then `keyadm keys create`", row.key_id)
        }
        SealedRow::Server(_) => {
            "`keyadm servers remove NAME --confirm`, then add it again; or `keyadm servers import \
                             --replace`; or replace it over REST (PUT)"
                .into()
        }
        SealedRow::Endpoint(_) => {
            "`keyadm endpoints remove NAME --confirm`, then add it again; or replace it over REST (PUT)"
                .into()
        }
        SealedRow::ToolPins(_) => {
            "a gateway that serves the server writes it again, and holds all of its tools back \
                               until they are approved (`keyadm servers approve`)"
                .into()
        }
        SealedRow::JwtKey(_) => "`keyadm jwt rotate`, then `keyadm jwt delete KID --confirm`".into(),
    };
    format!(
        "altered outside of keyadm and the gateway, sealed with another ENCRYPTION_KEY, or created before rows were sealed: \
         gateways ignore it. If you know of no such change, somebody else writes to the database. To repair it: {remedy}"
    )
}
