//! What the user asks of a key: which one, and what it may do.

use metamcp_core::base::KeyId;
use metamcp_store::auth::{KeyRequest, QUOTA_MAX};
use metamcp_store::store::{Grants, QuotaKind, Rate, Role, Uuid};

use crate::args::{CreateKeyArgs, KeyLimits, Scope};
use crate::clock::now;
use crate::failure::Failure;
use crate::time;

pub fn new_key_request(args: CreateKeyArgs) -> Result<KeyRequest, Failure> {
    let CreateKeyArgs { name, description, scope, admin, limits } = args;
    let role = if admin { Role::Admin } else { scope.into() };
    let grants = Grants { role, ..Grants::everything() };
    let mut request = KeyRequest { name, description, grants, expires_at: None };
    apply_limits(limits, &mut request)?;
    Ok(request)
}

/// Sets the limits that are given.
pub fn apply_limits(limits: KeyLimits, request: &mut KeyRequest) -> Result<(), Failure> {
    for (kind, _, text) in limits.quotas() {
        if let Some(text) = text {
            *request.grants.quotas.limit_mut(kind) = parse_quota(kind, text)?;
        }
    }
    let KeyLimits { endpoint, tools, rate, concurrency, expires, .. } = limits;
    let list = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
    let grants = &mut request.grants;
    grants.endpoints = list(endpoint).or(grants.endpoints.take());
    grants.tools = list(tools).or(grants.tools.take());
    grants.rate = rate.as_deref().map(parse_rate).transpose()?.or(grants.rate);
    grants.concurrency = concurrency.or(grants.concurrency);
    if let Some(text) = expires {
        let end = time::parse_end(&text, now()).map_err(|error| error.for_flag("--expires"))?;
        request.expires_at = Some(end);
    }
    Ok(())
}

impl From<Scope> for Role {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Client => Self::Client,
            Scope::Admin => Self::Admin,
        }
    }
}

/// Parses `10` or `10/50`.
fn parse_rate(text: &str) -> Result<Rate, Failure> {
    let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
    match (number(per_second), number(burst)) {
        (Some(per_second), Some(burst)) => Ok(Rate { per_second, burst }),
        _ => Err(Failure::Usage(format!(
            "--rate: {text:?} is not a rate; write the calls per second (10), optionally with a burst (10/50)"
        ))),
    }
}

/// Parses a number of calls or a size, or `none`.
fn parse_quota(kind: QuotaKind, text: &str) -> Result<Option<u64>, Failure> {
    if text == "none" {
        return Ok(None);
    }
    let (limit, example) = match kind {
        QuotaKind::CallsPerDay | QuotaKind::CallsPerMonth => (text.parse().ok(), "a number of calls (10000)"),
        QuotaKind::BytesPerDay | QuotaKind::BytesPerMonth => {
            (parse_size(text), "a size (500MiB, 2GB; KB, KiB, … TiB)")
        }
    };
    let flag = kind.as_str().replace('_', "-");
    let limit = limit.filter(|limit| (1..=QUOTA_MAX).contains(limit)).ok_or_else(|| {
        Failure::Usage(format!(
            "--{flag}: {text:?} is not a quota; write {example}, or none; at most 2^48 - 1"
        ))
    });
    limit.map(Some)
}

/// Parses bytes with a unit, or without one.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Accepts a key id or a UUID, but not a whole key.
pub fn parse_key_reference(text: &str) -> Result<String, Failure> {
    if text.starts_with("mcp_") {
        return Err(Failure::Usage(
            "give the id alone: the 12 characters between `mcp_` and the next `_`. A key on a command line \
             stays in the shell's history; treat it as disclosed"
                .into(),
        ));
    }
    if KeyId::parse(text).is_some() || Uuid::parse_str(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(Failure::Usage(
        "not a key id: it has 12 letters and digits, or is a UUID; see `keyadm keys list`".into(),
    ))
}

pub fn not_found(id: &str) -> Failure {
    Failure::Data(format!("there is no key with the id {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: QuotaKind, text: &str, expected: Result<Option<u64>, ()>) {
        assert_eq!(parse_quota(kind, text).map_err(drop), expected, "{text}");
    }

    #[test]
    fn quotas_are_numbers_sizes_or_none() {
        use QuotaKind::{BytesPerMonth, CallsPerDay};
        check(CallsPerDay, "none", Ok(None));
        check(CallsPerDay, "10000", Ok(Some(10_000)));
        for wrong in ["0", "-1", "1.5", "1KiB", "", "None", "281474976710656"] {
            check(CallsPerDay, wrong, Err(()));
        }
        check(BytesPerMonth, "none", Ok(None));
        check(BytesPerMonth, "1", Ok(Some(1)));
        check(BytesPerMonth, "2GB", Ok(Some(2_000_000_000)));
        check(BytesPerMonth, "3 mib", Ok(Some(3 << 20)));
        check(BytesPerMonth, "255TiB", Ok(Some(255 << 40)));
        for wrong in ["0", "0GB", "256TiB", "99999999999TiB", "GB", "1PB", "1.5GB", "-1KB"] {
            check(BytesPerMonth, wrong, Err(()));
        }
    }
}
