use futures_util::FutureExt as _;
use futures_util::future::join_all;
use zeroize::Zeroizing;

use super::super::live_keys::REQUEST_INTERVAL;
use super::super::secret_verifier::SecretVerifier;
use super::super::secret_verifier::tests::with_prefilter_of;
use super::super::{ApiKey, CreateKeyError, EncryptionKey, KeyRequest, create_key, generate_jwt_key};
use super::*;
use crate::store::testing::{Folder, break_epoch, put_sealed_hash};
use crate::store::{Audit, Grants, KeyStatus, Plaintext, Quotas, Rate, Role, RowSealer, SealedRow};
use metamcp_core::base::KeyId;

const DATABASE: &str = "metamcp.sqlite";
const QUEUE_MAX: usize = 8;

/// A store on disk, and an authenticator over it.
struct AuthFixture {
    folder: Folder,
    store: Store,
    auth: Authenticator,
}

fn config() -> Config {
    Config {
        mode: AuthMode::Keys,
        encryption_keys: vec![EncryptionKey { version: 1, key: Zeroizing::new([7; 32]) }],
        jwt_secret: Some(Zeroizing::new(vec![9; 32])),
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

impl AuthFixture {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: Config) -> Self {
        let folder = Folder::create();
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

    /// Stores the prefilter tag of another key's secret next to the hash of this one.
    async fn set_prefilter(&self, key: &str, other: &str) {
        let rows = self.store.keys().await.unwrap().rows;
        let row = rows.iter().find(|row| row.key_id == key[4..16]).unwrap();
        let sealer = self.auth.sealer();
        let verifier =
            SecretVerifier::from_bytes(sealer.open_row(SealedRow::Key(row)).unwrap().expose()).unwrap();
        let verifier = with_prefilter_of(&verifier, ApiKey::parse(other).unwrap().secret());
        let sealed = sealer.seal_row(SealedRow::Key(row), &Plaintext::new(verifier.to_bytes().to_vec()));
        put_sealed_hash(&self.folder.join(DATABASE), &row.key_id, &sealed.bytes);
        assert!(self.auth.refresh().await.unwrap());
    }

    /// A key in the keyring with a wrong secret that fails the prefilter, as all but one in 65,536 do.
    fn wrong(&self, key: &str) -> String {
        let keyring = self.auth.keys.keyring();
        let entry = keyring.entry(ApiKey::parse(key).unwrap().key_id()).unwrap();
        let is_plain =
            |key: &String| !entry.verifier().passes_prefilter(ApiKey::parse(key).unwrap().secret());
        std::iter::repeat_with(|| forged(key)).find(is_plain).unwrap()
    }

    fn at(&self, key: &str, later: Duration) -> String {
        let now = ClockReading::now();
        let now = ClockReading { instant: now.instant + later, unix_s: now.unix_s + later.as_secs() };
        verdict(self.auth.check_at(&credential(key), now))
    }

    /// Compares what `check`, `authenticate` and then `check` again answer, and how often argon2 ran.
    async fn check(&self, text: &str, expected: [&str; 3], runs: u64) {
        let before = self.auth.hash_runs();
        let first = verdict(self.auth.check(&credential(text)));
        let asked = match self.auth.authenticate(&credential(text)).await {
            Ok(identity) => verdict(CredentialCheck::Granted(identity)),
            Err(denied) => verdict(CredentialCheck::Denied(denied)),
        };
        let then = verdict(self.auth.check(&credential(text)));
        assert_eq!([first.as_str(), &asked, &then], expected);
        assert_eq!(self.auth.hash_runs() - before, runs);
    }
}

impl AuthFixture {
    /// As many made-up credentials as there are permits share one refresh, and the others are told to try
    /// again. A few more get the permits of those that are answered while the rest arrive.
    async fn check_unproven(&self, texts: &[String]) {
        let before = self.auth.keys.refreshes_started();
        let answers =
            join_all(texts.iter().map(|text| async { self.auth.authenticate(&credential(text)).await }))
                .await;
        let count = |denied| answers.iter().filter(|answer| answer.as_ref().err() == Some(&denied)).count();
        let (invalid, busy) = (count(AuthDenial::Invalid), count(AuthDenial::Busy));
        assert_eq!(invalid + busy, texts.len());
        assert!((UNPROVEN_MAX..8 * UNPROVEN_MAX).contains(&invalid), "{invalid} were looked up");
        let refreshes = self.auth.keys.refreshes_started() - before;
        assert!((1..=8).contains(&refreshes), "{refreshes}");
    }
}

impl Authenticator {
    /// Has argon2 verify a key, whatever is cached.
    async fn verify_text(&self, key: &str) -> Result<Identity, AuthDenial> {
        self.verify(&ApiKey::parse(key).unwrap()).await
    }
}

fn credential(text: &str) -> Credential<'_> {
    if text.starts_with("mcp_") {
        Credential::from_headers(None, Some(text.as_bytes())).unwrap().unwrap()
    } else {
        Credential(CredentialKind::Token(text))
    }
}

fn verdict(check: CredentialCheck) -> String {
    match check {
        CredentialCheck::Granted(identity) => identity.key_id().to_string(),
        CredentialCheck::Denied(denied) => denied.label().into(),
        CredentialCheck::Undecided => "undecided".into(),
    }
}

/// The same key id with another secret and a valid checksum.
fn forged(key: &str) -> String {
    let other = ApiKey::generate();
    let body = format!("{}{}", &key[..17], &other.expose()[17..60]);
    ApiKey::with_checksum(&body)
}

#[tokio::test]
async fn argon2_runs_once_for_a_right_secret_and_not_for_a_wrong_one() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let id = &key[4..16];
    fixture.check(&key, ["undecided", id, id], 1).await;
    fixture.check(&key, [id, id, id], 0).await;
    fixture.check(&fixture.wrong(&key), ["invalid"; 3], 0).await;
    fixture.check(&key, [id, id, id], 0).await;
}

