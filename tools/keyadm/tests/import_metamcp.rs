//! Moving from MetaMCP, whose database is played by one with its tables and columns.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use metamcp_store::auth::Credential;
use metamcp_store::store::{Audit, EndpointSpec, PrefixMode, new_id};
use serde_json::{Value, json};

use support::{Place, Run, gateway, on_each, sql, with_database};

/// What its versions have in common.
const TABLES: &str = "
    CREATE TYPE kind AS ENUM ('STDIO', 'SSE', 'STREAMABLE_HTTP');
    CREATE TYPE status AS ENUM ('ACTIVE', 'INACTIVE');
    CREATE TABLE mcp_servers (uuid uuid PRIMARY KEY, name text, type kind, command text, args text[] DEFAULT '{}',
        env jsonb DEFAULT '{}', url text, bearer_token text, user_id text, created_at timestamptz DEFAULT now());
    CREATE TABLE tools (uuid uuid PRIMARY KEY, name text, tool_schema jsonb, mcp_server_uuid uuid);
    CREATE TABLE namespaces (uuid uuid PRIMARY KEY, name text, user_id text);
    CREATE TABLE namespace_server_mappings (uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(), namespace_uuid uuid,
        mcp_server_uuid uuid, status status DEFAULT 'ACTIVE', created_at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE namespace_tool_mappings (uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(), namespace_uuid uuid,
        tool_uuid uuid, mcp_server_uuid uuid, status status DEFAULT 'ACTIVE');
    CREATE TABLE endpoints (uuid uuid PRIMARY KEY, name text, namespace_uuid uuid, user_id text,
        enable_api_key_auth boolean DEFAULT true, enable_oauth boolean DEFAULT false);
    CREATE TABLE api_keys (uuid uuid PRIMARY KEY, name text, key text, user_id text, is_active boolean DEFAULT true,
        created_at timestamptz DEFAULT clock_timestamp());";

/// What later ones have besides.
const LATER: &str = "
    ALTER TABLE mcp_servers ADD COLUMN headers jsonb DEFAULT '{}', ADD COLUMN error_status text;
    ALTER TABLE namespace_tool_mappings ADD COLUMN override_name text, ADD COLUMN override_title text,
        ADD COLUMN override_description text, ADD COLUMN override_annotations jsonb;
    ALTER TABLE endpoints ADD COLUMN enable_max_rate boolean DEFAULT false,
        ADD COLUMN use_query_param_auth boolean DEFAULT false;
    UPDATE mcp_servers SET headers = '{\"X-Team\": \"hunter2\"}' WHERE name = 'search';
    UPDATE namespace_tool_mappings SET override_name = 'lookup', override_description = 'Looks things up'
        WHERE tool_uuid = uuid('00000000-0000-0000-0000-0000000000a1');
    UPDATE endpoints SET use_query_param_auth = true WHERE name = 'team';
    INSERT INTO tools VALUES ('00000000-0000-0000-0000-0000000000a3', 'spaced', '{}',
        '00000000-0000-0000-0000-000000000001');
    INSERT INTO namespace_tool_mappings (namespace_uuid, tool_uuid, mcp_server_uuid, override_name, override_title,
        override_annotations) VALUES ('00000000-0000-0000-0000-0000000000b1', '00000000-0000-0000-0000-0000000000a3',
        '00000000-0000-0000-0000-000000000001', 'a b', 'Spaced', '[1]');";

const ROWS: &str = "
    INSERT INTO mcp_servers (uuid, name, type, command, args, env, url, bearer_token, user_id) VALUES
        ('00000000-0000-0000-0000-000000000001', 'search', 'STREAMABLE_HTTP', NULL, '{}', '{}',
            'https://search.example/mcp?token=hunter2', 'hunter2', NULL),
        ('00000000-0000-0000-0000-000000000002', 'files', 'STDIO', 'npx', '{-y,files}', '{\"KEY\": \"hunter2\"}',
            NULL, NULL, NULL),
        ('00000000-0000-0000-0000-000000000005', 'script', 'SSE', NULL, '{}', '{}', 'javascript:alert(1)', NULL, NULL),
        ('00000000-0000-0000-0000-000000000006', 'login', 'STREAMABLE_HTTP', NULL, '{}', '{}',
            'http://u:hunter2@a.example/', NULL, NULL),
        ('00000000-0000-0000-0000-000000000003', 'files', 'SSE', NULL, '{}', '{}', 'http://files.example/sse', NULL,
            'ada'),
        ('00000000-0000-0000-0000-000000000004', 'broken', 'SSE', NULL, '{}', '{}', NULL, NULL, NULL);
    INSERT INTO tools VALUES ('00000000-0000-0000-0000-0000000000a1', 'query', '{}',
            '00000000-0000-0000-0000-000000000001'),
        ('00000000-0000-0000-0000-0000000000a2', 'drop', '{}', '00000000-0000-0000-0000-000000000001');
    INSERT INTO namespaces VALUES ('00000000-0000-0000-0000-0000000000b1', 'all', NULL),
        ('00000000-0000-0000-0000-0000000000b2', 'lonely', NULL);
    INSERT INTO namespace_server_mappings (namespace_uuid, mcp_server_uuid, status)
        SELECT '00000000-0000-0000-0000-0000000000b1', uuid,
            CASE WHEN user_id IS NULL THEN 'ACTIVE' ELSE 'INACTIVE' END::status FROM mcp_servers ORDER BY uuid;
    INSERT INTO namespace_tool_mappings (namespace_uuid, tool_uuid, mcp_server_uuid, status)
        SELECT '00000000-0000-0000-0000-0000000000b1', uuid, mcp_server_uuid,
            CASE WHEN name = 'drop' THEN 'INACTIVE' ELSE 'ACTIVE' END::status FROM tools;
    INSERT INTO endpoints (uuid, name, namespace_uuid, user_id, enable_api_key_auth) VALUES
        ('00000000-0000-0000-0000-0000000000c1', 'team', '00000000-0000-0000-0000-0000000000b1', NULL, true),
        ('00000000-0000-0000-0000-0000000000c2', 'ada', '00000000-0000-0000-0000-0000000000b1', 'ada', false);
    INSERT INTO api_keys (uuid, name, key, user_id, is_active) VALUES
        ('00000000-0000-0000-0000-0000000000d1', 'public', 'sk_mt_' || repeat('p', 64), NULL, true),
        ('00000000-0000-0000-0000-0000000000d2', 'ada', 'sk_mt_' || repeat('a', 64), 'ada', true),
        ('00000000-0000-0000-0000-0000000000d3', 'off', 'sk_mt_' || repeat('o', 64), NULL, false),
        ('00000000-0000-0000-0000-0000000000d4', 'odd', 'hunter2', NULL, true);";

fn key(letter: &str) -> String {
    format!("sk_mt_{}", letter.repeat(64))
}

/// Each item's outcome, by kind and name.
fn outcomes(run: &Run) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(&run.out).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = report["items"].as_array().unwrap().iter();
    items
        .map(|item| (format!("{} {}", text(&item["kind"]), text(&item["name"])), text(&item["outcome"])))
        .collect()
}

