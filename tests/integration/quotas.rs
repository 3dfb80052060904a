//! Quotas of keys: refused at exactly the call after the last, over bursts, restarts, kills, outages and replicas.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::{
    Client, Cluster, Form, Gateway, Peer, Request, Response, Setup, Stream, call, legacy, legacy_call,
    modern, modern_call, open_session, until,
};
use metamcp_store::store::{
    Audit, Grants, Period, Quotas, Store, UsageBatch, UsageCounts, UsageKey, UsageRow,
};
use serde_json::Value;

fn grants(quotas: Quotas) -> Grants {
    Grants { quotas, ..Grants::everything() }
}

fn per_day(calls: u64) -> Quotas {
    Quotas { calls_per_day: Some(calls), ..Quotas::NONE }
}

fn per_month(calls: u64) -> Quotas {
    Quotas { calls_per_month: Some(calls), ..Quotas::NONE }
}

fn call_by(key: &str) -> Request {
    modern_call("/mcp", "a__echo", "{}").with("X-API-Key", key)
}

/// Calls one after the other, and counts those that were admitted. The others are refused for the quota.
fn admitted(gateway: &Gateway, key: &str, calls: usize) -> usize {
    let mut client = Client::connect(gateway.address);
    (0..calls).filter(|_| is_admitted(&client.ask(&call_by(key)))).count()
}

#[track_caller]
fn is_admitted(response: &Response) -> bool {
    let quota = &response.json()["error"]["data"]["quota"];
    match response.status {
        200 if response.json()["error"].is_null() => true,
        429 if quota.is_string() => false,
        status => panic!("{status} {}", response.text()),
    }
}

/// Whether one call is admitted. A call in flight ends when its key changes, and is made again.
fn is_next_admitted(gateway: &Gateway, key: &str) -> bool {
    loop {
        let response = Client::once(gateway.address, &call_by(key));
        if response.status != 401 {
            return is_admitted(&response);
        }
    }
}

fn now() -> u64 {
    metamcp_core::base::unix_seconds()
}

/// Waits for the next day if it begins within a few seconds: a test must not run over midnight.
fn avoid_midnight() {
    until("the day does not end now", || Period::Day.end(now()) - now() > 20);
}

/// Changes the quotas of a key, as `keyadm keys set` does.
async fn set(store: &Store, key_id: &str, quotas: Quotas) {
    let before = store.key(key_id).await.unwrap().unwrap().to_request();
    let mut after = before.clone();
    after.grants.quotas = quotas;
    store.update_key(key_id, before, after, Audit::by("test")).await.unwrap();
}

#[test]
fn the_call_after_the_last_is_refused_and_told_when_the_quota_resets() {
    avoid_midnight();
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    for (quotas, name, period) in
        [(per_day(5), "calls per day", Period::Day), (per_month(5), "calls per month", Period::Month)]
    {
        let (_, key) = gateway.keys().grant("five", grants(quotas));
        // What the gateway answers by itself is no call.
        let session = open_session(&gateway, "/mcp", Some(&key));
        let mut client = Client::connect(gateway.address);
        for id in ["1", "2", "3"] {
            let ping = legacy("/mcp", &session, id, "ping", "").with("X-API-Key", &key);
            assert_eq!(client.ask(&ping).status, 200);
            let list = modern("/mcp", "tools/list", "").with("X-API-Key", &key);
            assert_eq!(client.ask(&list).status, 200);
        }
        let before = peer.calls().len();
        assert_eq!(admitted(&gateway, &key, 8), 5);
        assert_eq!(peer.calls().len(), before + 5, "a refused call does not reach the server");
        let refused = client.ask(&call_by(&key));
        let error = &refused.json()["error"];
        let text = error["message"].as_str().unwrap();
        assert!(
            text.starts_with(&format!("this key has used its quota of 5 {name}; it resets at ")),
            "{text}"
        );
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!(wait.abs_diff(period.end(now()) - now()) <= 5, "{wait}");
        assert_eq!((error["data"]["limit"].as_u64(), error["code"].as_i64()), (Some(5), Some(-32000)));
        // In a session too, whose identity is older than the last call.
        let call = legacy_call("/mcp", &session, "9", "a__echo", "{}").with("X-API-Key", &key);
        assert!(!is_admitted(&client.ask(&call)));
        let ping = legacy("/mcp", &session, "10", "ping", "").with("X-API-Key", &key);
        assert_eq!(client.ask(&ping).status, 200, "the session goes on");
    }
    let admin = gateway
        .keys()
        .grant("admin", Grants { role: metamcp_store::store::Role::Admin, ..Grants::everything() })
        .1;
    let metrics = Client::once(gateway.address, &Request::new("GET", "/metrics").with("X-API-Key", admin));
    let line = r#"metamcp_faults_total{metamcp_endpoint="default",error_type="quota_exceeded"} "#;
    let count = metrics.text().lines().find_map(|found| found.strip_prefix(line).map(str::to_owned));
    assert_eq!(count.as_deref(), Some("10"), "{}", metrics.text());
}