#[tokio::test]
async fn argon2_runs_once_for_a_wrong_secret_that_passes_the_prefilter() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let lookalike = forged(&key);
    fixture.set_prefilter(&key, &lookalike).await;
    fixture.check(&lookalike, ["undecided", "invalid", "invalid"], 1).await;
    fixture.check(&lookalike, ["invalid"; 3], 0).await;
    fixture.check(&key, ["invalid"; 3], 0).await;
    fixture.set_prefilter(&key, &key).await;
    fixture.check(&key, ["undecided", &key[4..16], &key[4..16]], 1).await;
}

#[tokio::test]
async fn argon2_never_runs_for_unknown_disabled_or_expired_keys() {
    let fixture = AuthFixture::new().await;
    let unknown = ApiKey::generate();
    fixture.check(unknown.expose(), ["undecided", "invalid", "invalid"], 0).await;
    let key = fixture.key().await;
    fixture.auth.refresh().await.unwrap();
    fixture.inactivate(&key).await;
    fixture.check(&key, ["invalid"; 3], 0).await;
    fixture.check(&forged(&key), ["invalid"; 3], 0).await;

    let short = fixture.key_until(Some(ClockReading::now().unix_s + 3600)).await;
    let id = &short[4..16];
    fixture.check(&short, ["undecided", id, id], 1).await;
    assert_eq!(fixture.at(&short, Duration::from_mins(1)), id);
    assert_eq!(fixture.at(&short, Duration::from_hours(1)), "invalid");
}

#[tokio::test]
async fn a_key_that_was_just_created_works_at_once() {
    let fixture = AuthFixture::new().await;
    for _ in 0..3 {
        let key = fixture.key().await;
        let id = &key[4..16];
        fixture.check(&key, ["undecided", id, id], 1).await;
    }
}

#[tokio::test]
async fn a_verdict_is_cached_for_its_lifetime_and_renewed_before_it_expires() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    fixture.auth.authenticate(&credential(&key)).await.unwrap();
    assert_eq!(fixture.auth.hash_runs(), 1);
    assert_eq!(fixture.at(&key, Duration::from_mins(11)), key[4..16]);
    assert_eq!(fixture.auth.hash_runs(), 1);
    assert_eq!(fixture.at(&key, Duration::from_mins(16)), "undecided");
    // In the last quarter the key is accepted and verified again in the background. `verify` shares that run.
    for _ in 0..3 {
        assert_eq!(fixture.at(&key, Duration::from_mins(12)), key[4..16]);
    }
    let parsed = ApiKey::parse(&key).unwrap();
    fixture.auth.verify(&parsed).await.unwrap();
    assert_eq!(fixture.auth.hash_runs(), 2);
}

