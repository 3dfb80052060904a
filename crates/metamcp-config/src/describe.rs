//! The summary of a configuration.

use std::fmt;

use super::mistakes::printable;
use super::types::Config;
use crate::sections::AuthMode;
use crate::sections::{EndpointMembers, NamePrefix, RecordsFile, RecordsTarget};
use crate::server::ServerAddress;
use crate::server::{StdioAllowlist, address};
use metamcp_core::base::EndpointName;

/// What would be served, for `metamcp check` and the log at startup. Contains no secret: header names without
/// values, addresses without query and long path segments. Nor a control character of a value: it goes to a terminal.
#[derive(Clone, Copy)]
pub struct Summary<'a>(pub &'a Config);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { server, data_dir, .. } = self.0;
        let scheme = if server.tls.is_some() { "https" } else { "http" };
        let plural = if server.workers == 1 { "" } else { "s" };
        writeln!(f, "listens on {scheme}://{}, {} worker{plural}", server.listen, server.workers)?;
        let keys = match self.0.auth_mode {
            AuthMode::Keys => "asked for on every request",
            AuthMode::Open => "NOT asked for: everyone on this machine may call every tool",
        };
        writeln!(f, "keys       {keys}")?;
        writeln!(f, "data       {}", data_dir.display())?;
        match &self.0.database {
            Some(database) => writeln!(f, "database   PostgreSQL {database}")?,
            None => writeln!(f, "database   SQLite in the data directory")?,
        }
        for place in self.0.secret_places.elsewhere() {
            writeln!(f, "secret     {place}")?;
        }
        if let Some(traces) = &self.0.traces {
            writeln!(
                f,
                "traces     {}",
                address::format_redacted(&ServerAddress::Http(traces.endpoint.clone()))
            )?;
        }
        if let Some(records) = &self.0.records {
            match &records.target {
                RecordsTarget::File(RecordsFile { path, .. }) | RecordsTarget::Syslog(path) => {
                    writeln!(f, "records    {}", printable(&path.display().to_string()))?;
                }
                RecordsTarget::Otlp(collector) => {
                    let address = ServerAddress::Http(collector.endpoint.clone());
                    writeln!(f, "records    {}", address::format_redacted(&address))?;
                }
            }
        }
        for webhook in &self.0.webhooks {
            writeln!(
                f,
                "webhook    {}",
                address::format_redacted(&ServerAddress::Http(webhook.url.clone()))
            )?;
        }
        for path in &self.0.sources {
            writeln!(f, "read       {}", path.display())?;
        }
        self.endpoints(f)?;
        self.servers(f)?;
        let StdioAllowlist { commands, env, dirs } = &self.0.serving_policy.allowed;
        listed(f, "may run", commands)?;
        listed(f, "may set", env)?;
        listed(f, "may run in", dirs)?;
        for notice in &self.0.notices {
            writeln!(f, "notice     {notice}")?;
        }
        Ok(())
    }
}

/// Prints a part of the allowlist, unless it is empty.
fn listed<T: ToString>(f: &mut fmt::Formatter<'_>, what: &str, list: &[T]) -> fmt::Result {
    if list.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = list.iter().map(T::to_string).collect();
    writeln!(f, "{what:<10} {}", list.join(", "))
}

impl Summary<'_> {
    fn endpoints(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { endpoints, servers, .. } = self.0;
        let fallback_server = self.0.fallback_server.as_ref().filter(|_| servers.is_empty());
        let every =
            || servers.iter().chain(fallback_server).map(|server| server.name.as_str()).collect::<Vec<_>>();
        if endpoints.iter().all(|endpoint| endpoint.name.as_str() != EndpointName::DEFAULT) {
            endpoint(f, EndpointName::DEFAULT, NamePrefix::Always, &every())?;
        }
        for config in endpoints {
            let names = match &config.servers {
                EndpointMembers::All => every(),
                EndpointMembers::Listed(members) => {
                    members.iter().map(|member| member.server.as_str()).collect()
                }
            };
            endpoint(f, config.name.as_str(), config.prefix, &names)?;
        }
        Ok(())
    }

    fn servers(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.0.servers {
            let era = format!("{:?}", server.settings.era).to_lowercase();
            let address = printable(&address::format_redacted(&server.address));
            write!(f, "server     {}: {address} (era {era}", server.name)?;
            if !server.headers.is_empty() {
                let names: Vec<_> = server.headers.iter().map(|(name, _)| name.as_str()).collect();
                write!(f, ", headers {}", names.join(", "))?;
            }
            writeln!(f, ")")?;
        }
        if let Some(server) = self.0.fallback_server.as_ref().filter(|_| self.0.servers.is_empty()) {
            writeln!(
                f,
                "server     {}: the demonstration server, until a server is configured or stored",
                server.name
            )?;
        }
        Ok(())
    }
}

fn endpoint(f: &mut fmt::Formatter<'_>, name: &str, prefix: NamePrefix, servers: &[&str]) -> fmt::Result {
    let path = match name {
        EndpointName::DEFAULT => "/mcp".to_owned(),
        name => format!("/mcp/{name}"),
    };
    let prefix = match prefix {
        NamePrefix::Always => "always",
        NamePrefix::Never => "never",
    };
    let names = if servers.is_empty() { "no servers".to_owned() } else { servers.join(", ") };
    writeln!(f, "endpoint   {path} (prefix {prefix}): {names}")
}

impl fmt::Debug for Config {
    /// Prints the summary, which contains no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Summary(self), f)
    }
}
