//! Records under load while their target fails: each call has one record, or is counted as dropped.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use prost::Message as _;

use crate::records::{FILE, counter, records, stop};
use crate::support::{Client, Gateway, Peer, Setup, is_long, modern_call, until};

const CLIENTS: usize = 4;

/// Of each client, when the disk is full or the collector hangs.
const CALLS_MEANWHILE: usize = 100;

const DROPPED: &str = "metamcp_records_dropped_total";

/// The calls of each client.
fn calls() -> usize {
    if is_long() { 50_000 } else { 800 }
}

/// Calls tools of names that occur once, and runs `disturb` meanwhile. Returns the number of calls.
fn load(gateway: &Gateway, disturb: impl FnOnce()) -> u64 {
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut client = Client::connect(gateway.address);
                for call in 0..calls() {
                    let tool = format!("t{number}_{call}");
                    let response = client.ask(&modern_call("/servers/a/mcp", &tool, "{}"));
                    assert_eq!(response.status, 200);
                }
            });
        }
        disturb();
    });
    (CLIENTS * calls()) as u64
}

/// Each tool was called once, so a name that occurs again is a record that was written twice.
#[track_caller]
fn check(mut tools: Vec<String>, calls: u64, dropped: u64) {
    let count = tools.len() as u64;
    tools.sort_unstable();
    let repeated: Vec<_> = tools.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(repeated.is_empty(), "recorded twice: {repeated:?}");
    assert_eq!(count + dropped, calls, "{count} recorded, {dropped} dropped");
    println!("{calls} calls: {count} recorded once, {dropped} counted as dropped");
}

#[test]
fn a_full_disk_and_rotation_lose_only_what_is_counted() {
    let peer = Peer::script([]);
    let settings = format!("{FILE}file_bytes_max = \"64KiB\"\nfiles_kept_max = 1000\nqueue_max = 64\n");
    let mut gateway = Setup::new().server("a", peer.address).with(&settings).start();
    let current = gateway.path().join("calls.jsonl");
    // As logrotate does. The new file, if there is one, is in place before the gateway opens it.
    let rename = |number: usize, is_full: bool| {
        let renamed = gateway.path().join(format!("calls.old{number}"));
        let _ = fs::rename(&current, renamed);
        if is_full {
            let _ = fs::remove_file(&current);
            symlink("/dev/full", &current).unwrap();
        }
        gateway.signal("-HUP");
    };
    let served = || peer.calls().len();
    let made = load(&gateway, || {
        for number in 0..5 {
            let before = served();
            rename(number, false);
            until("calls go on", || served() >= before + CALLS_MEANWHILE);
        }
        // Until records are dropped, or all calls are made.
        rename(5, true);
        until("records are dropped", || counter(&gateway, DROPPED) > 0);
        fs::remove_file(&current).unwrap();
        gateway.signal("-HUP");
    });
    let dropped = counter(&gateway, DROPPED);
    stop(&mut gateway);
    let found = records(&gateway);
    let tools = found.iter().filter_map(|record| record["tool"].as_str().map(str::to_owned)).collect();
    check(tools, made, dropped);
    assert!(dropped > 0 && gateway.path().join("calls.jsonl.1").exists());
}

/// A collector that reads and does not answer, until it is told to.
struct HangingCollector {
    address: SocketAddr,
    state: Arc<Mutex<Collected>>,
}

#[derive(Default)]
struct Collected {
    answers: bool,
    /// Requests without an answer.
    hung: usize,
    /// The tools in the records of requests that were answered.
    tools: Vec<String>,
}

impl HangingCollector {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(Collected::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream.unwrap(), &state));
            }
        });
        Self { address, state }
    }
}

/// One request for each connection, as far as this collector is concerned.
fn serve(mut stream: TcpStream, state: &Mutex<Collected>) {
    let mut bytes = Vec::new();
    let (body_at, length) = loop {
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&more[..count]),
            _ => return,
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        break (end + 4, length.parse::<usize>().unwrap());
    };
    let mut rest = vec![0; body_at + length - bytes.len()];
    if stream.read_exact(&mut rest).is_err() {
        return;
    }
    bytes.extend(rest);
    let mut collected = state.lock().unwrap();
    if !collected.answers {
        collected.hung += 1;
        drop(collected);
        let _ = stream.read(&mut [0]);
        return;
    }
    collected.tools.extend(tools(&bytes[body_at..]));
    drop(stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
}

fn tools(export: &[u8]) -> Vec<String> {
    let export = ExportLogsServiceRequest::decode(export).unwrap();
    let scopes = export.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    let records = scopes.flat_map(|scope| scope.log_records);
    let tool = |attribute: opentelemetry_proto::tonic::common::v1::KeyValue| match attribute.value?.value? {
        any_value::Value::StringValue(text) if attribute.key == "gen_ai.tool.name" => Some(text),
        _ => None,
    };
    records.filter_map(|record| record.attributes.into_iter().find_map(tool)).collect()
}

#[test]
fn a_collector_that_hangs_loses_only_what_is_counted() {
    let (peer, collector) = (Peer::script([]), HangingCollector::start());
    let endpoint = format!("http://{}", collector.address);
    let settings = format!(
        "[records]\ntarget = \"otlp\"\nendpoint = \"{endpoint}\"\ntimeout = \"1s\"\nqueue_max = 1024\n"
    );
    let mut gateway = Setup::new().server("a", peer.address).with(&settings).start();
    let made = load(&gateway, || {
        until("the collector is asked", || collector.state.lock().unwrap().hung > 0);
        until("records are dropped", || counter(&gateway, DROPPED) > 0);
        collector.state.lock().unwrap().answers = true;
    });
    let written = || counter(&gateway, "metamcp_records_written_total");
    until("the rest is sent", || written() + counter(&gateway, DROPPED) == made);
    let dropped = counter(&gateway, DROPPED);
    stop(&mut gateway);
    let state = collector.state.lock().unwrap();
    let distinct: HashSet<&String> = state.tools.iter().collect();
    assert!(distinct.len() > CLIENTS, "{} records", distinct.len());
    check(state.tools.clone(), made, dropped);
}
