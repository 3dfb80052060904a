use std::time::Duration;

use super::super::config::EncryptionKey;
use super::super::identity::Identity;
use super::super::keyring_snapshot::JwtKeyringSnapshot;
use super::super::mac::MacKey;
use super::super::token::{TokenAuthority, TokenError};
use super::*;
use metamcp_core::base::KeyId;
use zeroize::Zeroizing;

use crate::store::testing::Folder;
use crate::store::{Grants, SealedValue};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn sealer(version: u8) -> Sealer {
    Sealer::new(&[EncryptionKey { version, key: Zeroizing::new([version; 32]) }]).unwrap()
}

fn row(secret: &[u8], phase: JwtPhase) -> JwtKeyRow {
    let key = jwt_key_from_secret(secret, phase);
    let row = JwtKeyRow {
        kid: key.kid,
        algorithm: key.algorithm,
        secret: SealedValue::default(),
        phase,
        created_at: 0,
        changed_at: 0,
    };
    sealed_by(1, secret, row)
}

fn sealed_by(version: u8, secret: &[u8], row: JwtKeyRow) -> JwtKeyRow {
    JwtKeyRow {
        secret: sealer(version).seal_row(SealedRow::JwtKey(&row), &Plaintext::new(secret.to_vec())),
        ..row
    }
}

/// Distinct secrets, one for each letter.
fn secret(letter: u8) -> [u8; 32] {
    [letter; 32]
}

/// `a` is the key of that letter in the phase `next`, `A` the active one, `-a` a retiring one.
fn ring(written: &str, previous: &JwtKeyring) -> JwtKeyring {
    let rows = written.split(' ').filter(|word| !word.is_empty()).map(|word| match word.as_bytes() {
        [b'-', letter] => row(&secret(*letter), JwtPhase::Retiring),
        [letter] if letter.is_ascii_uppercase() => {
            row(&secret(letter.to_ascii_lowercase()), JwtPhase::Active)
        }
        [letter] => row(&secret(*letter), JwtPhase::Next),
        _ => panic!("{word}"),
    });
    JwtKeyring::build(&JwtKeys { epoch: 1, rows: rows.collect() }, &sealer(1), previous)
}

fn identity() -> Identity {
    Identity::new(KeyId::parse("AAAAAAAAAAAA").unwrap(), "n".into(), 7, &Grants::everything())
}

fn tokens(written: &str) -> TokenAuthority {
    TokenAuthority::new(ring(written, &JwtKeyring::empty()), Duration::from_mins(15))
}

/// Whether a token signed with one keyring is accepted by another.
#[track_caller]
fn check(signer: &str, verifier: &str, expected: &str) {
    let token = match tokens(signer).mint(&identity(), None, NOW) {
        Ok(token) => token.access_token,
        Err(denied) => return assert_eq!(denied.label(), expected),
    };
    let seen = match tokens(verifier).verify(&token, &MacKey::random().tag(token.as_bytes()), NOW) {
        Ok(_) => "open",
        Err(TokenError::Denied(denied)) => denied.label(),
        Err(TokenError::UnknownKid { .. }) => "unknown",
    };
    assert_eq!(seen, expected, "signed with {signer:?}, verified with {verifier:?}");
}

#[test]
fn every_replica_accepts_the_tokens_of_every_other_in_every_phase() {
    let phases = ["A", "A b", "-a B", "B"];
    for pair in phases.windows(2) {
        check(pair[0], pair[1], "open");
        check(pair[1], pair[0], "open");
    }
    // A replica that missed a phase asks the store.
    check("-a B", "A", "unknown");
    check("A", "B", "unknown");
    check("", "A", "unsigned");
    check("a", "a", "unsigned");
}

#[test]
fn a_cached_token_is_invalid_once_its_key_is_deleted() {
    let tokens = tokens("-a B");
    let token = self::tokens("A").mint(&identity(), None, NOW).unwrap().access_token;
    let tag = MacKey::random().tag(token.as_bytes());
    assert!(tokens.verify(&token, &tag, NOW).is_ok());
    tokens.publish(ring("-a -b C", &tokens.keyring()));
    assert!(tokens.keyring().token_cache().get(&tag).is_some(), "verified tokens stay in the cache");
    assert!(tokens.verify(&token, &tag, NOW).is_ok());
    tokens.publish(ring("-b C", &tokens.keyring()));
    assert!(matches!(tokens.verify(&token, &tag, NOW), Err(TokenError::UnknownKid { .. })));
}

