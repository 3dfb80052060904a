mod forgery;

use jsonwebtoken::EncodingKey;
use jsonwebtoken::crypto::sign;
use serde_json::{Value, json};

use super::super::credential::Credential;
use super::super::mac::MacKey;
use super::*;
use crate::store::Grants;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn tokens() -> TokenAuthority {
    TokenAuthority::new(JwtKeyring::from_secret(SECRET), Duration::from_mins(15))
}

fn identity() -> Identity {
    Identity::new(KeyId::parse("AAAAAAAAAAAA").unwrap(), "laptop".into(), 7, &Grants::everything())
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

/// The encoded header, with the dot.
fn encoded_header() -> String {
    tokens().keyring().signing_key().unwrap().encoded_header().to_owned()
}

/// Signs any payload under the gateway's own header, as an attacker with the secret could.
fn signed(payload: &str) -> String {
    let message = format!("{}{}", encoded_header(), encode(payload));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// The gateway's claims with some replaced; `null` removes one.
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

/// A genuine payload under another header, signed as that header says.
fn under(header: &Value, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Verifies twice, since the second answer may come from the cache.
#[track_caller]
fn check(token: &str, expected: Result<u64, &str>) {
    let (tokens, tag) = (tokens(), MacKey::random().tag(token.as_bytes()));
    for _ in 0..2 {
        let opened = tokens.verify(token, &tag, NOW);
        assert_eq!(opened.map(|claims| claims.epoch).map_err(|error| label(&error)), expected, "{token}");
    }
}

fn label(error: &TokenError) -> &'static str {
    match error {
        TokenError::Denied(denied) => denied.label(),
        TokenError::UnknownKid { .. } => "unknown",
    }
}

#[test]
fn issued_tokens_are_accepted() {
    let token = tokens().mint(&identity(), None, NOW).unwrap();
    assert_eq!(token.expires_in_s, 900);
    assert!(token.access_token.len() < 512, "{}", token.access_token.len());
    check(&token.access_token, Ok(7));
    check(&signed(&claims().to_string()), Ok(7));
    assert_eq!(format!("{token:?}"), "AccessToken { expires_in_s: 900, .. }");
    let again = tokens().mint(&identity(), None, NOW).unwrap();
    assert_ne!(token.access_token, again.access_token);
}

#[test]
fn a_token_expires_with_its_key() {
    assert_eq!(tokens().mint(&identity(), Some(NOW + 60), NOW).unwrap().expires_in_s, 60);
    assert_eq!(tokens().mint(&identity(), Some(NOW + 6000), NOW).unwrap().expires_in_s, 900);
}

#[test]
fn times_are_checked_with_the_leeway() {
    check(&with(&json!({ "exp": NOW + 1 })), Ok(7));
    check(&with(&json!({ "exp": NOW - 29 })), Ok(7));
    check(&with(&json!({ "exp": NOW - 30 })), Err("expired"));
    check(&with(&json!({ "exp": 0 })), Err("expired"));
    check(&with(&json!({ "iat": NOW + 30 })), Ok(7));
    check(&with(&json!({ "iat": NOW + 31 })), Err("invalid"));
    check(&with(&json!({ "nbf": NOW + 30 })), Ok(7));
    check(&with(&json!({ "nbf": NOW + 31 })), Err("invalid"));
}

#[test]
fn a_cached_token_still_expires() {
    let (tokens, tagger) = (tokens(), MacKey::random());
    let token = tokens.mint(&identity(), None, NOW).unwrap().access_token;
    let tag = tagger.tag(token.as_bytes());
    assert!(tokens.verify(&token, &tag, NOW + 900).is_ok());
    assert_eq!(tokens.verify(&token, &tag, NOW + 930).map_err(|error| label(&error)), Err("expired"));
}

#[test]
fn claims_of_another_type_or_value_are_refused() {
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
        check(&with(&changes), Err("invalid"));
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"BBBBBBBBBBBB\",", 1);
    check(&signed(&twice), Err("invalid"));
    check(&signed("null"), Err("invalid"));
    check(&signed("[]"), Err("invalid"));
    check(&signed(&"[".repeat(500)), Err("invalid"));
    check(&signed(""), Err("invalid"));
}

#[test]
fn a_header_that_is_not_ours_is_refused_even_when_signed() {
    let kid = tokens().keyring().signing_key().unwrap().header.kid.clone().unwrap();
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
        check(&under(&header, algorithm), Err("invalid"));
    }
}

#[test]
fn a_text_too_long_for_a_token_is_refused_unread() {
    let long = format!("Bearer {}", with(&json!({ "jti": "x".repeat(1024) })));
    assert!(matches!(Credential::from_headers(Some(long.as_bytes()), None), Err(AuthDenial::Invalid)));
}

#[test]
fn no_variation_of_a_token_is_accepted() {
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
        check(&token, Err("invalid"));
    }
    // The last of 43 characters has two unused bits: if they were ignored, four texts would be the same token.
    for at in 0..good.len() {
        let mut altered = good.clone().into_bytes();
        altered[at] ^= 1;
        // A change within the kid causes a look-up of that kid, and is refused as well.
        let altered = String::from_utf8(altered).unwrap();
        assert!(
            tokens().verify(&altered, &MacKey::random().tag(altered.as_bytes()), NOW).is_err(),
            "{altered}"
        );
    }
}

#[test]
fn another_secret_neither_signs_nor_verifies_our_tokens() {
    let other = TokenAuthority::new(
        JwtKeyring::from_secret(b"another secret of thirty-two byt"),
        Duration::from_mins(15),
    );
    // The kid may belong to a key that was just added, so the store must be queried.
    check(&other.mint(&identity(), None, NOW).unwrap().access_token, Err("unknown"));
    let message = format!("{}{}", encoded_header(), encode(claims().to_string()));
    let key = EncodingKey::from_secret(b"another secret of thirty-two byt");
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    check(&format!("{message}.{signature}"), Err("invalid"));
}
