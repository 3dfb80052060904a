use futures_util::FutureExt as _;
use futures_util::future::join_all;
use zeroize::Zeroizing;

use super::super::imprint::Imprint;
use super::super::imprint::tests::marked;
use super::super::{ApiKey, CreateError, EncryptionKey, KeyRequest, create_key, new_jwt_key};
use super::*;
use crate::store::testing::{Folder, break_epoch, put_sealed_hash};
use crate::store::{Audit, Binder, Bound, Grants, KeyStatus, Plain, Rate, Role};

const DATABASE: &str = "metamcp.sqlite";
const QUEUE_MAX: usize = 8;

/// A store on disk, and an authenticator over it.
struct House {
    folder: Folder,
    store: Store,
    auth: Authenticator,
}

fn config() -> Config {
    Config {
        mode: Mode::Keys,
        encryption_keys: vec![EncryptionKey { version: 1, key: Zeroizing::new([7; 32]) }],
        jwt_secret: Zeroizing::new(vec![9; 32]),
        token_lifetime: Duration::from_mins(15),
        hash_permits: 1,
        hash_thread: || {},
        hash_queue_max: QUEUE_MAX,
        verified_for: Duration::from_mins(15),
    }
}

fn request(name: &str, expires_at: Option<u64>) -> KeyRequest {
    KeyRequest { name: name.into(), description: String::new(), grants: Grants::everything(), expires_at }
}

impl House {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: Config) -> Self {
        let folder = Folder::new();
        let store = Store::open_sqlite(&folder.join(DATABASE)).await.unwrap();
        let auth = Authenticator::new(config, store).await.unwrap();
        Self { folder, store: auth.store().clone(), auth }
    }

    /// The text of a new key.
    async fn key(&self) -> String {
        self.key_until(None).await
    }

    async fn key_until(&self, expires_at: Option<u64>) -> String {
        let request = request("laptop", expires_at);
        let (key, _) = create_key(&self.store, self.auth.sealer(), request, Audit::by("test")).await.unwrap();
        key.expose().to_owned()
    }

    async fn inactivate(&self, key: &str) {
        assert!(
            self.store.set_key_status(&key[4..16], KeyStatus::Inactive, Audit::by("test")).await.unwrap()
        );
        assert!(self.auth.refresh().await.unwrap());
    }

    /// Puts the mark of another key's secret beside the hash of this one.
    async fn mark(&self, key: &str, other: &str) {
        let rows = self.store.keys().await.unwrap().rows;
        let row = rows.iter().find(|row| row.key_id == key[4..16]).unwrap();
        let sealer = self.auth.sealer();
        let imprint = Imprint::read(sealer.open_row(Bound::Key(row)).unwrap().expose()).unwrap();
        let imprint = marked(&imprint, ApiKey::parse(other).unwrap().secret());
        let sealed = sealer.seal_row(Bound::Key(row), &Plain::new(imprint.to_bytes().to_vec()));
        put_sealed_hash(&self.folder.join(DATABASE), &row.key_id, &sealed.bytes);
        assert!(self.auth.refresh().await.unwrap());
    }

    /// A wrong secret of a key in the keyring, and not the one in 65,536 that has the mark of the right one.
    fn wrong(&self, key: &str) -> String {
        let keyring = self.auth.keyring.load();
        let entry = keyring.entry(ApiKey::parse(key).unwrap().key_id()).unwrap();
        let is_plain = |key: &String| !entry.imprint().may_be(ApiKey::parse(key).unwrap().secret());
        std::iter::repeat_with(|| forged(key)).find(is_plain).unwrap()
    }

    fn at(&self, key: &str, later: Duration) -> String {
        let now = Now::read();
        let now = Now { instant: now.instant + later, unix_s: now.unix_s + later.as_secs() };
        verdict(self.auth.check_at(&credential(key), now))
    }

    /// What `check` says, what `ask` says, what `check` says then, and how often argon2 ran.
    async fn check(&self, text: &str, expected: [&str; 3], runs: u64) {
        let before = self.auth.hash_runs();
        let first = verdict(self.auth.check(&credential(text)));
        let asked = match self.auth.ask(&credential(text)).await {
            Ok(identity) => verdict(Check::Granted(identity)),
            Err(denied) => verdict(Check::Refused(denied)),
        };
        let then = verdict(self.auth.check(&credential(text)));
        assert_eq!([first.as_str(), &asked, &then], expected);
        assert_eq!(self.auth.hash_runs() - before, runs);
    }
}