#[tokio::test]
async fn a_token_dies_with_its_key_and_with_every_change_of_it() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let identity = fixture.auth.authenticate(&credential(&key)).await.unwrap();
    let token = fixture.auth.mint_token(&identity).unwrap().access_token;
    let id = &key[4..16];
    fixture.check(&token, [id, id, id], 0).await;
    assert!(fixture.auth.is_still_valid(&identity));

    fixture.inactivate(&key).await;
    fixture.check(&token, ["invalid"; 3], 0).await;
    fixture.check(&key, ["invalid"; 3], 0).await;
    assert!(!fixture.auth.is_still_valid(&identity));
    assert_eq!(fixture.auth.mint_token(&identity).unwrap_err(), AuthDenial::Invalid);

    // Enabled again, the key works and the old token does not.
    fixture.store.set_key_status(id, KeyStatus::Active, Audit::by("test")).await.unwrap();
    fixture.auth.refresh().await.unwrap();
    fixture.check(&token, ["invalid"; 3], 0).await;
    fixture.check(&key, ["undecided", id, id], 1).await;
    assert!(!fixture.auth.is_still_valid(&identity));
}

#[tokio::test]
async fn what_a_token_opened_ends_with_the_token_and_with_its_signing_key() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let text = token(&fixture.auth, &key).await;
    let of_key = fixture.auth.authenticate(&credential(&key)).await.unwrap();
    let opened = fixture.auth.authenticate(&credential(&text)).await.unwrap();
    let again = fixture.auth.authenticate(&credential(&text)).await.unwrap();
    assert!(Arc::ptr_eq(opened.data(), again.data()), "made once for each token");
    assert!(fixture.auth.is_still_valid(&opened));

    let proof = opened.token().unwrap();
    for (seconds, expected) in [(0, true), (29, true), (30, false)] {
        let at = proof.expires_at + seconds;
        assert_eq!(fixture.auth.keys.tokens().is_still_valid(proof, at), expected, "{seconds}");
    }

    let old = fixture.store.jwt_keys().await.unwrap().rows[0].kid.clone();
    fixture.store.insert_jwt_key(generate_jwt_key(), Audit::by("test")).await.unwrap();
    fixture.store.promote_jwt_key(Audit::by("test")).await.unwrap();
    fixture.auth.refresh().await.unwrap();
    assert!(fixture.auth.is_still_valid(&opened), "a key that retires still verifies");
    fixture.store.delete_jwt_key(&old, Audit::by("test")).await.unwrap();
    fixture.auth.refresh().await.unwrap();
    assert!(!fixture.auth.is_still_valid(&opened));
    assert!(fixture.auth.is_still_valid(&of_key));
}

#[tokio::test]
async fn a_certificate_is_worth_what_its_key_is() {
    let fixture = AuthFixture::new().await;
    let auth = &fixture.auth;
    let key = fixture.key().await;
    auth.refresh().await.unwrap();
    let id = |key: &str| ApiKey::parse(key).unwrap().key_id();
    let certificate = |key_id, expires_at| ClientCertificate::Key { key_id, expires_at };
    let now = ClockReading::now().unix_s;
    let check = |certificate, expected: Result<KeyId, AuthDenial>| {
        assert_eq!(auth.identify_certificate(certificate).map(|identity| identity.key_id()), expected);
    };
    check(certificate(id(&key), now + 60), Ok(id(&key)));
    check(certificate(id(&key), now), Err(AuthDenial::Certificate));
    check(certificate(KeyId::parse("AAAAAAAAAAAA").unwrap(), now + 60), Err(AuthDenial::Certificate));
    check(ClientCertificate::Deny, Err(AuthDenial::CertificateExcluded));

    let identity = auth.identify_certificate(certificate(id(&key), now + 60)).unwrap();
    assert!(auth.is_still_valid(&identity) && auth.time_left(&identity) <= Duration::from_mins(1));
    let (key_identity, ended) = (identity.clone(), identity.with_certificate(now));
    assert!(!auth.is_still_valid(&ended), "the certificate has ended");
    fixture.inactivate(&key).await;
    assert!(!auth.is_still_valid(&key_identity));
    check(certificate(id(&key), now + 60), Err(AuthDenial::Certificate));
    // A key that is switched on again ends what was opened before.
    fixture.store.set_key_status(&key[4..16], KeyStatus::Active, Audit::by("test")).await.unwrap();
    auth.refresh().await.unwrap();
    check(certificate(id(&key), now + 60), Ok(id(&key)));
    assert!(!auth.is_still_valid(&key_identity));
}

