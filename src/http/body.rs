//! Reads request bodies within a size, a time and the budget of memory, and tells what kind of body was announced.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, StatusCode,
    body::{Body as _, Incoming},
    header::CONTENT_TYPE,
};
use tokio::time::{timeout, timeout_at};

use super::{Context, reply::Failure, routes::Ask};
use crate::{memory::Buffer, trace::Stretch};

/// Unread bodies up to this size are read and dropped before the answer, which keeps the connection usable: the bytes are
/// mostly in the socket already, and a reconnect costs the client more.
const DISCARD_BYTES: usize = 1 << 20;

/// Longest wait for such a body.
const DISCARD_TIME: Duration = Duration::from_millis(250);

/// Most bytes of a body that holds no photos, questions or tensors.
const SMALL: usize = 64 << 10;

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

    /// The whole body, at most `max_body` bytes within `read_timeout` and without a silence of `stall`; empty when read
    /// before. It is charged to the client of `ask` as it arrives, and for as long as any part of it lives.
    ///
    /// # Errors
    /// 413 before a byte is read when the announced length is too large, or as soon as the limit is passed; 429 when there is
    /// no memory for it; 408 when the client is too slow; 400 when it breaks off.
    pub(super) async fn read(&mut self, ask: &Ask, context: &Context) -> Result<Bytes, Failure> {
        self.read_up_to(context.limits.max_body, ask, context).await
    }

    /// As [`Body::read`], of a body that holds no photos, questions or tensors.
    ///
    /// # Errors
    /// As [`Body::read`], with a limit of [`SMALL`] bytes.
    pub(super) async fn read_small(&mut self, ask: &Ask, context: &Context) -> Result<Bytes, Failure> {
        self.read_up_to(SMALL.min(context.limits.max_body), ask, context).await
    }

    async fn read_up_to(&mut self, max: usize, ask: &Ask, context: &Context) -> Result<Bytes, Failure> {
        let Some(body) = &self.incoming else { return Ok(Bytes::new()) };
        let started = Instant::now();
        let announced = body.size_hint();
        if announced.lower() > max as u64 {
            self.incoming = None;
            return Err(too_large(max));
        }
        let charge = context.budget.open(ask.terms.client);
        charge.foresee(announced.lower() as usize)?;
        let buffer = Buffer::new(charge, announced.exact().map_or(max, |bytes| bytes as usize));
        let Some(body) = self.incoming.take() else { return Ok(Bytes::new()) };
        let bytes = gather(body, buffer, max, started + context.limits.read_timeout, context).await?;
        self.read = Some(Stretch { began: started, took: started.elapsed() });
        Ok(bytes)
    }

    /// As [`Body::read`], for the holder of a seat. Who takes longer than `seat_wait` gives it back meanwhile, so that nobody
    /// who is there waits for somebody who is not, and gets another from `again` when the body is whole.
    ///
    /// # Errors
    /// As [`Body::read`], and those of `again`.
    pub(super) async fn read_seated<S>(
        &mut self,
        seat: S,
        again: impl FnOnce() -> Result<S, Failure>,
        ask: &Ask,
        context: &Context,
    ) -> Result<(Bytes, S), Failure> {
        let mut reading = std::pin::pin!(self.read(ask, context));
        match timeout(context.memory.seat_wait, &mut reading).await {
            Ok(bytes) => Ok((bytes?, seat)),
            Err(_elapsed) => {
                drop(seat);
                let bytes = reading.await?;
                Ok((bytes, again()?))
            }
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
        let mut body = Limited::new(body, DISCARD_BYTES);
        let dropped = async {
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return false;
                }
            }
            true
        };
        timeout(DISCARD_TIME, dropped).await.unwrap_or(false)
    }
}

/// Frames are copied into one buffer at once: a frame of one byte keeps a whole buffer of its connection alive.
async fn gather(
    mut body: Incoming,
    mut buffer: Buffer,
    max: usize,
    by: Instant,
    context: &Context,
) -> Result<Bytes, Failure> {
    let stall = context.memory.stall;
    loop {
        let silent = Instant::now() + stall;
        let frame = match timeout_at(silent.min(by).into(), body.frame()).await {
            Ok(Some(frame)) => frame.map_err(|error| broken_off(&error.to_string()))?,
            Ok(None) => return Ok(buffer.into_bytes()),
            Err(_elapsed) if silent < by => return Err(stalled(stall)),
            Err(_elapsed) => return Err(too_slow(context.limits.read_timeout)),
        };
        if let Ok(data) = frame.into_data() {
            if data.len() > max - buffer.len() {
                return Err(too_large(max));
            }
            buffer.push(&data).map_err(|full| Failure { close: true, ..full.into() })?;
        }
    }
}

fn too_large(limit: usize) -> Failure {
    let flag = if limit == SMALL { "" } else { " (--max-body-mib)" };
    let message = format!("the body is larger than the limit of {limit} bytes{flag}");
    Failure { close: true, ..Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message) }
}

fn too_slow(limit: Duration) -> Failure {
    let message = format!("the body did not arrive within {} ms", limit.as_millis());
    Failure { close: true, ..Failure::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message) }
}

fn stalled(limit: Duration) -> Failure {
    let message = format!("no byte of the body came for {} ms (--body-stall-ms)", limit.as_millis());
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
