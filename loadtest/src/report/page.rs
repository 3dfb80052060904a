//! A self-contained HTML page: the style, light and dark, and the elements of reports. It is well-formed XML, so that any
//! parser finds an error in it.

use std::fmt::Write;

/// Escapes text for an element or an attribute. Characters that XML does not allow become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Renders the page around a body.
pub fn render_page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Renders a key figure with its name and a note.
pub fn render_tile(value: &str, name: &str, more: &str) -> String {
    format!(
        "<div class=\"tile\"><span class=\"name\">{}</span><strong>{}</strong><span class=\"more\">{}</span></div>\n",
        escape(name),
        escape(value),
        escape(more)
    )
}

/// Renders a section with a heading, and a sentence about what it shows.
pub fn render_section(heading: &str, about: &str, content: &str) -> String {
    let about =
        if about.is_empty() { String::new() } else { format!("<p class=\"about\">{}</p>\n", escape(about)) };
    format!("<section>\n<h2>{}</h2>\n{about}{content}</section>\n", escape(heading))
}

/// Renders a table. The first column is text, the others are numbers.
pub fn render_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for cell in head {
        // Writing to a String never fails.
        let _ = write!(out, "<th>{}</th>", escape(cell));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

const STYLE: &str = r":root {
  --page: #f6f7f9; --card: #ffffff; --text: #1a1d21; --soft: #5b636d; --line: #dfe3e8; --hit: rgba(20, 40, 80, 0.06);
  --one: #0067a8; --two: #c24d00; --three: #6b7280; --good: #1b7f4b; --bad: #b4232a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2126; --text: #e8eaed; --soft: #a3abb5; --line: #353b43; --hit: rgba(255, 255, 255, 0.07);
    --one: #5bb5f0; --two: #f2a154; --three: #9aa3ad; --good: #58c48c; --bad: #f2787d;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 16px; margin: 0 0 4px; }
header p { margin: 6px 0 0; color: var(--soft); }
header code { overflow-wrap: anywhere; }
.verdict { display: inline-block; margin-top: 14px; padding: 4px 12px; border-radius: 99px; border: 1px solid; font-weight: 600; }
.verdict.good { color: var(--good); } .verdict.bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 14px; display: flex; flex-direction: column; }
.tile strong { font-size: 23px; font-variant-numeric: tabular-nums; }
.tile .name, .tile .more, .about { color: var(--soft); font-size: 13px; }
section { padding: 18px 20px; margin: 16px 0; }
.about { margin: 0 0 12px; max-width: 80ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr:last-child td { border-bottom: 0; }
pre { overflow-x: auto; margin: 8px 0 0; padding: 10px 12px; background: var(--page); border-radius: 6px; font-size: 13px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .name { fill: var(--text); }
.grid { stroke: var(--line); } .axis, .mark { stroke: var(--soft); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.line.one { stroke: var(--one); } .line.two { stroke: var(--two); } .line.three { stroke: var(--three); } .line.bad { stroke: var(--bad); }
.area { opacity: 0.12; stroke: none; }
.area.one, .dot.one { fill: var(--one); } .area.two, .dot.two { fill: var(--two); } .area.three, .dot.three { fill: var(--three); }
.area.bad, .dot.bad { fill: var(--bad); }
.hit { fill: transparent; } .hit:hover { fill: var(--hit); }
footer { color: var(--soft); font-size: 13px; margin-top: 24px; }
";