impl House {
    /// As many made-up credentials as there are places are looked for, in one look, and the others told to come again. A
    /// few more find the places of those that are answered while the thousand come.
    async fn check_strangers(&self, texts: &[String]) {
        let before = self.auth.looks_begun.load(Ordering::Relaxed);
        let answers =
            join_all(texts.iter().map(|text| async { self.auth.ask(&credential(text)).await })).await;
        let count = |denied| answers.iter().filter(|answer| answer.as_ref().err() == Some(&denied)).count();
        let (invalid, busy) = (count(Denied::Invalid), count(Denied::Busy));
        assert_eq!(invalid + busy, texts.len());
        assert!((STRANGERS_MAX..8 * STRANGERS_MAX).contains(&invalid), "{invalid} were looked for");
        let looks = self.auth.looks_begun.load(Ordering::Relaxed) - before;
        assert!((1..=8).contains(&looks), "{looks}");
    }
}

impl Authenticator {
    /// argon2, whatever is known.
    async fn verify_text(&self, key: &str) -> Result<Identity, Denied> {
        self.verify(&ApiKey::parse(key).unwrap()).await
    }
}

fn credential(text: &str) -> Credential<'_> {
    if text.starts_with("mcp_") {
        Credential::from_headers(None, Some(text.as_bytes())).unwrap().unwrap()
    } else {
        Credential(Kind::Token(text))
    }
}

fn verdict(check: Check) -> String {
    match check {
        Check::Granted(identity) => identity.key_id().to_string(),
        Check::Refused(denied) => denied.label().into(),
        Check::Ask => "ask".into(),
    }
}

/// The same key id, another secret, a right checksum.
fn forged(key: &str) -> String {
    let other = ApiKey::generate();
    let body = format!("{}{}", &key[..17], &other.expose()[17..60]);
    ApiKey::with_checksum(&body)
}

#[tokio::test]
async fn argon2_runs_once_for_a_right_secret_and_not_for_a_wrong_one() {
    let house = House::new().await;
    let key = house.key().await;
    let id = &key[4..16];
    house.check(&key, ["ask", id, id], 1).await;
    house.check(&key, [id, id, id], 0).await;
    house.check(&house.wrong(&key), ["invalid"; 3], 0).await;
    house.check(&key, [id, id, id], 0).await;
}

#[tokio::test]
async fn argon2_runs_once_for_a_wrong_secret_that_has_the_mark_of_the_right_one() {
    let house = House::new().await;
    let key = house.key().await;
    let lookalike = forged(&key);
    house.mark(&key, &lookalike).await;
    house.check(&lookalike, ["ask", "invalid", "invalid"], 1).await;
    house.check(&lookalike, ["invalid"; 3], 0).await;
    house.check(&key, ["invalid"; 3], 0).await;
    house.mark(&key, &key).await;
    house.check(&key, ["ask", &key[4..16], &key[4..16]], 1).await;
}

#[tokio::test]
async fn argon2_never_runs_for_keys_unknown_switched_off_or_expired() {
    let house = House::new().await;
    let unknown = ApiKey::generate();
    house.check(unknown.expose(), ["ask", "invalid", "invalid"], 0).await;
    let key = house.key().await;
    house.auth.refresh().await.unwrap();
    house.inactivate(&key).await;
    house.check(&key, ["invalid"; 3], 0).await;
    house.check(&forged(&key), ["invalid"; 3], 0).await;

    let short = house.key_until(Some(Now::read().unix_s + 3600)).await;
    let id = &short[4..16];
    house.check(&short, ["ask", id, id], 1).await;
    assert_eq!(house.at(&short, Duration::from_mins(1)), id);
    assert_eq!(house.at(&short, Duration::from_hours(1)), "invalid");
}

#[tokio::test]
async fn a_key_made_a_moment_ago_works_at_once() {
    let house = House::new().await;
    for _ in 0..3 {
        let key = house.key().await;
        let id = &key[4..16];
        house.check(&key, ["ask", id, id], 1).await;
    }
}

