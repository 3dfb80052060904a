//! Entries that lead back to the gateway itself. The file of a client that uses the gateway names it, and the same file
//! may be given to the gateway: it would list its own tools under another prefix, again and again.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use url::{Host, Url};

/// Where clients reach the gateway, as far as the configuration says. A name or a proxy may hide it: the answer to
/// `initialize` tells then (`catalog::capabilities` of the gateway).
#[derive(Debug)]
pub(super) struct OwnAddress {
    /// `None` if the gateway listens on no port, or on any that is free.
    listen: Option<SocketAddr>,
    /// The settings `server.hosts`, in lower case, with or without a port.
    hosts: Vec<String>,
    /// The `mcp.json` that is being read.
    mcp_json: Option<PathBuf>,
}

/// Why an entry is left out.
pub(super) const LEADS_BACK: &str =
    "skipped: it leads to this gateway itself, which would list its own tools again and again";

/// Why a program is left out that is a gateway with the same file.
pub(super) const STARTS_AGAIN: &str =
    "skipped: it starts a gateway with this same file, which would start another one, again and again";

impl OwnAddress {
    pub fn new(listen: Option<SocketAddr>, hosts: &[String], mcp_json: Option<&Path>) -> Self {
        let listen = listen.filter(|listen| listen.port() != 0);
        Self { listen, hosts: hosts.to_vec(), mcp_json: mcp_json.map(Path::to_owned) }
    }

    /// Whether a URL is that of an endpoint of this gateway.
    pub fn is_named_by(&self, text: &str) -> bool {
        let Ok(url) = Url::parse(text) else { return false };
        matches!(url.scheme(), "http" | "https") && is_endpoint_path(url.path()) && self.is_reached_at(&url)
    }

    /// Why a program with these arguments leads back to this gateway, if it does.
    pub fn loop_through(&self, command: &str, args: &[&str]) -> Option<&'static str> {
        let program = Path::new(command).file_name()?.to_str()?;
        let is_bridge = match program {
            "metamcp-connect" => true,
            "metamcp" => args.contains(&"connect"),
            _ => [&[program], args].concat().iter().any(|word| is_mcp_remote(word)),
        };
        if is_bridge && args.iter().any(|arg| self.is_named_by(arg)) {
            return Some(LEADS_BACK);
        }
        let has_same_file = || {
            let own = self.mcp_json.as_ref().and_then(|path| path.canonicalize().ok());
            own.is_some_and(|own| args.iter().any(|arg| is_path(arg, &own)))
        };
        (program == "metamcp" && args.contains(&"stdio") && has_same_file()).then_some(STARTS_AGAIN)
    }

    fn is_reached_at(&self, url: &Url) -> bool {
        let (Some(host), Some(port), Some(listen)) = (url.host(), url.port_or_known_default(), self.listen)
        else {
            return false;
        };
        let named = url.host_str().unwrap_or_default().to_ascii_lowercase();
        if self.hosts.contains(&format!("{named}:{port}")) {
            return true;
        }
        port == listen.port() && (self.hosts.contains(&named) || reaches(listen, &host))
    }
}

/// Whether connections to this host reach the listening address. All loopback addresses count as one, because clients
/// write any of them for this machine.
fn reaches(listen: SocketAddr, host: &Host<&str>) -> bool {
    let listen = listen.ip().to_canonical();
    let is_local = listen.is_loopback() || listen.is_unspecified();
    let ip = match host {
        Host::Domain(name) => return is_local && name.trim_end_matches('.') == "localhost",
        Host::Ipv4(ip) => IpAddr::V4(*ip),
        Host::Ipv6(ip) => IpAddr::V6(*ip).to_canonical(),
    };
    ip == listen || (is_local && (ip.is_loopback() || ip.is_unspecified()))
}

/// Whether a path is `/mcp`, `/mcp/NAME`, `/metamcp/NAME/mcp` or `/servers/NAME/mcp`.
fn is_endpoint_path(path: &str) -> bool {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    matches!(segments[..], ["mcp"] | ["mcp", _] | ["metamcp" | "servers", _, "mcp"])
}

