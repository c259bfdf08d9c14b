//! One GET: timeouts, redirects, ranges, and what the headers say. Retrying and writing are `download`'s.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use ureq::http::{HeaderMap, Uri, uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::digest::Expected;
use super::download::DownloadError;

/// Bounds of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To find the host, again to connect to it, and again to the head of its answer.
    pub connect: Duration,
    /// Without a single byte.
    pub stall: Duration,
    /// Answers that only point elsewhere, in a row.
    pub redirects: u32,
    /// Failed attempts in a row, without progress between them.
    pub attempts: u32,
    /// Before the second attempt; doubles with every further one.
    pub first_delay: Duration,
    /// Most that is waited before an attempt, whatever the server asks.
    pub longest_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(30),
            redirects: 5,
            attempts: 6,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of root certificates cannot be used.
    #[error("cannot use the root certificates in {path}")]
    Certificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: io::Error,
    },
}

/// Makes requests; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    pub(super) limits: Limits,
}

/// An answer whose body has not been read.
pub(super) struct Answer {
    /// 200, 206 or 416; others are errors.
    pub status: u16,
    /// First byte of a partial body.
    pub start: Option<u64>,
    /// Length of the whole file.
    pub total: Option<u64>,
    /// The digest that the hub's own answer states, even where the file itself is elsewhere.
    pub digest: Option<Expected>,
    /// The bytes.
    pub body: Box<dyn Read>,
}

impl Client {
    /// A client that trusts Mozilla's root certificates, or those in the PEM file `roots` instead.
    ///
    /// # Errors
    /// That file cannot be used.
    pub fn new(limits: Limits, roots: Option<&Path>) -> Result<Self, ClientError> {
        let tls = match roots {
            None => TlsConfig::default(),
            Some(path) => TlsConfig::builder().root_certs(certificates(path)?).build(),
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here, to see the headers of each answer.
            .max_redirects(0)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.connect))
            .timeout_per_read(Some(limits.stall))
            .user_agent(concat!("convoy/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Ok(Self { agent: config.into(), limits })
    }

    /// Asks for `url` from byte `from` on. `token` goes to the host of `url` alone.
    pub(super) fn get(&self, url: &str, token: Option<&str>, from: u64) -> Result<Answer, DownloadError> {
        let first: Uri = url.parse().map_err(|_| DownloadError::Address { url: url.into() })?;
        let mut at = first.clone();
        let mut digest = None;
        for _ in 0..=self.limits.redirects {
            let token = token.filter(|_| same_host(&first, &at));
            let answer = self.request(&at, token, from)?;
            digest = digest.or_else(|| linked_digest(answer.headers()));
            if !answer.status().is_redirection() {
                return finish(&at, answer, digest, from);
            }
            let location = text(answer.headers(), "location").unwrap_or_default();
            let next = resolve(&at, location);
            at = next
                .ok_or_else(|| DownloadError::Location { url: at.to_string(), location: location.into() })?;
        }
        Err(DownloadError::Redirects { url: url.into(), limit: self.limits.redirects })
    }

    fn request(&self, at: &Uri, token: Option<&str>, from: u64) -> Result<Response, DownloadError> {
        let mut request = self.agent.get(at.clone()).header("accept-encoding", "identity");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request
            .call()
            .map_err(|source| DownloadError::Unreachable { url: at.to_string(), source: Box::new(source) })
    }
}

type Response = ureq::http::Response<ureq::Body>;

fn certificates(path: &Path) -> Result<RootCerts, ClientError> {
    let fail = |source| ClientError::Certificates { path: path.display().to_string(), source };
    let pem = fs::read(path).map_err(fail)?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| fail(io::Error::other(error)))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(fail(io::Error::other("there are none")));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn finish(at: &Uri, answer: Response, digest: Option<Expected>, from: u64) -> Result<Answer, DownloadError> {
    let status = answer.status().as_u16();
    let headers = answer.headers();
    let (start, total) = match status {
        200 => (None, text(headers, "content-length").and_then(|length| length.parse().ok())),
        206 | 416 if from > 0 => text(headers, "content-range").map_or((None, None), content_range),
        _ => {
            let retry_after = text(headers, "retry-after").and_then(delay);
            return Err(DownloadError::Status { url: at.to_string(), status, retry_after });
        }
    };
    Ok(Answer { status, start, total, digest, body: Box::new(answer.into_body().into_reader()) })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The hub answers for a large file with its SHA-256 as `X-Linked-ETag`, and sends the client elsewhere.
fn linked_digest(headers: &HeaderMap) -> Option<Expected> {
    let tag = text(headers, "x-linked-etag")?.trim_matches('"');
    if tag.len() == 64 { tag.parse().ok() } else { None }
}

/// First byte and total length of `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10` (RFC 9110, section 14.4).
fn content_range(value: &str) -> (Option<u64>, Option<u64>) {
    let Some((range, total)) = value.strip_prefix("bytes ").and_then(|value| value.split_once('/')) else {
        return (None, None);
    };
    let start = range.split_once('-').and_then(|(start, _)| start.parse().ok());
    (start, total.parse().ok())
}

/// `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
fn delay(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

fn same_host(a: &Uri, b: &Uri) -> bool {
    (a.scheme(), a.authority()) == (b.scheme(), b.authority())
}

/// Where `location` points, seen from `base`. A redirect away from TLS is not followed.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().filter(|location| !location.is_empty())?;
    let scheme = base.scheme_str()?;
    let target: Uri = if location.contains("://") {
        location.parse().ok()?
    } else if location.starts_with("//") {
        format!("{scheme}:{location}").parse().ok()?
    } else {
        let path = match location.starts_with('/') {
            true => location.to_owned(),
            false => format!("{}/{location}", base.path().rsplit_once('/')?.0),
        };
        Uri::builder()
            .scheme(scheme)
            .authority(base.authority()?.as_str())
            .path_and_query(path)
            .build()
            .ok()?
    };
    let (https, http) = (uri::Scheme::HTTPS, uri::Scheme::HTTP);
    let safe =
        target.scheme() == Some(&https) || (target.scheme() == Some(&http) && base.scheme() == Some(&http));
    (safe && target.host().is_some()).then_some(target)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_and_never_leave_tls() {
        let base: Uri = "https://hub.example/a/b?c=d".parse().unwrap();
        let resolved = |location| resolve(&base, location).map(|uri| uri.to_string());
        assert_eq!(resolved("/x/y?z").as_deref(), Some("https://hub.example/x/y?z"));
        assert_eq!(resolved("x#part").as_deref(), Some("https://hub.example/a/x"));
        assert_eq!(resolved("//cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(resolved("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for location in ["", "#", "http://cdn.example/x", "file:///etc/passwd", "ftp://x/y", "https://"] {
            assert_eq!(resolved(location), None, "{location}");
        }
    }

    #[test]
    fn ranges_and_delays_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), (Some(5), Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), (Some(5), None));
        assert_eq!(content_range("bytes */10"), (None, Some(10)));
        assert_eq!(content_range("lines 5-9/10"), (None, None));
        assert_eq!(delay(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(delay("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(delay(&later).is_some_and(|delay| delay > Duration::from_secs(90)));
        assert_eq!(delay("soon"), None);
    }

    #[test]
    fn only_a_whole_digest_in_the_hubs_header_counts() {
        let headers =
            |value: &str| HeaderMap::from_iter([("x-linked-etag".parse().unwrap(), value.parse().unwrap())]);
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(linked_digest(&headers(&format!("\"{digest}\""))).unwrap().to_string(), digest);
        assert_eq!(linked_digest(&headers("\"0123456789abcdef\"")), None);
    }
}