#[tokio::test]
async fn a_verified_secret_is_believed_for_its_time_and_renewed_before_its_end() {
    let house = House::new().await;
    let key = house.key().await;
    house.auth.ask(&credential(&key)).await.unwrap();
    assert_eq!(house.auth.hash_runs(), 1);
    assert_eq!(house.at(&key, Duration::from_mins(11)), key[4..16]);
    assert_eq!(house.auth.hash_runs(), 1);
    assert_eq!(house.at(&key, Duration::from_mins(16)), "ask");
    // In the last quarter it is let in, and verified again meanwhile; asked for, the run under way is shared.
    for _ in 0..3 {
        assert_eq!(house.at(&key, Duration::from_mins(12)), key[4..16]);
    }
    let parsed = ApiKey::parse(&key).unwrap();
    house.auth.verify(&parsed).await.unwrap();
    assert_eq!(house.auth.hash_runs(), 2);
}

#[tokio::test]
async fn a_token_dies_with_its_key_and_with_every_change_of_it() {
    let house = House::new().await;
    let key = house.key().await;
    let identity = house.auth.ask(&credential(&key)).await.unwrap();
    let token = house.auth.mint_token(&identity).unwrap().access_token;
    let id = &key[4..16];
    house.check(&token, [id, id, id], 0).await;
    assert!(house.auth.still_valid(&identity));

    house.inactivate(&key).await;
    house.check(&token, ["invalid"; 3], 0).await;
    house.check(&key, ["invalid"; 3], 0).await;
    assert!(!house.auth.still_valid(&identity));
    assert_eq!(house.auth.mint_token(&identity).unwrap_err(), Denied::Invalid);

    // Switched on again, the key works and the old token does not.
    house.store.set_key_status(id, KeyStatus::Active, Audit::by("test")).await.unwrap();
    house.auth.refresh().await.unwrap();
    house.check(&token, ["invalid"; 3], 0).await;
    house.check(&key, ["ask", id, id], 1).await;
    assert!(!house.auth.still_valid(&identity));
}

#[tokio::test]
async fn a_stream_is_cut_with_its_key_and_not_with_the_watch_over_keys() {
    let house = House::new().await;
    let key = house.key().await;
    let identity = house.auth.ask(&credential(&key)).await.unwrap();
    let changes = watch::Sender::new(0);
    let mut waiting = Box::pin(house.auth.taken_back(&identity, changes.subscribe()));
    assert_eq!(waiting.as_mut().now_or_never(), None);
    // Of another key.
    changes.send_replace(1);
    assert_eq!(waiting.as_mut().now_or_never(), None);
    let mut unwatched = Box::pin(house.auth.taken_back(&identity, watch::Sender::new(0).subscribe()));
    assert_eq!(unwatched.as_mut().now_or_never(), None);

    house.inactivate(&key).await;
    assert_eq!(waiting.as_mut().now_or_never(), None, "nobody told");
    changes.send_replace(2);
    assert_eq!(waiting.as_mut().now_or_never(), Some(()));
}

#[tokio::test]
async fn a_token_of_another_replica_is_taken_by_one_that_has_not_heard_of_its_key() {
    let house = House::new().await;
    let other = Authenticator::new(config(), house.store.clone()).await.unwrap();
    let key = house.key().await;
    let id = &key[4..16];
    let identity = other.ask(&credential(&key)).await.unwrap();
    house.check(&other.mint_token(&identity).unwrap().access_token, ["ask", id, id], 0).await;

    // Changed twice: the other knows, this one does not yet.
    for status in [KeyStatus::Inactive, KeyStatus::Active] {
        house.store.set_key_status(id, status, Audit::by("test")).await.unwrap();
    }
    let identity = other.ask(&credential(&key)).await.unwrap();
    assert!(other.refresh().await.unwrap());
    let stale = other.mint_token(&identity);
    assert_eq!(stale.unwrap_err(), Denied::Invalid);
    let identity = other.ask(&credential(&key)).await.unwrap();
    house.check(&other.mint_token(&identity).unwrap().access_token, ["ask", id, id], 0).await;
}