#[test]
fn bytes_are_checked_against_what_was_used() {
    avoid_midnight();
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    let (_, probe) = gateway.keys().grant("probe", Grants::everything());
    let once = Client::once(gateway.address, &call_by(&probe));
    let bytes = (call_by(&probe).body.len() + once.body.len()) as u64;
    // The call that reaches the quota is the last one.
    let quotas = [
        Quotas { bytes_per_day: Some(2 * bytes + 1), ..Quotas::NONE },
        Quotas { bytes_per_month: Some(3 * bytes), ..Quotas::NONE },
    ];
    for quotas in quotas {
        let (_, key) = gateway.keys().grant("bytes", grants(quotas));
        assert_eq!(admitted(&gateway, &key, 6), 3, "{quotas:?}");
    }
}

#[test]
fn a_burst_passes_the_quota_by_no_call() {
    avoid_midnight();
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().workers(2).server("a", peer.address).start();
    for quotas in [per_day(20), Quotas { calls_per_month: Some(20), ..per_day(40) }] {
        let before = peer.calls().len();
        let (_, key) = gateway.keys().grant("burst", grants(quotas));
        // Verified once: else most wait for that.
        let list = modern("/mcp", "tools/list", "").with("X-API-Key", &key);
        assert_eq!(Client::once(gateway.address, &list).status, 200);
        let admitted = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let response = Client::once(gateway.address, &call_by(&key));
                    admitted.fetch_add(usize::from(is_admitted(&response)), Ordering::Relaxed);
                });
            }
        });
        assert_eq!((admitted.into_inner(), peer.calls().len() - before), (20, 20));
    }
}

