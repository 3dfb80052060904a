use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;

use super::super::list::ListItem;
use super::*;
use metamcp_store::tool_pins::ToolPins;

const QUARANTINE: ToolPinPolicy = ToolPinPolicy::Quarantine;

fn tool(name: &str, description: &str) -> ListedTool {
    let raw = Bytes::from(json!({"name": name, "description": description}).to_string());
    let item = ListItem { key: name.into(), raw, key_start: 0, key_end: 0 };
    ListedTool::parse(&item.key, &item.raw).expect("an object")
}

/// `x1` is the tool `x` with the description `1`.
fn tools(words: &str) -> Arc<[ListedTool]> {
    words.split_whitespace().map(|word| tool(&word[..1], &word[1..])).collect()
}

fn server() -> ServerName {
    ServerName::new("a").expect("valid")
}

fn pins(words: &str) -> StoredPins {
    let mut pins = ToolPins::default();
    pins.approve_listed(tools(words).iter(), 1);
    StoredPins::Pins(pins, 7)
}

/// Returns the quarantined tools, or `wait`; and the pending update with the number of its changes.
fn summarize(server: &ServerApprovals) -> (String, String) {
    let visibility = match &server.visibility {
        ToolVisibility::Wait => "wait".to_owned(),
        ToolVisibility::Show(quarantined) => {
            let sorted: BTreeMap<_, _> =
                quarantined.iter().map(|(name, why)| (name, format!("{why:?}"))).collect();
            sorted.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join(", ")
        }
    };
    let pending_update = server.pending_update.as_ref().map_or(String::new(), |update| {
        let action = update.action.unwrap_or("first");
        format!("{action} {} over {:?}", update.changes.len(), update.expected_version)
    });
    (visibility, pending_update)
}

/// Records several lists in sequence, for one kind of client.
#[track_caller]
fn check(
    policy: ToolPinPolicy,
    stored: Option<Vec<StoredPins>>,
    lists: &[&str],
    visibility: &str,
    pending_update: &str,
) {
    let stored = stored.map(|stored| stored.into_iter().map(|stored| ("a".to_owned(), stored)).collect());
    let mut state = ApprovalState { stored, is_unreadable: true, ..ApprovalState::default() };
    let (servers, store) = state.split();
    let approvals = servers.entry(server()).or_insert_with(|| ServerApprovals::new(policy));
    for words in lists {
        approvals.views.insert((UpstreamId(0), View::Modern), tools(words));
        approvals.settle(&server(), store, SettleTrigger::Listed);
    }
    assert_eq!(summarize(approvals), (visibility.to_owned(), pending_update.to_owned()));
}

#[test]
fn policies() {
    let known = || Some(vec![pins("x1 y1")]);
    for policy in [ToolPinPolicy::Allow, ToolPinPolicy::Warn] {
        check(policy, None, &["x1"], "", "");
        check(policy, Some(vec![StoredPins::Foreign]), &["x1"], "", "");
        check(policy, known(), &["x1 y1"], "", "");
    }
    check(ToolPinPolicy::Allow, known(), &["x2"], "", "");
    check(ToolPinPolicy::Allow, Some(vec![]), &["x2"], "", "");
    check(ToolPinPolicy::Warn, Some(vec![]), &["x1 y1"], "", "first 2 over None");
    check(ToolPinPolicy::Warn, known(), &["x2 z1"], "", "server.tools.change 2 over Some(7)");
    check(
        ToolPinPolicy::Warn,
        Some(vec![StoredPins::Altered(3)]),
        &["x2"],
        "",
        "server.tools.change 1 over Some(3)",
    );

    check(QUARANTINE, None, &["x1"], "x: PinsUnread", "");
    check(QUARANTINE, Some(vec![StoredPins::Foreign]), &["x1"], "x: PinsSealed", "");
    check(
        QUARANTINE,
        Some(vec![StoredPins::Altered(3)]),
        &["x1"],
        "x: PinsSealed",
        "server.tools.hold 1 over Some(3)",
    );
    let lost = |words| Some(pins(words).into_lost().into_iter().collect());
    check(QUARANTINE, lost("x1"), &["x2"], "x: Changed", "server.tools.restore 0 over None");
    check(ToolPinPolicy::Warn, lost("x1"), &["x2"], "", "server.tools.restore 0 over None");
    check(QUARANTINE, Some(vec![]), &["x1"], "wait", "first 1 over None");
    check(QUARANTINE, Some(vec![]), &[""], "", "");
    check(QUARANTINE, known(), &["x1"], "", "");
    check(QUARANTINE, known(), &["x2 y1 z1"], "x: Changed, z: New", "server.tools.hold 2 over Some(7)");
    check(QUARANTINE, known(), &["x2", "x1"], "", "");
}

#[test]
fn an_unapproved_definition_in_one_view_quarantines_the_tool() {
    let mut state =
        ApprovalState { stored: Some([("a".to_owned(), pins("x1"))].into()), ..ApprovalState::default() };
    let (servers, store) = state.split();
    let approvals = servers.entry(server()).or_insert_with(|| ServerApprovals::new(QUARANTINE));
    let legacy = View::Legacy(metamcp_core::protocol::ClientCapabilities::default());
    for (view, words) in [(View::Modern, "x1"), (legacy, "x2")] {
        approvals.views.insert((UpstreamId(0), view), tools(words));
        approvals.settle(&server(), store, SettleTrigger::Listed);
    }
    assert_eq!(summarize(approvals).0, "x: Changed");
    // Another replica lists something else: neither undoes the write of the other.
    let StoredPins::Pins(mut theirs, _) = pins("x1") else { panic!("pins") };
    theirs.add_pending(tools("x3").iter(), 2);
    state.stored = Some([("a".to_owned(), StoredPins::Pins(theirs, 8))].into());
    let (servers, store) = state.split();
    let approvals = servers.get_mut(&server()).expect("the server is known");
    approvals.pending_update = None;
    approvals.settle(&server(), store, SettleTrigger::StoreRead);
    assert_eq!(summarize(approvals), ("x: Changed".to_owned(), String::new()));
}
