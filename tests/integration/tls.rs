//! TLS: certificates that change while connections and streams are open, and certificates of clients.

mod authority;
mod certificate_changes;
mod client_certificates;
