//! One address to one partial file: resumes what an earlier run left, retries what may pass, and checks the digest.
//!
//! A partial file is gone on with only where a digest can tell in the end that the two halves belong together. What
//! becomes of the finished file is the caller's business.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::digest::{Expected, Hasher, Sha};
use super::http::{Answer, Client};
use super::partial::Partial;

pub use super::http::{Client as HttpClient, ClientError, Limits};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// So many new bytes make up for earlier failures.
const PROGRESS: u64 = 1 << 20;
/// A file whose length nobody states may have at most so many bytes.
const MAX_BYTES: u64 = 8 << 30;

/// Why a file was not downloaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DownloadError {
    /// The address is none.
    #[error("{url:?} is no address")]
    Address { url: String },
    /// No answer came.
    #[error("cannot reach {url}")]
    Unreachable { url: String, source: Box<ureq::Error> },
    /// The answer is a refusal.
    #[error("{url} answers {status}{}", hint(*status))]
    Status { url: String, status: u16, retry_after: Option<Duration> },
    /// The answers only point elsewhere.
    #[error("{url} leads to more than {limit} redirects")]
    Redirects { url: String, limit: u32 },
    /// A redirect to no usable place.
    #[error("{url} redirects to {location:?}, which is not followed")]
    Location { url: String, location: String },
    /// The connection broke or stalled.
    #[error("downloading {url} broke off after {received} bytes")]
    Broken { url: String, received: u64, source: io::Error },
    /// The server closed the connection too early.
    #[error("downloading {url} ended after {received} of {expected} bytes")]
    Truncated { url: String, received: u64, expected: u64 },
    /// The file has another length than it must.
    #[error("{url} has {found} bytes, not {expected}")]
    Size { url: String, expected: u64, found: u64 },
    /// The file is not the one asked for.
    #[error("the SHA-256 of what {url} sent is {found}, not {expected}; it was thrown away")]
    Digest { url: String, expected: Expected, found: Sha },
    /// The partial file could not be written or read.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": access needs a token; set HF_TOKEN and accept the model's terms on the hub",
        404 => ": there is no such file",
        429 => ": too many requests",
        _ => "",
    }
}

impl DownloadError {
    /// Whether another attempt may succeed.
    pub fn transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Truncated { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether this machine, not the network, is at fault.
    pub fn local(&self) -> bool {
        matches!(self, Self::Write { .. })
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What happens during a download.
#[derive(Debug)]
pub enum Event<'a> {
    /// So many bytes are there, of so many if that is known.
    Progress {
        /// Bytes in the partial file.
        received: u64,
        /// Bytes of the whole.
        total: Option<u64>,
    },
    /// An attempt failed and the next one follows.
    Retrying {
        /// Why.
        error: &'a DownloadError,
        /// After how long.
        delay: Duration,
    },
    /// The server or the digest made the bytes so far useless.
    Restarting,
}

/// What to download.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The address.
    pub url: &'a str,
    /// Bearer token for its host.
    pub token: Option<&'a str>,
    /// What its SHA-256 must be or begin with; where this is `None`, what the hub's answer says.
    pub sha256: Option<&'a Expected>,
    /// Its length.
    pub bytes: Option<u64>,
}

/// Downloads into `partial`, going on where it ends.
///
/// # Errors
/// Whatever did not pass after [`Limits::attempts`]. The host was never reached: the first failure already.
pub(super) fn download(
    client: &Client,
    request: Request<'_>,
    partial: &mut Partial,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Sha, DownloadError> {
    let mut transfer = Transfer {
        client,
        request,
        partial,
        report,
        hasher: Hasher::default(),
        received: 0,
        total: None,
        digest: request.sha256.cloned(),
        inherited: false,
        reached: false,
    };
    transfer.inherit()?;
    transfer.run()
}

struct Transfer<'a> {
    client: &'a Client,
    request: Request<'a>,
    partial: &'a mut Partial,
    report: &'a mut dyn FnMut(Event<'_>),
    /// Of the bytes received.
    hasher: Hasher,
    received: u64,
    total: Option<u64>,
    digest: Option<Expected>,
    /// Some of the bytes come from an earlier run.
    inherited: bool,
    /// The server has answered.
    reached: bool,
}

/// What an attempt came to, when it did not fail.
enum Attempt {
    Complete,
    /// The bytes so far were dropped; ask for all.
    Again,
}

