//! Rows that are bound to `ENCRYPTION_KEY`: whether they open, and what to do about those that do not.

use metamcp::auth::{Sealer, parse_encryption_key};
use metamcp::store::{Binder, Bound, KeyRow, KeyStatus, Store};

use crate::failure::Failure;
use crate::place::{Absent, Installation};

/// The database, for changes to what is bound.
pub async fn store(installation: &Installation, absent: Absent) -> Result<Store, Failure> {
    // First: what is not there is said before what it would be sealed with.
    let store = installation.store(absent).await?;
    Ok(store.bound_by(installation.sealer()?))
}

/// The same, for what can be done without as well.
pub async fn store_if_it_can(installation: &Installation) -> Result<Store, Failure> {
    let store = installation.store(Absent::Refuse).await?;
    Ok(sealer(installation).map_or_else(|| store.clone(), |sealer| store.bound_by(sealer)))
}

/// What rows are looked at with, if there is something; none is made.
pub fn sealer(installation: &Installation) -> Option<Sealer> {
    let text = installation.secret("ENCRYPTION_KEY").ok()??;
    Sealer::new(&parse_encryption_key(&text).ok()?).ok()
}

/// Whether a row opens; `None`: there is nothing to open it with.
pub fn opens(sealer: Option<&Sealer>, row: Bound<'_>) -> Option<bool> {
    sealer.map(|sealer| sealer.open_row(row).is_some())
}

/// What is to be said of a row that does not open, and done about it.
pub fn closed(sealer: &Sealer, row: Bound<'_>) -> String {
    let (sealed, version) = row.sealed();
    // Nothing at all is sealed in rows of before.
    if !sealed.is_empty() && !sealer.knows(version) {
        return format!(
            "sealed by version {version} of ENCRYPTION_KEY, which is not given: give it too, as in \
             ENCRYPTION_KEY=\"2:<new>,1:<old>\""
        );
    }
    if let Bound::Key(row) = row
        && sealer.open_row(Bound::Key(&KeyRow { status: KeyStatus::Active, ..row.clone() })).is_some()
    {
        return format!(
            "switched off without ENCRYPTION_KEY, or by somebody else: `keyadm keys activate {0}` and `keyadm keys \
             inactivate {0}` seal it again, or delete it",
            row.key_id
        );
    }
    let anew = match row {
        Bound::Key(row) => {
            format!("`keyadm keys delete {} --confirm`, then `keyadm keys create`", row.key_id)
        }
        Bound::Server(_) => {
            "`keyadm servers remove NAME --confirm`, then add it again; or `keyadm servers import \
                             --replace`, or PUT the whole of it"
                .into()
        }
        Bound::Endpoint(_) => "`keyadm endpoints remove NAME --confirm`, or PUT the whole of it".into(),
        Bound::ToolPins(_) => {
            "a gateway that serves the server writes it anew, and holds all of its tools back until they \
                               are approved (`keyadm servers approve`)"
                .into()
        }
        Bound::JwtKey(_) => "`keyadm jwt rotate`, then `keyadm jwt delete KID --confirm`".into(),
    };
    format!(
        "altered outside of keyadm and the gateway, sealed under another ENCRYPTION_KEY, or made before rows were bound to \
         it: gateways do not go by it. If you know of no such change, somebody else writes into the database. {anew}"
    )
}
