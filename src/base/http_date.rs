/// A time as the field `Date` has it (RFC 9110, section 5.6.7): always as long.
pub type HttpDate = [u8; 29];

const DAYS: &[u8; 21] = b"SunMonTueWedThuFriSat";
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// Seconds since the Unix epoch as `Sun, 06 Nov 1994 08:49:37 GMT`. Days to years as in H. Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", for years before 10000.
pub fn http_date(unix_s: u64) -> HttpDate {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Eras of 400 years, which begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let mut date = *b"   , 00     0000 00:00:00 GMT";
    // The epoch was a Thursday.
    put_name(&mut date[..3], DAYS, (days + 4) % 7);
    put_name(&mut date[8..11], MONTHS, month);
    put_digits(&mut date[5..7], day);
    put_digits(&mut date[12..16], year);
    put_digits(&mut date[17..19], second / 3600);
    put_digits(&mut date[20..22], second / 60 % 60);
    put_digits(&mut date[23..25], second % 60);
    date
}

fn put_name(place: &mut [u8], names: &[u8], number: u64) {
    let names = names.chunks_exact(place.len());
    // There are few, and each number is below that.
    let number = usize::try_from(number).unwrap_or(0);
    names.skip(number).take(1).for_each(|name| place.copy_from_slice(name));
}

fn put_digits(place: &mut [u8], number: u64) {
    let mut rest = number;
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unix_s: u64, expected: &str) {
        assert_eq!(std::str::from_utf8(&http_date(unix_s)), Ok(expected), "{unix_s}");
    }

    #[test]
    fn dates() {
        check(0, "Thu, 01 Jan 1970 00:00:00 GMT");
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT");
        check(951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT");
        check(951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT");
        check(951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT");
        check(1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT");
        check(4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT");
        check(253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
