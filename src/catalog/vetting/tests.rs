use bytes::Bytes;
use serde_json::json;

use super::super::merge::Item;
use super::*;

const QUARANTINE: ToolPinPolicy = ToolPinPolicy::Quarantine;

fn tool(name: &str, description: &str) -> SeenTool {
    let raw = Bytes::from(json!({"name": name, "description": description}).to_string());
    let item = Item { key: name.into(), raw, key_start: 0, key_end: 0 };
    SeenTool::read(&item).expect("an object")
}

/// `x1` is the tool `x`, told as 1.
fn tools(words: &str) -> Arc<[SeenTool]> {
    words.split_whitespace().map(|word| tool(&word[..1], &word[1..])).collect()
}

fn server() -> ServerName {
    ServerName::new("a").expect("valid")
}

fn pins(words: &str) -> Kept {
    let mut pins = Pins::default();
    pins.accept(tools(words).iter(), 1);
    Kept::Pins(pins, 7)
}

/// What is held back, or `wait`; and what is to be kept, with how many changes.
fn told(book: &Book) -> (String, String) {
    let verdict = match &book.verdict {
        Verdict::Wait => "wait".to_owned(),
        Verdict::Show(held) => {
            let held: BTreeMap<_, _> = held.iter().map(|(name, why)| (name, format!("{why:?}"))).collect();
            held.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join(", ")
        }
    };
    let to_keep = book.to_keep.as_ref().map_or(String::new(), |keep| {
        let action = keep.action.unwrap_or("first");
        format!("{action} {} over {:?}", keep.changes.len(), keep.expect)
    });
    (verdict, to_keep)
}

/// One list after the other, of one kind of client.
#[track_caller]
fn check(policy: ToolPinPolicy, kept: Option<Vec<Kept>>, lists: &[&str], verdict: &str, to_keep: &str) {
    let kept = kept.map(|kept| kept.into_iter().map(|kept| ("a".to_owned(), kept)).collect());
    let mut books = Books { kept, is_away: true, ..Books::default() };
    let (servers, store) = books.split();
    let book = servers.entry(server()).or_insert_with(|| Book::new(policy));
    for words in lists {
        book.views.insert((UpstreamId(0), View::Modern), tools(words));
        book.settle(&server(), store, Cause::Listed);
    }
    assert_eq!(told(book), (verdict.to_owned(), to_keep.to_owned()));
}

#[test]
fn each_policy_does_as_it_says() {
    let known = || Some(vec![pins("x1 y1")]);
    for policy in [ToolPinPolicy::Allow, ToolPinPolicy::Warn] {
        check(policy, None, &["x1"], "", "");
        check(policy, Some(vec![Kept::Foreign]), &["x1"], "", "");
        check(policy, known(), &["x1 y1"], "", "");
    }
    check(ToolPinPolicy::Allow, known(), &["x2"], "", "");
    check(ToolPinPolicy::Allow, Some(vec![]), &["x2"], "", "");
    check(ToolPinPolicy::Warn, Some(vec![]), &["x1 y1"], "", "first 2 over None");
    check(ToolPinPolicy::Warn, known(), &["x2 z1"], "", "server.tools.change 2 over Some(7)");
    check(
        ToolPinPolicy::Warn,
        Some(vec![Kept::Altered(3)]),
        &["x2"],
        "",
        "server.tools.change 1 over Some(3)",
    );

    check(QUARANTINE, None, &["x1"], "x: Unread", "");
    check(QUARANTINE, Some(vec![Kept::Foreign]), &["x1"], "x: Closed", "");
    check(QUARANTINE, Some(vec![Kept::Altered(3)]), &["x1"], "x: Closed", "server.tools.hold 1 over Some(3)");
    let lost = |words| Some(pins(words).lost().into_iter().collect());
    check(QUARANTINE, lost("x1"), &["x2"], "x: Changed", "server.tools.restore 0 over None");
    check(ToolPinPolicy::Warn, lost("x1"), &["x2"], "", "server.tools.restore 0 over None");
    check(QUARANTINE, Some(vec![]), &["x1"], "wait", "first 1 over None");
    check(QUARANTINE, Some(vec![]), &[""], "", "");
    check(QUARANTINE, known(), &["x1"], "", "");
    check(QUARANTINE, known(), &["x2 y1 z1"], "x: Changed, z: New", "server.tools.hold 2 over Some(7)");
    check(QUARANTINE, known(), &["x2", "x1"], "", "");
}

#[test]
fn what_one_kind_of_client_is_shown_holds_it_back_from_all() {
    let mut books = Books { kept: Some([("a".to_owned(), pins("x1"))].into()), ..Books::default() };
    let (servers, store) = books.split();
    let book = servers.entry(server()).or_insert_with(|| Book::new(QUARANTINE));
    let legacy = View::Legacy(metamcp_core::protocol::ClientCapabilities::default());
    for (view, words) in [(View::Modern, "x1"), (legacy, "x2")] {
        book.views.insert((UpstreamId(0), view), tools(words));
        book.settle(&server(), store, Cause::Listed);
    }
    assert_eq!(told(book).0, "x: Changed");
    // Another replica sees something else: neither takes back what the other had written.
    let Kept::Pins(mut theirs, _) = pins("x1") else { panic!("pins") };
    theirs.hold(tools("x3").iter(), 2);
    books.kept = Some([("a".to_owned(), Kept::Pins(theirs, 8))].into());
    let (servers, store) = books.split();
    let book = servers.get_mut(&server()).expect("it is there");
    book.to_keep = None;
    book.settle(&server(), store, Cause::Read);
    assert_eq!(told(book), ("x: Changed".to_owned(), String::new()));
}
