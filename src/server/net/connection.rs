//! The owner of one client connection.
//!
//! It holds what it needs at the moment: hyper for requests of any shape and for HTTP/2; a fast lane for those of the
//! usual shape, and for event streams whoever read their requests; and nothing but the socket while nothing goes on
//! (then it is *parked*, and is no task any more).
//!
//! Invariants: a byte that was read is never lost where one of these hands over to another; hyper is left only between
//! two requests or before the first byte of an answer, and when all that it had to write is written.
//!
//! Does not know: what is asked, nor how it is answered.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::fast_lane::{self, End};
use super::hyper_connection::{self, Left};
use super::link::{Detached, Link};
use crate::runtime::runtime_looked;
use crate::server::http1::activity::{Control, Order};
use crate::server::http1::connection_slots::ConnectionSlot;
use crate::server::http1::socket::Socket;
use crate::server::reply::response_writer::Writing;
use crate::server::worker::parking::{Parked, Silent, Woken};
use crate::server::worker::Worker;
use metamcp_core::base::ShutdownPhase;

/// A TLS handshake takes two round trips; a client that takes longer than this has stalled.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a connection that was just accepted.
pub async fn serve(worker: Rc<Worker>, socket: Socket, place: ConnectionSlot, tls: Option<TlsAcceptor>) {
    let socket = match (tls, socket) {
        // Boxed: a handshake is ten times what a connection has afterwards.
        (Some(acceptor), Socket::Tcp(tcp)) => match Box::pin(shake_hands(acceptor, tcp)).await {
            Some(stream) => Socket::Tls(stream),
            None => return,
        },
        (_, plain) => plain,
    };
    own(worker, Link { socket, ahead: BytesMut::new(), speaks: None }, place, None).await;
}

/// Serves a connection that was parked.
pub async fn serve_again(worker: Rc<Worker>, mut woken: Woken) {
    let writing = woken.take_stream();
    let Parked { socket, place, speaks, .. } = woken.parked;
    // One that cannot be watched is as good as gone.
    let Some(socket) = Socket::from_std(socket) else { return };
    own(worker, Link { socket, ahead: BytesMut::new(), speaks }, place, writing).await;
}

async fn shake_hands(acceptor: TlsAcceptor, tcp: TcpStream) -> Option<Box<TlsStream<TcpStream>>> {
    timeout(TLS_TIMEOUT, acceptor.accept(tcp)).await.ok()?.ok().map(Box::new)
}

/// Serves a connection until it is over or parked.
async fn own(worker: Rc<Worker>, mut link: Link, place: ConnectionSlot, stream: Option<Writing>) {
    let control = Control::new();
    let watched = worker.controls.watch(&control);
    if *worker.shared.phase.borrow() >= ShutdownPhase::Drain {
        // It says what was said to all others before it was there, when the runtime knows what has come on it.
        runtime_looked(worker.controls.open()).await;
        control.give(Order::Drain);
    }
    let mut stream = stream.map(|writing| Box::new(Detached { writing, active: control.begin() }));
    let silent = loop {
        match fast_lane::serve(&worker, &control, &mut link, stream.take()).await {
            End::Gone => return,
            End::Rest => break None,
            End::Silent(writing) => break Some(writing),
            End::Unusual => {}
        }
        // Boxed: what hyper needs is a hundred times what an idle connection has.
        link = match Box::pin(hyper_connection::serve(&worker, &control, link)).await {
            Left::Gone => return,
            Left::Rest(link) => link,
            Left::Stream(link, detached) => {
                stream = Some(detached);
                link
            }
        };
    };
    drop(watched);
    // One that cannot be given back has no descriptor that is open.
    let Some(socket) = link.socket.into_std() else { return };
    let stream = silent.map(|writing| Box::new(Silent::new(*writing)));
    worker.parking.park(Parked { socket, since: control.still_since(), place, speaks: link.speaks, stream });
}
