//! Swagger UI, embedded in the binary. The page loads nothing from elsewhere.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response};

use super::problem::Problem;

/// A file of the page, compressed with gzip if `is_packed`.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    is_packed: bool,
    bytes: &'static [u8],
}

const ASSETS: [Asset; 3] = [
    Asset {
        name: "swagger-ui-bundle.js",
        media_type: "text/javascript; charset=utf-8",
        is_packed: true,
        bytes: include_bytes!("../../vendor/swagger-ui/swagger-ui-bundle.js.gz"),
    },
    Asset {
        name: "swagger-ui.css",
        media_type: "text/css; charset=utf-8",
        is_packed: true,
        bytes: include_bytes!("../../vendor/swagger-ui/swagger-ui.css.gz"),
    },
    Asset {
        name: "start.js",
        media_type: "text/javascript; charset=utf-8",
        is_packed: false,
        bytes: include_bytes!("swagger/start.js"),
    },
];

const PAGE: &[u8] = include_bytes!("swagger/index.html");

/// Allows scripts and styles of this origin only, so that nothing in the document can run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

pub fn page() -> Response<Bytes> {
    let mut response = response("text/html; charset=utf-8", PAGE);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Returns a file of the page. Compressed files are sent as they are, because every browser accepts gzip.
pub fn asset(name: &str) -> Result<Response<Bytes>, Problem> {
    let found = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(|| Problem::not_found("file"))?;
    let mut response = response(found.media_type, found.bytes);
    if found.is_packed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

fn response(media_type: &'static str, bytes: &'static [u8]) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(bytes));
    let headers: [(HeaderName, &'static str); 2] = [(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-cache")];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