/// Whether an argument is that path, or ends with it after `=`.
fn is_path(arg: &str, own: &Path) -> bool {
    let path = arg.split_once('=').map_or(arg, |(_, path)| path);
    !path.is_empty() && Path::new(path).canonicalize().is_ok_and(|path| path == own)
}

/// Whether a word names the bridge `mcp-remote`, perhaps with a version.
fn is_mcp_remote(word: &str) -> bool {
    word == "mcp-remote" || word.starts_with("mcp-remote@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listen: &str, url: &str, expected: bool) {
        let hosts = ["gw.example".to_owned(), "public.example:443".to_owned()];
        let own = OwnAddress::new(listen.parse().ok(), &hosts, None);
        assert_eq!(own.is_named_by(url), expected, "{url} at {listen}");
    }

    #[test]
    fn urls_of_the_gateway_are_recognized() {
        for listen in ["127.0.0.1:12009", "0.0.0.0:12009", "[::]:12009", "[::1]:12009"] {
            for host in ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "0.0.0.0", "gw.example"] {
                for path in ["mcp", "mcp/", "mcp/team", "servers/a/mcp", "metamcp/team/mcp", "mcp?x=1"] {
                    check(listen, &format!("http://{host}:12009/{path}"), true);
                }
                check(listen, &format!("http://{host}:12010/mcp"), false);
                check(listen, &format!("http://{host}:12009/sse"), false);
                check(listen, &format!("http://{host}:12009/servers/mcp"), false);
            }
        }
        check("10.0.0.5:12009", "http://10.0.0.5:12009/mcp", true);
        check("10.0.0.5:12009", "http://127.0.0.1:12009/mcp", false);
        check("10.0.0.5:12009", "http://localhost:12009/mcp", false);
        check("127.0.0.1:12009", "http://10.0.0.5:12009/mcp", false);
        check("127.0.0.1:12009", "https://public.example/mcp", true);
        check("127.0.0.1:12009", "https://gw.example/mcp", false);
        check("127.0.0.1:12009", "unix:/a:/mcp", false);
        check("127.0.0.1:80", "http://localhost/mcp", true);
        check("127.0.0.1:0", "http://127.0.0.1:12009/mcp", false);
    }

    #[test]
    fn programs_that_lead_back_are_recognized() {
        let file = std::env::temp_dir().join(format!("metamcp-own-{}.json", std::process::id()));
        std::fs::write(&file, "{}").unwrap();
        let own = OwnAddress::new("127.0.0.1:12009".parse().ok(), &[], Some(&file));
        let check = |words: &str, expected: Option<&str>| {
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(own.loop_through(words[0], &words[1..]), expected, "{words:?}");
        };
        check("metamcp connect http://127.0.0.1:12009/mcp", Some(LEADS_BACK));
        check("/usr/bin/metamcp --log-format text connect http://localhost:12009/mcp/a", Some(LEADS_BACK));
        check("metamcp connect http://127.0.0.1:12010/mcp", None);
        check("metamcp-connect http://127.0.0.1:12009/mcp", Some(LEADS_BACK));
        check("npx -y mcp-remote http://127.0.0.1:12009/mcp --allow-http", Some(LEADS_BACK));
        check("npx mcp-remote@latest http://127.0.0.1:12009/servers/a/mcp", Some(LEADS_BACK));
        check("mcp-remote http://127.0.0.1:12009/mcp", Some(LEADS_BACK));
        // A server that calls tools of the gateway itself is none of its bridges.
        check("agent --tools http://127.0.0.1:12009/mcp", None);
        check(&format!("metamcp stdio --mcp-json {}", file.display()), Some(STARTS_AGAIN));
        check(&format!("metamcp stdio --mcp-json={}", file.display()), Some(STARTS_AGAIN));
        check("metamcp stdio --mcp-json /nonexistent/mcp.json", None);
        std::fs::remove_file(&file).unwrap();
    }
}
