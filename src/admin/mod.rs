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
mod member_names;
mod request;
mod entity_tag;
mod store_status;
mod metrics_state;
mod admin_jobs;
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
mod event_stream;
mod events;
mod call_meter;
mod paths;
mod tool_approvals;
mod records;
mod views;
mod openapi;
mod openapi_examples;
mod openapi_schemas;
mod swagger;

pub use admin_jobs::{AdminJobRunner, AdminJobs};
pub use body::ControlPlaneBody;
pub use control_plane::{ControlPlane, ControlPlaneParts};
pub use dispatch::{ControlPlaneRequest, methods};
pub use events::CallEvents;
pub use openapi::document;
pub use routes::{ROUTES, Route, RoutePolicy};
pub use store_status::{RowStatus, StoreStatus};
