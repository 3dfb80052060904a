//! Back-off between retries: doubled each time, bounded, with jitter.

use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// An endpoint that is back is noticed within half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// `BACKOFF_MIN` doubled this often exceeds `BACKOFF_MAX`.
const DOUBLINGS_MAX: u32 = 7;

/// The delay after `tries` failures. Up to half of it is random, so that clients which lost the same endpoint
/// do not all return at once.
pub fn backoff_delay(tries: u32) -> Duration {
    let mut random = [0];
    // Without a random byte the delay still works for a single client.
    let _ = getrandom::fill(&mut random);
    delay(tries, random[0])
}

fn delay(tries: u32, random: u8) -> Duration {
    let longest = BACKOFF_MIN.saturating_mul(1 << tries.min(DOUBLINGS_MAX)).min(BACKOFF_MAX);
    longest / 2 + longest * u32::from(random) / (2 * u32::from(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound() {
        let check = |tries, random, expected_ms| {
            assert_eq!(delay(tries, random).as_millis(), expected_ms, "{tries} {random}");
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