#[tokio::test]
async fn a_stream_ends_with_its_key_and_not_with_the_watcher_of_keys() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let identity = fixture.auth.authenticate(&credential(&key)).await.unwrap();
    let changes = watch::Sender::new(0);
    let mut waiting = Box::pin(fixture.auth.wait_for_revocation(&identity, changes.subscribe()));
    assert_eq!(waiting.as_mut().now_or_never(), None);
    // A change of another key.
    changes.send_replace(1);
    assert_eq!(waiting.as_mut().now_or_never(), None);
    let mut unwatched =
        Box::pin(fixture.auth.wait_for_revocation(&identity, watch::Sender::new(0).subscribe()));
    assert_eq!(unwatched.as_mut().now_or_never(), None);

    fixture.inactivate(&key).await;
    assert_eq!(waiting.as_mut().now_or_never(), None, "no change was announced");
    changes.send_replace(2);
    assert_eq!(waiting.as_mut().now_or_never(), Some(()));
}

#[tokio::test]
async fn a_token_of_another_replica_is_accepted_before_its_key_is_known_here() {
    let fixture = AuthFixture::new().await;
    let other = Authenticator::new(config(), fixture.store.clone()).await.unwrap();
    let key = fixture.key().await;
    let id = &key[4..16];
    let identity = other.authenticate(&credential(&key)).await.unwrap();
    fixture.check(&other.mint_token(&identity).unwrap().access_token, ["undecided", id, id], 0).await;

    // The key changed twice: the other replica knows, this one does not yet.
    for status in [KeyStatus::Inactive, KeyStatus::Active] {
        fixture.store.set_key_status(id, status, Audit::by("test")).await.unwrap();
    }
    let identity = other.authenticate(&credential(&key)).await.unwrap();
    assert!(other.refresh().await.unwrap());
    let stale = other.mint_token(&identity);
    assert_eq!(stale.unwrap_err(), AuthDenial::Invalid);
    let identity = other.authenticate(&credential(&key)).await.unwrap();
    fixture.check(&other.mint_token(&identity).unwrap().access_token, ["undecided", id, id], 0).await;
}

#[tokio::test]
async fn an_expired_token_is_reported_as_expired() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let identity = fixture.auth.authenticate(&credential(&key)).await.unwrap();
    let token = fixture.auth.mint_token(&identity).unwrap().access_token;
    assert_eq!(fixture.at(&token, Duration::from_mins(15)), key[4..16]);
    assert_eq!(fixture.at(&token, Duration::from_mins(16)), "expired");
}

#[tokio::test]
async fn a_thousand_wrong_secrets_fill_the_queue_and_no_more() {
    let fixture = AuthFixture::new().await;
    let mut keys = Vec::new();
    for _ in 0..10 {
        keys.push(fixture.key().await);
    }
    let good = fixture.key().await;
    fixture.auth.authenticate(&credential(&good)).await.unwrap();
    let before = fixture.auth.hash_runs();
    let bogus: Vec<String> = (0..1000).map(|n| forged(&keys[n % keys.len()])).collect();
    let answers = join_all(bogus.iter().map(|key| fixture.auth.verify_text(key))).await;
    let busy = answers.iter().filter(|answer| matches!(answer, Err(AuthDenial::Busy))).count();
    let invalid = answers.iter().filter(|answer| matches!(answer, Err(AuthDenial::Invalid))).count();
    assert_eq!(busy + invalid, 1000);
    // One run and the queue, and a few more where runs end while the thousand are submitted.
    assert!((QUEUE_MAX..4 * QUEUE_MAX).contains(&invalid), "{invalid} were verified");
    assert_eq!(fixture.auth.hash_runs() - before, invalid as u64);
    assert_eq!(fixture.at(&good, Duration::ZERO), good[4..16]);
}

