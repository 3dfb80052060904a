//! TLS towards clients: certificates that change while connections and streams are open.

mod authority;
mod certificate_changes;