/// Each message of a batch and of a framed stream is a call of its own.
#[test]
fn batches_and_framed_streams_count_each_call() {
    avoid_midnight();
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    let (_, key) = gateway.keys().grant("three", grants(per_day(3)));
    let calls = (1..=5).map(|id| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a__echo","arguments":{{}}}}}}"#)
    });
    let batch = format!("[{}]", calls.collect::<Vec<_>>().join(","));
    let answered = Client::once(gateway.address, &Request::post("/mcp", batch).with("X-API-Key", &key));
    let outcomes: Vec<bool> = answered
        .events()
        .iter()
        .filter(|event| event["id"].is_u64())
        .map(|event| event["error"].is_null())
        .collect();
    assert_eq!(outcomes, [true, true, true, false, false], "{}", answered.text());

    let (_, key) = gateway.keys().grant("three", grants(per_day(3)));
    let mut stream =
        Stream::open_with(&gateway, &Request::new("POST", Stream::PATH).with("X-API-Key", &key), Form::Lines);
    let messages: Vec<Value> = (1..=5)
        .map(|id| stream.ask(&call(&id.to_string(), "tools/call", r#""name":"a__echo","arguments":{},"#)))
        .collect();
    let outcomes: Vec<bool> = messages.iter().map(|message| message["error"].is_null()).collect();
    assert_eq!(outcomes, [true, true, true, false, false], "{messages:?}");
    assert_eq!(messages[4]["error"]["data"]["quota"], "calls_per_day");
}

#[test]
fn what_was_used_outlasts_restarts_and_kills() {
    avoid_midnight();
    let peer = Peer::script([]);
    let mut gateway = Setup::new().keys().server("a", peer.address).start();
    let (_, key) = gateway.keys().grant("twenty", grants(per_day(20)));
    assert_eq!(admitted(&gateway, &key, 4), 4);
    // At once: most of it has not reached the store, some not even the journal.
    gateway = gateway.kill_and_restart();
    assert_eq!(admitted(&gateway, &key, 5), 5);
    gateway = gateway.restart();
    assert_eq!(admitted(&gateway, &key, 6), 6);
    gateway = gateway.kill_and_restart().kill_and_restart();
    assert_eq!(admitted(&gateway, &key, 9), 5);
    gateway = gateway.kill_and_restart();
    assert_eq!(admitted(&gateway, &key, 3), 0);
}

/// What the store has of a key, in calls of this day. After a restart, that is everything.
fn stored_calls(gateway: &Gateway, key_id: &str) -> u64 {
    let totals = gateway.keys().run(async |store| store.key_totals(now()).await.unwrap());
    totals.iter().find(|(key, _)| key == key_id).map_or(0, |(_, totals)| totals.day.calls)
}

/// Waits until the gateway has compared the counters of quotas with usage: until a new key is refused for what another gateway
/// delivers now. Its calls are to the server `b`.
fn wait_for_refresh(gateway: &Gateway) {
    // Not used up by the calls below.
    let many = 1_000_000;
    let (key_id, key) = gateway.keys().grant("refresh", grants(per_day(many)));
    let usage_key =
        UsageKey { hour: now(), key_id: key_id.clone(), server: "b".to_owned(), tool: String::new() };
    let rows =
        vec![UsageRow { key: usage_key, counts: UsageCounts { calls: many, ..UsageCounts::default() } }];
    let batch = UsageBatch { source: key_id, sequence: 1, at: now(), rows };
    gateway.keys().run(async move |store| store.apply_usage(batch).await.unwrap());
    let call = modern_call("/mcp", "b__echo", "{}").with("X-API-Key", &key);
    until("quotas are refreshed", || !is_admitted(&Client::once(gateway.address, &call)));
}

/// Sets a quota that is greater than what was used, and makes calls until one is refused: so many must have been admitted in
/// all. Returns the gateway after a restart, with which it delivers everything.
#[track_caller]
fn use_up(gateway: Gateway, (id, key): (&str, &str), quota: u64) -> Gateway {
    gateway.keys().run(async |store| set(&store, id, per_day(quota)).await);
    until("the quota is greater", || is_next_admitted(&gateway, key));
    while is_next_admitted(&gateway, key) {}
    let gateway = gateway.restart();
    assert_eq!(stored_calls(&gateway, id), quota);
    gateway
}

#[test]
fn a_quota_is_changed_and_removed_while_the_key_is_in_use() {
    avoid_midnight();
    let (peer, other) = (Peer::script([]), Peer::script([]));
    let mut gateway = Setup::new().keys().server("a", peer.address).server("b", other.address).start();
    let (id, key) = gateway.keys().create("any");
    // So many that it takes longer to use them again than to read what was used.
    let first = 400;
    assert_eq!(admitted(&gateway, &key, first), first);
    let change = |gateway: &Gateway, quotas| gateway.keys().run(async |store| set(&store, &id, quotas).await);
    // What was used before there was a quota counts too, once it is read.
    change(&gateway, per_day(first as u64));
    until("the quota holds", || !is_next_admitted(&gateway, &key));
    let used = peer.calls().len();
    assert!(used < 2 * first, "{used}");
    wait_for_refresh(&gateway);
    gateway = use_up(gateway, (&id, &key), used as u64 + 20);
    change(&gateway, Quotas::NONE);
    until("the quota is gone", || is_next_admitted(&gateway, &key));
    assert_eq!(admitted(&gateway, &key, 20), 20);
    // What was used without a quota counts as well.
    change(&gateway, per_day(1));
    until("the quota holds again", || !is_next_admitted(&gateway, &key));
    wait_for_refresh(&gateway);
    use_up(gateway, (&id, &key), peer.calls().len() as u64 + 20);
}

#[test]
fn a_key_in_heavy_use_gets_a_quota_that_misses_no_call() {
    avoid_midnight();
    let (peer, other) = (Peer::script([]), Peer::script([]));
    let setup = Setup::new().keys().workers(2).server("a", peer.address).server("b", other.address);
    let gateway = setup.start();
    let (id, key) = gateway.keys().create("any");
    let change = |quotas| gateway.keys().run(async |store| set(&store, &id, quotas).await);
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Far more than are needed: it ends, even if a wait below fails.
                for _ in 0..50_000 {
                    if has_ended.load(Ordering::Relaxed) || !is_next_admitted(&gateway, &key) {
                        break;
                    }
                }
            });
        }
        until("the key is in use", || peer.calls().len() > 100);
        // Far away: workers begin to count for it, one after the other.
        change(per_day(1_000_000));
        wait_for_refresh(&gateway);
        // By now all of them.
        wait_for_refresh(&gateway);
        has_ended.store(true, Ordering::Relaxed);
    });
    wait_for_refresh(&gateway);
    // No call is in flight, and none is admitted until the quota below.
    change(per_day(1));
    until("no call is admitted", || !is_next_admitted(&gateway, &key));
    use_up(gateway, (&id, &key), peer.calls().len() as u64 + 20);
}

