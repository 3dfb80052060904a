//! The bodies of the fuzz targets for requests of HTTP/1.1. Each panics if an invariant does not hold.

mod chunked_request;
mod requests;

pub use chunked_request::{chunked_request, parse_strict_body};
pub use requests::requests;

#[test]
fn corpora() {
    crate::fuzz::run_corpus("chunked_request", chunked_request);
    crate::fuzz::run_corpus("requests", requests);
}
