//! The control plane over HTTP: health, tokens, metrics, and administration of servers and endpoints.
//!
//! Invariants: only routes in [`ROUTES`] exist, and each of them has a policy; the caller is authenticated
//! before anything else is read; no secret is ever returned; every change is in the audit log under the id of
//! the key that made it; responses to callers without a credential name nothing that is configured.
//!
//! Does not know the data plane. The two share snapshots: the keyring, the topology and the catalog.

mod routes;
mod dispatch;
mod control_plane;
mod authentication;
mod authenticated_request;
mod body;
mod problem;
mod request;
mod tag;
mod standing;
mod metrics_state;
mod errand;
mod health;
mod metrics;
mod servers;
mod files;
mod prefixes;
mod endpoints;
mod import;
mod tools;
mod access;
mod call;
mod tool_result;
mod events;
mod tally;
mod paths;
mod vetting;
mod records;
mod views;
mod openapi;
mod openapi_schemas;
mod swagger;

pub use body::ControlPlaneBody;
pub use control_plane::{ControlPlane, ControlPlaneParts};
pub use dispatch::{ControlPlaneRequest, methods};
pub use errand::{AdminJobRunner, AdminJobs};
pub use events::CallEvents;
pub use openapi::document;
pub use routes::{ROUTES, Route, RoutePolicy};
pub use standing::{RowStatus, StoreStatus};
