//! The URL under load: parsed, checked and taken apart. Nothing is resolved or opened here.

use std::str::FromStr;

use hyper::{
    Uri,
    header::HeaderValue,
    http::uri::{PathAndQuery, Scheme},
};
use thiserror::Error;

/// Why a URL cannot be put under load.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// TLS is not spoken here.
    #[error(
        "{0}: https is not supported, its cost would be the generator's; use http:// behind the TLS proxy"
    )]
    Https(String),
    /// Another scheme, or none.
    #[error("{0}: a URL begins with http://, as in http://localhost:8080/faq")]
    Scheme(String),
    /// No URL at all.
    #[error("{0}: no URL ({1}); write it like http://localhost:8080/faq")]
    Syntax(String, String),
}

/// An `http://` URL.
#[derive(Debug, Clone)]
pub struct Target {
    url: String,
    host: String,
    port: u16,
    authority: HeaderValue,
    path: PathAndQuery,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        let syntax = |error: String| TargetError::Syntax(url.to_owned(), error);
        if url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(TargetError::Https(url.to_owned()));
        }
        if !url.contains("://") {
            return Err(TargetError::Scheme(url.to_owned()));
        }
        let uri: Uri =
            url.parse().map_err(|error: hyper::http::uri::InvalidUri| syntax(error.to_string()))?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(TargetError::Scheme(url.to_owned()));
        }
        let authority = uri.authority().ok_or_else(|| syntax("it names no host".to_owned()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(syntax("a host and a port are wanted, without a user".to_owned()));
        }
        Ok(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|error| syntax(error.to_string()))?,
            path: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
        })
    }
}

impl Target {
    /// The URL as it was written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Path without the query; `/` where the URL has none.
    pub fn path(&self) -> &str {
        self.path.path()
    }

    /// Name or address of the host, IPv6 without brackets, and the port.
    pub(super) fn endpoint(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The `Host` header.
    pub(super) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// The URL's own path and query, or `route` where it has none.
    pub(super) fn path_or(&self, route: &'static str) -> Uri {
        match self.path() {
            "/" => Uri::from_static(route),
            _ => Uri::from(self.path.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_url_apart() {
        let target: Target = "http://[::1]:8080/classify?top=3".parse().unwrap();
        assert_eq!(target.endpoint(), ("::1", 8080));
        assert_eq!((target.authority().as_bytes(), target.path()), (&b"[::1]:8080"[..], "/classify"));
        assert_eq!(target.path_or("/faq"), "/classify?top=3");
        let bare: Target = "http://convoy".parse().unwrap();
        assert_eq!((bare.endpoint(), bare.path()), (("convoy", 80), "/"));
        assert_eq!(bare.path_or("/faq"), "/faq");
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        let refused = |url: &str| url.parse::<Target>().unwrap_err();
        assert!(matches!(refused("HTTPS://convoy/faq"), TargetError::Https(_)));
        assert!(matches!(refused("localhost:8080/faq"), TargetError::Scheme(_)));
        assert!(matches!(refused("ftp://convoy/faq"), TargetError::Scheme(_)));
        assert!(matches!(refused("http:///faq"), TargetError::Syntax(..)));
        assert!(matches!(refused("http://me@convoy/faq"), TargetError::Syntax(..)));
        assert!(matches!(refused("http://a b/"), TargetError::Syntax(..)));
    }
}
