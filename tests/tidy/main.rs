//! The rules of this repository that a compiler does not check, read from the sources as text. Each failure names file
//! and line, and says what to do.

mod deploy;
mod graph;
mod layers;
mod rules;
mod self_check;
mod size;
mod source;
mod supply;
mod words;

/// Every folder with Rust sources.
const ALL: [&str; 7] = ["src", "crates", "tests", "tools", "bench", "loadtest", "fuzz"];

#[track_caller]
fn none(found: &[String], what_to_do: &str) {
    assert!(found.is_empty(), "{what_to_do}\n  {}", found.join("\n  "));
}