#[tokio::test]
async fn guesses_at_one_key_leave_room_in_the_queue_for_others() {
    let fixture = AuthFixture::new().await;
    let (victim, other) = (fixture.key().await, fixture.key().await);
    fixture.auth.refresh().await.unwrap();
    let bogus: Vec<String> = (0..100).map(|_| forged(&victim)).collect();
    let guesses = join_all(bogus.iter().map(|key| fixture.auth.verify_text(key)));
    let other = credential(&other);
    let (guesses, other) = tokio::join!(guesses, fixture.auth.authenticate(&other));
    assert!(other.is_ok());
    assert!(guesses.iter().filter(|answer| matches!(answer, Err(AuthDenial::Busy))).count() > 80);
}

#[tokio::test]
async fn a_thousand_requests_with_one_right_secret_share_one_run() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    fixture.auth.refresh().await.unwrap();
    let answers =
        join_all((0..1000).map(|_| async { fixture.auth.authenticate(&credential(&key)).await })).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(fixture.auth.hash_runs(), 1);
}

#[tokio::test]
async fn of_a_thousand_unknown_keys_a_few_share_a_refresh_and_the_others_do_not_wait() {
    let fixture = AuthFixture::new().await;
    let keys: Vec<String> = (0..1000).map(|_| ApiKey::generate().expose().to_owned()).collect();
    fixture.check_unproven(&keys).await;
    assert_eq!(fixture.auth.hash_runs(), 0);
}

#[tokio::test]
async fn a_token_that_we_signed_needs_no_permit_to_wait() {
    let fixture = AuthFixture::new().await;
    let other = Authenticator::new(config(), fixture.store.clone()).await.unwrap();
    let key = fixture.key().await;
    let signed = token(&other, &key).await;
    let permits =
        fixture.auth.unproven_permits.try_acquire_many(u32::try_from(UNPROVEN_MAX).unwrap()).unwrap();
    fixture.check(ApiKey::generate().expose(), ["undecided", "busy", "undecided"], 0).await;
    fixture.check(&unknown_kid(0), ["undecided", "busy", "undecided"], 0).await;
    fixture.check(&signed, ["undecided", &key[4..16], &key[4..16]], 0).await;
    drop(permits);
    fixture.check(&unknown_kid(0), ["undecided", "invalid", "invalid"], 0).await;
}

#[tokio::test]
async fn without_the_store_known_keys_work_and_unknown_keys_are_told_to_retry() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let id = &key[4..16];
    fixture.auth.refresh().await.unwrap();
    break_epoch(&fixture.folder.join(DATABASE));
    assert!(fixture.auth.refresh().await.is_err());
    fixture.check(&key, ["undecided", id, id], 1).await;
    fixture.check(ApiKey::generate().expose(), ["undecided", "busy", "undecided"], 0).await;
}

#[tokio::test]
async fn an_encryption_key_that_opens_no_row_prevents_the_start_and_new_keys() {
    let fixture = AuthFixture::new().await;
    fixture.key().await;
    let key = EncryptionKey { version: 2, key: Zeroizing::new([8; 32]) };
    let other = Config { encryption_keys: vec![key.clone()], ..config() };
    let error = Authenticator::new(other, fixture.store.clone()).await.unwrap_err().to_string();
    assert!(error.contains("it is not the one that sealed them"), "{error}");
    let asked = request("n", None);
    let sealer = Sealer::new(std::slice::from_ref(&key)).unwrap();
    let error =
        create_key(&fixture.store, &sealer, asked.clone(), Audit::by("test")).await.unwrap_err().to_string();
    assert!(error.contains("not the gateway's"), "{error}");
    // During a rotation both credentials are valid.
    let both = Config { encryption_keys: [vec![key], config().encryption_keys].concat(), ..config() };
    let auth = Authenticator::new(both, fixture.store.clone()).await.unwrap();
    let (_, row) = create_key(&fixture.store, auth.sealer(), asked, Audit::by("test")).await.unwrap();
    assert_eq!((row.key_version, row.sealed_hash[0]), (2, 2));
}

