//! Suggests the known name that was probably meant.

use std::collections::BTreeSet;

use super::mistakes::{printable, quote};

/// Formats `did you mean "port"?`, or lists the known keys if none is similar.
pub(super) fn suggest(name: &str, known: &BTreeSet<&str>) -> String {
    match nearest(name, known.iter().copied()) {
        Some(word) => format!("did you mean {}?", quote(word)),
        _ if known.is_empty() => "nothing is known here".to_owned(),
        _ => {
            let shown: Vec<_> = known.iter().take(SUGGESTED_MAX).map(|word| printable(word)).collect();
            let more = if known.len() > SUGGESTED_MAX { ", ..." } else { "" };
            format!("known here: {}{more}", shown.join(", "))
        }
    }
}

/// The Levenshtein distance in bytes. Long names are never similar, which bounds the work.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > SUGGEST_BYTES_MAX || b.len() > SUGGEST_BYTES_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// The known name that differs least from `name`, if the difference is that of a typing error.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|word| (distance(name, word), word)).min();
    near.filter(|(distance, word)| *distance <= 2 && *distance < word.len()).map(|(_, word)| word)
}

/// More than the keys of any table. There may be thousands of servers.
const SUGGESTED_MAX: usize = 40;

/// The longest key has fewer than 30 bytes.
const SUGGEST_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near() {
        let known = BTreeSet::from(["host", "port", "workers"]);
        let check = |name: &str, expected: &str| assert_eq!(suggest(name, &known), expected, "{name}");
        check("prot", "did you mean \"port\"?");
        check("worker", "did you mean \"workers\"?");
        check("hosts", "did you mean \"host\"?");
        check("retries", "known here: host, port, workers");
        check("", "known here: host, port, workers");
        check(&"x".repeat(100_000), "known here: host, port, workers");
    }
}