#[tokio::test]
async fn a_token_that_expired_says_so() {
    let house = House::new().await;
    let key = house.key().await;
    let identity = house.auth.ask(&credential(&key)).await.unwrap();
    let token = house.auth.mint_token(&identity).unwrap().access_token;
    assert_eq!(house.at(&token, Duration::from_mins(15)), key[4..16]);
    assert_eq!(house.at(&token, Duration::from_mins(16)), "expired");
}

#[tokio::test]
async fn a_thousand_bogus_secrets_take_the_queue_and_no_more() {
    let house = House::new().await;
    let mut keys = Vec::new();
    for _ in 0..10 {
        keys.push(house.key().await);
    }
    let good = house.key().await;
    house.auth.ask(&credential(&good)).await.unwrap();
    let before = house.auth.hash_runs();
    let bogus: Vec<String> = (0..1000).map(|n| forged(&keys[n % keys.len()])).collect();
    let answers = join_all(bogus.iter().map(|key| house.auth.verify_text(key))).await;
    let busy = answers.iter().filter(|answer| matches!(answer, Err(Denied::Busy))).count();
    let invalid = answers.iter().filter(|answer| matches!(answer, Err(Denied::Invalid))).count();
    assert_eq!(busy + invalid, 1000);
    // One at work and the queue; a few more where runs end while the thousand are being handed in.
    assert!((QUEUE_MAX..4 * QUEUE_MAX).contains(&invalid), "{invalid} were verified");
    assert_eq!(house.auth.hash_runs() - before, invalid as u64);
    assert_eq!(house.at(&good, Duration::ZERO), good[4..16]);
}

#[tokio::test]
async fn guessing_at_one_key_leaves_the_queue_to_others() {
    let house = House::new().await;
    let (victim, other) = (house.key().await, house.key().await);
    house.auth.refresh().await.unwrap();
    let bogus: Vec<String> = (0..100).map(|_| forged(&victim)).collect();
    let guesses = join_all(bogus.iter().map(|key| house.auth.verify_text(key)));
    let other = credential(&other);
    let (guesses, other) = tokio::join!(guesses, house.auth.ask(&other));
    assert!(other.is_ok());
    assert!(guesses.iter().filter(|answer| matches!(answer, Err(Denied::Busy))).count() > 80);
}

#[tokio::test]
async fn a_thousand_requests_with_one_right_secret_share_one_run() {
    let house = House::new().await;
    let key = house.key().await;
    house.auth.refresh().await.unwrap();
    let answers = join_all((0..1000).map(|_| async { house.auth.ask(&credential(&key)).await })).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(house.auth.hash_runs(), 1);
}

#[tokio::test]
async fn of_a_thousand_unknown_keys_a_few_share_a_look_into_the_store_and_nobody_else_waits() {
    let house = House::new().await;
    let keys: Vec<String> = (0..1000).map(|_| ApiKey::generate().expose().to_owned()).collect();
    house.check_strangers(&keys).await;
    assert_eq!(house.auth.hash_runs(), 0);
}

#[tokio::test]
async fn a_token_that_we_signed_waits_among_no_strangers() {
    let house = House::new().await;
    let other = Authenticator::new(config(), house.store.clone()).await.unwrap();
    let key = house.key().await;
    let signed = token(&other, &key).await;
    let places = house.auth.strangers.try_acquire_many(u32::try_from(STRANGERS_MAX).unwrap()).unwrap();
    house.check(ApiKey::generate().expose(), ["ask", "busy", "ask"], 0).await;
    house.check(&unknown_kid(0), ["ask", "busy", "ask"], 0).await;
    house.check(&signed, ["ask", &key[4..16], &key[4..16]], 0).await;
    drop(places);
    house.check(&unknown_kid(0), ["ask", "invalid", "invalid"], 0).await;
}

#[tokio::test]
async fn without_the_store_known_keys_work_and_unknown_ones_may_try_again() {
    let house = House::new().await;
    let key = house.key().await;
    let id = &key[4..16];
    house.auth.refresh().await.unwrap();
    break_epoch(&house.folder.join(DATABASE));
    assert!(house.auth.refresh().await.is_err());
    house.check(&key, ["ask", id, id], 1).await;
    house.check(ApiKey::generate().expose(), ["ask", "busy", "ask"], 0).await;
}

