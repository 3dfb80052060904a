//! What all fuzz targets share: decisions taken from bytes, and the runner that feeds a target in unit tests.
//!
//! The bodies of the targets are functions of the module that they exercise. `fuzz/` runs them with libFuzzer, and unit
//! tests run them over the corpora in `fuzz/corpus`.

use std::fs;
use std::path::Path;

/// Takes decisions from bytes, so that a fuzzer that changes a byte changes one decision. All are the first possible one
/// once the bytes are used up.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Up to `count` of the next bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = if bound > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (wide | usize::from(self.byte())) % bound
    }

    /// One of the items, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// True once in `times`, and not at the end.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}

/// Changes a valid text, such as a token, in up to three decided places. It may stay as it is.
pub fn alter(valid: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut altered = valid.to_vec();
    for _ in 0..choices.below(4) {
        let at = choices.below(altered.len() + 1);
        match choices.below(5) {
            0 if at < altered.len() => altered[at] = choices.byte(),
            1 if at < altered.len() => altered[at] ^= 1 << choices.below(8),
            2 if at < altered.len() => _ = altered.remove(at),
            3 => altered.truncate(at),
            _ => altered.insert(at, choices.byte()),
        }
    }
    altered
}

/// A sequence of numbers that its seed determines (`SplitMix64`, Steele, Lea and Flood, 2014).
pub struct SeededNumbers(pub u64);

impl SeededNumbers {
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.next_number() % bound).expect("it is below a usize")
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next_number().to_le_bytes()[..piece.len()]);
        }
    }
}

/// Runs the body of a target with each file of its corpus, and with inputs made from them, the same in every run.
///
/// # Panics
/// If the body does, after it has printed the input; and if the corpus is empty.
pub fn run_corpus(target: &str, body: impl Fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "fuzz/corpus/{target} is empty");
    for input in &corpus {
        run_input(input, &body);
    }
    let mut numbers = SeededNumbers(0);
    for _ in 0..MUTATED_INPUTS {
        run_input(&mutate(&corpus, &mut numbers), &body);
    }
}

/// The files of a corpus, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file of a corpus can be read")).collect()
}

fn run_input(input: &[u8], body: impl Fn(&[u8])) {
    struct FailedInput<'a>(&'a [u8]);

    impl Drop for FailedInput<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input was b\"{}\"", self.0.escape_ascii());
            }
        }
    }

    let _failed = FailedInput(input);
    body(input);
}

/// Changes an input of the corpus in a few places.
fn mutate(corpus: &[Vec<u8>], numbers: &mut SeededNumbers) -> Vec<u8> {
    let mut input = corpus[numbers.below(corpus.len())].clone();
    for _ in 0..=numbers.below(CHANGES_MAX) {
        let at = numbers.below(input.len() + 1);
        let rest = input.len() - at;
        match numbers.below(6) {
            0 if rest > 0 => input[at] = MEANINGFUL[numbers.below(MEANINGFUL.len())],
            1 if rest > 0 => input[at] ^= 1 << numbers.below(8),
            2 if rest > 0 => _ = input.drain(at..at + 1 + numbers.below(rest)),
            3 => input.insert(at, MEANINGFUL[numbers.below(MEANINGFUL.len())]),
            4 if rest > 0 && input.len() < INPUT_BYTES_MAX => {
                let piece = input[at..at + 1 + numbers.below(rest)].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = &corpus[numbers.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[numbers.below(other.len() + 1)..]);
            }
        }
    }
    input
}

/// Bytes that one of the parsers gives a meaning.
const MEANINGFUL: &[u8] = b"{}[]:;,.\"\\/ue0129afE+-=_ \t\r\n\x00\x1f\x7f\x80\xc3\xef\xbb\xbf\xed\xa0\xff";

/// So many take about a second where a run of the body takes the longest, without optimization.
const MUTATED_INPUTS: usize = 500;

const CHANGES_MAX: usize = 4;

/// Inputs do not grow beyond about this length.
const INPUT_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_end_with_the_first_possible_one() {
        let mut choices = Choices::new(&[7, 1, 2, 9, 9]);
        assert_eq!((choices.byte(), choices.below(1000), choices.take(9)), (7, 258, &[9, 9][..]));
        assert!(choices.is_empty() && choices.pick(&[5, 6]) == 5 && !choices.once_in(2));
    }

    #[test]
    fn a_seed_determines_the_inputs() {
        let corpus = [b"abc".to_vec(), Vec::new()];
        let inputs = |seed| {
            let mut numbers = SeededNumbers(seed);
            (0..100).map(|_| mutate(&corpus, &mut numbers)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        // The first number that the reference implementation gives for the seed 0.
        assert_eq!(SeededNumbers(0).next_number(), 0xe220_a839_7b1d_cdaf);
    }
}
