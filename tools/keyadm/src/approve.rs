//! Shows and approves tools that differ from what was approved.

use metamcp_store::auth::Sealer;
use metamcp_store::store::{NewToolPins, RowSealer, SealedRow, Store, StoreError, Uuid};
use metamcp_store::tool_pins::{ApprovalSelection, PinChange, ToolPins, summarize_changes};
use serde_json::{Value, json};

use crate::args::ApproveArgs;
use crate::failure::Failure;
use crate::table::{line, table};
use crate::{actor, sealed_rows, time};

/// A gateway may write at the same time, so the write is repeated on a conflict.
const WRITE_ATTEMPTS_MAX: usize = 5;

/// Shows which tools of a server wait to be approved, and approves them unless `--show` was given.
pub async fn run(
    args: &ApproveArgs,
    store: &Store,
    sealer: Option<&Sealer>,
    json: bool,
) -> Result<String, Failure> {
    let selection = selection(args)?;
    let server = resolve_server_name(store, &args.name).await?;
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let row = store.tool_pins_of(&server).await?.ok_or_else(|| {
            Failure::Data(format!(
                "no gateway has listed the tools of a server {server:?} yet: nothing waits"
            ))
        })?;
        let sealer = sealer.ok_or(StoreError::Unbound)?;
        if sealer.open_row(SealedRow::ToolPins(&row)).is_none() {
            return Err(Failure::Data(sealed_rows::explain_invalid(sealer, SealedRow::ToolPins(&row))));
        }
        let mut pins = ToolPins::from_json(&row.pins).ok_or_else(|| {
            Failure::Data("its approvals were written by a later version of metamcp".into())
        })?;
        if args.show {
            return Ok(render(&server, &pins.waiting(), "waits", json));
        }
        let approved = pins.approve(&selection).map_err(|refused| Failure::Data(refused.to_string()))?;
        if approved.is_empty() {
            return Ok(render(&server, &approved, "approved", json));
        }
        let new = NewToolPins {
            server: server.clone(),
            pins: pins.to_json(),
            expect: Some(row.version),
            told: Some(("server.tools.approve", summarize_changes(&approved))),
        };
        match store.put_tool_pins(new, actor::audit()).await {
            // A gateway has just seen another change: read the row again.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(render(&server, &approved, "approved", json)),
        }
    }
    Err(StoreError::Conflict.into())
}

fn selection(args: &ApproveArgs) -> Result<ApprovalSelection, Failure> {
    match (&args.tool[..], &args.digest) {
        ([], None) => Ok(ApprovalSelection::All),
        ([tool], digest) => Ok(ApprovalSelection::Tools(vec![(tool.clone(), digest.clone())])),
        (tools, None) => {
            Ok(ApprovalSelection::Tools(tools.iter().map(|tool| (tool.clone(), None)).collect()))
        }
        (_, Some(_)) => Err(Failure::Usage("a digest belongs to one tool: name it by --tool".into())),
    }
}

/// Resolves a UUID to the name of a server in the database. Servers of configuration files have a name only.
async fn resolve_server_name(store: &Store, reference: &str) -> Result<String, Failure> {
    if Uuid::parse_str(reference).is_err() {
        return Ok(reference.to_owned());
    }
    let row = store.server(reference).await?;
    row.map(|row| row.name).ok_or_else(|| {
        Failure::Data(format!("there is no server {reference} in the database; see `keyadm servers list`"))
    })
}

fn render(server: &str, changes: &[PinChange], word: &str, json: bool) -> String {
    if json {
        let mut answer = json!({"server": server});
        answer[word] = Value::Array(changes.iter().map(|change| json!(change)).collect());
        return line(&answer);
    }
    if changes.is_empty() {
        return format!("No tools of {server:?} wait to be approved.\n");
    }
    let cells = changes.iter().map(|change| {
        let changed = change.changed.as_ref().map_or("new".to_owned(), |parts| parts.join(","));
        vec![change.tool.clone(), changed, time::format(change.since), change.digest.clone()]
    });
    let head = if word == "approved" { "APPROVED" } else { "WAITS" };
    table(&[head, "CHANGED", "SEEN", "DIGEST"], cells)
}
