use std::time::Duration;

use serde_json::json;

use super::{by, on_each, sample};
use crate::store::testing::Notary;
use crate::store::{
    ApplyOutcome, AuditFilter, EndpointServer, EndpointSpec, Grants, JwtAlgorithm, JwtPhase, KeyRequest,
    KeyStatus, NewJwtKey, NewKey, ObjectKind, OldKeyPolicy, Plaintext, PrefixMode, Quotas, Rate, Role,
    RowSealer, SealedKind, SealedRow, Secrets, ServerKind, ServerRow, ServerSpec, Store, StoreError,
    ToolOverride, UsageBatch, UsageCounts, UsageFilter, UsageKey, UsageRow, VersionMatch, new_id,
};
use metamcp_config::sections::RetentionPolicy;

/// Compares the result of an operation, in a word and its field.
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "rows read better without a borrow")]
fn check<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &str) {
    let seen = match &result {
        Ok(_) => "ok".to_owned(),
        Err(StoreError::Conflict) => "conflict".to_owned(),
        Err(StoreError::Exists { field }) => format!("exists {field}"),
        Err(StoreError::NotFound(what)) => format!("no {what}"),
        Err(StoreError::Dangling) => "dangling".to_owned(),
        Err(StoreError::Invalid(_)) => "invalid".to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(seen, expected, "{result:?}");
}

/// The action and object of each entry of the audit log, oldest first.
async fn audited(store: &Store) -> Vec<(String, String)> {
    let mut rows = store.audit(AuditFilter::default(), None, 500).await.unwrap().items;
    rows.reverse();
    rows.into_iter().map(|row| (row.action, row.object_id)).collect()
}

fn spec(name: &str) -> ServerSpec {
    ServerSpec {
        name: name.into(),
        kind: ServerKind::Http,
        definition: json!({"url": "http://127.0.0.1:1/mcp", "text": "ü\u{1f980}' \" \\ \u{0}"}),
        secrets: Secrets::Keep,
    }
}

fn with_secrets(name: &str) -> ServerSpec {
    ServerSpec { secrets: Secrets::Set(Plaintext::new(vec![77, 77])), ..spec(name) }
}

/// The opened secrets of a server.
#[track_caller]
fn secrets(row: &ServerRow) -> Vec<u8> {
    Notary(1).open_row(SealedRow::Server(row)).unwrap().expose().to_vec()
}

#[tokio::test]
async fn every_change_advances_the_epoch_and_that_of_the_key() {
    on_each(async |store| {
        assert_eq!(store.epochs().await.unwrap().keys, 0);
        let first = store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        let second = store.insert_key(sample("BBBBBBBBBBBB"), by("test", 2)).await.unwrap();
        assert_eq!((first.epoch, second.epoch), (1, 3));
        let off = KeyStatus::Inactive;
        assert!(store.set_key_status("AAAAAAAAAAAA", off, by("test", 3)).await.unwrap());
        // Disabled already: nothing changes.
        assert!(store.set_key_status(&first.id.to_string(), off, by("test", 4)).await.unwrap());
        assert!(!store.set_key_status("CCCCCCCCCCCC", off, by("test", 4)).await.unwrap());

        let keys = store.keys().await.unwrap();
        assert_eq!(keys.epoch, 6);
        let seen: Vec<_> = keys
            .rows
            .iter()
            .map(|row| (row.key_id.as_str(), row.status, row.epoch, row.changed_at))
            .collect();
        assert_eq!(
            seen,
            [("AAAAAAAAAAAA", KeyStatus::Inactive, 5, 3), ("BBBBBBBBBBBB", KeyStatus::Active, 3, 2)]
        );
        store.delete_key("BBBBBBBBBBBB", by("test", 5)).await.unwrap();
        assert_eq!(store.epochs().await.unwrap().keys, 7);
        let audited = audited(store).await;
        let actions: Vec<_> = audited.iter().map(|(action, id)| (action.as_str(), &id[..1])).collect();
        assert_eq!(
            actions,
            [("key.create", "A"), ("key.create", "B"), ("key.inactivate", "A"), ("key.delete", "B")]
        );
    })
    .await;
}

#[tokio::test]
async fn a_key_is_changed_only_from_what_was_read() {
    on_each(async |store| {
        let before = store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        let read = before.to_request();
        let rate = Some(Rate { per_second: 3, burst: 4 });
        let grants = Grants { rate, endpoints: Some(vec!["team".into()]), ..Grants::everything() };
        let wanted =
            KeyRequest { name: "other".into(), description: "text".into(), grants, expires_at: Some(9) };
        let update = |expect: &KeyRequest, to: &KeyRequest, at| {
            store.update_key("AAAAAAAAAAAA", expect.clone(), to.clone(), by("test", at))
        };
        let after = update(&read, &wanted, 2).await.unwrap();
        assert_eq!((after.to_request(), after.changed_at), (wanted.clone(), 2));
        assert!(after.epoch > before.epoch, "its tokens are revoked");
        assert_eq!(Notary(1).open_row(SealedRow::Key(&after)), Notary(1).open_row(SealedRow::Key(&before)));
        assert_eq!(update(&wanted, &wanted, 3).await.unwrap(), after);
        check(update(&read, &wanted, 3).await, "conflict");
        check(store.update_key("BBBBBBBBBBBB", read, wanted, by("test", 3)).await, "no key");
        let actions: Vec<_> = audited(store).await.into_iter().map(|(action, _)| action).collect();
        assert_eq!(actions, ["key.create", "key.update"]);
    })
    .await;
}

/// Replicas that start concurrently on an empty database.
#[tokio::test]
async fn one_first_key_is_created() {
    on_each(async |store| {
        let first = |number: usize| {
            let store = store.clone();
            async move { store.insert_first_key(sample(&format!("{number:012}")), by("test", 1)).await.unwrap() }
        };
        let made = futures_util::future::join_all((0..6).map(first)).await;
        assert_eq!(made.iter().flatten().count(), 1);
        assert_eq!(store.keys().await.unwrap().rows.len(), 1);
        assert_eq!(audited(store).await.len(), 1);
        // A disabled key counts: an administrator wants no access.
        let id = made.into_iter().flatten().next().unwrap().key_id;
        store.set_key_status(&id, KeyStatus::Inactive, by("test", 2)).await.unwrap();
        assert_eq!(first(9).await, None);
    })
    .await;
}

#[tokio::test]
async fn a_key_is_read_as_it_was_written() {
    on_each(async |store| {
        let grants = Grants {
            role: Role::Admin,
            endpoints: Some(vec!["a".into(), "ü, \"b\"".into()]),
            tools: Some(vec![]),
            rate: Some(Rate { per_second: 5, burst: u32::MAX }),
            concurrency: Some(1),
            quotas: Quotas { calls_per_day: Some(1), bytes_per_month: Some(u64::MAX >> 16), ..Quotas::NONE },
        };
        let key = NewKey {
            grants,
            expires_at: Some(1_800_000_000),
            description: "CI; '\"".into(),
            hash: Plaintext::new((0..=255).collect()),
            ..sample("AAAAAAAAAAAA")
        };
        let stored = store.insert_key(key.clone(), by("test", 7)).await.unwrap();
        assert_eq!(store.key("AAAAAAAAAAAA").await.unwrap().as_ref(), Some(&stored));
        assert_eq!(store.key(&key.id.to_string()).await.unwrap().as_ref(), Some(&stored));
        assert_eq!((&stored.grants, &stored.description), (&key.grants, &key.description));
        assert_eq!(Notary(1).open_row(SealedRow::Key(&stored)), Some(key.hash.clone()));
        assert_eq!((stored.created_at, stored.expires_at), (7, key.expires_at));
        assert_eq!(store.key("BBBBBBBBBBBB").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_refused_change_leaves_no_trace() {
    on_each(async |store| {
        let good = store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        let key = |change: fn(&mut NewKey)| {
            let mut key = sample("BBBBBBBBBBBB");
            change(&mut key);
            store.insert_key(key, by("test", 2))
        };
        check(key(|key| key.key_id = "AAAAAAAAAAAA".into()).await, "exists key_id");
        check(
            store.insert_key(NewKey { id: good.id, ..sample("BBBBBBBBBBBB") }, by("t", 2)).await,
            "exists id",
        );
        check(key(|key| key.key_id = "short".into()).await, "invalid");
        check(key(|key| key.name.clear()).await, "invalid");
        check(key(|key| key.name = "a\0b".into()).await, "invalid");
        check(key(|key| key.grants.concurrency = Some(0)).await, "invalid");
        check(key(|key| key.grants.rate = Some(Rate { per_second: 0, burst: 1 })).await, "invalid");
        check(store.insert_key(sample("CCCCCCCCCCCC"), by("", 2)).await, "invalid");
        assert_eq!(store.epochs().await.unwrap().keys, 2);
        assert_eq!(audited(store).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_rotated_key_ends_at_once_or_after_its_grace_period() {
    on_each(async |store| {
        for key_id in ["AAAAAAAAAAAA", "BBBBBBBBBBBB"] {
            store.insert_key(sample(key_id), by("test", 1)).await.unwrap();
        }
        let rotate =
            |old: &'static str, new: &str, what| store.rotate_key(old, sample(new), what, by("test", 10));
        let gone = rotate("AAAAAAAAAAAA", "CCCCCCCCCCCC", OldKeyPolicy::Inactivate).await.unwrap();
        assert_eq!((gone.old.status, gone.old.successor), (KeyStatus::Inactive, Some(gone.new.id)));
        let kept = rotate("BBBBBBBBBBBB", "DDDDDDDDDDDD", OldKeyPolicy::KeepUntil(20)).await.unwrap();
        assert_eq!((kept.old.status, kept.old.ends_at()), (KeyStatus::Active, Some(20)));
        // Its tokens stay valid until then.
        assert_eq!(kept.old.epoch, 3);
        check(rotate("AAAAAAAAAAAA", "EEEEEEEEEEEE", OldKeyPolicy::Inactivate).await, "conflict");
        check(rotate("BBBBBBBBBBBB", "EEEEEEEEEEEE", OldKeyPolicy::Inactivate).await, "conflict");
        check(rotate("FFFFFFFFFFFF", "EEEEEEEEEEEE", OldKeyPolicy::Inactivate).await, "no key");
        check(rotate("DDDDDDDDDDDD", "AAAAAAAAAAAA", OldKeyPolicy::Inactivate).await, "exists key_id");
        assert_eq!(store.key("DDDDDDDDDDDD").await.unwrap().unwrap().status, KeyStatus::Active);

        assert_eq!(store.end_grace(by("test", 19)).await.unwrap().len(), 0);
        assert_eq!(store.end_grace(by("test", 20)).await.unwrap(), [kept.old.id]);
        assert_eq!(store.end_grace(by("test", 21)).await.unwrap().len(), 0);
        let ended = store.key("BBBBBBBBBBBB").await.unwrap().unwrap();
        assert!(ended.status == KeyStatus::Inactive && ended.epoch > 3);
        store.delete_key("DDDDDDDDDDDD", by("test", 22)).await.unwrap();
        // The deleted successor is still named, because it is sealed, and does not prevent another rotation.
        assert_eq!(store.key("BBBBBBBBBBBB").await.unwrap().unwrap().successor, Some(kept.new.id));
        check(store.set_key_status("BBBBBBBBBBBB", KeyStatus::Active, by("test", 23)).await, "ok");
        check(rotate("BBBBBBBBBBBB", "EEEEEEEEEEEE", OldKeyPolicy::Inactivate).await, "ok");
    })
    .await;
}

#[tokio::test]
async fn resealing_revokes_nothing() {
    on_each(async |store| {
        for key_id in ["AAAAAAAAAAAA", "BBBBBBBBBBBB", "CCCCCCCCCCCC"] {
            store.insert_key(sample(key_id), by("test", 1)).await.unwrap();
        }
        let before = store.keys().await.unwrap();
        let anew = store.bound_by(Notary(2));
        let rewrap =
            |kind, after: Option<&str>| anew.rewrap_some(kind, after.map(str::to_owned), 2, by("test", 2));
        let first = rewrap(SealedKind::Keys, None).await.unwrap();
        assert_eq!((first.count, first.next.as_deref()), (2, Some("BBBBBBBBBBBB")));
        assert_eq!(store.sealed_versions(SealedKind::Keys).await.unwrap(), [(1, 1), (2, 2)]);
        // Rows that are done are skipped.
        let rest = rewrap(SealedKind::Keys, None).await.unwrap();
        assert_eq!((rest.count, rest.next), (1, None));
        assert_eq!(store.sealed_versions(SealedKind::Keys).await.unwrap(), [(2, 3)]);
        let after = store.keys().await.unwrap();
        assert!(after.epoch > before.epoch, "the replicas must read the rows again");
        for (before, after) in before.rows.iter().zip(&after.rows) {
            assert_eq!((before.epoch, before.changed_at), (after.epoch, after.changed_at));
        }
        assert_eq!(audited(store).await.last().unwrap(), &("rekey".to_owned(), "*".to_owned()));

        let server = store.insert_server(new_id(), with_secrets("a"), by("test", 3)).await.unwrap();
        store.insert_server(new_id(), spec("b"), by("test", 3)).await.unwrap();
        let whole = endpoint("e", vec![EndpointServer::unfiltered(server.id)]);
        store.insert_endpoint(new_id(), whole, by("test", 3)).await.unwrap();
        assert_eq!(rewrap(SealedKind::Servers, None).await.unwrap().count, 2);
        assert_eq!(rewrap(SealedKind::Endpoints, None).await.unwrap().count, 1);
        let now = store.server("a").await.unwrap().unwrap();
        let kept = Notary(2).open_row(SealedRow::Server(&now)).unwrap();
        assert_eq!((now.secrets.key_version, now.version, kept.expose()), (2, 1, &[77, 77][..]));
        assert_eq!(store.sealed_versions(SealedKind::JwtKeys).await.unwrap(), []);
        // Rows that do not open are left unchanged and named.
        let older = store.bound_by(Notary(1)).rewrap(SealedKind::Servers, None, by("test", 4)).await.unwrap();
        assert_eq!((older.count, older.closed.len()), (0, 2));
    })
    .await;
}

#[tokio::test]
async fn a_server_changes_only_from_the_expected_version() {
    on_each(async |store| {
        let id = new_id();
        let with = with_secrets("a");
        let made = store.insert_server(id, with.clone(), by("test", 1)).await.unwrap();
        assert_eq!((made.version, &made.definition, secrets(&made)), (1, &with.definition, vec![77, 77]));
        check(store.insert_server(new_id(), spec("a"), by("test", 1)).await, "exists name");
        check(store.insert_server(id, spec("b"), by("test", 1)).await, "exists id");
        check(store.insert_server(new_id(), spec(""), by("test", 1)).await, "invalid");

        let stdio = ServerSpec { kind: ServerKind::Stdio, ..spec("a") };
        let replace =
            |expect, spec: &ServerSpec| store.replace_server(id, expect, spec.clone(), by("test", 2));
        let next = replace(VersionMatch::Version(1), &stdio).await.unwrap();
        assert_eq!((next.version, next.kind, secrets(&next)), (2, ServerKind::Stdio, vec![77, 77]));
        check(replace(VersionMatch::Version(1), &stdio).await, "conflict");
        assert_eq!(replace(VersionMatch::Any, &stdio).await.unwrap().version, 2, "nothing to change");
        let bare = ServerSpec { secrets: Secrets::Set(Plaintext::nothing()), ..stdio };
        assert_eq!(secrets(&replace(VersionMatch::Any, &bare).await.unwrap()), b"");
        check(store.replace_server(new_id(), VersionMatch::Any, bare.clone(), by("t", 2)).await, "no server");

        assert_eq!(replace(VersionMatch::Any, &bare).await.unwrap().version, 3, "nothing to change");
        assert_eq!(replace(VersionMatch::Version(3), &spec("a")).await.unwrap().version, 4);
        assert_eq!(store.insert_server(new_id(), spec("b"), by("test", 3)).await.unwrap().version, 1);
        check(store.replace_server(id, VersionMatch::Any, spec("b"), by("test", 4)).await, "exists name");

        check(store.delete_server(id, VersionMatch::Version(3), by("test", 5)).await, "conflict");
        check(store.delete_server(id, VersionMatch::Version(4), by("test", 5)).await, "ok");
        check(store.delete_server(id, VersionMatch::Any, by("test", 5)).await, "no server");
        let actions: Vec<_> = audited(store).await.into_iter().map(|(action, _)| action).collect();
        let expected = ["create", "replace", "replace", "replace", "create", "delete"];
        assert_eq!(actions, expected.map(|action| format!("server.{action}")));
        let epochs = store.epochs().await.unwrap();
        assert_eq!((epochs.servers, epochs.keys, epochs.endpoints), (11, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn servers_are_listed_in_pages_and_found_by_id_or_name() {
    on_each(async |store| {
        // Sorted by bytes, not by the rules of a language.
        for name in ["b", "a", "B", "ä", "_"] {
            store.insert_server(new_id(), spec(name), by("test", 1)).await.unwrap();
        }
        let all = store.servers().await.unwrap();
        let names: Vec<_> = all.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!((names.as_slice(), all.epoch), (&["B", "_", "a", "b", "ä"][..], 10));
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.server_page(after, 2).await.unwrap();
            seen.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, all.rows);
        // A server whose name is the id of another one.
        let id = all.rows[0].id.to_string();
        store.insert_server(new_id(), spec(&id), by("test", 1)).await.unwrap();
        assert_eq!(store.server(&id).await.unwrap().unwrap().name, "B");
        assert_eq!(store.server("ä").await.unwrap().unwrap().name, "ä");
        assert_eq!(store.server(&new_id().to_string()).await.unwrap(), None);
        assert_eq!(store.server("'; --").await.unwrap(), None);
    })
    .await;
}

fn endpoint(name: &str, servers: Vec<EndpointServer>) -> EndpointSpec {
    EndpointSpec { name: name.into(), prefix: PrefixMode::Always, servers }
}

fn renamed(tool: &str, name: Option<&str>) -> ToolOverride {
    ToolOverride {
        tool: tool.into(),
        name: name.map(str::to_owned),
        title: Some("T".into()),
        description: None,
        annotations: Some(json!({"readOnlyHint": true, "null": null})),
    }
}

#[tokio::test]
async fn endpoints_keep_the_order_and_rules_of_their_servers() {
    on_each(async |store| {
        let [b, a] = [new_id(), new_id()];
        store.insert_server(a, spec("a"), by("test", 1)).await.unwrap();
        store.insert_server(b, spec("b"), by("test", 1)).await.unwrap();
        let rules = EndpointServer {
            server_id: b,
            allow: vec!["z*".into(), "a*".into()],
            deny: vec!["*_delete".into()],
            overrides: vec![renamed("y", Some("x")), renamed("b", None)],
        };
        let full = endpoint("team", vec![rules, EndpointServer::unfiltered(a)]);
        let id = new_id();
        let made = store.insert_endpoint(id, full.clone(), by("test", 1)).await.unwrap();
        assert_eq!((&made.servers, made.version), (&full.servers, 1));
        store.insert_endpoint(new_id(), endpoint("other", vec![]), by("test", 1)).await.unwrap();
        assert_eq!(store.endpoint("team").await.unwrap().as_ref(), Some(&made));
        assert_eq!(store.endpoint(&id.to_string()).await.unwrap().as_ref(), Some(&made));
        assert_eq!(store.endpoint("none").await.unwrap(), None);
        let all = store.endpoints().await.unwrap().rows;
        assert_eq!((all[0].name.as_str(), all.len(), &all[1]), ("other", 2, &made));
        let page = store.endpoint_page(None, 1).await.unwrap();
        assert_eq!((page.items[0].name.as_str(), page.next.as_deref()), ("other", Some("other")));
        assert_eq!(store.endpoint_page(page.next, 1).await.unwrap().items, std::slice::from_ref(&made));

        let before = store.epochs().await.unwrap();
        assert_eq!(
            store.replace_endpoint(id, VersionMatch::Version(1), full.clone(), by("t", 2)).await.unwrap(),
            made
        );
        assert_eq!(store.epochs().await.unwrap(), before);
        let mut turned = full.clone();
        turned.servers.reverse();
        turned.prefix = PrefixMode::Never;
        let next =
            store.replace_endpoint(id, VersionMatch::Version(1), turned.clone(), by("t", 2)).await.unwrap();
        assert_eq!((next.version, next.prefix, &next.servers), (2, PrefixMode::Never, &turned.servers));
        check(
            store.replace_endpoint(id, VersionMatch::Version(1), full.clone(), by("t", 2)).await,
            "conflict",
        );

        // Deleting a server changes the version of its endpoints.
        store.delete_server(b, VersionMatch::Any, by("test", 3)).await.unwrap();
        let left = store.endpoint("team").await.unwrap().unwrap();
        assert!(Notary(1).open_row(SealedRow::Endpoint(&left)).is_some(), "it is sealed again");
        assert_eq!((left.version, left.servers), (3, vec![EndpointServer::unfiltered(a)]));
        assert!(store.epochs().await.unwrap().endpoints > before.endpoints);

        let replace = |spec| store.replace_endpoint(id, VersionMatch::Any, spec, by("t", 4));
        check(replace(full).await, "dangling");
        assert_eq!(replace(endpoint("team", vec![])).await.unwrap().version, 4);
        check(store.delete_endpoint(id, VersionMatch::Version(3), by("t", 5)).await, "conflict");
        check(store.delete_endpoint(id, VersionMatch::Version(4), by("t", 5)).await, "ok");
        check(store.delete_endpoint(id, VersionMatch::Any, by("t", 5)).await, "no endpoint");
    })
    .await;
}

#[tokio::test]
async fn contradictory_endpoints_are_refused() {
    on_each(async |store| {
        let a = new_id();
        store.insert_server(a, spec("a"), by("test", 1)).await.unwrap();
        let insert = |servers| store.insert_endpoint(new_id(), endpoint("e", servers), by("test", 1));
        let whole = EndpointServer::unfiltered;
        let twice = |glob: &str| vec![glob.to_owned(), glob.to_owned()];
        check(insert(vec![whole(a), whole(a)]).await, "exists server_id");
        check(insert(vec![whole(new_id())]).await, "dangling");
        check(insert(vec![EndpointServer { allow: twice("x"), ..whole(a) }]).await, "exists pattern");
        check(insert(vec![EndpointServer { deny: vec![String::new()], ..whole(a) }]).await, "invalid");
        let overrides = vec![renamed("x", Some(""))];
        check(insert(vec![EndpointServer { overrides, ..whole(a) }]).await, "invalid");
        assert_eq!(store.endpoint("e").await.unwrap(), None);
        assert_eq!(store.epochs().await.unwrap().endpoints, 0);
        check(insert(vec![whole(a)]).await, "ok");
        check(insert(vec![]).await, "exists name");
    })
    .await;
}

#[tokio::test]
async fn one_token_key_signs_and_one_may_be_next() {
    on_each(async |store| {
        let insert = |kid: &str, phase| {
            let key = NewJwtKey {
                kid: kid.into(),
                algorithm: JwtAlgorithm::Hs256,
                secret: Plaintext::new(vec![7]),
                phase,
            };
            store.insert_jwt_key(key, by("test", 1))
        };
        check(store.promote_jwt_key(by("test", 1)).await, "no token key in the phase `next`");
        check(insert("a", JwtPhase::Active).await, "ok");
        check(insert("b", JwtPhase::Active).await, "exists phase");
        check(insert("a", JwtPhase::Next).await, "exists kid");
        check(insert("b", JwtPhase::Next).await, "ok");
        check(insert("c", JwtPhase::Next).await, "exists phase");
        let active = store.promote_jwt_key(by("test", 9)).await.unwrap();
        assert_eq!((active.kid.as_str(), active.phase, active.changed_at), ("b", JwtPhase::Active, 9));
        check(insert("c", JwtPhase::Next).await, "ok");
        store.promote_jwt_key(by("test", 10)).await.unwrap();
        let ring = store.jwt_keys().await.unwrap();
        let seen: Vec<_> =
            ring.rows.iter().map(|row| (row.kid.as_str(), row.phase, row.changed_at)).collect();
        let expected =
            [("a", JwtPhase::Retiring, 9), ("b", JwtPhase::Retiring, 10), ("c", JwtPhase::Active, 10)];
        assert_eq!((seen.as_slice(), ring.epoch), (&expected[..], 14));
        assert!(
            ring.rows
                .iter()
                .all(|row| Notary(1).open_row(SealedRow::JwtKey(row)) == Some(Plaintext::new(vec![7])))
        );
        check(store.delete_jwt_key("c", by("test", 11)).await, "conflict");
        check(store.delete_jwt_key("a", by("test", 11)).await, "ok");
        check(store.delete_jwt_key("a", by("test", 11)).await, "no token key");
    })
    .await;
}

fn used(hour: u64, key_id: &str, tool: &str, calls: u64) -> UsageRow {
    UsageRow {
        key: UsageKey { hour, key_id: key_id.into(), server: "s".into(), tool: tool.into() },
        counts: UsageCounts { calls, errors: 1, bytes_in: 10, bytes_out: 20, milliseconds: 30 },
    }
}

#[tokio::test]
async fn the_last_use_of_a_key_is_at_most_a_minute_behind() {
    on_each(async |store| {
        let epochs = store.epochs().await.unwrap();
        let mut sequence = 0;
        let mut apply = async |at, keys: &[&str]| {
            sequence += 1;
            let rows = keys.iter().map(|key_id| used(at, key_id, "t", 1)).collect();
            let batch = UsageBatch { source: "one".into(), sequence, at, rows };
            store.apply_usage(batch).await.unwrap();
            store
                .key_uses()
                .await
                .unwrap()
                .into_iter()
                .map(|(id, at)| format!("{id}{at}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(apply(100, &["A", "A"]).await, ["A100"]);
        assert_eq!(apply(159, &["A", "B"]).await, ["A100", "B159"]);
        assert_eq!(apply(160, &["A"]).await, ["A160", "B159"]);
        // A clock that was set back.
        assert_eq!(apply(50, &["A"]).await, ["A160", "B159"]);
        // A use is no change of a key: nobody reads the keys again.
        assert_eq!(store.epochs().await.unwrap(), epochs);
    })
    .await;
}

#[tokio::test]
async fn a_batch_counts_once_however_often_it_is_sent() {
    on_each(async |store| {
        let apply = |source: &str, sequence, rows| {
            let batch = UsageBatch { source: source.into(), sequence, at: 1, rows };
            store.apply_usage(batch)
        };
        let rows = vec![used(7_300, "B", "t", 2), used(3_700, "A", "t", 1), used(7_200, "B", "t", 3)];
        assert_eq!(apply("one", 4, vec![used(7_200, "B", "u", 7)]).await.unwrap(), ApplyOutcome::Now);
        assert_eq!(apply("one", 5, rows.clone()).await.unwrap(), ApplyOutcome::Now);
        // Sent again, as after a commit whose response was lost; an older batch, as after a kill; another source.
        assert_eq!(apply("one", 5, rows.clone()).await.unwrap(), ApplyOutcome::Before);
        assert_eq!(apply("one", 4, vec![used(7_200, "B", "u", 7)]).await.unwrap(), ApplyOutcome::Before);
        assert_eq!(apply("two", 5, rows).await.unwrap(), ApplyOutcome::Now);
        assert_eq!(apply("one", 6, vec![]).await.unwrap(), ApplyOutcome::Now);
        assert_eq!(apply("one", 6, vec![used(0, "A", "t", 1)]).await.unwrap(), ApplyOutcome::Before);

        let find = |filter, after, limit| store.usage(filter, after, limit);
        let all = find(UsageFilter::default(), None, 500).await.unwrap().items;
        let seen: Vec<_> = all
            .iter()
            .map(|row| (row.key.hour, row.key.key_id.as_str(), row.key.tool.as_str(), row.counts.calls))
            .collect();
        assert_eq!(seen, [(3_600, "A", "t", 2), (7_200, "B", "t", 10), (7_200, "B", "u", 7)]);
        let sums = UsageCounts { calls: 10, errors: 4, bytes_in: 40, bytes_out: 80, milliseconds: 120 };
        assert_eq!(all[1].counts, sums);
        let page = find(UsageFilter::default(), None, 2).await.unwrap();
        assert_eq!(page.next.as_ref(), Some(&all[1].key));
        assert_eq!(find(UsageFilter::default(), page.next, 2).await.unwrap().items, all[2..]);
        let filters = [
            (UsageFilter { from: Some(7_200), ..UsageFilter::default() }, 2),
            (UsageFilter { until: Some(7_200), ..UsageFilter::default() }, 1),
            (UsageFilter { key_id: Some("B".into()), ..UsageFilter::default() }, 2),
            (UsageFilter { tool: Some("t".into()), ..UsageFilter::default() }, 2),
            (UsageFilter { server: Some("other".into()), ..UsageFilter::default() }, 0),
        ];
        for (filter, expected) in filters {
            assert_eq!(find(filter.clone(), None, 9).await.unwrap().items.len(), expected, "{filter:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_audit_log_holds_who_changed_what_and_no_secret() {
    on_each(async |store| {
        let server = store.insert_server(new_id(), with_secrets("a"), by("AAAAAAAAAAAA", 100)).await.unwrap();
        let change =
            ServerSpec { kind: ServerKind::Sse, secrets: Secrets::Set(Plaintext::nothing()), ..spec("a") };
        store.replace_server(server.id, VersionMatch::Any, change, by("keyadm:ü", 200)).await.unwrap();
        store.insert_key(sample("BBBBBBBBBBBB"), by("keyadm:ü", 300)).await.unwrap();

        let find = |filter| store.audit(filter, None, 10);
        let all = find(AuditFilter::default()).await.unwrap().items;
        let seen: Vec<_> = all.iter().map(|row| (row.action.as_str(), row.actor.as_str(), row.at)).collect();
        let expected = [
            ("key.create", "keyadm:ü", 300),
            ("server.replace", "keyadm:ü", 200),
            ("server.create", "AAAAAAAAAAAA", 100),
        ];
        assert_eq!(seen, expected);
        let (before, after) = (all[1].before.as_ref().unwrap(), all[1].after.as_ref().unwrap());
        assert_eq!((&before["kind"], &before["secrets"]), (&json!("http"), &json!(true)));
        assert_eq!((&after["kind"], &after["secrets"]), (&json!("sse"), &json!(false)));
        assert_eq!((&all[2].before, &all[2].object_id), (&None, &server.id.to_string()));
        let text = format!("{all:?}");
        assert!(!text.contains("77, 77") && !text.contains("sealed"), "{text}");

        let page = store.audit(AuditFilter::default(), None, 2).await.unwrap();
        assert_eq!(store.audit(AuditFilter::default(), page.next, 2).await.unwrap().items, all[2..]);
        let filters = [
            (AuditFilter { actor: Some("keyadm:ü".into()), ..AuditFilter::default() }, 2),
            (AuditFilter { action: Some("key.create".into()), ..AuditFilter::default() }, 1),
            (AuditFilter { object_kind: Some(ObjectKind::Server), ..AuditFilter::default() }, 2),
            (AuditFilter { object_id: Some("BBBBBBBBBBBB".into()), ..AuditFilter::default() }, 1),
            (AuditFilter { from: Some(200), until: Some(300), ..AuditFilter::default() }, 1),
        ];
        for (filter, expected) in filters {
            assert_eq!(find(filter.clone()).await.unwrap().items.len(), expected, "{filter:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn concurrent_writers_lose_nothing() {
    on_each(async |store| {
        let id = new_id();
        store.insert_server(id, spec("a"), by("test", 1)).await.unwrap();
        let writes = (0..20).map(|number: u32| async move {
            let key = store.insert_key(sample(&format!("{number:012}")), by("test", 1));
            let wanted = ServerSpec { definition: json!({"number": number}), ..spec("a") };
            let server = store.replace_server(id, VersionMatch::Version(1), wanted, by("test", 1));
            let batch = UsageBatch {
                source: (number % 10).to_string(),
                // Each batch is sent twice concurrently, as when a response was lost.
                sequence: 1,
                at: 1,
                rows: vec![used(0, "A", "t", 1), used(0, "B", "t", 1)],
            };
            let used = store.apply_usage(batch);
            let (key, server, used) = futures_util::future::join3(key, server, used).await;
            key.unwrap();
            (server.is_ok(), used.unwrap() == ApplyOutcome::Now)
        });
        let done = futures_util::future::join_all(writes).await;
        assert_eq!(done.iter().filter(|(server, _)| *server).count(), 1, "one has read version 1");
        assert_eq!(done.iter().filter(|(_, used)| *used).count(), 10);
        let usage = store.usage(UsageFilter::default(), None, 9).await.unwrap().items;
        assert_eq!(usage.iter().map(|row| row.counts.calls).collect::<Vec<_>>(), [10, 10]);
        let keys = store.keys().await.unwrap();
        let mut epochs: Vec<_> = keys.rows.iter().map(|row| row.epoch).collect();
        epochs.sort_unstable();
        assert_eq!(epochs, (0..20).map(|at| 2 * at + 1).collect::<Vec<_>>());
    })
    .await;
}

/// The counts of several gateways, some of them old. Every batch is sent again after each step.
#[tokio::test]
async fn old_rows_are_deleted_and_nothing_is_counted_twice() {
    const DAY: u64 = 86_400;
    const NOW: u64 = 1_000 * DAY;
    on_each(async |store| {
        let batch = |source: &str, sequence: u64, at: u64| UsageBatch {
            source: source.into(),
            sequence,
            at,
            rows: vec![UsageRow {
                key: UsageKey { hour: at, key_id: "A".repeat(12), server: source.into(), tool: "t".into() },
                counts: UsageCounts { calls: 1, ..UsageCounts::default() },
            }],
        };
        // The clock of this source was set back between its batches.
        let batches = [
            batch("gone", 1, NOW - 500 * DAY),
            batch("gone", 2, NOW - 450 * DAY),
            batch("back", 1, NOW - 10 * DAY),
            batch("back", 2, NOW - 499 * DAY),
            batch("here", 1, NOW - 405 * DAY),
            batch("here", 2, NOW - 399 * DAY),
        ];
        for batch in batches.clone() {
            assert_eq!(store.apply_usage(batch).await.unwrap(), ApplyOutcome::Now);
        }
        for at in [NOW - 401 * DAY, NOW - 399 * DAY] {
            store.insert_key(sample(&format!("{at:012}")), by("test", at)).await.unwrap();
        }
        let kept = |days: u64| RetentionPolicy {
            usage: Duration::from_secs(days * DAY),
            audit: Duration::from_secs(days * DAY),
        };
        let again = async |days: u64, expected: (u64, u64, u64), hours: &[u64]| {
            let retired = store.retire(&kept(days), NOW).await.unwrap();
            assert_eq!((retired.usage, retired.audit, retired.sources), expected, "{days} days");
            assert!(!retired.more);
            for batch in batches.clone() {
                assert_eq!(store.apply_usage(batch).await.unwrap(), ApplyOutcome::Before);
            }
            let rows = store.usage(UsageFilter::default(), None, 100).await.unwrap().items;
            let found: Vec<_> = rows.iter().map(|row| (NOW - row.key.hour) / DAY).collect();
            assert_eq!(found, hours, "{days} days");
            assert!(rows.iter().all(|row| row.counts.calls == 1));
        };
        again(600, (0, 0, 0), &[500, 499, 450, 405, 399, 10]).await;
        again(400, (4, 1, 1), &[399, 10]).await;
        again(400, (0, 0, 0), &[399, 10]).await;
        // A process with a longer retention period does not apply them again.
        again(600, (0, 0, 0), &[399, 10]).await;
        // An embedded database trusts the clock only if something was written in between.
        for at in [NOW - 5 * DAY / 2, NOW - DAY] {
            store.insert_key(sample(&format!("{at:012}")), by("test", at)).await.unwrap();
        }
        again(2, (2, 2, 2), &[]).await;
        assert_eq!(store.apply_usage(batch("new", 1, NOW - 400 * DAY)).await.unwrap(), ApplyOutcome::Before);
        assert_eq!(store.apply_usage(batch("new", 1, NOW - DAY)).await.unwrap(), ApplyOutcome::Now);
        assert_eq!(audited(store).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn old_rows_are_deleted_in_small_steps() {
    on_each(async |store| {
        let row = |number: u64| UsageRow {
            key: UsageKey {
                hour: 0,
                key_id: "A".repeat(12),
                server: format!("s{number}"),
                tool: String::new(),
            },
            counts: UsageCounts { calls: 1, ..UsageCounts::default() },
        };
        let batch = UsageBatch { source: "s".into(), sequence: 1, at: 0, rows: (0..1500).map(row).collect() };
        store.apply_usage(batch).await.unwrap();
        store.insert_key(sample("AAAAAAAAAAAA"), by("test", 3_000)).await.unwrap();
        let retention = RetentionPolicy { usage: Duration::from_hours(1), audit: Duration::from_hours(1) };
        let mut seen = Vec::new();
        for _ in 0..3 {
            let retired = store.retire(&retention, 3_700).await.unwrap();
            seen.push((retired.usage, retired.more));
        }
        assert_eq!(seen, [(1000, true), (500, false), (0, false)]);
    })
    .await;
}
