//! Ensures that no two servers use the same tool prefix.

use http::StatusCode;
use serde_json::json;

use super::control_plane::ControlPlane;
use super::problem::Problem;
use metamcp_store::definition::{FieldError, ServerDefinition};
use metamcp_store::store::ServerRow;

/// The name of a server, and its alias.
type ToolPrefixes<'a> = (&'a str, Option<&'a str>);

impl ControlPlane {
    /// Responds with 409 if the tools of two servers would have the same names, as only one of the servers
    /// would be served. A server that keeps its names is not checked. Of two servers written at the same
    /// moment, one is reported later with `served: false`.
    pub(super) async fn check_prefixes(
        &self,
        server: &ServerDefinition,
        before: Option<&ServerRow>,
    ) -> Result<(), Problem> {
        let mine = (server.name().as_str(), server.document.alias.as_deref());
        if !server.is_enabled() || before.and_then(row_prefixes) == Some(mine) {
            return Ok(());
        }
        let (store_status, rows) = (self.store_status(), self.parts.store.servers().await?.rows);
        let others = rows.iter().filter(|row| before.is_none_or(|before| before.id != row.id));
        let of_files = store_status.of_files.iter().map(|name| (name.as_str(), None));
        let Some((pointer, detail)) = find_conflict(mine, of_files.chain(others.filter_map(row_prefixes)))
        else {
            return Ok(());
        };
        Err(Problem::fields(StatusCode::CONFLICT, vec![FieldError::new(pointer, detail)]))
    }
}

/// `None` if the server is disabled.
fn row_prefixes(row: &ServerRow) -> Option<ToolPrefixes<'_>> {
    let is_enabled = row.definition["enabled"] != json!(false);
    is_enabled.then(|| (row.name.as_str(), row.definition["alias"].as_str()))
}

/// Returns the conflicting field and a description. Two servers of the same name are handled elsewhere: the
/// store rejects the second, and a server of a file takes precedence over a stored one.
fn find_conflict<'a>(
    (name, alias): ToolPrefixes<'_>,
    others: impl Iterator<Item = ToolPrefixes<'a>>,
) -> Option<(&'static str, String)> {
    let told = |what: &str, holder: &str| format!("is {what} of server `{holder}`; choose another");
    for (holder, of_holder) in others {
        if of_holder == Some(name) && holder != name {
            return Some(("/name", told("the alias", holder)));
        }
        match alias.filter(|alias| *alias != name) {
            Some(alias) if alias == holder => return Some(("/alias", told("the name", holder))),
            Some(_) if alias == of_holder => return Some(("/alias", told("the alias", holder))),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mine: ToolPrefixes<'_>, expected: Option<(&str, &str)>) {
        let others = [("a", None), ("b", Some("x")), ("c", Some("c"))];
        let found = find_conflict(mine, others.into_iter());
        let expected = expected.map(|(pointer, whose)| (pointer, format!("is {whose}; choose another")));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_prefix_is_of_one_server() {
        check(("d", None), None);
        check(("d", Some("y")), None);
        check(("d", Some("d")), None);
        check(("a", None), None);
        check(("x", None), Some(("/name", "the alias of server `b`")));
        check(("d", Some("a")), Some(("/alias", "the name of server `a`")));
        check(("d", Some("b")), Some(("/alias", "the name of server `b`")));
        check(("d", Some("x")), Some(("/alias", "the alias of server `b`")));
        check(("d", Some("c")), Some(("/alias", "the name of server `c`")));
    }
}
