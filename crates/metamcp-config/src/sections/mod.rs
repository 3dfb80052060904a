//! The sections of the configuration, as the rest of the gateway takes them: complete, validated, with defaults.

mod auth_mode;
mod bridge;
mod catalog;
mod endpoint;
mod http;
mod limits;
mod metrics;
mod records;
mod retention;
mod session;
mod streams;
mod tls;
mod tool_view;
mod traces;
mod webhooks;

pub use auth_mode::AuthMode;
pub use bridge::BridgeConfig;
pub use catalog::CatalogConfig;
pub use endpoint::{EndpointConfig, EndpointMember, EndpointMembers, NAME_SEPARATOR, NamePrefix};
pub use http::HttpConfig;
pub use limits::LimitsConfig;
pub use metrics::MetricsAccess;
pub use records::{RecordsCollector, RecordsConfig, RecordsFile, RecordsTarget};
pub use retention::RetentionPolicy;
pub use session::SessionConfig;
pub use streams::StreamsConfig;
pub use tls::{CertificateField, ClientAction, ClientCertificates, ClientRule, TlsFiles};
pub use tool_view::{ToolOverride, ToolView};
pub use traces::{ParentPolicy, SamplingRatio, TraceConfig};
pub use webhooks::{WebhookConfig, WebhookSecret};
