use jsonwebtoken::crypto::sign;
use serde_json::{Value, json};

use super::super::tag::Tagger;
use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn tokens() -> Tokens {
    Tokens::new(SECRET, Duration::from_mins(15))
}

fn identity() -> Identity {
    Identity::new(
        KeyId::parse("AAAAAAAAAAAA").unwrap(),
        "laptop".into(),
        7,
        crate::store::Grants::everything(),
    )
}

fn claims() -> Value {
    json!({
        "iss": "metamcp", "aud": "metamcp", "sub": "AAAAAAAAAAAA", "jti": "x",
        "iat": NOW, "exp": NOW + 900, "epoch": 7,
    })
}

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Signs any payload behind our own header: what whoever holds the secret could make.
fn signed(payload: &str) -> String {
    let message = format!("{}{}", tokens().pinned, encode(payload));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// Our claims with some replaced; `null` takes one away.
fn with(changes: &Value) -> String {
    let mut payload = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            payload.as_object_mut().unwrap().remove(name);
        } else {
            payload[name] = value.clone();
        }
    }
    signed(&payload.to_string())
}

/// A genuine payload behind another header, signed as that header says.
fn under(header: &Value, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Asked twice, since the second answer may come from what is remembered.
#[track_caller]
fn check(token: &str, expected: Result<u64, Denied>) {
    let (tokens, tag) = (tokens(), Tagger::new().tag(token.as_bytes()));
    for _ in 0..2 {
        let opened = tokens.open(token, &tag, NOW);
        assert_eq!(opened.map(|claim| claim.epoch), expected, "{token}");
    }
}

#[test]
fn what_we_make_we_take() {
    let token = tokens().mint(&identity(), None, NOW).unwrap();
    assert_eq!(token.expires_in_s, 900);
    assert!(token.access_token.len() < 512, "{}", token.access_token.len());
    check(&token.access_token, Ok(7));
    check(&signed(&claims().to_string()), Ok(7));
    assert_eq!(format!("{token:?}"), "Token { expires_in_s: 900, .. }");
    let again = tokens().mint(&identity(), None, NOW).unwrap();
    assert_ne!(token.access_token, again.access_token);
}

#[test]
fn a_token_ends_with_its_key() {
    assert_eq!(tokens().mint(&identity(), Some(NOW + 60), NOW).unwrap().expires_in_s, 60);
    assert_eq!(tokens().mint(&identity(), Some(NOW + 6000), NOW).unwrap().expires_in_s, 900);
}

#[test]
fn times_are_kept_with_the_leeway_and_no_more() {
    check(&with(&json!({ "exp": NOW + 1 })), Ok(7));
    check(&with(&json!({ "exp": NOW - 29 })), Ok(7));
    check(&with(&json!({ "exp": NOW - 30 })), Err(Denied::Expired));
    check(&with(&json!({ "exp": 0 })), Err(Denied::Expired));
    check(&with(&json!({ "iat": NOW + 30 })), Ok(7));
    check(&with(&json!({ "iat": NOW + 31 })), Err(Denied::Invalid));
    check(&with(&json!({ "nbf": NOW + 30 })), Ok(7));
    check(&with(&json!({ "nbf": NOW + 31 })), Err(Denied::Invalid));
}

#[test]
fn a_remembered_token_still_expires() {
    let (tokens, tagger) = (tokens(), Tagger::new());
    let token = tokens.mint(&identity(), None, NOW).unwrap().access_token;
    let tag = tagger.tag(token.as_bytes());
    assert!(tokens.open(&token, &tag, NOW + 900).is_ok());
    assert_eq!(tokens.open(&token, &tag, NOW + 930), Err(Denied::Expired));
}

#[test]
fn claims_of_another_kind_are_refused() {
    let rows = [
        json!({ "exp": null }),
        json!({ "exp": (NOW + 900).to_string() }),
        json!({ "exp": 1_900_000_000.5 }),
        json!({ "exp": -1 }),
        json!({ "exp": [NOW + 900] }),
        json!({ "exp": true }),
        json!({ "nbf": "0" }),
        json!({ "nbf": -1 }),
        json!({ "nbf": {} }),
        json!({ "iat": null }),
        json!({ "iat": "0" }),
        json!({ "aud": null }),
        json!({ "aud": "another" }),
        json!({ "aud": ["metamcp"] }),
        json!({ "aud": "" }),
        json!({ "iss": null }),
        json!({ "iss": "https://attacker.example" }),
        json!({ "iss": ["metamcp"] }),
        json!({ "sub": null }),
        json!({ "sub": "../../etc/pw" }),
        json!({ "sub": "anonymous---" }),
        json!({ "sub": "AAAAAAAAAAAA\u{0}" }),
        json!({ "sub": 1 }),
        json!({ "jti": null }),
        json!({ "epoch": null }),
        json!({ "epoch": "7" }),
        json!({ "epoch": -7 }),
    ];
    for changes in rows {
        check(&with(&changes), Err(Denied::Invalid));
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"BBBBBBBBBBBB\",", 1);
    check(&signed(&twice), Err(Denied::Invalid));
    check(&signed("null"), Err(Denied::Invalid));
    check(&signed("[]"), Err(Denied::Invalid));
    check(&signed(&"[".repeat(500)), Err(Denied::Invalid));
    check(&signed(""), Err(Denied::Invalid));
}

#[test]
fn a_header_that_is_not_ours_is_refused_even_when_signed() {
    let kid = tokens().header.kid.unwrap();
    let ours = |extra: Value| {
        let mut header = json!({ "typ": "JWT", "alg": "HS256", "kid": kid });
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        header
    };
    let rows = [
        (ours(json!({ "alg": "HS512" })), Algorithm::HS512),
        (ours(json!({ "alg": "HS384" })), Algorithm::HS384),
        (ours(json!({ "alg": "RS256" })), Algorithm::HS256),
        (ours(json!({ "alg": "none" })), Algorithm::HS256),
        (ours(json!({ "alg": "hs256" })), Algorithm::HS256),
        (ours(json!({ "crit": ["exp"] })), Algorithm::HS256),
        (ours(json!({ "crit": [] })), Algorithm::HS256),
        (ours(json!({ "b64": false, "crit": ["b64"] })), Algorithm::HS256),
        (ours(json!({ "kid": "../../../../dev/null" })), Algorithm::HS256),
        (ours(json!({ "kid": "' OR 1=1 --" })), Algorithm::HS256),
        (ours(json!({ "kid": null })), Algorithm::HS256),
        (ours(json!({ "jku": "https://attacker.example/keys" })), Algorithm::HS256),
        (ours(json!({ "jwk": { "kty": "oct", "k": "AAAA" } })), Algorithm::HS256),
        (ours(json!({ "typ": "at+jwt" })), Algorithm::HS256),
        (json!({ "alg": "HS256" }), Algorithm::HS256),
    ];
    for (header, algorithm) in rows {
        check(&under(&header, algorithm), Err(Denied::Invalid));
    }
}

#[test]
fn nothing_but_the_token_itself_is_the_token() {
    let good = signed(&claims().to_string());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let none = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims().to_string()));
    let rows = [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        none,
        format!("{message}."),
        message.to_owned(),
        format!("{good}="),
        format!("{good}=="),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{good} "),
        format!("{good}\0"),
        format!(" {good}"),
        good.replace('-', "+").replace('_', "/") + "A",
        good[..good.len() - 1].to_owned(),
        format!("{message}.{}", encode([0; 32])),
    ];
    for token in rows {
        check(&token, Err(Denied::Invalid));
    }
    // The last character of 43 holds two unused bits: were they not looked at, four texts would be one token.
    for at in 0..good.len() {
        let mut altered = good.clone().into_bytes();
        altered[at] ^= 1;
        check(&String::from_utf8(altered).unwrap(), Err(Denied::Invalid));
    }
}

#[test]
fn another_secret_neither_makes_nor_takes_ours() {
    let other = Tokens::new(b"another secret of thirty-two byt", Duration::from_mins(15));
    check(&other.mint(&identity(), None, NOW).unwrap().access_token, Err(Denied::Invalid));
    let message = format!("{}{}", tokens().pinned, encode(claims().to_string()));
    let key = EncodingKey::from_secret(b"another secret of thirty-two byt");
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    check(&format!("{message}.{signature}"), Err(Denied::Invalid));
}
