//! The checks can fail: what they look for is found.

use crate::layers::imports;
use crate::rules::cited;
use crate::size::{file_lines, functions};
use crate::source::Source;

#[test]
fn this_file_reads_sources_as_it_should() {
    let raw = r##"
use crate::{base::{A, B}, store};
fn one() { let a = "} // { .unwrap()"; let b = '{'; let c: &'static str = r#"""#; }
// fn not_here() {}
/* unsafe /* nested */ fn */
fn two<'a>(x: &'a str) -> crate::admin::X {
    x.parse().unwrap()
}
trait T { fn signature(&self); }
#[cfg(test)]
mod tests { use crate::app; fn three() { x.unwrap() } }
"##;
    let source = Source::new("src/server/x.rs".into(), raw.into());
    assert_eq!(source.module(), Some("server"));
    let imported: Vec<_> = imports(&source).into_iter().map(|(name, _)| name).collect();
    assert_eq!(imported, ["base", "store", "admin"]);
    let named: Vec<_> = functions(&source).into_iter().map(|(name, _, lines)| (name, lines)).collect();
    assert_eq!(named, [("one".to_owned(), 0), ("two".to_owned(), 1)]);
    assert_eq!(
        source.find(&source.code, ".unwrap()").map(|at| source.at(at)).collect::<Vec<_>>(),
        ["src/server/x.rs:7"]
    );
    assert_eq!(source.words("unsafe").count(), 0);
    assert_eq!(file_lines(&source), 10);
    assert_eq!(Source::new("src/app.rs".into(), String::new()).module(), Some("app"));
    for (path, code) in [
        ("src/server/mod.rs", "use super::store::X;"),
        ("src/server/x.rs", "use super::super::store::X;"),
        ("src/server/x.rs", "use super::super::{base::A, store};"),
    ] {
        let found = imports(&Source::new(path.into(), code.into()));
        assert!(found.iter().any(|(name, _)| name == "store"), "{path}: {code}");
    }
    assert!(imports(&Source::new("src/server/x.rs".into(), "use super::store::X;".into())).is_empty());
}

#[test]
fn cited_functions_are_found() {
    let line = "| `a/b.rs::one` and `two`, `c/d.rs`, `x::y` (`e.rs::f`) `g/h.rs::i` |";
    let expected = [("a/b.rs", Some("one")), ("c/d.rs", None), ("g/h.rs", Some("i"))];
    assert!(cited(line).eq(expected));
}
