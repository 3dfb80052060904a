//! The value of the field `Date` (RFC 9110, section 5.6.7).

use std::io::Write as _;
use std::time::SystemTime;

use httpdate::HttpDate;

/// An HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`. The length is fixed.
pub type Date = [u8; 29];

/// Formats the current time.
pub fn now() -> Date {
    let mut date = [b' '; 29];
    let mut rest = &mut date[..];
    // The array has exactly the length of a date.
    let _ = write!(rest, "{}", HttpDate::from(SystemTime::now()));
    date
}