#[track_caller]
fn check(run: &Run, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(item, outcome)| ((*item).into(), (*outcome).into())).collect();
    assert_eq!(outcomes(run), expected, "{}", run.err);
    assert_eq!(run.code, 65, "{}", run.err);
    assert!(
        !run.out.contains("hunter2") && !run.err.contains("hunter2") && !run.out.contains("ppp"),
        "{}",
        run.out
    );
}

const CREATED: [(&str, &str); 13] = [
    ("server search", "created"),
    ("server files", "created"),
    ("server broken", "failed"),
    ("server script", "failed"),
    ("server login", "failed"),
    ("server files", "created"),
    ("endpoint ada", "created"),
    ("endpoint team", "created"),
    ("namespace lonely", "left out"),
    ("key public", "created"),
    ("key ada", "created"),
    ("key off", "left out"),
    ("key odd", "failed"),
];

/// Of a second run.
const KEPT: [(&str, &str); 13] = {
    let mut kept = CREATED;
    let mut at = 0;
    while at < kept.len() {
        if kept[at].1.len() == "created".len() {
            kept[at].1 = "there already";
        }
        at += 1;
    }
    kept
};

/// Whether nothing was ever made there.
async fn is_untouched(place: &Place) -> bool {
    match place.database_url() {
        Some(url) => metamcp_store::store::is_new_postgres(url).await.unwrap(),
        None => !place.data_dir().exists(),
    }
}

