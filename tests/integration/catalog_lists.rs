//! Lists of servers as a gateway takes them: no more than its limits, and no less private than the servers say.

use serde_json::{Value, json};

use crate::support::{Client, Peer, Setup, listed, modern, modern_call, until};
use metamcp_store::store::Grants;

const PAGES_MAX: u64 = 3;
const ITEMS_MAX: u64 = 5;
const BYTES_MAX: usize = 4 << 10;

fn tool(name: &str, description: &str) -> Value {
    json!({"name": name, "description": description, "inputSchema": {"type": "object"}})
}

/// The result of `tools/list`.
fn page(tools: &[Value], cursor: Option<&str>) -> Value {
    let mut page = json!({"tools": tools, "resultType": "complete"});
    if let Some(cursor) = cursor {
        page["nextCursor"] = cursor.into();
    }
    page
}

/// A server whose pages are numbered by their cursors from 0.
fn numbered(pages: impl Fn(u64) -> Value + Send + 'static) -> Peer {
    let peer = Peer::script([]);
    peer.list_by(move |_, message| {
        let cursor = message["params"]["cursor"].as_str();
        pages(cursor.map_or(0, |cursor| cursor.parse().unwrap()))
    });
    peer
}

/// The list of a gateway in front of that server and an ordinary one: the server is listed with so many tools, or missing
/// for that reason. It was asked for no more pages than the limit.
#[track_caller]
fn check(what: &str, expected: Result<usize, &str>, pages: impl Fn(u64) -> Value + Send + 'static) {
    let (peer, other) = (numbered(pages), Peer::script([]));
    let limits = format!(
        "[catalog]\npages_max = {PAGES_MAX}\nitems_max = {ITEMS_MAX}\nlist_bytes_max = \"{}KiB\"",
        BYTES_MAX >> 10
    );
    let gateway = Setup::new().server("a", peer.address).server("b", other.address).with(&limits).start();
    let list = || Client::once(gateway.address, &modern("/mcp", "tools/list", "")).json();
    let missing = |list: &Value| {
        let missing = list["result"]["_meta"]["dev.metamcp/missing"].as_array();
        missing.and_then(|missing| Some(missing.first()?["reason"].as_str()?.to_owned())).unwrap_or_default()
    };
    until(what, || {
        let list = list();
        !missing(&list).contains("not answered yet") && listed(&list).iter().any(|name| name == "b__echo")
    });
    let list = list();
    let count = listed(&list).iter().filter(|name| name.starts_with("a__")).count();
    match expected {
        Ok(tools) => assert_eq!((count, missing(&list)), (tools, String::new()), "{what}: {list}"),
        Err(reason) => {
            assert!(count == 0 && missing(&list).contains(reason), "{what}: {list}");
        }
    }
    for seen in peer.all().iter().filter(|seen| seen.is("tools/list")) {
        let message: Value = serde_json::from_slice(&seen.body).unwrap();
        let number: u64 = message["params"]["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
        assert!(number < PAGES_MAX, "{what}: page {number} was asked for");
    }
}

#[test]
fn lists_beyond_a_limit_are_refused_as_a_whole() {
    let next = |number: u64| (number + 1).to_string();
    let named = |number: u64| tool(&format!("t{number}"), "");
    check("pages without end", Err("too many pages"), move |n| page(&[named(n)], Some(&next(n))));
    check("as many pages as may be", Ok(3), move |n| {
        page(&[named(n)], Some(&*next(n)).filter(|_| n + 1 < PAGES_MAX))
    });
    check("a page too many", Err("too many pages"), move |n| {
        page(&[named(n)], Some(&*next(n)).filter(|_| n < PAGES_MAX))
    });
    check("a cursor that repeats", Err("its cursor repeats"), move |n| page(&[named(n)], Some("1")));
    let many = |count: u64| (0..count).map(|n| tool(&format!("t{n}"), "")).collect::<Vec<_>>();
    check("an item too many", Err("too many items"), move |_| page(&many(ITEMS_MAX + 1), None));
    check("as many items as may be", Ok(5), move |_| page(&many(ITEMS_MAX), None));
    check("items over two pages", Err("too many items"), move |n| {
        page(&many(ITEMS_MAX - 2), Some(&*next(n)).filter(|_| n == 0))
    });
    let long = |bytes: usize| tool("t", &"x".repeat(bytes));
    check("too many bytes", Err("too many bytes"), move |_| page(&[long(BYTES_MAX)], None));
    check("bytes over two pages", Err("too many bytes"), move |n| {
        page(&[long(BYTES_MAX / 2)], Some(&*next(n)).filter(|_| n == 0))
    });
    check("nearly as many bytes as may be", Ok(1), move |_| page(&[long(BYTES_MAX - 300)], None));
}

/// A list that may be cached, so long and by whom.
fn cached(scope: &str, ttl_ms: u64) -> impl Fn(u64) -> Value + Send + 'static {
    let mut list = page(&[tool("echo", "")], None);
    list["cacheScope"] = scope.into();
    list["ttlMs"] = ttl_ms.into();
    move |_| list.clone()
}

