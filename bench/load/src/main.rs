//! The load of `bench/compare-stdio`: `tools/call` in a closed loop, each with an id and a text of its own. Each response is
//! compared byte by byte with the one that the call must get.
//!
//! It has a single thread and uses little CPU time, since it shares a core with the server. It knows nothing of the gateway except
//! that it speaks HTTP/1.1; the call and its correct response are passed in.

mod response;
mod template;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use response::{ParsedResponse, RESPONSE_BYTES_MAX, parse_response};
use template::CallTemplate;

/// Calls a tool in a closed loop and compares each response; requests are passed in the environment
#[derive(Debug, Clone, Parser)]
#[command(name = "metamcp-bench-load", version)]
struct Args {
    /// The port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// The path that calls are posted to
    #[arg(long)]
    path: String,
    /// Concurrent connections, each with one call in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=999))]
    connections: u16,
    /// Seconds during which calls are started
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Headers, as lines of `Name: value`; may include a key
    #[arg(env = "CALL_HEADERS", hide_env_values = true)]
    headers: String,
    /// The body of a call
    #[arg(env = "CALL_BODY", hide_env_values = true)]
    body: String,
    /// The body of its correct response, as the server sends it
    #[arg(env = "CALL_ANSWER", hide_env_values = true)]
    answer: String,
    /// The placeholder for the id in both: 15 digits
    #[arg(env = "CALL_ID")]
    id: String,
    /// The prefix of the ids of this run: 4 digits
    #[arg(env = "CALL_RUN")]
    run: String,
}

/// The results of a connection.
#[derive(Default)]
struct ConnectionStats {
    /// Latencies of complete responses, in microseconds.
    latencies_us: Vec<u32>,
    received: usize,
    wrong: u64,
    is_broken: bool,
}

/// A response that has not arrived this long after the last call is lost.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.id.len() != template::ID_DIGITS || args.run.len() != template::RUN_DIGITS {
        eprintln!("CALL_ID has {} digits and CALL_RUN {}", template::ID_DIGITS, template::RUN_DIGITS);
        return ExitCode::from(64);
    }
    let (begun, seconds) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut connections = JoinSet::new();
    for number in 0..args.connections {
        connections.spawn(run(args.clone(), number, begun + seconds));
    }
    let mut all = ConnectionStats::default();
    let mut broken = 0;
    while let Some(ended) = connections.join_next().await {
        // A task that panicked has no stats, and counts as broken.
        let stats =
            ended.unwrap_or_else(|_| ConnectionStats { is_broken: true, ..ConnectionStats::default() });
        all.latencies_us.extend(stats.latencies_us);
        all.received += stats.received;
        all.wrong += stats.wrong;
        broken += u64::from(stats.is_broken);
    }
    let took_us = begun.elapsed().as_micros();
    all.latencies_us.sort_unstable();
    let calls = all.latencies_us.len();
    let at = |hundredths: usize| all.latencies_us.get(calls * hundredths / 100).copied().unwrap_or(0);
    println!("RESULT {took_us} {calls} {} {} {broken} {} {}", all.received, all.wrong, at(50), at(99));
    ExitCode::SUCCESS
}

/// Runs one connection until the end of the time, or until it breaks.
async fn run(args: Args, number: u16, until: Instant) -> ConnectionStats {
    let mut stats = ConnectionStats::default();
    if let Err(error) = run_connection(&args, number, until, &mut stats).await {
        eprintln!("connection {number}: {error}");
        stats.is_broken = true;
    }
    stats
}

async fn run_connection(
    args: &Args,
    number: u16,
    until: Instant,
    stats: &mut ConnectionStats,
) -> io::Result<()> {
    let mut request = CallTemplate::new(encode_request(args), &args.id);
    let mut expected = CallTemplate::new(args.answer.clone().into_bytes(), &args.id);
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(RESPONSE_BYTES_MAX);
    let mut begun = Instant::now();
    for call in 0_u32.. {
        if begun >= until {
            break;
        }
        request.set_id(&args.run, number, call);
        expected.set_id(&args.run, number, call);
        stream.write_all(request.bytes()).await?;
        received.clear();
        let is_correct = loop {
            let read = timeout_at(until + RESPONSE_TIMEOUT, stream.read_buf(&mut received)).await;
            match read.map_err(|_elapsed| io::Error::other("a response is lost"))?? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => stats.received += count,
            }
            match parse_response(&received) {
                ParsedResponse::Partial if received.len() < RESPONSE_BYTES_MAX => {}
                // Nothing may follow the response.
                ParsedResponse::Complete { status, body, len } => {
                    break status == 200 && *body == *expected.bytes() && len == received.len();
                }
                ParsedResponse::Partial | ParsedResponse::Invalid => {
                    return Err(io::Error::other("invalid response"));
                }
            }
        };
        if !is_correct {
            stats.wrong += 1;
            if stats.wrong == 1 {
                eprintln!("call {call} of connection {number} got {}", String::from_utf8_lossy(&received));
            }
        }
        let now = Instant::now();
        stats.latencies_us.push(u32::try_from((now - begun).as_micros()).unwrap_or(u32::MAX));
        begun = now;
    }
    Ok(())
}

/// Encodes the request of a call. Its length does not depend on the id.
fn encode_request(args: &Args) -> Vec<u8> {
    let Args { port, path, body, .. } = args;
    let fields: String = args.headers.lines().flat_map(|line| [line, "\r\n"]).collect();
    let length = body.len();
    let first = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n");
    format!("{first}{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}
