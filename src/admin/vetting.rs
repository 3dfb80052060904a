//! REST handlers that show and approve changed tools.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::definition::FieldError;
use super::problem::Problem;
use super::request::{json_body, ok};
use super::servers::{TRIES, unprocessable};
use super::views::{ApproveTools, ApprovedTools, ServerVetting, ToolChange};
use super::{Admin, Call};
use crate::catalog::{Approve, Kept, NotApproved, Pins, told};
use crate::store::{Binder, Bound, NewPins, StoreError, Uuid};

impl Admin {
    pub(super) async fn get_vetting(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let server = self.server_name(call.parameter(0)).await?;
        let vetted = ServerVetting::new(self.parts.catalog.vetting().vetted(&server));
        Ok(ok(&vetted.map_or_else(|| json!({}), |vetted| json!(vetted))))
    }

    pub(super) async fn approve_tools(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let body = json_body(call.headers(), call.body())?;
        let asked = ApproveTools::deserialize(&body).map_err(|_| unprocessable(vec![unread()]))?;
        let what = asked.tools.map_or(Approve::All, |tools| {
            Approve::These(tools.into_iter().map(|tool| (tool.name, tool.digest)).collect())
        });
        let server = self.server_name(call.parameter(0)).await?;
        for _ in 0..TRIES {
            let approved = match self.approve(&server, &what, call).await {
                Err(Refused::Store(StoreError::Conflict)) => continue,
                Err(Refused::Store(error)) => return Err(error.into()),
                Err(Refused::Told(detail)) => return Err(Problem::new(StatusCode::CONFLICT, detail)),
                Ok(approved) => approved,
            };
            self.parts.catalog.follow_vetting().await;
            return Ok(ok(&json!(ApprovedTools { approved })));
        }
        Err(StoreError::Conflict.into())
    }

    async fn approve(
        &self,
        server: &str,
        what: &Approve,
        call: &Call<'_>,
    ) -> Result<Vec<ToolChange>, Refused> {
        let store = &self.parts.store;
        let Some(row) = store.tool_pins_of(server).await? else {
            // Nothing was listed yet, so nothing waits for approval.
            Pins::default().approve(what)?;
            return Ok(Vec::new());
        };
        let opens = self.parts.auth.sealer().open_row(Bound::ToolPins(&row)).is_some();
        let pins = Pins::from_json(&row.pins).filter(|_| opens);
        let mut pins = pins.ok_or(Refused::Store(StoreError::Closed("tool pin record of a server")))?;
        let approved = pins.approve(what)?;
        if !approved.is_empty() {
            let new = NewPins {
                server: server.to_owned(),
                pins: pins.to_json(),
                expect: Some(row.version),
                told: Some(("server.tools.approve", told(&approved))),
            };
            let row = store.put_tool_pins(new, call.audit()).await?;
            self.parts.catalog.vetting().read_one(server, Some(Kept::Pins(pins, row.version)));
        }
        Ok(approved.into_iter().map(ToolChange::from).collect())
    }

    /// Returns the name of a stored or served server, given its UUID or name.
    async fn server_name(&self, reference: &str) -> Result<String, Problem> {
        let is_served = self.topology().upstreams().any(|upstream| upstream.name().as_str() == reference);
        if is_served && Uuid::parse_str(reference).is_err() {
            return Ok(reference.to_owned());
        }
        self.server_row(reference).await.map(|row| row.name)
    }
}

/// Why nothing was approved.
enum Refused {
    Store(StoreError),
    /// The text is for the caller.
    Told(String),
}

impl From<NotApproved> for Refused {
    fn from(error: NotApproved) -> Self {
        Self::Told(error.to_string())
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn unread() -> FieldError {
    FieldError::new(
        "",
        "is neither {}, to approve all, nor {\"tools\": [{\"name\": …, \"digest\": …}]}",
    )
}