#[tokio::test]
async fn an_encryption_key_that_opens_nothing_refuses_the_start_and_new_keys() {
    let house = House::new().await;
    house.key().await;
    let key = EncryptionKey { version: 2, key: Zeroizing::new([8; 32]) };
    let other = Config { encryption_keys: vec![key.clone()], ..config() };
    let error = Authenticator::new(other, house.store.clone()).await.unwrap_err().to_string();
    assert!(error.starts_with("1 of 1 active API keys cannot be opened"), "{error}");
    let asked = request("n", None);
    let sealer = Sealer::new(std::slice::from_ref(&key)).unwrap();
    let error =
        create_key(&house.store, &sealer, asked.clone(), Audit::by("test")).await.unwrap_err().to_string();
    assert!(error.contains("not the gateway's"), "{error}");
    // Half-way through a rotation: both are given.
    let both = Config { encryption_keys: [vec![key], config().encryption_keys].concat(), ..config() };
    let auth = Authenticator::new(both, house.store.clone()).await.unwrap();
    let (_, row) = create_key(&house.store, auth.sealer(), asked, Audit::by("test")).await.unwrap();
    assert_eq!((row.key_version, row.sealed_hash[0]), (2, 2));
}

#[tokio::test]
async fn rows_whose_hashes_were_exchanged_open_nothing() {
    let house = House::new().await;
    let keys = [house.key().await, house.key().await];
    let rows = house.store.keys().await.unwrap().rows;
    for (to, from) in [(0, 1), (1, 0)] {
        put_sealed_hash(&house.folder.join(DATABASE), &rows[to].key_id, &rows[from].sealed_hash);
    }
    assert!(house.auth.refresh().await.unwrap());
    for key in &keys {
        assert!(house.auth.ask(&credential(key)).await.is_err());
    }
    assert_eq!(house.auth.hash_runs(), 0);
}

#[tokio::test]
async fn open_mode_lets_everyone_in_as_the_same_client() {
    let house = House::with(Config { mode: Mode::Open, ..config() }).await;
    house.check(ApiKey::generate().expose(), ["anonymous---"; 3], 0).await;
    let anonymous = house.auth.open_identity();
    assert!(house.auth.still_valid(&anonymous));
    assert!(house.auth.mint_token(&anonymous).is_err());
    assert!(!House::new().await.auth.still_valid(&anonymous));
}

#[tokio::test]
async fn a_short_jwt_secret_refuses_the_start() {
    let house = House::new().await;
    let weak = Config { jwt_secret: Zeroizing::new(b"secret".to_vec()), ..config() };
    assert!(matches!(Authenticator::new(weak, house.store.clone()).await, Err(AuthError::JwtSecret(_))));
}

#[tokio::test]
async fn neither_debug_output_nor_errors_show_a_secret() {
    let house = House::new().await;
    let key = house.key().await;
    let identity = house.auth.ask(&credential(&key)).await.unwrap();
    let token = house.auth.mint_token(&identity).unwrap();
    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        house.auth,
        config(),
        credential(&key),
        credential(&token.access_token),
        token,
        identity,
        house.auth.sealer(),
    );
    assert!(!shown.contains(&key[17..]), "{shown}");
    assert!(!shown.contains(&token.access_token), "{shown}");
    assert!(!shown.contains("7, 7"), "{shown}");
    assert!(!shown.contains("9, 9"), "{shown}");
}

#[tokio::test]
async fn a_key_switched_off_while_it_is_being_verified_does_not_get_in() {
    let house = House::new().await;
    let key = house.key().await;
    house.auth.refresh().await.unwrap();
    // The request has passed `check` when the key is switched off.
    assert!(matches!(house.auth.check(&credential(&key)), Check::Ask));
    house.inactivate(&key).await;
    let verified = house.auth.verify(&ApiKey::parse(&key).unwrap()).await;
    assert_eq!(verified.unwrap_err(), Denied::Invalid);
    assert_eq!(house.auth.hash_runs(), 1);
}

