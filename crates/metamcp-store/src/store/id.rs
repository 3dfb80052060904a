//! Ids of rows.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// A new id, greater than those created earlier (RFC 9562, version 7), which keeps indexes small.
pub fn new_id() -> Uuid {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system has random numbers");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
