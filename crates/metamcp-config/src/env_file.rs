//! The variables in an `envFile` of `mcp.json`, as VS Code reads them (`vs/base/common/envfile.ts`).
//!
//! A value is taken as it is written: `$NAME` in it stands for nothing else. Otherwise a file, which may come with a cloned
//! repository, could pass the secrets of this process on to a program.

/// A line that sets no variable. Its text is not kept, since it may have a secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MalformedLine {
    /// The line number, counted from one.
    pub number: usize,
}

/// Reads the lines of a file: names and values, in the order of the file. Empty lines and comments are left out.
pub(super) fn read(text: &str) -> impl Iterator<Item = Result<(&str, String), MalformedLine>> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        Some(read_line(line).ok_or(MalformedLine { number: index + 1 }))
    })
}

fn read_line(line: &str) -> Option<(&str, String)> {
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let separator = find_unquoted(line, &['=', ':'])?;
    let name = line[..separator].trim_end();
    let value = line[separator + 1..].trim_start();
    let value = find_unquoted(value, &['#']).map_or(value, |comment| &value[..comment]).trim_end();
    (!name.is_empty()).then(|| (name, unquote(value)))
}

/// The position of the first of these ASCII characters outside of quotes.
fn find_unquoted(text: &str, wanted: &[char]) -> Option<usize> {
    let (mut open_quote, mut previous) = (None, None);
    for (at, c) in text.char_indices() {
        match open_quote {
            Some(quote) if c == quote && previous != Some('\\') => open_quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'' | '`') => open_quote = Some(c),
            None if wanted.contains(&c) => return Some(at),
            None => {}
        }
        previous = Some(c);
    }
    None
}

/// Removes the quotes around a value. Line breaks are escaped between double quotes only.
fn unquote(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    match inner('"') {
        Some(inner) => inner.replace("\\n", "\n").replace("\\r", "\r"),
        None => inner('\'').or_else(|| inner('`')).unwrap_or(value).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[Result<(&str, &str), usize>]) {
        let found: Vec<_> = read(text).collect();
        let found: Vec<_> = found
            .iter()
            .map(|line| match line {
                Ok((name, value)) => Ok((*name, value.as_str())),
                Err(line) => Err(line.number),
            })
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn reads_lines_as_an_editor_does() {
        check("", &[]);
        check("# A=1\n\n  \nA=1\r\nB = two words \n", &[Ok(("A", "1")), Ok(("B", "two words"))]);
        check(
            "export A=1\nB: 2\nC=\nD=\"\"",
            &[Ok(("A", "1")), Ok(("B", "2")), Ok(("C", "")), Ok(("D", ""))],
        );
        check(
            "A=1 # one\nB='#2'#two\nC=https://x/?a=b",
            &[Ok(("A", "1")), Ok(("B", "#2")), Ok(("C", "https://x/?a=b"))],
        );
        check(r#"A="x\ny" "#, &[Ok(("A", "x\ny"))]);
        check(r"A='x\ny'", &[Ok(("A", r"x\ny"))]);
        check("A=`it's`\nB=\"a \\\" # b\"", &[Ok(("A", "it's")), Ok(("B", "a \\\" # b"))]);
        check("A=1\nA=2", &[Ok(("A", "1")), Ok(("A", "2"))]);
        check("no line\nA=1\n=2\n\"A=1\"", &[Err(1), Ok(("A", "1")), Err(3), Err(4)]);
        check("Ä=ö # ü", &[Ok(("Ä", "ö"))]);
        check("A=\"\nB='\nC=x'y", &[Ok(("A", "\"")), Ok(("B", "'")), Ok(("C", "x'y"))]);
    }

    #[test]
    fn substitutes_nothing() {
        for value in ["$PATH", "${PATH}", "a$b", "$$", "\\$PATH", "${PATH:-x}"] {
            check(
                &format!("A={value}\nB='{value}'\nC=\"{value}\""),
                &[Ok(("A", value)), Ok(("B", value)), Ok(("C", value))],
            );
        }
    }
}
