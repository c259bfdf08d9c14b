//! Reads request bodies within a size and a time, and tells what kind of body was announced.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    HeaderMap, StatusCode,
    body::{Body as _, Incoming},
    header::CONTENT_TYPE,
};

use super::reply::Failure;
use crate::{config::HttpConfig, trace::Stretch};

/// Unread bodies up to this size are read and dropped before the answer, which keeps the connection usable: the bytes are
/// mostly in the socket already, and a reconnect costs the client more.
const DISCARD_BYTES: usize = 1 << 20;

/// Longest wait for such a body.
const DISCARD_TIME: Duration = Duration::from_millis(250);

/// A request's body, which a handler may or may not come to read.
pub struct Body {
    incoming: Option<Incoming>,
    read: Option<Stretch>,
}

impl Body {
    /// A body of which nothing has been read.
    pub fn new(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), read: None }
    }

    /// The whole body, at most `limits.max_body` bytes within `limits.read_timeout`; empty when read before.
    ///
    /// # Errors
    /// 413 before a byte is read when the announced length is too large, or as soon as the limit is passed; 408 when
    /// the client is too slow; 400 when it breaks off.
    pub async fn read(&mut self, limits: &HttpConfig) -> Result<Bytes, Failure> {
        let Some(body) = self.incoming.take() else { return Ok(Bytes::new()) };
        let started = Instant::now();
        if body.size_hint().lower() > limits.max_body as u64 {
            return Err(too_large(limits.max_body));
        }
        let collected = Limited::new(body, limits.max_body).collect();
        match tokio::time::timeout(limits.read_timeout, collected).await {
            Ok(Ok(collected)) => {
                self.read = Some(Stretch { began: started, took: started.elapsed() });
                Ok(collected.to_bytes())
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limits.max_body)),
            Ok(Err(error)) => Err(broken_off(&error.to_string())),
            Err(_elapsed) => Err(too_slow(limits.read_timeout)),
        }
    }

    /// When and for how long it was read, once it was read whole.
    pub fn stretch(&self) -> Option<Stretch> {
        self.read
    }

    /// Reads and drops a small body that nobody read; leaves a large one alone.
    ///
    /// Returns whether the connection can carry another request.
    pub async fn discard(self) -> bool {
        let Some(body) = self.incoming else { return true };
        if body.is_end_stream() {
            return true;
        }
        if body.size_hint().lower() > DISCARD_BYTES as u64 {
            return false;
        }
        let collected = Limited::new(body, DISCARD_BYTES).collect();
        matches!(tokio::time::timeout(DISCARD_TIME, collected).await, Ok(Ok(_)))
    }
}

fn too_large(limit: usize) -> Failure {
    let message = format!("the body is larger than the limit of {limit} bytes (--max-body-mib)");
    Failure { close: true, ..Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message) }
}

fn too_slow(limit: Duration) -> Failure {
    let message = format!("the body did not arrive within {} ms", limit.as_millis());
    Failure { close: true, ..Failure::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message) }
}

fn broken_off(error: &str) -> Failure {
    Failure { close: true, ..Failure::invalid(format!("the body could not be read: {error}")) }
}

/// The media type without its parameters, in lower case.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

/// Whether the body was announced as JSON, whatever its charset parameter says.
pub fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).as_deref() == Some("application/json")
}