#[tokio::test]
async fn what_metamcp_holds_is_taken_over_and_its_keys_keep_working() {
    for later in ["", LATER] {
        on_each(async |place| {
            with_database(async |from| {
                sql(from, &format!("{TABLES}{ROWS}{later}")).await;
                let import = |more: &[&str]| {
                    let mut command = place.command(&["import-metamcp", "--json"]);
                    command.args(more).args(["--database-url", from]);
                    Run::of(command)
                };
                check(&import(&["--dry-run"]), &CREATED);
                assert!(is_untouched(place).await, "a look makes nothing");
                let told = import(&[]);
                check(&told, &CREATED);
                let said = |text: &str| assert_eq!(told.out.contains(text), !later.is_empty(), "{}", told.out);
                said("without the overridden name of the tool \\\"spaced\\\" of search, which is not a tool name");
                said("without the overridden annotations of the tool \\\"spaced\\\" of search, which is not an object");
                check(&import(&["--dry-run"]), &KEPT);
                check(&import(&[]), &KEPT);

                let servers = place.run(&["servers", "list", "--json"]).json();
                let names: Vec<_> = servers.as_array().unwrap().iter().map(|row| &row["name"]).collect();
                assert_eq!(names, ["files", "files-2", "search"]);
                assert_eq!(servers[0]["definition"]["args"], json!(["(sealed)", "(sealed)"]));
                assert_eq!(servers[2]["definition"]["url"], "https://search.example/mcp?...");
                assert!(!servers.to_string().contains("hunter2"));
                let team = place.run(&["endpoints", "show", "team", "--json"]).json();
                assert_eq!(team["servers"].as_array().unwrap().len(), 2);
                assert_eq!(team["servers"][0]["deny"], json!(["drop"]));
                let overridden = &team["servers"][0]["overrides"][0]["name"];
                assert_eq!(*overridden, if later.is_empty() { Value::Null } else { json!("search__lookup") });
                let spaced = &team["servers"][0]["overrides"][1];
                assert_eq!([&spaced["name"], &spaced["annotations"]], [&Value::Null; 2]);

                let gateway = gateway(place).await;
                for (letter, scopes) in [("p", [true, false]), ("a", [true, true])] {
                    let bearer = format!("Bearer {}", key(letter));
                    let credential =
                        Credential::from_headers(Some(bearer.as_bytes()), None).unwrap().unwrap();
                    let identity = gateway.authenticate(&credential).await.unwrap();
                    assert_eq!(["e/team", "e/ada"].map(|scope| identity.can_use_endpoint(scope)), scopes);
                }
                for letter in ["o", "q"] {
                    let key = key(letter);
                    let credential = Credential::from_headers(None, Some(key.as_bytes())).unwrap().unwrap();
                    assert!(gateway.authenticate(&credential).await.is_err());
                }
                let doctor = place.run(&["doctor", "--json"]);
                assert!(doctor.out.contains("everything opens"), "{}", doctor.out);
            })
            .await;
        })
        .await;
    }
}

#[tokio::test]
async fn another_database_is_refused_with_what_it_lacks() {
    let place = support::Place::new();
    let run = |url: &str| place.run(&["import-metamcp", "--database-url", url]);
    place.run(&["import-metamcp"]).check(64, "--database-url");
    run("mysql://u:hunter2@db/x").check(64, "--database-url");
    run("postgres://u:hunter2@127.0.0.1:1/x").check(69, "not available");
    with_database(async |url| {
        run(url).check(69, "is it the database of MetaMCP?");
        let same = place.run(&["import-metamcp", "--database-url", url, "--into", url]);
        same.check(64, "cannot be this installation's as well");
        let same = Place::away(url).run(&["import-metamcp", "--database-url", url]);
        same.check(64, "cannot be this installation's as well");
        Place::away(url).run(&["import-metamcp"]).check(64, "DATABASE_URL names this installation's own");
    })
    .await;
}

/// What is in the way here, and what is odd there.
#[tokio::test]
async fn a_look_tells_what_the_move_would_meet() {
    on_each(async |place| {
        with_database(async |from| {
            sql(from, &format!("{TABLES}{ROWS}{LATER}")).await;
            let odd = "UPDATE mcp_servers SET headers = '{\"X-Team\": [\"hunter2\"]}' WHERE name = 'search';
                       UPDATE mcp_servers SET env = '\"hunter2\"' WHERE command IS NOT NULL;
                       UPDATE api_keys SET key = 'sk_mt_' || repeat('p', 64) WHERE name = 'ada';";
            sql(from, odd).await;
            place.key("first");
            let store = place.store().await;
            let spec = EndpointSpec { name: "ada".into(), prefix: PrefixMode::Always, servers: Vec::new() };
            store.insert_endpoint(new_id(), spec, Audit::by("test")).await.unwrap();
            drop(store);
            let import = |more: &[&str]| {
                let mut command = place.command(&["import-metamcp", "--json", "--database-url", from]);
                command.args(more);
                Run::of(command)
            };
            let mut expected = CREATED;
            // The headers of one, the variables of the other, a name that is taken, and a key that is there twice.
            for at in [0, 1, 6, 10] {
                expected[at].1 = "failed";
            }
            let looked = import(&["--dry-run"]);
            check(&looked, &expected);
            let done = import(&[]);
            check(&done, &expected);
            let notes = |run: &Run| -> Vec<String> {
                let report: Value = serde_json::from_str(&run.out).unwrap();
                report["items"].as_array().unwrap().iter().map(|item| item["note"].to_string()).collect()
            };
            assert_eq!(notes(&looked), notes(&done));
            for (at, said) in
                [(0, "`headers`"), (1, "`env`"), (6, "this name already"), (10, "this key_id already")]
            {
                assert!(notes(&done)[at].contains(said), "{:?}", notes(&done)[at]);
            }
        })
        .await;
    })
    .await;
}