#[test]
fn a_merged_list_is_as_private_as_the_lists_of_its_servers() {
    let rows = [
        (["private", "public"], [50_000, 90_000], "private", 50_000),
        (["public", "private"], [90_000, 50_000], "private", 50_000),
        (["public", "public"], [60_000, 70_000], "public", 60_000),
        (["private", "private"], [70_000, 60_000], "private", 60_000),
    ];
    for (scopes, times, scope, time) in rows {
        let peers = [0, 1].map(|n: usize| numbered(cached(scopes[n], times[n])));
        let setup = Setup::new().server("a", peers[0].address).server("b", peers[1].address);
        let hanging = Peer::hanging();
        let with_missing = setup.clone().server("c", hanging.address);
        let with_missing = with_missing.with("[catalog]\nlist_deadline = \"100ms\"");
        for (setup, time) in [(setup, time), (with_missing, 0)] {
            let gateway = setup.start();
            let ask = || Client::once(gateway.address, &modern("/mcp", "tools/list", "")).json();
            until("both are listed", || listed(&ask()).len() == 2);
            let result = &ask()["result"];
            assert_eq!((&result["cacheScope"], &result["ttlMs"]), (&scope.into(), &time.into()), "{result}");
        }
    }
}

/// However public the server's list is.
#[test]
fn a_list_for_a_restricted_key_is_private() {
    let peer = numbered(cached("public", 60_000));
    let gateway = Setup::new().server("a", peer.address).keys().start();
    for (path, tool) in [("/mcp", "a__echo"), ("/servers/a/mcp", "echo")] {
        let grants = Grants { tools: Some(vec![tool.to_owned()]), ..Grants::everything() };
        let rows = [
            (gateway.keys().grant("restricted", grants).1, "private"),
            (gateway.keys().create("unrestricted").1, "public"),
        ];
        for (key, scope) in rows {
            let ask = || {
                let request = modern(path, "tools/list", "").with("Authorization", format!("Bearer {key}"));
                Client::once(gateway.address, &request).json()
            };
            until("it is listed", || listed(&ask()) == [tool]);
            assert_eq!(ask()["result"]["cacheScope"], scope, "{path}");
        }
    }
}

/// Without prefixes, nobody can tell whose tool it is; that it is unknown would not be true.
#[test]
fn a_tool_of_a_broken_list_is_not_called_unknown() {
    let peer = Peer::script([]);
    peer.list_tools(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"broken"}}"#);
    let endpoint = "[endpoints.team]\nservers = [\"a\"]\nprefix = \"never\"";
    let gateway = Setup::new().server("a", peer.address).with(endpoint).start();
    let answered = Client::connect(gateway.address).ask(&modern_call("/mcp/team", "echo", "{}"));
    assert!(answered.text().contains("server `a` is not available"), "{}", answered.text());
    assert_eq!(peer.calls().len(), 0);
}
