//! The pages for people, each one document without anything to fetch: markup, style and script lie beside this file and are
//! part of the binary. What they show they ask of the same routes as every other client.

mod accept;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, VARY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use sha2::{Digest, Sha256};

use super::{
    probes,
    reply::{self, Reply},
};

const BASE_STYLE: &str = include_str!("base.css");
const BASE_SCRIPT: &str = include_str!("base.js");

/// The convoy of three as the pages' icon.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
                    height='16' rx='4' fill='%23155fa8'/%3E%3Cpath d='M2 6h3v4H2zm4.5 0h3v4h-3zM11 6h3v4h-3z' \
                    fill='%23fff'/%3E%3C/svg%3E";

/// Every page.
pub struct Pages {
    home: Page,
    docs: Page,
}

impl Pages {
    /// Puts the pages together.
    pub fn new() -> Self {
        let script = concat!(include_str!("scenes.js"), "\n", include_str!("home.js"));
        let home = Page::new("convoy", include_str!("home.css"), include_str!("home.html"), script);
        let (style, markup) = (include_str!("docs.css"), include_str!("docs.html"));
        let docs = Page::new("convoy: interface", style, markup, include_str!("docs.js"));
        Self { home, docs }
    }

    /// `GET /docs`: the interface, to read and to try.
    pub(super) fn docs(&self, headers: &HeaderMap) -> Reply {
        self.docs.answer(headers)
    }

    /// `GET /`: the page for browsers, `Healthy` for everybody else.
    pub(super) fn root(&self, headers: &HeaderMap) -> Reply {
        let mut reply =
            if accept::prefers_html(headers) { self.home.answer(headers) } else { probes::root() };
        reply.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        reply
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self::new()
    }
}

/// A document and the headers that go with it.
struct Page {
    document: Bytes,
    tag: HeaderValue,
    policy: HeaderValue,
}

impl Page {
    /// A page of `markup`, with a policy under which its own style and script run and no others.
    fn new(title: &str, style: &str, markup: &str, script: &str) -> Self {
        let style = format!("{BASE_STYLE}{style}");
        let script = format!("\"use strict\";\n{BASE_SCRIPT}{script}");
        let document = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<link rel=\"icon\" \
             href=\"{ICON}\">\n<style>{style}</style>\n</head>\n<body>\n{markup}<script>{script}</script>\n</body>\n\
             </html>\n"
        );
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data: blob:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            digest(&script),
            digest(&style)
        );
        let header = |text: String| HeaderValue::try_from(text).expect("bug: base64 is visible ASCII");
        let tag = header(format!("\"{}\"", digest(&document)));
        Self { document: document.into(), tag, policy: header(policy) }
    }

    /// The page, or 304 where the client has this very one.
    fn answer(&self, headers: &HeaderMap) -> Reply {
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|value| value.split(',')).map(str::trim);
        let fresh =
            known.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || self.tag == tag);
        let (status, body) = if fresh {
            (StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            (StatusCode::OK, self.document.clone())
        };
        let mut reply = reply::with_type(status, "text/html; charset=utf-8", body);
        let headers = reply.headers_mut();
        headers.insert(ETAG, self.tag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        reply
    }
}

fn digest(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}
