//! Measures the throughput, the CPU time and the latency of a framed stream, and has a server to put behind the gateway. Uses
//! only the standard library, so that it costs little itself.
//!
//! ```text
//! framed stub PORT                             a server with 20 tools
//! framed load PORT PID METHOD [OPTION VALUE]... sends requests on one stream, and samples the CPU time of PID
//!   METHOD: ping | tools/list | refused | tools/call      --single 1: single HTTP requests on CONNECTIONS connections
//!   --seconds 5  --window 256  --batch 16  --rate 0 (per second; 0: unlimited)  --lines 0  --connections 16
//! ```

#![allow(clippy::disallowed_methods, reason = "it has no workers that threads could block")]

mod http;
mod load;
mod message;
mod open_loop;
mod shared;
mod stream;
mod stub;

use std::collections::HashMap;
use std::io;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["stub", port] => stub::run_stub(number(port)),
        ["load", port, pid, method, arguments @ ..] => {
            let given = arguments.chunks_exact(2).map(|pair| (pair[0], number(pair[1])));
            let mut options: HashMap<&str, u64> = [
                ("--seconds", 5),
                ("--window", 256),
                ("--batch", 16),
                ("--rate", 0),
                ("--lines", 0),
                ("--single", 0),
                ("--connections", 16),
            ]
            .into();
            options.extend(given);
            load::run_load(number(port), pid, method, &options)
        }
        _ => Err(io::Error::other("framed stub PORT | framed load PORT PID METHOD [OPTION VALUE]...")),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}
