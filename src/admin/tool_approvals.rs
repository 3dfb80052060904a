//! REST handlers that show and approve changed tools.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::authenticated_request::AuthenticatedRequest;
use super::control_plane::ControlPlane;
use super::problem::Problem;
use super::request::{json_body, ok_response};
use super::servers::{WRITE_ATTEMPTS_MAX, unprocessable};
use super::views::{ApproveTools, ApprovedTools, ServerApprovalStatus, ToolChange};
use crate::catalog::StoredPins;
use metamcp_store::definition::FieldError;
use metamcp_store::store::{NewToolPins, RowSealer, SealedRow, StoreError, Uuid};
use metamcp_store::tool_pins::{ApprovalSelection, PinApprovalError, ToolPins, summarize_changes};

impl ControlPlane {
    pub(super) async fn get_vetting(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let server = self.server_name(call.parameter(0)).await?;
        let vetted = ServerApprovalStatus::new(self.parts.catalog.approvals().status(&server));
        Ok(ok_response(&vetted.map_or_else(|| json!({}), |vetted| json!(vetted))))
    }

    pub(super) async fn approve_tools(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let body = json_body(call.headers(), call.body())?;
        let approval = ApproveTools::deserialize(&body).map_err(|_| unprocessable(vec![unread()]))?;
        let what = approval.tools.map_or(ApprovalSelection::All, |tools| {
            ApprovalSelection::Tools(tools.into_iter().map(|tool| (tool.name, tool.digest)).collect())
        });
        let server = self.server_name(call.parameter(0)).await?;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let approved = match self.approve(&server, &what, call).await {
                Err(ApprovalError::Store(StoreError::Conflict)) => continue,
                Err(ApprovalError::Store(error)) => return Err(error.into()),
                Err(ApprovalError::Rejected(detail)) => {
                    return Err(Problem::new(StatusCode::CONFLICT, detail));
                }
                Ok(approved) => approved,
            };
            self.parts.catalog.apply_approvals().await;
            return Ok(ok_response(&json!(ApprovedTools { approved })));
        }
        Err(StoreError::Conflict.into())
    }

    async fn approve(
        &self,
        server: &str,
        what: &ApprovalSelection,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Vec<ToolChange>, ApprovalError> {
        let store = &self.parts.store;
        let Some(row) = store.tool_pins_of(server).await? else {
            // Nothing was listed yet, so nothing waits for approval.
            ToolPins::default().approve(what)?;
            return Ok(Vec::new());
        };
        let opens = self.parts.auth.sealer().open_row(SealedRow::ToolPins(&row)).is_some();
        let pins = ToolPins::from_json(&row.pins).filter(|_| opens);
        let mut pins = pins.ok_or(ApprovalError::Store(StoreError::Closed("tool pin record of a server")))?;
        let approved = pins.approve(what)?;
        if !approved.is_empty() {
            let new = NewToolPins {
                server: server.to_owned(),
                pins: pins.to_json(),
                expect: Some(row.version),
                told: Some(("server.tools.approve", summarize_changes(&approved))),
            };
            let row = store.put_tool_pins(new, call.audit()).await?;
            self.parts.catalog.approvals().load(server, Some(StoredPins::Pins(pins, row.version)));
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
enum ApprovalError {
    Store(StoreError),
    /// The text is for the caller.
    Rejected(String),
}

impl From<PinApprovalError> for ApprovalError {
    fn from(error: PinApprovalError) -> Self {
        Self::Rejected(error.to_string())
    }
}

impl From<StoreError> for ApprovalError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn unread() -> FieldError {
    FieldError::new("", "is neither {}, to approve all, nor {\"tools\": [{\"name\": …, \"digest\": …}]}")
}
