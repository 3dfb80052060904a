//! Ensures that no two servers use the same tool prefix.

use serde_json::json;

use super::fields::FieldError;
use super::server::ServerDefinition;
use crate::store::ServerRow;

/// The name of a server, and its alias.
type ToolPrefixes<'a> = (&'a str, Option<&'a str>);

/// Returns an error if the tools of two servers would have the same names, as only one of the servers would be served.
/// `before` is the row that the server replaces, `rows` are those of all servers in the store, and `of_files` the names of
/// servers in configuration files. A server that keeps its names, or is disabled, is not checked.
pub fn check_prefixes<'a>(
    server: &ServerDefinition,
    before: Option<&ServerRow>,
    rows: &'a [ServerRow],
    of_files: impl Iterator<Item = &'a str>,
) -> Result<(), FieldError> {
    let mine = (server.name().as_str(), server.document.alias.as_deref());
    if !server.is_enabled() || before.and_then(row_prefixes) == Some(mine) {
        return Ok(());
    }
    let others = rows.iter().filter(|row| before.is_none_or(|before| before.id != row.id));
    let of_files = of_files.map(|name| (name, None));
    match find_conflict(mine, of_files.chain(others.filter_map(row_prefixes))) {
        Some((pointer, detail)) => Err(FieldError::new(pointer, detail)),
        None => Ok(()),
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
