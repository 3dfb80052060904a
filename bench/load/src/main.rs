//! The load of `bench/compare-stdio`: `tools/call` in a closed loop, each with an id and a text of its own, and each
//! answer compared, byte by byte, with the one that the call of its connection must get.
//!
//! All on one thread, for it shares a core with the program that is called: what the load does not need, the program
//! has. Knows nothing of the gateway in front of it but that it speaks HTTP/1.1; the call and its right answer are
//! given.

mod answer;
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

use answer::{ANSWER_BYTES_MAX, Answer, next};
use template::Template;

/// Calls a tool in a closed loop and compares each answer; what is sent comes from the environment.
#[derive(Debug, Clone, Parser)]
#[command(name = "metamcp-bench-load", version)]
struct Args {
    /// The port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// The path that calls are posted to
    #[arg(long)]
    path: String,
    /// Connections at once, each with one call under way
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=999))]
    connections: u16,
    /// How long calls are begun
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Header fields, as lines of `Name: value`; a key is among them
    #[arg(env = "CALL_HEADERS", hide_env_values = true)]
    headers: String,
    /// A call
    #[arg(env = "CALL_BODY", hide_env_values = true)]
    body: String,
    /// The body of its right answer, in the form that the server gives it
    #[arg(env = "CALL_ANSWER", hide_env_values = true)]
    answer: String,
    /// What in both stands for the call: 15 digits
    #[arg(env = "CALL_ID")]
    id: String,
    /// What the ids of this run begin with, and those of no other: 4 digits
    #[arg(env = "CALL_RUN")]
    run: String,
}

/// What came of a connection.
#[derive(Default)]
struct Tally {
    /// Times of whole answers, in microseconds.
    times_us: Vec<u32>,
    received: usize,
    wrong: u64,
    is_broken: bool,
}

/// A server that is silent for so long after the last call was begun has lost it.
const LOST: Duration = Duration::from_secs(10);

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
    let mut all = Tally::default();
    let mut broken = 0;
    while let Some(ended) = connections.join_next().await {
        // One that panicked has no tally, and is broken.
        let tally = ended.unwrap_or_else(|_| Tally { is_broken: true, ..Tally::default() });
        all.times_us.extend(tally.times_us);
        all.received += tally.received;
        all.wrong += tally.wrong;
        broken += u64::from(tally.is_broken);
    }
    let took_us = begun.elapsed().as_micros();
    all.times_us.sort_unstable();
    let calls = all.times_us.len();
    let at = |hundredths: usize| all.times_us.get(calls * hundredths / 100).copied().unwrap_or(0);
    println!("RESULT {took_us} {calls} {} {} {broken} {} {}", all.received, all.wrong, at(50), at(99));
    ExitCode::SUCCESS
}

/// One connection, until the time is over or it breaks.
async fn run(args: Args, number: u16, until: Instant) -> Tally {
    let mut tally = Tally::default();
    if let Err(error) = call_on(&args, number, until, &mut tally).await {
        eprintln!("connection {number}: {error}");
        tally.is_broken = true;
    }
    tally
}

async fn call_on(args: &Args, number: u16, until: Instant, tally: &mut Tally) -> io::Result<()> {
    let mut question = Template::new(request(args), &args.id);
    let mut right = Template::new(args.answer.clone().into_bytes(), &args.id);
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(ANSWER_BYTES_MAX);
    let mut begun = Instant::now();
    for call in 0_u32.. {
        if begun >= until {
            break;
        }
        question.put_id(&args.run, number, call);
        right.put_id(&args.run, number, call);
        stream.write_all(question.bytes()).await?;
        received.clear();
        let is_right = loop {
            let read = timeout_at(until + LOST, stream.read_buf(&mut received)).await;
            match read.map_err(|_elapsed| io::Error::other("an answer is lost"))?? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => tally.received += count,
            }
            match next(&received) {
                Answer::Partial if received.len() < ANSWER_BYTES_MAX => {}
                // What is behind it was not asked for.
                Answer::Whole { status, body, len } => {
                    break status == 200 && *body == *right.bytes() && len == received.len();
                }
                Answer::Partial | Answer::Wrong => return Err(io::Error::other("this is no answer")),
            }
        };
        if !is_right {
            tally.wrong += 1;
            if tally.wrong == 1 {
                eprintln!("call {call} of connection {number} got {}", String::from_utf8_lossy(&received));
            }
        }
        let now = Instant::now();
        tally.times_us.push(u32::try_from((now - begun).as_micros()).unwrap_or(u32::MAX));
        begun = now;
    }
    Ok(())
}

/// The request of a call, whose length is the same for every id.
fn request(args: &Args) -> Vec<u8> {
    let Args { port, path, body, .. } = args;
    let fields: String = args.headers.lines().flat_map(|line| [line, "\r\n"]).collect();
    let length = body.len();
    let first = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n");
    format!("{first}{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}
