//! A gateway that is a server of itself, behind an address that does not say so: it recognizes its own answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;

use serde_json::Value;

use crate::support::{Client, Gateway, Peer, Request, Setup, legacy, listed, modern, open_session, until};

/// A proxy for TCP. Connections wait until its target is set.
fn proxy() -> (SocketAddr, Arc<OnceLock<SocketAddr>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let target: Arc<OnceLock<SocketAddr>> = Arc::default();
    let to = Arc::clone(&target);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let to = Arc::clone(&to);
            thread::spawn(move || {
                let Ok(server) = TcpStream::connect(to.wait()) else { return };
                let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || copy(from, into));
                copy(server, client);
            });
        }
    });
    (address, target)
}

fn copy(mut from: TcpStream, mut into: TcpStream) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if into.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    drop(into.shutdown(std::net::Shutdown::Write));
}

fn state(gateway: &Gateway, server: &str) -> Value {
    let ready = Client::once(gateway.address, &Request::new("GET", "/ready")).json();
    let servers = ready["servers"].as_array().unwrap();
    servers.iter().find(|found| found["name"] == server).unwrap().clone()
}

#[test]
fn a_gateway_does_not_list_itself() {
    const OWN: &str = "is this gateway itself";
    let (address, target) = proxy();
    let program = env!("CARGO_BIN_EXE_metamcp");
    let bridge = format!(
        "[servers.bridge]\ncommand = \"{program}\"\nargs = [\"connect\", \"http://{address}/mcp\"]\n"
    );
    let peer = Peer::script([]);
    let setup = Setup::new().server("other", peer.address).server("hidden", address).with(&bridge);
    let gateway = setup.start();
    target.set(gateway.address).unwrap();
    for server in ["hidden", "bridge"] {
        until("it knows itself", || state(&gateway, server).to_string().contains(OWN));
        assert_eq!(state(&gateway, server)["state"], "failing");
    }
    let session = open_session(&gateway, "/mcp", None);
    for request in [legacy("/mcp", &session, "1", "tools/list", ""), modern("/mcp", "tools/list", "")] {
        let tools = listed(&Client::once(gateway.address, &request).json());
        assert!(!tools.is_empty() && tools.iter().all(|name| name.starts_with("other__")), "{tools:?}");
    }
}