#[tokio::test]
async fn rows_with_exchanged_hashes_do_not_open() {
    let fixture = AuthFixture::new().await;
    let keys = [fixture.key().await, fixture.key().await];
    let rows = fixture.store.keys().await.unwrap().rows;
    for (to, from) in [(0, 1), (1, 0)] {
        put_sealed_hash(&fixture.folder.join(DATABASE), &rows[to].key_id, &rows[from].sealed_hash);
    }
    assert!(fixture.auth.refresh().await.unwrap());
    for key in &keys {
        assert!(fixture.auth.authenticate(&credential(key)).await.is_err());
    }
    assert_eq!(fixture.auth.hash_runs(), 0);
}

#[tokio::test]
async fn open_mode_accepts_everyone_as_the_anonymous_client() {
    let fixture = AuthFixture::with(Config { mode: AuthMode::Open, ..config() }).await;
    fixture.check(ApiKey::generate().expose(), ["anonymous---"; 3], 0).await;
    let anonymous = fixture.auth.anonymous_identity();
    assert!(fixture.auth.is_still_valid(&anonymous));
    assert!(fixture.auth.mint_token(&anonymous).is_err());
    assert!(!AuthFixture::new().await.auth.is_still_valid(&anonymous));
}

#[tokio::test]
async fn a_short_jwt_secret_prevents_the_start() {
    let fixture = AuthFixture::new().await;
    let weak = Config { jwt_secret: Some(Zeroizing::new(b"secret".to_vec())), ..config() };
    assert!(matches!(Authenticator::new(weak, fixture.store.clone()).await, Err(AuthError::JwtSecret(_))));
}

#[tokio::test]
async fn neither_debug_output_nor_errors_show_a_secret() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let identity = fixture.auth.authenticate(&credential(&key)).await.unwrap();
    let token = fixture.auth.mint_token(&identity).unwrap();
    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        fixture.auth,
        config(),
        credential(&key),
        credential(&token.access_token),
        token,
        identity,
        fixture.auth.sealer(),
    );
    assert!(!shown.contains(&key[17..]), "{shown}");
    assert!(!shown.contains(&token.access_token), "{shown}");
    assert!(!shown.contains("7, 7"), "{shown}");
    assert!(!shown.contains("9, 9"), "{shown}");
}

#[tokio::test]
async fn a_key_disabled_during_its_verification_is_refused() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    fixture.auth.refresh().await.unwrap();
    // The request has passed `check` when the key is disabled.
    assert!(matches!(fixture.auth.check(&credential(&key)), CredentialCheck::Undecided));
    fixture.inactivate(&key).await;
    let verified = fixture.auth.verify(&ApiKey::parse(&key).unwrap()).await;
    assert_eq!(verified.unwrap_err(), AuthDenial::Invalid);
    assert_eq!(fixture.auth.hash_runs(), 1);
}

#[tokio::test]
async fn arbitrary_bytes_are_refused() {
    let fixture = AuthFixture::new().await;
    proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200))| {
        for headers in [(Some(&bytes[..]), None), (None, Some(&bytes[..]))] {
            if let Ok(Some(credential)) = Credential::from_headers(headers.0, headers.1) {
                assert!(matches!(fixture.auth.check(&credential), CredentialCheck::Denied(_)));
            }
        }
        let bearer = [b"Bearer ", &bytes[..]].concat();
        if let Ok(Some(credential)) = Credential::from_headers(Some(&bearer), None) {
            assert!(matches!(fixture.auth.check(&credential), CredentialCheck::Denied(_)));
        }
        for sealed in [&bytes[..], &[&[1], &bytes[..]].concat()] {
            assert!(fixture.auth.sealer().open(super::super::Purpose::Session, b"", sealed).is_err());
        }
    });
}

