//! What gateways on PostgreSQL share, as `keyadm` and whoever administers have it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use metamcp_config::{Env, ProcessEnv};
use metamcp_store::auth::{KeyRequest, Sealer, create_key, parse_encryption_key};
use metamcp_store::store::{Audit, Grants, KeyStatus, Role, Store};

use super::{PATIENCE, Setup};

/// Of every gateway on PostgreSQL.
pub const ENCRYPTION_KEY: &str = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A database; one that was made here is dropped with the value.
pub struct Database {
    url: String,
    /// Where it was made, and its name.
    made: Option<(String, String)>,
}

impl Database {
    /// A new one in the server that `tools/check` starts; `None`, said aloud, where there is none.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = ProcessEnv.var("METAMCP_TEST_DATABASE_URL").and_then(|url| url.into_string().ok());
        let Some(server) = server else {
            println!("METAMCP_TEST_DATABASE_URL is not set: NOT tested (tools/check sets it)");
            return None;
        };
        let name = format!("replicas_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sql(&server, &format!("CREATE DATABASE {name}"));
        let (base, _) = server.rsplit_once('/').unwrap();
        Some(Self { url: format!("{base}/{name}"), made: Some((server, name)) })
    }

    /// One that is there and stays.
    pub fn at(url: String) -> Self {
        Self { url, made: None }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same behind another address.
    pub fn url_at(&self, address: SocketAddr) -> String {
        self.url.replace(&self.address().to_string(), &address.to_string())
    }

    /// Of its server.
    pub fn address(&self) -> SocketAddr {
        let (_, rest) = self.url.split_once('@').unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }

    /// A gateway with keys, on this database.
    pub fn gateway(&self) -> Setup {
        gateway_on(&self.url)
    }

    /// With the store, as another process that has it open.
    pub fn store<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
        run(async { work(Store::open(&self.url).await.unwrap().bound_by(sealer())).await })
    }

    /// A new key: its id, and itself.
    pub fn key(&self, name: &str) -> (String, String) {
        self.key_with(name, Grants::everything())
    }

    /// A key that may administer.
    pub fn admin_key(&self) -> String {
        self.key_with("admin", Grants { role: Role::Admin, ..Grants::everything() }).1
    }

    /// A new key that may do that: its id, and itself.
    pub fn key_with(&self, name: &str, grants: Grants) -> (String, String) {
        let request = KeyRequest { name: name.into(), description: String::new(), grants, expires_at: None };
        self.store(async |store| {
            let (key, row) = create_key(&store, &sealer(), request, Audit::by("test")).await.unwrap();
            (row.key_id, key.expose().to_owned())
        })
    }

    /// Switches a key off.
    pub fn revoke(&self, key_id: &str) {
        let off = KeyStatus::Inactive;
        assert!(self.store(async |s| s.set_key_status(key_id, off, Audit::by("test")).await.unwrap()));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some((server, name)) = &self.made {
            sql(server, &format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }
}

/// What binds the rows of every database on PostgreSQL.
pub fn sealer() -> Sealer {
    Sealer::new(&parse_encryption_key(ENCRYPTION_KEY).unwrap()).unwrap()
}

/// A gateway with keys, on the database at `url`.
pub fn gateway_on(url: &str) -> Setup {
    let env = format!("DATABASE_URL={url}\nENCRYPTION_KEY={ENCRYPTION_KEY}\nJWT_SECRET={}\n", "j".repeat(40));
    Setup::new().keys().file(".env", &env)
}

/// Whether the long form of a proof is asked for, which takes minutes: `METAMCP_PROOFS=long`.
pub fn is_long() -> bool {
    ProcessEnv.var("METAMCP_PROOFS").is_some_and(|form| form == "long")
}

/// How long something may take: what is claimed in the long form, for which nothing else runs, and in the short one what
/// only a failure takes, however busy the machine.
pub fn within(claimed: Duration) -> Duration {
    if is_long() { claimed } else { PATIENCE }
}

/// On a runtime of its own.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// As a person with psql would.
pub fn sql(url: &str, statement: &str) {
    run(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
    });
}
