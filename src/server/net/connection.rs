//! The task of one client connection.
//!
//! It holds only what it needs at the moment: hyper for HTTP/2 and for uncommon requests; the fast lane for
//! common requests, and for event streams of both; and nothing but the socket while the connection is idle.
//! It is then *parked*, and has no task.
//!
//! Invariants: no received byte is lost when one of these hands the connection over to another. hyper is left
//! only between two requests or before the first byte of a response, and when everything it had to write is
//! written.
//!
//! Does not know: the contents of requests and responses.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::connection_transfer::{ConnectionTransfer, DetachedStream};
use super::fast_lane::{self, FastLaneExit};
use super::hyper_connection::{self, HyperExit};
use crate::runtime::await_socket_polls;
use crate::server::http1::activity::{ConnectionActivity, ConnectionOrder};
use crate::server::http1::connection_slots::ConnectionSlot;
use crate::server::http1::socket::Socket;
use crate::server::reply::response_writer::ResponseWriter;
use crate::server::tls::{TlsSettings, VerifiedClient};
use crate::server::worker::Worker;
use crate::server::worker::parking::{ParkedConnection, ParkedStream, WokenConnection};
use metamcp_core::base::ShutdownPhase;

/// A TLS handshake takes two round trips. A client that takes longer than this has stalled.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a new connection.
pub async fn serve(worker: Rc<Worker>, socket: Socket, place: ConnectionSlot) {
    let (socket, client) = match (&worker.shared.tls, socket) {
        // Boxed: a handshake takes ten times the memory of the connection afterwards.
        (Some(tls), Socket::Tcp(tcp)) => match Box::pin(shake_hands(tls.current(), tcp)).await {
            Some((stream, client)) => (Socket::Tls(stream), client),
            None => return,
        },
        (_, plain) => (plain, None),
    };
    let activity = ConnectionActivity::new();
    if let Some(client) = client {
        activity.certificate.set(client.certificate);
        activity.accepted_by.set(Some(client.accepted_by));
    }
    let link =
        ConnectionTransfer { socket, unprocessed: BytesMut::new(), protocol: None, is_pipelined: false };
    run_connection(worker, activity, link, place, None).await;
}

/// Serves a connection that was parked.
pub async fn serve_again(worker: Rc<Worker>, mut woken: WokenConnection) {
    let writing = woken.take_stream();
    let ParkedConnection { socket, slot: place, protocol: speaks, .. } = woken.parked;
    // A socket that cannot be registered is closed.
    let Some(socket) = Socket::from_std(socket) else { return };
    // Without a certificate: connections over TLS are not parked.
    let link =
        ConnectionTransfer { socket, unprocessed: BytesMut::new(), protocol: speaks, is_pipelined: false };
    run_connection(worker, ConnectionActivity::new(), link, place, writing).await;
}

/// Returns the stream, and the client if it has shown a certificate.
async fn shake_hands(
    tls: Arc<TlsSettings>,
    tcp: TcpStream,
) -> Option<(Box<TlsStream<TcpStream>>, Option<VerifiedClient>)> {
    let stream = timeout(TLS_TIMEOUT, tls.acceptor.accept(tcp)).await.ok()?.ok()?;
    let client = tls.identify_client(stream.get_ref().1.peer_certificates());
    Some((Box::new(stream), client))
}

/// Serves a connection until it ends or is parked.
async fn run_connection(
    worker: Rc<Worker>,
    activity: Rc<ConnectionActivity>,
    mut link: ConnectionTransfer,
    place: ConnectionSlot,
    stream: Option<ResponseWriter>,
) {
    let watched = worker.connections.register(&activity);
    if *worker.shared.phase.borrow() >= ShutdownPhase::Drain {
        // The order to drain was given before this connection existed. Follow it after the runtime has
        // noticed the bytes that arrived.
        await_socket_polls(worker.connections.open()).await;
        activity.tighten_order(ConnectionOrder::Drain);
    }
    let mut stream =
        stream.map(|writing| Box::new(DetachedStream { writing, active: activity.begin_request() }));
    let silent = loop {
        match fast_lane::serve(&worker, &activity, &mut link, stream.take()).await {
            FastLaneExit::Gone => return,
            FastLaneExit::Rest => break None,
            FastLaneExit::SilentStream(writing) => break Some(writing),
            FastLaneExit::Unusual => {}
        }
        // Boxed: hyper takes a hundred times the memory of an idle connection.
        link = match Box::pin(hyper_connection::serve(&worker, &activity, link)).await {
            HyperExit::Gone => return,
            HyperExit::Rest(link) => link,
            HyperExit::Stream(link, detached) => {
                stream = Some(detached);
                link
            }
        };
    };
    drop(watched);
    // A socket that cannot be detached is closed.
    let Some(socket) = link.socket.into_std() else { return };
    let stream = silent.map(|writing| Box::new(ParkedStream::new(*writing)));
    worker.parking.park(ParkedConnection {
        socket,
        since: activity.last_changed_at(),
        slot: place,
        protocol: link.protocol,
        stream,
    });
}