/// A token in the gateway's format, under a kid that does not exist.
fn unknown_kid(number: usize) -> String {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let header = format!(r#"{{"typ":"JWT","alg":"HS256","kid":"kid{number}"}}"#);
    format!("{}.{}.{}", encode(&header), encode("{}"), encode("signature"))
}

/// A token that this replica issues now.
async fn token(auth: &Authenticator, key: &str) -> String {
    let identity = auth.authenticate(&credential(key)).await.unwrap();
    auth.mint_token(&identity).unwrap().access_token
}

async fn opens(auth: &Authenticator, token: &str) -> bool {
    auth.authenticate(&credential(token)).await.is_ok()
}

#[tokio::test]
async fn every_replica_accepts_tokens_in_every_phase_of_a_rotation() {
    let (fixture, audit) = (AuthFixture::new().await, || Audit::by("test"));
    // A replica with another JWT_SECRET, and one with none: the key in the store is the one that counts.
    let own = Config { jwt_secret: Some(Zeroizing::new(vec![8; 32])), ..config() };
    let without = Config { jwt_secret: None, ..config() };
    let without = Authenticator::new(without, fixture.store.clone()).await.unwrap();
    let other = Authenticator::new(own, fixture.store.clone()).await.unwrap();
    let key = fixture.key().await;
    let replicas = [&fixture.auth, &other, &without];
    let mut tokens = vec![token(&other, &key).await];
    let first = fixture.store.jwt_keys().await.unwrap().rows.remove(0);
    // One replica has refreshed in each phase and one has not, in both orders.
    for phase in 0..6 {
        match phase % 2 {
            0 => drop(fixture.store.insert_jwt_key(generate_jwt_key(), audit()).await.unwrap()),
            _ => drop(fixture.store.promote_jwt_key(audit()).await.unwrap()),
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
    // A deleted signing key verifies no token, on any replica.
    fixture.store.delete_jwt_key(&first.kid, audit()).await.unwrap();
    for replica in replicas {
        replica.refresh().await.unwrap();
        assert!(!opens(replica, &tokens[0]).await);
        assert!(opens(replica, tokens.last().unwrap()).await);
    }
}

#[tokio::test]
async fn of_a_thousand_tokens_with_unknown_kids_a_few_share_a_refresh_and_a_kid_is_looked_up_once() {
    let fixture = AuthFixture::new().await;
    let tokens: Vec<String> = (0..1000).map(unknown_kid).collect();
    fixture.check_unproven(&tokens).await;
    fixture.check(&unknown_kid(5000), ["undecided", "invalid", "invalid"], 0).await;
    // Without the store it is unknown whether the kid is foreign.
    break_epoch(&fixture.folder.join(DATABASE));
    fixture.check(&unknown_kid(6000), ["undecided", "busy", "undecided"], 0).await;
}

#[tokio::test]
async fn a_start_without_the_store_uses_the_signing_keys_of_an_earlier_run() {
    let fixture = AuthFixture::new().await;
    let (key, path) = (fixture.key().await, fixture.folder.join("keyring.sealed"));
    fixture.store.insert_jwt_key(generate_jwt_key(), Audit::by("test")).await.unwrap();
    fixture.store.promote_jwt_key(Audit::by("test")).await.unwrap();
    let early =
        Authenticator::with_snapshot(config(), fixture.store.clone(), Some(path.clone())).await.unwrap();
    let of_early = token(&early, &key).await;
    let away = Store::postgres("postgres://127.0.0.1:1/away").unwrap();
    let late = Authenticator::with_snapshot(config(), away, Some(path)).await.unwrap();
    assert!(matches!(late.check(&credential(&of_early)), CredentialCheck::Granted(_)));
    let of_late = token(&late, &key).await;
    assert!(matches!(early.check(&credential(&of_late)), CredentialCheck::Granted(_)));
}

#[tokio::test]
async fn sequential_made_up_keys_cause_few_refreshes_and_none_during_a_store_outage() {
    let fixture = AuthFixture::new().await;
    let begun = Instant::now();
    for _ in 0..10 {
        fixture.check(ApiKey::generate().expose(), ["undecided", "invalid", "invalid"], 0).await;
    }
    // The first refresh is immediate, every other one waits for the interval.
    assert!(begun.elapsed() >= REQUEST_INTERVAL * 9, "{:?}", begun.elapsed());
    let refreshes = || fixture.auth.keys.refreshes_started();
    let before = refreshes();
    fixture.auth.set_store_outage(Some(&StoreOutage { since: 0, reason: "stopped".into() }));
    fixture.check(ApiKey::generate().expose(), ["undecided", "busy", "undecided"], 0).await;
    assert_eq!(refreshes(), before);
    // The watcher finds the store again.
    assert!(fixture.auth.refresh().await.is_ok());
    fixture.auth.set_store_outage(None);
    fixture.check(ApiKey::generate().expose(), ["undecided", "invalid", "invalid"], 0).await;
}

#[tokio::test]
async fn when_the_caller_that_refreshes_is_dropped_the_next_one_refreshes() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    let mut left = 0;
    for _ in 0..10 {
        let made_up = ApiKey::generate();
        let (credential, auth) = (credential(made_up.expose()), &fixture.auth);
        let mut asking = Box::pin(auth.authenticate(&credential));
        // The store may answer so fast that there is nothing to wait for.
        left += usize::from(futures_util::poll!(&mut asking).is_pending());
    }
    assert!(left > 0, "a caller was dropped during a refresh");
    assert!(fixture.auth.authenticate(&credential(&key)).await.is_ok());
}

#[tokio::test]
async fn guesses_at_a_key_do_not_prevent_its_renewal() {
    let fixture = AuthFixture::new().await;
    let key = fixture.key().await;
    fixture.auth.authenticate(&credential(&key)).await.unwrap();
    let guesses: Vec<String> = (0..8).map(|_| forged(&key)).collect();
    let mut guessing = join_all(guesses.iter().map(|key| Box::pin(fixture.auth.verify_text(key))));
    // They take all of the key's slots in the queue.
    assert!(futures_util::poll!(&mut guessing).is_pending());
    assert_eq!(fixture.at(&key, Duration::from_mins(12)), key[4..16]);
    let guessed = guessing.await;
    assert!(
        guessed.iter().any(|answer| matches!(answer, Err(AuthDenial::Busy))),
        "the places of the key were not full"
    );
    let verified = guessed.iter().filter(|answer| matches!(answer, Err(AuthDenial::Invalid))).count() as u64;
    fixture.auth.verify_text(&key).await.unwrap();
    assert_eq!(fixture.auth.hash_runs(), 1 + verified + 1, "the key itself was verified twice");
}

#[tokio::test]
async fn an_identity_carries_the_grants_of_its_key() {
    let fixture = AuthFixture::new().await;
    let grants = Grants {
        role: Role::Admin,
        endpoints: Some(vec!["team".into()]),
        tools: Some(vec!["b0__*".into()]),
        rate: Some(Rate { per_second: 5, burst: 9 }),
        concurrency: Some(3),
        quotas: Quotas { bytes_per_month: Some(7), ..Quotas::NONE },
    };
    let asked = KeyRequest { grants, ..request("n", None) };
    let (key, _) = create_key(&fixture.store, fixture.auth.sealer(), asked, Audit::by("test")).await.unwrap();
    let by_key = fixture.auth.authenticate(&credential(key.expose())).await.unwrap();
    let token = fixture.auth.mint_token(&by_key).unwrap().access_token;
    for identity in [by_key, fixture.auth.authenticate(&credential(&token)).await.unwrap()] {
        assert!(identity.can_call_tool("e/team", "b0__echo"));
        assert!(
            !identity.can_call_tool("e/team", "b1__echo") && !identity.can_call_tool("e/default", "b0__echo")
        );
        assert_eq!((identity.role(), identity.concurrency()), (Role::Admin, Some(3)));
        assert_eq!(identity.rate(), Some(Rate { per_second: 5, burst: 9 }));
        assert_eq!(identity.quotas().and_then(|quotas| quotas.bytes_per_month), Some(7));
    }
    let wrong = Grants { tools: Some(vec!["a b".into()]), ..Grants::everything() };
    let asked = KeyRequest { grants: wrong, ..request("n", None) };
    assert!(matches!(asked.check(0), Err(CreateKeyError::Grants(_))));
}