#[test]
fn tools_over_rest_count() {
    avoid_midnight();
    let peer = Peer::script([]);
    let gateway = Setup::new().keys().server("a", peer.address).start();
    let (_, key) = gateway.keys().grant("two", grants(per_day(2)));
    let request = Request::post("/api/v1/mcp/servers/a/tools/echo/execute", "{}")
        .with("X-API-Key", &key)
        .set("Content-Type", "application/json");
    let mut client = Client::connect(gateway.address);
    assert_eq!(client.ask(&request).status, 200);
    assert_eq!(admitted(&gateway, &key, 1), 1);
    let refused = client.ask(&request);
    let text = refused.text();
    assert!(refused.status == 429 && text.contains("its quota of 2 calls per day; it resets at"), "{text}");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 1);
}

#[test]
fn replicas_share_a_quota_and_a_start_without_the_database_keeps_it() {
    avoid_midnight();
    let Some(mut cluster) = Cluster::start() else { return };
    let (database, peer) = (cluster.database(), Peer::script([]));
    let [mut a, b] = [(); 2].map(|()| database.gateway().server("a", peer.address).start());
    let (_, key) = database.key_with("shared", grants(per_day(30)));
    assert_eq!(admitted(&a, &key, 10), 10);
    assert_eq!(admitted(&b, &key, 5), 5);
    // Once each knows what the other one used.
    let shown = || database.store(async |store| store.key_totals(now()).await.unwrap());
    until("both delivered", || shown().iter().any(|(_, totals)| totals.day.calls == 15));
    let mut more = 15;
    until("the quota is used up", || {
        let now = admitted(&a, &key, 1) + admitted(&b, &key, 1);
        more += now;
        assert!(more <= 30 + 30, "each admits what it knows to be left, at most");
        now == 0
    });
    assert!(more >= 30);
    // What `b` admitted last too, which a snapshot of `a` has only from the store.
    until("all is delivered", || shown().iter().any(|(_, totals)| totals.day.calls >= more as u64));
    // Without the database, a new process counts what the last snapshot and the journal have.
    a = a.restart();
    cluster.end();
    a = a.kill_and_restart();
    assert_eq!(admitted(&a, &key, 3), 0, "without the database");
    cluster.begin();
    let is_ready = || Client::once(a.address, &Request::new("GET", "/ready")).status == 200;
    until("the database is asked again", is_ready);
    assert_eq!(admitted(&a, &key, 3), 0, "when it is back");
}
