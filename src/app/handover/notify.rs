//! What the service manager is told (`sd_notify(3)`): one datagram for each change, if `NOTIFY_SOCKET` names a socket.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;

use metamcp_config::Env;
use rustix::time::{ClockId, clock_gettime};

/// The service manager, if there is one.
#[derive(Clone)]
pub struct ServiceManager {
    socket: Option<Rc<(UnixDatagram, SocketAddr)>>,
    /// Whether another process is the service now, which tells of itself.
    is_replaced: Rc<Cell<bool>>,
}

impl ServiceManager {
    /// Finds it in the environment.
    pub fn find(env: &dyn Env) -> Self {
        let name = env.var("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match open(&name) {
            Ok(socket) => Some(Rc::new(socket)),
            Err(error) => {
                tracing::warn!(%error, "cannot notify the service manager: NOTIFY_SOCKET is not a usable address");
                None
            }
        });
        Self { socket, is_replaced: Rc::default() }
    }

    /// For a gateway that no service manager has started.
    pub fn none() -> Self {
        Self { socket: None, is_replaced: Rc::default() }
    }

    /// The gateway accepts connections.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The gateway loads its configuration again, or starts a successor. `ready` ends it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Another process is the service from now on, and accepts connections.
    pub fn replaced_by(&self, process: u32) {
        self.send(&format!("MAINPID={process}\nREADY=1"));
        self.is_replaced.set(true);
    }

    fn send(&self, text: &str) {
        let Some((socket, address)) = self.socket.as_deref().filter(|_| !self.is_replaced.get()) else {
            return;
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

/// A name that begins with `@` is in the abstract namespace.
fn open(name: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop the gateway.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NotifySocket(String);

    impl Env for NotifySocket {
        fn var(&self, name: &str) -> Option<OsString> {
            (name == "NOTIFY_SOCKET").then(|| OsString::from(&self.0))
        }
    }

    #[test]
    fn each_change_is_one_datagram() {
        let name = format!("metamcp-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let service = ServiceManager::find(&NotifySocket(format!("@{name}")));
        let check = |send: fn(&ServiceManager), expected: &str| {
            send(&service);
            let mut bytes = [0; 128];
            let count = manager.recv(&mut bytes).unwrap();
            let text = str::from_utf8(&bytes[..count]).unwrap();
            assert!(text.starts_with(expected), "{text}");
        };
        check(ServiceManager::ready, "READY=1");
        check(ServiceManager::reloading, "RELOADING=1\nMONOTONIC_USEC=");
        check(ServiceManager::stopping, "STOPPING=1");
        check(|service| service.replaced_by(7), "MAINPID=7\nREADY=1");
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent() {
        for name in ["", "/nonexistent/socket"] {
            ServiceManager::find(&NotifySocket(name.into())).ready();
        }
    }
}
