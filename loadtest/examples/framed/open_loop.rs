//! The open loop: requests at a fixed rate on one stream.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use super::message::message;
use super::shared::{LoadOptions, LoadState};
use super::stream::{StreamReader, append_message, send_chunk};

/// A response that has not arrived this long after the last request is lost.
const LAST_RESPONSE_NS: u64 = 1_000_000_000;

/// Sends and reads on one thread that never sleeps: with two threads and the gateway on two cores, one of them would wait for
/// the scheduler. Latencies count from the due time of a request, so that a late one does not hide a stall.
pub fn run(
    socket: &mut TcpStream,
    reader: &mut StreamReader,
    state: &LoadState,
    options: &LoadOptions,
    rate: u64,
) -> io::Result<Vec<u64>> {
    socket.set_nonblocking(true)?;
    let (mut messages, mut latencies, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut id, mut in_flight, start) = (0, 0, state.elapsed_ns());
    let mut ends = u64::MAX;
    loop {
        let (now, due) = (state.elapsed_ns(), start + id * 1_000_000_000 / rate);
        let is_over = state.is_over.load(Ordering::Relaxed);
        if is_over {
            ends = ends.min(now + LAST_RESPONSE_NS);
            if in_flight == 0 || now >= ends {
                break;
            }
        }
        if !is_over && now >= due && in_flight + options.batch <= options.window {
            bytes.clear();
            for _ in 0..options.batch {
                state.sent_at(id).store(due, Ordering::Relaxed);
                append_message(&mut bytes, &message(&options.method, id), options.is_lines);
                id += 1;
            }
            in_flight += options.batch;
            send_chunk(socket, &bytes)?;
        }
        match reader.fill() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            other => other?,
        }
        reader.take_messages(&mut messages)?;
        let responses = state.record_responses(&mut messages, &mut latencies);
        in_flight -= responses;
        state.responses.fetch_add(responses, Ordering::Relaxed);
    }
    state.failed.fetch_add(in_flight, Ordering::Relaxed);
    Ok(latencies)
}
