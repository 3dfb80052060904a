use std::time::Duration;

use super::super::EncryptionKey;
use super::super::identity::{Identity, KeyId};
use super::super::tag::Tagger;
use super::super::token::{Tokens, Unopened};
use super::*;
use zeroize::Zeroizing;

use crate::store::testing::Folder;
use crate::store::{Grants, Sealed};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn sealer(version: u8) -> Sealer {
    Sealer::new(&[EncryptionKey { version, key: Zeroizing::new([version; 32]) }]).unwrap()
}

fn row(secret: &[u8], phase: JwtPhase) -> JwtKeyRow {
    let key = named(secret, phase);
    let row = JwtKeyRow {
        kid: key.kid,
        algorithm: key.algorithm,
        secret: Sealed::default(),
        phase,
        created_at: 0,
        changed_at: 0,
    };
    sealed_by(1, secret, row)
}

fn sealed_by(version: u8, secret: &[u8], row: JwtKeyRow) -> JwtKeyRow {
    JwtKeyRow { secret: sealer(version).seal_row(Bound::JwtKey(&row), &Plain::new(secret.to_vec())), ..row }
}

/// One of different secrets, told apart by a letter.
fn secret(letter: u8) -> [u8; 32] {
    [letter; 32]
}

/// `a` is the secret of `a`s in the phase `next`, `A` the same as the active one, `-a` retiring.
fn ring(written: &str, previous: &Ring) -> Ring {
    let rows = written.split(' ').filter(|word| !word.is_empty()).map(|word| match word.as_bytes() {
        [b'-', letter] => row(&secret(*letter), JwtPhase::Retiring),
        [letter] if letter.is_ascii_uppercase() => {
            row(&secret(letter.to_ascii_lowercase()), JwtPhase::Active)
        }
        [letter] => row(&secret(*letter), JwtPhase::Next),
        _ => panic!("{word}"),
    });
    Ring::build(&JwtKeys { epoch: 1, rows: rows.collect() }, &sealer(1), previous)
}

fn identity() -> Identity {
    Identity::new(KeyId::parse("AAAAAAAAAAAA").unwrap(), "n".into(), 7, &Grants::everything())
}

fn tokens(written: &str) -> Tokens {
    Tokens::new(ring(written, &Ring::empty()), Duration::from_mins(15))
}

/// Whether a token made with one ring is opened with another.
#[track_caller]
fn check(signer: &str, verifier: &str, expected: &str) {
    let token = match tokens(signer).mint(&identity(), None, NOW) {
        Ok(token) => token.access_token,
        Err(denied) => return assert_eq!(denied.label(), expected),
    };
    let seen = match tokens(verifier).open(&token, &Tagger::new().tag(token.as_bytes()), NOW) {
        Ok(_) => "open",
        Err(Unopened::Deny(denied)) => denied.label(),
        Err(Unopened::Unknown { .. }) => "unknown",
    };
    assert_eq!(seen, expected, "made with {signer:?}, opened with {verifier:?}");
}

#[test]
fn every_replica_opens_what_any_other_makes_in_every_phase() {
    let phases = ["A", "A b", "-a B", "B"];
    for pair in phases.windows(2) {
        check(pair[0], pair[1], "open");
        check(pair[1], pair[0], "open");
    }
    // One that slept through a phase asks the store.
    check("-a B", "A", "unknown");
    check("A", "B", "unknown");
    check("", "A", "unsigned");
    check("a", "a", "unsigned");
}

#[test]
fn a_token_that_was_verified_dies_with_its_key_in_the_ring() {
    let tokens = tokens("-a B");
    let token = self::tokens("A").mint(&identity(), None, NOW).unwrap().access_token;
    let tag = Tagger::new().tag(token.as_bytes());
    assert!(tokens.open(&token, &tag, NOW).is_ok());
    tokens.publish(ring("-a -b C", &tokens.ring()));
    assert!(tokens.ring().verified().holds(&tag), "what was proven is not proven again");
    assert!(tokens.open(&token, &tag, NOW).is_ok());
    tokens.publish(ring("-b C", &tokens.ring()));
    assert!(matches!(tokens.open(&token, &tag, NOW), Err(Unopened::Unknown { .. })));
}

