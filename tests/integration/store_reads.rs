//! What the database is asked for while known keys call: what an idle gateway asks for in the same time, and what was
//! used.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Cluster, Gateway, Peer, Request, is_long, modern_call, run};

/// By the text of a statement, how often it ran.
type Statements = BTreeMap<String, i64>;

/// So many connections share the calls: half of them with the key, half with a token of it.
const CONNECTIONS: usize = 4;

/// What takes usage to the store, and nothing else does.
const OF_USAGE: [&str; 5] = [
    "INSERT INTO usage_batches",
    "INSERT INTO usage ",
    "DELETE FROM usage_batches",
    "INSERT INTO key_uses",
    "INSERT INTO key_totals",
];

/// A transaction of usage begins so, and one of the gateway's rounds through rotated keys every ten seconds.
const BEGIN_CHANGE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Another round of a poll may fall into one of the two times, and one of rotated keys.
const ROUNDS: i64 = 3;

/// One of rotated keys comes every ten seconds, which a slow machine may see in one of the times alone.
const ROUNDS_EVERY_S: u64 = 10;

/// Batches of usage: a second, as `journal::usage` makes them.
const BATCHES_PER_SECOND_MAX: i64 = 5;

fn reset(cluster: &Cluster) {
    crate::support::sql(&cluster.url(), "SELECT pg_stat_statements_reset()");
}

fn statements(cluster: &Cluster) -> Statements {
    run(async {
        let (client, connection) =
            tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "SELECT query, sum(calls)::BIGINT FROM pg_stat_statements
                   WHERE query NOT LIKE '%pg_stat_statements%' GROUP BY query";
        let rows = client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    })
}

fn token(gateway: &Gateway, key: &str) -> String {
    let body = format!("{{\"api_key\": \"{key}\"}}");
    let answer = Client::once(gateway.address, &Request::post("/api/v1/auth/token", body)).json();
    answer["access_token"].as_str().expect("a token").to_owned()
}

/// Gives how long it took.
fn calls(gateway: &Gateway, credentials: &[String], count: usize) -> Duration {
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let credential = &credentials[number % credentials.len()];
            scope.spawn(move || {
                let request = modern_call("/mcp", "a__echo", "{}");
                let request = request.with("Authorization", format!("Bearer {credential}"));
                let mut client = Client::connect(gateway.address);
                for _ in 0..count / CONNECTIONS {
                    assert_eq!(client.ask(&request).status, 200);
                }
            });
        }
    });
    begun.elapsed()
}

#[test]
fn known_keys_are_answered_without_the_database() {
    let Some(cluster) = Cluster::start() else { return };
    crate::support::sql(&cluster.url(), "CREATE EXTENSION pg_stat_statements");
    let (database, peer) = (cluster.database(), Peer::script([]));
    let gateway = database.gateway().server("a", peer.address).start();
    let (_, key) = database.key("known");
    let credentials = [token(&gateway, &key), key];
    let count = if is_long() { 100_000 } else { 10_000 };
    // Everything is known by then, and what the server lists is written down.
    calls(&gateway, &credentials, 100);
    thread::park_timeout(AFTERGLOW);

    reset(&cluster);
    let begun = Instant::now();
    let time = calls(&gateway, &credentials, count);
    // What was used is delivered within it, also where all were answered within one round of that.
    thread::park_timeout(AFTERGLOW);
    let called = statements(&cluster);
    let whole = begun.elapsed();
    reset(&cluster);
    thread::park_timeout(whole);
    let idle = statements(&cluster);

    println!("{count} calls in {time:.1?}; statements while calling, and in as long an idle time:");
    let batches_max = (i64::try_from(whole.as_secs()).unwrap() + 2) * BATCHES_PER_SECOND_MAX;
    let rounds = ROUNDS + i64::try_from(whole.as_secs() / ROUNDS_EVERY_S).unwrap();
    let batches: i64 = called.iter().filter(|(text, _)| text.starts_with(OF_USAGE[0])).map(|(_, n)| n).sum();
    for (text, number) in &called {
        let idles = idle.get(text).copied().unwrap_or(0);
        println!("{number:>6} {idles:>6}  {}", text.split_whitespace().take(8).collect::<Vec<_>>().join(" "));
        let of_usage = OF_USAGE.iter().any(|usage| text.starts_with(usage));
        let of_both = text == BEGIN_CHANGE || text == "COMMIT";
        let more = if of_usage {
            batches_max
        } else if of_both {
            batches
        } else {
            0
        };
        assert!(*number <= idles + more + rounds, "{number} times, idle {idles} times: {text}");
    }
    assert!((1..=batches_max).contains(&batches), "{batches} batches of usage");
    assert!(!idle.is_empty(), "nothing is seen of the polls, so nothing was shown");
}

/// For the last batch of usage to be delivered, and for what was approved of tools.
const AFTERGLOW: Duration = Duration::from_secs(3);
