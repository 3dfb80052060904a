//! Which addresses must not be reachable through the gateway without permission: the machine itself, its
//! network, and the metadata services of clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::ServerAddress;

/// Whether an address as written is private. A name is not resolved here but for each connection, because
/// names change.
pub fn is_private_address(address: &ServerAddress) -> bool {
    let (ServerAddress::Http(url) | ServerAddress::Sse(url)) = address else { return true };
    match url.host() {
        Some(url::Host::Ipv4(ip)) => is_private(ip.into()),
        Some(url::Host::Ipv6(ip)) => is_private(ip.into()),
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost") || METADATA_NAMES.contains(&name.as_str())
        }
        None => true,
    }
}

/// Whether an IP address is not one of the public internet (IANA special-purpose registries), or one of a
/// cloud's metadata services.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local() // 169.254.169.254, the metadata of most clouds, is one of them
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b)) // RFC 6598; 100.100.100.200 is a cloud's metadata
        || (a, b, c) == (192, 0, 0)
        || DOCUMENTATION.contains(&[a, b, c])
        || (a == 198 && (b == 18 || b == 19))
        || ip == AZURE_METADATA
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // An IPv4 address in another form: mapped or compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Local-use NAT64 (RFC 8215), IPv4-translated (RFC 2765), Teredo (RFC 4380), documentation (RFC
        // 3849), discard-only (RFC 6666).
        [0x64, 0xff9b, 1, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x2001, 0 | 0xdb8, ..]
        | [0x100, 0, 0, 0, ..] => true,
        [first, ..] => {
            ip.is_multicast()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || first & 0xffc0 == 0xfec0
        }
    }
}

/// A public address that the machine's own host answers.
const AZURE_METADATA: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Networks for examples in documentation (RFC 5737). If anything answers there, it is internal.
const DOCUMENTATION: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];

/// The names under which clouds serve metadata.
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "metadata.goog"];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: bool) {
        let address = match text.strip_prefix("unix:") {
            Some(socket) => ServerAddress::Unix { socket: socket.into(), path: "/mcp".to_owned() },
            None => ServerAddress::Http(text.parse().expect("a URL")),
        };
        assert_eq!(is_private_address(&address), expected, "{text}");
    }

    #[test]
    fn knows_private_addresses_in_every_spelling() {
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://169.254.169.254/latest",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://metadata.google.internal/",
            "http://198.18.0.1/",
            "http://255.255.255.255/",
            "http://224.0.0.1/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a00:1]/",
            "http://[::7f00:1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:7f00:1::]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://[ff02::1]/",
            "http://[64:ff9b:1::1]/",
            "http://192.0.2.1/",
            "http://198.51.100.1/",
            "http://203.0.113.1/",
            "http://[::ffff:0:7f00:1]/",
            "http://[::ffff:0:808:808]/",
            "http://[2001:0:808:808::1]/",
            "http://[2001:db8::1]/",
            "http://[100::1]/",
            "unix:/run/x.sock",
        ] {
            check(text, true);
        }
        for text in [
            "https://example.com/mcp",
            "http://8.8.8.8/",
            "http://172.32.0.1/",
            "http://[2606:4700::1]/",
            "http://localhost.example.com/",
            "http://100.128.0.1/",
            "http://[64:ff9b::808:808]/",
            "http://192.0.3.1/",
            "http://198.51.101.1/",
            "http://[2001:4860::1]/",
            "http://[100:0:0:1::1]/",
        ] {
            check(text, false);
        }
    }
}