#[test]
fn rows_that_do_not_open_are_counted_and_named() {
    let build = |rows: Vec<JwtKeyRow>, previous: &Ring| {
        Ring::build(&JwtKeys { epoch: 1, rows }, &sealer(1), previous)
    };
    let (a, b) = (row(&secret(b'a'), JwtPhase::Active), row(&secret(b'b'), JwtPhase::Next));
    assert!(build(vec![a.clone(), b.clone()], &Ring::empty()).check().is_ok());
    let exchanged = JwtKeyRow { secret: b.secret.clone(), ..a.clone() };
    let error = build(vec![exchanged.clone(), b.clone()], &Ring::empty()).check().unwrap_err().to_string();
    assert!(error.starts_with("1 of 2 keys for tokens") && error.contains(&a.kid), "{error}");
    let known = build(vec![a.clone()], &Ring::empty());
    assert!(build(vec![exchanged], &known).check().is_err(), "of a version that is known it is a forgery");
    for at in 0..a.secret.bytes.len() {
        let mut altered = a.clone();
        altered.secret.bytes[at] ^= 1;
        assert!(build(vec![altered], &Ring::empty()).check().is_err(), "byte {at}");
    }
    let altered = [
        JwtKeyRow { phase: JwtPhase::Retiring, ..a.clone() },
        JwtKeyRow { created_at: 1, ..a.clone() },
        JwtKeyRow { changed_at: 1, ..a.clone() },
        JwtKeyRow { kid: b.kid.clone(), ..a.clone() },
    ];
    for altered in altered {
        assert!(build(vec![altered.clone(), b.clone()], &Ring::empty()).check().is_err(), "{altered:?}");
    }
    let other = JwtKeyRow { algorithm: JwtAlgorithm::EdDsa, ..b.clone() };
    assert!(build(vec![a.clone(), other], &Ring::empty()).check().is_err());
    let odd = JwtKeyRow { kid: "../a".into(), ..b };
    assert!(build(vec![a, odd], &Ring::empty()).check().is_err());
    assert!(build(Vec::new(), &Ring::empty()).check().is_err());
}

#[test]
fn a_key_sealed_anew_by_a_version_to_come_stays_known() {
    let a = row(&secret(b'a'), JwtPhase::Active);
    let known = Ring::build(&JwtKeys { epoch: 1, rows: vec![a.clone()] }, &sealer(1), &Ring::empty());
    let jwt_keys = |row| JwtKeys { epoch: 2, rows: vec![row] };
    let anew = jwt_keys(sealed_by(2, &secret(b'a'), a.clone()));
    assert!(Ring::build(&anew, &sealer(1), &known).check().is_ok());
    assert!(Ring::build(&anew, &sealer(1), &Ring::empty()).check().is_err());
    // Whoever says so does not have it sign again.
    let retired = row(&secret(b'a'), JwtPhase::Retiring);
    let retired = Ring::build(&jwt_keys(retired), &sealer(1), &Ring::empty());
    assert!(Ring::build(&anew, &sealer(1), &retired).signing().is_none());
}

#[test]
fn our_header_is_what_the_library_writes() {
    let ring = Ring::alone(SECRET);
    let key = ring.signing().unwrap();
    let written = jsonwebtoken::encode(&key.header, &"", &key.encoding).unwrap();
    assert!(written.starts_with(key.pinned()), "{written}");
    assert_eq!(kid(&written), key.header.kid);
    assert!(ring.holds(SECRET) && !ring.holds(b"another"));
}

#[tokio::test]
async fn the_first_secret_to_come_is_the_first_key_for_all() {
    let folder = Folder::new();
    let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap();
    let (one, other) = (secret(b'1'), secret(b'2'));
    let sealer = sealer(1);
    let both = tokio::join!(read(&store, &sealer, &one), read(&store, &sealer, &other));
    let (one, other) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!((&one.rows, one.rows.len(), one.rows[0].phase), (&other.rows, 1, JwtPhase::Active));
    let key = new_jwt_key();
    let store = store.bound_by(sealer);
    assert_eq!(key.phase, JwtPhase::Next);
    store.insert_jwt_key(key, Audit::by("test")).await.unwrap();
    let kept: JwtKeys = KeptRing::from(&store.jwt_keys().await.unwrap()).into();
    assert_eq!(kept, store.jwt_keys().await.unwrap());
}
