//! The load: the threads that send requests, and the result that they give.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{connect, message_bytes};
use super::message::message;
use super::open_loop;
use super::shared::{LoadOptions, LoadState};
use super::stream::{StreamReader, append_message, open_stream, send_chunk};

/// Each thread returns its latencies in nanoseconds.
type Threads = Vec<JoinHandle<io::Result<Vec<u64>>>>;

pub fn run_load(port: u64, pid: &str, method: &str, options: &HashMap<&str, u64>) -> io::Result<()> {
    let state = Arc::new(LoadState::new());
    let (threads, cpu, began) = start_threads(port, pid, method, options, &state)?;
    thread::sleep(Duration::from_secs(options["--seconds"]));
    state.is_over.store(true, Ordering::Relaxed);
    let (responses, elapsed, cpu) =
        (state.responses.load(Ordering::Relaxed), began.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu);
    let mut latencies: Vec<u64> = Vec::new();
    for thread in threads {
        latencies.extend(thread.join().map_err(|_| io::Error::other("a thread of the load panicked"))??);
    }
    latencies.sort_unstable();
    let percentile = |per_mille: usize| {
        latencies.get(latencies.len() * per_mille / 1000).copied().unwrap_or_default() / 1000
    };
    #[allow(clippy::cast_precision_loss)] // counts of a run are far below 2^52
    let count = responses as f64;
    println!(
        "{method}: {responses} responses, {:.0} per second, {:.2} us of CPU each ({:.0} per second and core), \
         p50 {} us, p99 {} us, p99.9 {} us, {} failed",
        count / elapsed,
        cpu * 1e6 / count,
        count / cpu,
        percentile(500),
        percentile(990),
        percentile(999),
        state.failed.load(Ordering::Relaxed),
    );
    Ok(())
}

/// Starts the threads. Returns them with the CPU time of `pid` and the time at the start of the measurement.
fn start_threads(
    port: u64,
    pid: &str,
    method: &str,
    options: &HashMap<&str, u64>,
    state: &Arc<LoadState>,
) -> io::Result<(Threads, f64, Instant)> {
    let mut threads = Vec::new();
    if options["--single"] == 1 {
        for _ in 0..options["--connections"] {
            let (mut socket, state, method) = (connect(port)?, Arc::clone(state), method.to_owned());
            threads.push(thread::spawn(move || send_single_requests(&mut socket, &state, &method)));
        }
        return Ok((threads, cpu_seconds(pid), Instant::now()));
    }
    let mut socket = connect(port)?;
    let load = LoadOptions {
        method: method.to_owned(),
        is_lines: options["--lines"] == 1,
        window: options["--window"],
        batch: options["--batch"],
    };
    let mut reader = open_stream(&mut socket, load.is_lines, method)?;
    let (cpu, began) = (cpu_seconds(pid), Instant::now());
    let rate = options["--rate"];
    let (reading, writing) = (Arc::clone(state), Arc::clone(state));
    if rate == 0 {
        threads.push(thread::spawn(move || read_responses(&mut reader, &reading)));
        threads.push(thread::spawn(move || write_requests(&mut socket, &writing, &load)));
    } else {
        threads.push(thread::spawn(move || open_loop::run(&mut socket, &mut reader, &writing, &load, rate)));
    }
    Ok((threads, cpu, began))
}

/// The CPU time of a process in seconds, user and system.
fn cpu_seconds(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // utime and stime, in hundredths (proc(5)).
    let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn write_requests(socket: &mut TcpStream, state: &LoadState, load: &LoadOptions) -> io::Result<Vec<u64>> {
    let mut bytes = Vec::new();
    let mut id: u64 = 0;
    while !state.is_over.load(Ordering::Relaxed) {
        let in_flight = state.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |count: &mut u64| *count + load.batch > load.window;
        let (mut in_flight, _) = state
            .in_flight
            .1
            .wait_timeout_while(in_flight, Duration::from_millis(100), is_full)
            .unwrap_or_else(PoisonError::into_inner);
        if *in_flight + load.batch > load.window {
            continue;
        }
        *in_flight += load.batch;
        drop(in_flight);
        bytes.clear();
        let now = state.elapsed_ns();
        for _ in 0..load.batch {
            state.sent_at(id).store(now, Ordering::Relaxed);
            append_message(&mut bytes, &message(&load.method, id), load.is_lines);
            id += 1;
        }
        send_chunk(socket, &bytes)?;
    }
    socket.write_all(b"0\r\n\r\n")?;
    Ok(Vec::new())
}

fn read_responses(reader: &mut StreamReader, state: &LoadState) -> io::Result<Vec<u64>> {
    let (mut messages, mut latencies) = (Vec::new(), Vec::new());
    while reader.next(&mut messages)? {
        state.add_responses(state.record_responses(&mut messages, &mut latencies));
    }
    Ok(latencies)
}

/// Sends the same calls as single HTTP requests, one after the other.
fn send_single_requests(socket: &mut TcpStream, state: &LoadState, method: &str) -> io::Result<Vec<u64>> {
    let body = message(method, 1);
    let name = match method {
        "tools/call" => "s__tool_00",
        "refused" => "nobody__knows",
        _ => "",
    };
    let mcp_method = if method == "refused" { "tools/call" } else { method };
    let name = if name.is_empty() { String::new() } else { format!("Mcp-Name: {name}\r\n") };
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: {mcp_method}\r\n{name}Content-Length: {}\r\n\r\n{body}",
        body.len(),
    );
    let (mut latencies, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    while !state.is_over.load(Ordering::Relaxed) {
        let sent = state.elapsed_ns();
        socket.write_all(request.as_bytes())?;
        let (mut received, mut length) = (0, usize::MAX);
        while received < length {
            let count = socket.read(&mut buffer[received..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received += count;
            if length == usize::MAX {
                length = message_bytes(&buffer[..received]);
            }
        }
        latencies.push(state.elapsed_ns() - sent);
        state.responses.fetch_add(1, Ordering::Relaxed);
        if !buffer.starts_with(b"HTTP/1.1 200") {
            state.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(latencies)
}
