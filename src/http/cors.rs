//! Which other origins' pages may ask from a browser (Fetch standard, "CORS protocol"). None unless the configuration names
//! them. Cookies are not part of it: a page sends its key or token in a header.

use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue,
        ORIGIN, VARY,
    },
    http::request::Parts,
};

use super::reply::Reply;

/// Headers that a page may set.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "accept, authorization, content-encoding, content-type, grpc-timeout, inference-header-content-length, traceparent, \
     tracestate, x-api-key, x-convoy-deadline-ms, x-convoy-priority",
);

/// Headers of an answer that a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "inference-header-content-length, retry-after, server-timing, www-authenticate, x-convoy-warning",
);

/// Seconds that a browser may remember a preflight: what Chromium caps it at.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// The origins whose pages may ask.
#[derive(Debug, Default)]
pub(super) struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// These, exactly; `*` is any.
    pub(super) fn new(origins: Vec<String>) -> Self {
        Self { origins }
    }

    /// The answer to a browser's question whether it may ask, where it may. It shows no key, and none is wanted for it.
    pub(super) fn preflight(&self, head: &Parts, methods: &'static str) -> Option<Reply> {
        let asks = head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        self.allowed(&head.headers).filter(|_| asks)?;
        let mut reply: Reply = Response::default();
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let headers = reply.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(reply)
    }

    /// Lets the page that sent `asked` read the answer with `answered`, where it may.
    pub(super) fn announce(&self, asked: Option<HeaderValue>, answered: &mut HeaderMap) {
        if let Some(origin) = asked {
            answered.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answered.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if !self.origins.is_empty() && !self.any() {
            answered.append(VARY, HeaderValue::from_static("origin"));
        }
    }

    /// What to tell the page that sent `headers`, where it may ask: its origin, or that any may.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        if self.any() {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    fn any(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }
}
