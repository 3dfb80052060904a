//! Tools that are not as they were approved: shown, and approved.

use metamcp::auth::Sealer;
use metamcp::catalog::{Approve, Change, Pins, told};
use metamcp::store::{Binder, Bound, NewPins, Store, StoreError, Uuid};
use serde_json::{Value, json};

use crate::args::ApproveArgs;
use crate::failure::Failure;
use crate::table::{line, table};
use crate::{bound, time, who};

/// Shows what waits of a server's tools, and approves it unless it is only to be shown.
pub async fn run(
    asked: &ApproveArgs,
    store: &Store,
    sealer: Option<&Sealer>,
    json: bool,
) -> Result<String, Failure> {
    let what = what(asked)?;
    let server = name(store, &asked.name).await?;
    for _ in 0..TRIES {
        let row = store.tool_pins_of(&server).await?.ok_or_else(|| {
            Failure::Data(format!("no gateway has listed tools of a server {server:?} yet: nothing waits"))
        })?;
        let sealer = sealer.ok_or(StoreError::Unbound)?;
        if sealer.open_row(Bound::ToolPins(&row)).is_none() {
            return Err(Failure::Data(bound::closed(sealer, Bound::ToolPins(&row))));
        }
        let mut pins = Pins::from_json(&row.pins)
            .ok_or_else(|| Failure::Data("a later version of metamcp wrote what is approved of it".into()))?;
        if asked.show {
            return Ok(shown(&server, &pins.waiting(), "waits", json));
        }
        let approved = pins.approve(&what).map_err(|refused| Failure::Data(refused.to_string()))?;
        if approved.is_empty() {
            return Ok(shown(&server, &approved, "approved", json));
        }
        let new = NewPins {
            server: server.clone(),
            pins: pins.to_json(),
            expect: Some(row.version),
            told: Some(("server.tools.approve", told(&approved))),
        };
        match store.put_tool_pins(new, who::audit()).await {
            // A gateway has just seen something else: it is looked at again.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(shown(&server, &approved, "approved", json)),
        }
    }
    Err(StoreError::Conflict.into())
}

fn what(asked: &ApproveArgs) -> Result<Approve, Failure> {
    match (&asked.tool[..], &asked.digest) {
        ([], None) => Ok(Approve::All),
        ([tool], digest) => Ok(Approve::These(vec![(tool.clone(), digest.clone())])),
        (tools, None) => Ok(Approve::These(tools.iter().map(|tool| (tool.clone(), None)).collect())),
        (_, Some(_)) => Err(Failure::Usage("a digest is of one tool: name it by --tool".into())),
    }
}

/// Of a server in the database, by its id too; those of files are known by name alone.
async fn name(store: &Store, reference: &str) -> Result<String, Failure> {
    if Uuid::parse_str(reference).is_err() {
        return Ok(reference.to_owned());
    }
    let row = store.server(reference).await?;
    row.map(|row| row.name).ok_or_else(|| {
        Failure::Data(format!("there is no server {reference} in the database; see `keyadm servers list`"))
    })
}

fn shown(server: &str, changes: &[Change], word: &str, json: bool) -> String {
    if json {
        let mut answer = json!({"server": server});
        answer[word] = Value::Array(changes.iter().map(|change| json!(change)).collect());
        return line(&answer);
    }
    if changes.is_empty() {
        return format!("Nothing of the tools of {server:?} waits to be approved.\n");
    }
    let cells = changes.iter().map(|change| {
        let changed = change.changed.as_ref().map_or("new".to_owned(), |parts| parts.join(","));
        vec![change.tool.clone(), changed, time::format(change.since), change.digest.clone()]
    });
    let head = if word == "approved" { "APPROVED" } else { "WAITS" };
    table(&[head, "CHANGED", "SEEN", "DIGEST"], cells)
}

/// A gateway may write at the same time.
const TRIES: usize = 5;
