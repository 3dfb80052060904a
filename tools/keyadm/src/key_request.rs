//! What the user asks of a key: which one, and what it may do.

use metamcp_core::base::KeyId;
use metamcp_store::auth::KeyRequest;
use metamcp_store::store::{Grants, Rate, Role, Uuid};

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
    let KeyLimits { endpoint, tools, rate, concurrency, expires } = limits;
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