#[test]
fn unsealable_rows_are_counted_and_named() {
    let build = |rows: Vec<JwtKeyRow>, previous: &JwtKeyring| {
        JwtKeyring::build(&JwtKeys { epoch: 1, rows }, &sealer(1), previous)
    };
    let (a, b) = (row(&secret(b'a'), JwtPhase::Active), row(&secret(b'b'), JwtPhase::Next));
    assert!(build(vec![a.clone(), b.clone()], &JwtKeyring::empty()).check().is_ok());
    let exchanged = JwtKeyRow { secret: b.secret.clone(), ..a.clone() };
    let error =
        build(vec![exchanged.clone(), b.clone()], &JwtKeyring::empty()).check().unwrap_err().to_string();
    assert!(error.starts_with("1 of 2 token signing keys") && error.contains(&a.kid), "{error}");
    let known = build(vec![a.clone()], &JwtKeyring::empty());
    assert!(build(vec![exchanged], &known).check().is_err(), "under a known version it is a forgery");
    for at in 0..a.secret.bytes.len() {
        let mut altered = a.clone();
        altered.secret.bytes[at] ^= 1;
        assert!(build(vec![altered], &JwtKeyring::empty()).check().is_err(), "byte {at}");
    }
    let altered = [
        JwtKeyRow { phase: JwtPhase::Retiring, ..a.clone() },
        JwtKeyRow { created_at: 1, ..a.clone() },
        JwtKeyRow { changed_at: 1, ..a.clone() },
        JwtKeyRow { kid: b.kid.clone(), ..a.clone() },
    ];
    for altered in altered {
        assert!(
            build(vec![altered.clone(), b.clone()], &JwtKeyring::empty()).check().is_err(),
            "{altered:?}"
        );
    }
    let other = JwtKeyRow { algorithm: JwtAlgorithm::EdDsa, ..b.clone() };
    assert!(build(vec![a.clone(), other], &JwtKeyring::empty()).check().is_err());
    let odd = JwtKeyRow { kid: "../a".into(), ..b };
    assert!(build(vec![a, odd], &JwtKeyring::empty()).check().is_err());
    assert!(build(Vec::new(), &JwtKeyring::empty()).check().is_err());
}

#[test]
fn a_key_resealed_under_a_future_version_stays_in_use() {
    let a = row(&secret(b'a'), JwtPhase::Active);
    let known =
        JwtKeyring::build(&JwtKeys { epoch: 1, rows: vec![a.clone()] }, &sealer(1), &JwtKeyring::empty());
    let jwt_keys = |row| JwtKeys { epoch: 2, rows: vec![row] };
    let anew = jwt_keys(sealed_by(2, &secret(b'a'), a.clone()));
    assert!(JwtKeyring::build(&anew, &sealer(1), &known).check().is_ok());
    assert!(JwtKeyring::build(&anew, &sealer(1), &JwtKeyring::empty()).check().is_err());
    // Such a row cannot turn a retiring key into the signing one.
    let retired = row(&secret(b'a'), JwtPhase::Retiring);
    let retired = JwtKeyring::build(&jwt_keys(retired), &sealer(1), &JwtKeyring::empty());
    assert!(JwtKeyring::build(&anew, &sealer(1), &retired).signing_key().is_none());
}

#[test]
fn the_encoded_header_is_what_the_library_writes() {
    let ring = JwtKeyring::from_secret(SECRET);
    let key = ring.signing_key().unwrap();
    let written = jsonwebtoken::encode(&key.header, &"", &key.encoding).unwrap();
    assert!(written.starts_with(key.encoded_header()), "{written}");
    assert_eq!(parse_kid(&written), key.header.kid);
    assert!(ring.contains_secret(SECRET) && !ring.contains_secret(b"another"));
}

#[tokio::test]
async fn the_first_stored_secret_is_the_first_key_for_all_replicas() {
    let folder = Folder::create();
    let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap();
    let (one, sealer) = (secret(b'1'), sealer(1));
    let both =
        tokio::join!(load_or_create(&store, &sealer, Some(&one)), load_or_create(&store, &sealer, None));
    let (one, other) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!((&one.rows, one.rows.len(), one.rows[0].phase), (&other.rows, 1, JwtPhase::Active));
    let key = generate_jwt_key();
    let store = store.bound_by(sealer);
    assert_eq!(key.phase, JwtPhase::Next);
    store.insert_jwt_key(key, Audit::by("test")).await.unwrap();
    let kept: JwtKeys = JwtKeyringSnapshot::from(&store.jwt_keys().await.unwrap()).into();
    assert_eq!(kept, store.jwt_keys().await.unwrap());
}