impl Transfer<'_> {
    fn run(mut self) -> Result<Sha, DownloadError> {
        let mut failures = 0;
        let mut mark = self.received;
        loop {
            let error = match self.attempt() {
                Ok(Attempt::Complete) => match self.check()? {
                    Some(sha) => return Ok(sha),
                    None => continue,
                },
                Ok(Attempt::Again) => continue,
                Err(error) => error,
            };
            if self.received >= mark.saturating_add(PROGRESS) {
                failures = 0;
            }
            mark = self.received;
            failures += 1;
            let delay = error.retry_after().unwrap_or_else(|| backoff(&self.client.limits, failures));
            let hopeless = matches!(error, DownloadError::Unreachable { .. }) && !self.reached;
            let limits = self.client.limits;
            if !error.transient() || hopeless || failures >= limits.attempts || delay > limits.longest_delay {
                return Err(error);
            }
            (self.report)(Event::Retrying { error: &error, delay });
            thread::sleep(delay);
        }
    }

    /// Takes over what an earlier run left in the partial file.
    fn inherit(&mut self) -> Result<(), DownloadError> {
        let length = self.partial.length().map_err(|source| self.write_error(source))?;
        if length == 0 {
            return Ok(());
        }
        let file = self.partial.file();
        let hashed = file.rewind().and_then(|()| self.hasher.update_from(file));
        self.received = hashed.map_err(|source| self.write_error(source))?;
        self.inherited = true;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), DownloadError> {
        (self.report)(Event::Restarting);
        self.partial.clear().map_err(|source| self.write_error(source))?;
        self.hasher = Hasher::default();
        (self.received, self.total, self.inherited) = (0, None, false);
        Ok(())
    }

    fn attempt(&mut self) -> Result<Attempt, DownloadError> {
        let answer = self.client.get(self.request.url, self.request.token, self.received)?;
        self.reached = true;
        if self.digest.is_none() {
            self.digest.clone_from(&answer.digest);
        }
        let fits = answer.status == 200 || answer.start == Some(self.received);
        let same_file = self.total.is_none() || answer.total == self.total;
        let complete = answer.status == 416 && answer.total == Some(self.received);
        let provable = !self.inherited || self.digest.is_some();
        if self.received > 0 && !(provable && same_file && (fits || complete)) {
            self.restart()?;
            return Ok(Attempt::Again);
        }
        if complete {
            return Ok(Attempt::Complete);
        }
        if self.received > 0 && answer.status == 200 {
            // The server sends everything again.
            self.restart()?;
        }
        self.total = answer.total;
        self.check_size(answer.total)?;
        self.copy(answer)?;
        Ok(Attempt::Complete)
    }

    fn check_size(&self, found: Option<u64>) -> Result<(), DownloadError> {
        let limit = self.request.bytes.unwrap_or(MAX_BYTES);
        match found {
            Some(found) if found > limit || self.request.bytes.is_some_and(|expected| found != expected) => {
                Err(DownloadError::Size { url: self.request.url.into(), expected: limit, found })
            }
            _ => Ok(()),
        }
    }

    fn copy(&mut self, mut answer: Answer) -> Result<(), DownloadError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match answer.body.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => self.append(&chunk[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let url = self.request.url.to_owned();
                    return Err(DownloadError::Broken { url, received: self.received, source });
                }
            }
        }
        match self.total.or(self.request.bytes) {
            Some(expected) if self.received < expected => {
                let url = self.request.url.to_owned();
                Err(DownloadError::Truncated { url, received: self.received, expected })
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        let received = self.received + bytes.len() as u64;
        let limit = self.total.or(self.request.bytes).unwrap_or(MAX_BYTES);
        if received > limit {
            return Err(DownloadError::Size {
                url: self.request.url.into(),
                expected: limit,
                found: received,
            });
        }
        if let Err(source) = self.partial.write_all(bytes) {
            return Err(self.write_error(source));
        }
        self.hasher.update(bytes);
        self.received = received;
        (self.report)(Event::Progress { received, total: self.total });
        Ok(())
    }

    /// The digest of the whole; `None` when an inherited half made it wrong and all is asked for again.
    fn check(&mut self) -> Result<Option<Sha>, DownloadError> {
        self.check_size(Some(self.received))?;
        let found = self.hasher.clone().finish();
        match &self.digest {
            Some(expected) if !expected.fits(found) => {
                if self.inherited {
                    self.restart()?;
                    return Ok(None);
                }
                let (url, expected) = (self.request.url.to_owned(), expected.clone());
                Err(DownloadError::Digest { url, expected, found })
            }
            _ => Ok(Some(found)),
        }
    }

    fn write_error(&self, source: io::Error) -> DownloadError {
        DownloadError::Write { path: self.partial.path().into(), source }
    }
}

/// Doubles with every failure; a random half of it spreads the clients of a server that was down.
fn backoff(limits: &Limits, failures: u32) -> Duration {
    let doubled = limits.first_delay.saturating_mul(1 << (failures - 1).min(16));
    let random = RandomState::new().build_hasher().finish() as u32;
    let delay = doubled.min(limits.longest_delay);
    delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let limits = Limits { longest_delay: Duration::from_secs(3), ..Limits::default() };
        for (failures, most) in [(1, 500), (2, 1000), (3, 2000), (4, 3000), (40, 3000)] {
            let delay = backoff(&limits, failures).as_millis();
            assert!((most / 2..=most).contains(&delay), "{failures}: {delay}");
        }
    }
}
