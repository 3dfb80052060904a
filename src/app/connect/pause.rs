//! How long to wait before something is tried again.

use std::time::Duration;

/// The first wait; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// An endpoint that is back is noticed within half a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The first wait doubled so often is over the longest.
const DOUBLINGS_MAX: u32 = 7;

/// After so many tries in vain. Up to half of it is left to chance, so that many who lost the same endpoint
/// do not come back together.
pub fn pause(tries: u32) -> Duration {
    let mut random = [0];
    // Without chance it is as good for one.
    let _ = getrandom::fill(&mut random);
    part(tries, random[0])
}

fn part(tries: u32, random: u8) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << tries.min(DOUBLINGS_MAX)).min(PAUSE_MAX);
    whole / 2 + whole * u32::from(random) / (2 * u32::from(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound() {
        let check = |tries, random, expected_ms| {
            assert_eq!(part(tries, random).as_millis(), expected_ms, "{tries} {random}");
        };
        check(0, 0, 125);
        check(0, u8::MAX, 250);
        check(1, u8::MAX, 500);
        check(6, u8::MAX, 16_000);
        check(7, u8::MAX, 30_000);
        check(7, 0, 15_000);
        check(u32::MAX, u8::MAX, 30_000);
    }
}
