//! The attacks of the JWS test vectors of Project Wycheproof and of `jwt_tool`.

use super::*;

/// A description of the attack, and the token.
type Row = (String, String);

/// A token with any header and payload, signed as HS256 with the gateway's secret regardless of the header.
fn forged(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn our_kid() -> String {
    tokens().keyring().signing_key().unwrap().header.kid.clone().unwrap()
}

/// The gateway's header, with `members` in place of the algorithm.
fn header(members: &str) -> String {
    format!(r#"{{"typ":"JWT",{members},"kid":"{}"}}"#, our_kid())
}

#[track_caller]
fn refuse(rows: impl IntoIterator<Item = Row>) {
    for (what, token) in rows {
        let opened = tokens().verify(&token, &MacKey::random().tag(token.as_bytes()), NOW);
        assert_eq!(opened, Err(TokenError::Denied(AuthDenial::Invalid)), "{what}: {token:.200}");
    }
}

#[test]
fn the_unaltered_token_is_accepted() {
    check(&forged(&header(r#""alg":"HS256""#), &claims().to_string()), Ok(7));
}

#[test]
fn no_other_algorithm_is_accepted() {
    let (good, payload) = (signed(&claims().to_string()), claims().to_string());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (_, body) = message.split_once('.').unwrap();
    for alg in ["none", "None", "NONE", "nOnE", "none ", r"\u006eone", "", "null"] {
        let header = header(&format!(r#""alg":"{alg}""#));
        let head = encode(&header);
        refuse([
            (format!("alg {alg:?}, no signature"), format!("{head}.{body}.")),
            (format!("alg {alg:?}, two parts"), format!("{head}.{body}")),
            (format!("alg {alg:?}, our signature"), format!("{head}.{body}.{signature}")),
            (format!("alg {alg:?}, signed"), forged(&header, &payload)),
        ]);
    }
    let confused = ["RS256", "RS512", "PS256", "ES256", "ES256K", "EdDSA", "HS384", "HS512", "hs256", "dir"];
    let confused = confused.map(|alg| format!(r#""alg":"{alg}""#));
    let odd =
        [r#""alg":["HS256"]"#, r#""alg":null"#, r#""alg":256"#, r#""alg":"HS256\u0000""#].map(Into::into);
    refuse(confused.into_iter().chain(odd).map(|alg: String| {
        let token = forged(&header(&alg), &payload);
        (alg, token)
    }));
}

#[test]
fn no_other_header_is_accepted() {
    let payload = claims().to_string();
    let members = [
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false,"crit":["b64"]"#,
        r#""jku":"https://attacker.example/keys""#,
        r#""jwk":{"kty":"oct","k":"AAAA"}"#,
        r#""x5u":"https://attacker.example/cert""#,
        r#""x5c":["MIIB"]"#,
        r#""cty":"JWT""#,
        r#""zip":"DEF""#,
        r#""enc":"A128GCM""#,
        r#""alg":"none""#,
        r#""alg":"HS256""#,
        r#""kid":"other""#,
    ];
    refuse(members.into_iter().flat_map(|member| {
        let both = [format!(r#""alg":"HS256",{member}"#), format!(r#"{member},"alg":"HS256""#)];
        both.map(|members| (members.clone(), forged(&header(&members), &payload)))
    }));
    let long = "A".repeat(33);
    let kids = ["../../../../dev/null", "/etc/passwd", "' OR 1=1 --", "a|whoami", r"\u0000", "", "é", &long];
    refuse(kids.into_iter().map(|kid| {
        let header = format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{kid}"}}"#);
        (format!("kid {kid:?}"), forged(&header, &payload))
    }));
    let exact = header(r#""alg":"HS256""#);
    let headers = [
        String::new(),
        "{}".into(),
        "null".into(),
        "[]".into(),
        r#"{"alg":"HS256"}"#.into(),
        format!("\u{feff}{exact}"),
        format!(" {exact}"),
        format!("{exact}\n"),
        format!("{exact}{exact}"),
        exact.replace(',', ", "),
        exact.replace("JWT", "jwt"),
        exact.replace("JWT", "at+jwt"),
    ];
    refuse(headers.map(|header| (format!("header {header:?}"), forged(&header, &payload))));
}

#[test]
fn no_other_serialization_is_accepted() {
    let good = signed(&claims().to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let signatures = json!([{"protected": head, "signature": signature}]);
    let rows = [
        ("empty signature", format!("{head}.{body}.")),
        ("no signature", format!("{head}.{body}")),
        ("detached payload", format!("{head}..{signature}")),
        ("payload cut", format!("{head}.{}.{signature}", &body[..body.len() - 4])),
        ("signature cut", format!("{head}.{body}.{}", &signature[..signature.len() - 4])),
        ("signature longer", format!("{head}.{body}.{signature}AAAA")),
        ("signature of zeros", format!("{head}.{body}.{}", encode([0; 32]))),
        ("psychic signature", format!("{head}.{body}.{}", encode([0; 64]))),
        ("the body for a signature", format!("{head}.{body}.{body}")),
        ("five parts", format!("{good}.{body}.{signature}")),
        ("twice", format!("{good}.{good}")),
        ("parts exchanged", format!("{body}.{head}.{signature}")),
        ("padding of the header", format!("{head}=.{body}.{signature}")),
        ("padding of the payload", format!("{head}.{body}=.{signature}")),
        ("padding of the signature", format!("{good}=")),
        ("padding of two", format!("{good}==")),
        ("a space within", format!("{head}.{body} .{signature}")),
        ("a line within", format!("{head}.{body}.\n{signature}")),
        ("a percent", format!("{head}.{body}.%{signature}")),
        ("flattened JSON", json!({"protected": head, "payload": body, "signature": signature}).to_string()),
        ("general JSON", json!({"payload": body, "signatures": signatures}).to_string()),
        ("nested", signed(&json!(good).to_string())),
        ("oversized", format!("{head}.{}.{signature}", "A".repeat(1 << 20))),
        ("oversized header", format!("{}.{body}.{signature}", "A".repeat(1 << 20))),
        ("dots", ".".repeat(1 << 16)),
    ];
    refuse(rows.map(|(what, token)| (what.to_owned(), token)));
}

#[test]
fn ambiguous_claims_are_refused() {
    let payload = claims().to_string();
    let end = (NOW + 900).to_string();
    let before = |members: &str| payload.replacen('{', &format!("{{{members},"), 1);
    let rows = [
        ("exp beyond numbers", payload.replace(&end, "1e400")),
        ("exp beyond 64 bits", payload.replace(&end, "18446744073709551616")),
        ("exp as a fraction", payload.replace(&end, &format!("{end}.0"))),
        ("exp with an exponent", payload.replace(&end, "18e8")),
        ("exp NaN", payload.replace(&end, "NaN")),
        ("exp twice", before(r#""exp":9999999999"#)),
        ("exp twice, once escaped", before(r#""\u0065xp":9999999999"#)),
        ("aud twice", before(r#""aud":"other""#)),
        ("iss twice", before(r#""iss":"other""#)),
        ("claims behind claims", format!("{payload}{payload}")),
        ("aud of another case", payload.replace(r#""aud":"metamcp""#, r#""aud":"MetaMCP""#)),
        ("iss with more behind", payload.replace(r#""iss":"metamcp""#, r#""iss":"metamcp.example""#)),
    ];
    refuse(rows.map(|(what, claims)| {
        assert_ne!(claims, payload, "{what}");
        (what.to_owned(), signed(&claims))
    }));
}