#[tokio::test]
async fn any_bytes_are_refused_or_asked_about_and_never_let_in() {
    let house = House::new().await;
    proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200))| {
        for headers in [(Some(&bytes[..]), None), (None, Some(&bytes[..]))] {
            if let Ok(Some(credential)) = Credential::from_headers(headers.0, headers.1) {
                assert!(matches!(house.auth.check(&credential), Check::Refused(_)));
            }
        }
        let bearer = [b"Bearer ", &bytes[..]].concat();
        if let Ok(Some(credential)) = Credential::from_headers(Some(&bearer), None) {
            assert!(matches!(house.auth.check(&credential), Check::Refused(_)));
        }
        for sealed in [&bytes[..], &[&[1], &bytes[..]].concat()] {
            assert!(house.auth.sealer().open(super::super::Purpose::Session, b"", sealed).is_err());
        }
    });
}

/// A token that looks like ours, of a key that nobody has.
fn unknown_kid(number: usize) -> String {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let header = format!(r#"{{"typ":"JWT","alg":"HS256","kid":"kid{number}"}}"#);
    format!("{}.{}.{}", encode(&header), encode("{}"), encode("signature"))
}

/// A token that this replica makes now.
async fn token(auth: &Authenticator, key: &str) -> String {
    let identity = auth.ask(&credential(key)).await.unwrap();
    auth.mint_token(&identity).unwrap().access_token
}

async fn opens(auth: &Authenticator, token: &str) -> bool {
    auth.ask(&credential(token)).await.is_ok()
}

#[tokio::test]
async fn tokens_are_opened_by_every_replica_in_every_phase_of_a_rotation() {
    let (house, audit) = (House::new().await, || Audit::by("test"));
    // Of the same installation, started with a secret of its own: the ring's key is what counts.
    let own = Config { jwt_secret: Zeroizing::new(vec![8; 32]), ..config() };
    let other = Authenticator::new(own, house.store.clone()).await.unwrap();
    let key = house.key().await;
    let replicas = [&house.auth, &other];
    let mut tokens = vec![token(&other, &key).await];
    let first = house.store.jwt_keys().await.unwrap().rows.remove(0);
    // Each phase is met by one that has heard of it and one that has not, in both orders.
    for phase in 0..6 {
        match phase % 2 {
            0 => drop(house.store.insert_jwt_key(new_jwt_key(), audit()).await.unwrap()),
            _ => drop(house.store.promote_jwt_key(audit()).await.unwrap()),
        }
        let heard = replicas[usize::from(phase > 2)];
        heard.refresh().await.unwrap();
        for replica in [heard, replicas[0], replicas[1]] {
            tokens.push(token(replica, &key).await);
            for token in &tokens {
                for replica in replicas {
                    assert!(opens(replica, token).await, "phase {phase}");
                }
            }
        }
    }
    // Taken out, a key opens nothing any more, on no replica.
    house.store.delete_jwt_key(&first.kid, audit()).await.unwrap();
    for replica in replicas {
        replica.refresh().await.unwrap();
        assert!(!opens(replica, &tokens[0]).await);
        assert!(opens(replica, tokens.last().unwrap()).await);
    }
}

#[tokio::test]
async fn of_a_thousand_tokens_of_unknown_keys_a_few_share_a_look_and_one_kid_is_asked_about_once() {
    let house = House::new().await;
    let tokens: Vec<String> = (0..1000).map(unknown_kid).collect();
    house.check_strangers(&tokens).await;
    house.check(&unknown_kid(5000), ["ask", "invalid", "invalid"], 0).await;
    // Without the store it cannot be said that it is none of ours.
    break_epoch(&house.folder.join(DATABASE));
    house.check(&unknown_kid(6000), ["ask", "busy", "ask"], 0).await;
}

#[tokio::test]
async fn a_start_without_the_store_goes_on_with_the_ring_of_an_earlier_run() {
    let house = House::new().await;
    let (key, path) = (house.key().await, house.folder.join("keyring.sealed"));
    house.store.insert_jwt_key(new_jwt_key(), Audit::by("test")).await.unwrap();
    house.store.promote_jwt_key(Audit::by("test")).await.unwrap();
    let early =
        Authenticator::with_snapshot(config(), house.store.clone(), Some(path.clone())).await.unwrap();
    let of_early = token(&early, &key).await;
    let away = Store::postgres("postgres://127.0.0.1:1/away").unwrap();
    let late = Authenticator::with_snapshot(config(), away, Some(path)).await.unwrap();
    assert!(matches!(late.check(&credential(&of_early)), Check::Granted(_)));
    let of_late = token(&late, &key).await;
    assert!(matches!(early.check(&credential(&of_late)), Check::Granted(_)));
}

#[tokio::test]
async fn made_up_keys_one_after_the_other_cause_few_looks_and_none_while_the_store_is_away() {
    let house = House::new().await;
    let begun = Instant::now();
    for _ in 0..10 {
        house.check(ApiKey::generate().expose(), ["ask", "invalid", "invalid"], 0).await;
    }
    // The first at once, each other not before its time.
    assert!(begun.elapsed() >= LOOK_PACE * 9, "{:?}", begun.elapsed());
    let looks = || house.auth.looks_begun.load(Ordering::Relaxed);
    let before = looks();
    house.auth.note_away(Some(&Away { since: 0, reason: "stopped".into() }));
    house.check(ApiKey::generate().expose(), ["ask", "busy", "ask"], 0).await;
    assert_eq!(looks(), before);
    // Whoever watches finds it again.
    assert!(house.auth.refresh().await.is_ok());
    house.auth.note_away(None);
    house.check(ApiKey::generate().expose(), ["ask", "invalid", "invalid"], 0).await;
}

#[tokio::test]
async fn who_looks_may_go_away_and_the_next_one_looks() {
    let house = House::new().await;
    let key = house.key().await;
    let mut left = 0;
    for _ in 0..10 {
        let made_up = ApiKey::generate();
        let (credential, auth) = (credential(made_up.expose()), &house.auth);
        let mut asking = Box::pin(auth.ask(&credential));
        // The thread that looks may be so fast that there is nothing left to wait for.
        left += usize::from(futures_util::poll!(&mut asking).is_pending());
    }
    assert!(left > 0, "somebody left while it was looked");
    assert!(house.auth.ask(&credential(&key)).await.is_ok());
}

#[tokio::test]
async fn guessing_at_a_key_keeps_nobody_from_renewing_it() {
    let house = House::new().await;
    let key = house.key().await;
    house.auth.ask(&credential(&key)).await.unwrap();
    let guesses: Vec<String> = (0..8).map(|_| forged(&key)).collect();
    let mut guessing = join_all(guesses.iter().map(|key| Box::pin(house.auth.verify_text(key))));
    // They take what places there are, and wait.
    assert!(futures_util::poll!(&mut guessing).is_pending());
    assert_eq!(house.at(&key, Duration::from_mins(12)), key[4..16]);
    let guessed = guessing.await;
    assert!(guessed.iter().any(|answer| matches!(answer, Err(Denied::Busy))), "places were left");
    let verified = guessed.iter().filter(|answer| matches!(answer, Err(Denied::Invalid))).count() as u64;
    house.auth.verify_text(&key).await.unwrap();
    assert_eq!(house.auth.hash_runs(), 1 + verified + 1, "the key itself was verified twice");
}

#[tokio::test]
async fn an_identity_carries_what_its_key_may_do() {
    let house = House::new().await;
    let grants = Grants {
        role: Role::Admin,
        endpoints: Some(vec!["team".into()]),
        tools: Some(vec!["b0__*".into()]),
        rate: Some(Rate { per_second: 5, burst: 9 }),
        concurrency: Some(3),
    };
    let asked = KeyRequest { grants, ..request("n", None) };
    let (key, _) = create_key(&house.store, house.auth.sealer(), asked, Audit::by("test")).await.unwrap();
    let by_key = house.auth.ask(&credential(key.expose())).await.unwrap();
    let token = house.auth.mint_token(&by_key).unwrap().access_token;
    for identity in [by_key, house.auth.ask(&credential(&token)).await.unwrap()] {
        assert!(identity.may("e/team", "b0__echo"));
        assert!(!identity.may("e/team", "b1__echo") && !identity.may("e/default", "b0__echo"));
        assert_eq!((identity.role(), identity.concurrency()), (Role::Admin, Some(3)));
        assert_eq!(identity.rate(), Some(Rate { per_second: 5, burst: 9 }));
    }
    let wrong = Grants { tools: Some(vec!["a b".into()]), ..Grants::everything() };
    let asked = KeyRequest { grants: wrong, ..request("n", None) };
    assert!(matches!(asked.check(0), Err(CreateError::Grants(_))));
}
