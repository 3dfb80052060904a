//! TLS: certificates that change while connections and streams are open, certificates of clients, and TLS towards servers.

pub mod authority;
mod certificate_changes;
mod checks;
mod client_certificates;
mod servers;
