//! The value of the field `Date` (RFC 9110, section 5.6.7).

use std::io::Write as _;
use std::time::SystemTime;

use httpdate::HttpDate;

/// `Sun, 06 Nov 1994 08:49:37 GMT`: always as long.
pub type Date = [u8; 29];

/// The time now, as `Date` has it.
pub fn now() -> Date {
    let mut date = [b' '; 29];
    let mut rest = &mut date[..];
    // It has room for just that.
    let _ = write!(rest, "{}", HttpDate::from(SystemTime::now()));
    date
}
