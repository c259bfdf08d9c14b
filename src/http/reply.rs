//! Answers: JSON bodies, and the one mapping from what went wrong to a status and a stable `code`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::{
    Response, StatusCode,
    body::Body as _,
    header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    access::{Denied, Scope},
    batch::Refusal,
    error::ScoreError,
    image::DecodeError,
    memory::{self, Charge},
    server::terms::BadHeader,
    service::Absent,
    v2::{self, Kind},
};

/// Bytes of a parser's message that are sent at its beginning, and again at its end, which says where it was.
const MAX_SAID: usize = 150;

/// What a handler answers: a body that is complete when its head is sent.
pub type Reply = Response<Full<Bytes>>;

/// Bytes of an answer's body.
pub(super) fn len(reply: &Reply) -> usize {
    reply.body().size_hint().exact().map_or(0, |bytes| bytes as usize)
}

/// A body that is charged until its last byte has left.
pub(super) fn held(body: Full<Bytes>, charge: Charge) -> Full<Bytes> {
    let collected = body.collect().now_or_never().expect("bug: a full body is there");
    let Ok(collected) = collected;
    Full::new(charge.hold(collected.to_bytes()))
}

/// An answer of `status` with `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(value).expect("bug: wire types serialize");
    with_type(status, "application/json", body.into())
}

/// Milliseconds since `arrived`, to the microsecond: more digits say nothing.
pub fn milliseconds(arrived: Instant) -> f64 {
    (arrived.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// An answer of `status` with `text`.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

/// An answer of `status` with `body` of the given media type.
pub fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply
}

/// A request that gets no answer of its own: `{"error": {"code": ..., "message": ...}}`.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people: what is wrong and what to do.
    pub message: String,
    /// `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
    /// `Allow`, for 405.
    pub allow: Option<&'static str>,
    /// `Accept-Encoding`, for 501.
    pub accept_encoding: Option<&'static str>,
    /// `WWW-Authenticate`, for 401 and 403.
    pub challenge: Option<&'static str>,
    /// Whether the connection cannot be used further, because its request was not read to the end.
    pub close: bool,
}

/// The `error` member of a failed answer.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody<'a> {
    /// Stable, for programs.
    pub code: &'a str,
    /// For people.
    pub message: &'a str,
    /// Milliseconds after which the request is likely to be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The body of a failed answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Failure")]
pub(super) struct ErrorReply<'a> {
    error: ErrorBody<'a>,
}

impl Failure {
    /// A failure without extra headers.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
            allow: None,
            accept_encoding: None,
            challenge: None,
            close: false,
        }
    }

    /// 400: the request does not say what is wanted.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 400: the body does not parse as what is `expected`. The parser repeats what it found in its place; of that no more
    /// is sent back than helps somebody who mistyped.
    pub fn unreadable(expected: &str, error: &serde_json::Error) -> Self {
        let said = error.to_string();
        let (head, tail) = (said.floor_char_boundary(MAX_SAID), said.len().saturating_sub(MAX_SAID));
        let tail = said.ceil_char_boundary(tail);
        match head < tail {
            true => Self::invalid(format!("expected {expected}: {} ... {}", &said[..head], &said[tail..])),
            false => Self::invalid(format!("expected {expected}: {said}")),
        }
    }

    /// 415 with an explanation.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// The `error` member, for answers that carry several outcomes.
    pub fn body(&self) -> ErrorBody<'_> {
        let retry_after_ms = self.retry_after.map(|wait| wait.as_millis() as u64);
        ErrorBody { code: self.code, message: &self.message, retry_after_ms }
    }

    /// The answer.
    pub fn into_reply(self) -> Reply {
        self.reply_of(&ErrorReply { error: self.body() })
    }

    /// The answer with `body` as JSON, for protocols that have an error shape of their own.
    pub fn reply_of(&self, body: &impl Serialize) -> Reply {
        let mut reply = json(self.status, body);
        let headers = reply.headers_mut();
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from((wait.as_secs_f64().ceil() as u64).max(1)));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(codings) = self.accept_encoding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(codings));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }
}

impl From<ScoreError> for Failure {
    fn from(error: ScoreError) -> Self {
        let (status, code) = match &error {
            ScoreError::Refused(Refusal::Hopeless { .. }) | ScoreError::DeadlineExceeded => {
                (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded")
            }
            ScoreError::Refused(Refusal::Down) => (StatusCode::SERVICE_UNAVAILABLE, "unable"),
            ScoreError::Refused(_)
            | ScoreError::Shed { .. }
            | ScoreError::Memory(memory::Full::Now { .. }) => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            ScoreError::Memory(memory::Full::Ever { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_much_memory")
            }
            ScoreError::Image(error) => image_status(error),
            ScoreError::Engine(_) | ScoreError::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            ScoreError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let retry_after = match &error {
            ScoreError::Refused(Refusal::Full { retry_after } | Refusal::Late { retry_after })
            | ScoreError::Shed { retry_after }
            | ScoreError::Memory(memory::Full::Now { retry_after }) => Some(*retry_after),
            ScoreError::Stopped | ScoreError::Refused(Refusal::Down) => Some(Duration::from_secs(1)),
            _ => None,
        };
        Self { retry_after, ..Self::new(status, code, error.to_string()) }
    }
}

/// With the challenges of RFC 6750, section 3.
impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let (status, code) = match &denied {
            Denied::Missing | Denied::Unknown(_) | Denied::Expired(_) => {
                (StatusCode::UNAUTHORIZED, "unauthenticated")
            }
            Denied::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            Denied::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        };
        let challenge = match &denied {
            Denied::Missing => Some("Bearer"),
            Denied::Unknown(_) | Denied::Expired(_) => Some("Bearer error=\"invalid_token\""),
            Denied::Forbidden { scope, .. } => Some(insufficient(*scope)),
            Denied::RateLimited { .. } => None,
        };
        let retry_after = match &denied {
            Denied::RateLimited { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        Self { challenge, retry_after, ..Self::new(status, code, denied.to_string()) }
    }
}

fn insufficient(scope: Scope) -> &'static str {
    match scope {
        Scope::Score => "Bearer error=\"insufficient_scope\", scope=\"score\"",
        Scope::Admin => "Bearer error=\"insufficient_scope\", scope=\"admin\"",
        Scope::Metrics => "Bearer error=\"insufficient_scope\", scope=\"metrics\"",
    }
}

impl From<v2::Error> for Failure {
    fn from(error: v2::Error) -> Self {
        match error {
            v2::Error::Score(error) => error.into(),
            v2::Error::Refused { kind, code, message, retry_after } => {
                Self { retry_after, ..Self::new(kind_status(kind), code, message) }
            }
        }
    }
}

fn kind_status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Unusable => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl From<Absent> for Failure {
    fn from(absent: Absent) -> Self {
        v2::Error::from(absent).into()
    }
}

impl From<memory::Full> for Failure {
    fn from(full: memory::Full) -> Self {
        ScoreError::from(full).into()
    }
}

impl From<BadHeader> for Failure {
    fn from(error: BadHeader) -> Self {
        Self::invalid(error.to_string())
    }
}

fn image_status(error: &DecodeError) -> (StatusCode, &'static str) {
    match error {
        DecodeError::NoMemory => (StatusCode::SERVICE_UNAVAILABLE, "no_memory"),
        DecodeError::Empty => (StatusCode::BAD_REQUEST, "empty_image"),
        DecodeError::UnknownFormat => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_image_format"),
        DecodeError::TooManyPixels { .. }
        | DecodeError::SideTooLong { .. }
        | DecodeError::TooMuchMemory { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "image_too_large"),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, "undecodable_image"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsers_message_comes_back_cut() {
        let said = |body: &str| {
            let error = serde_json::from_str::<u8>(body).expect_err("no number");
            Failure::unreadable("a number", &error).message
        };
        let short = said("\"five\"");
        assert_eq!(short, "expected a number: invalid type: string \"five\", expected u8 at line 1 column 6");
        let long = said(&format!("\"{}\"", "é".repeat(1 << 20)));
        assert!(long.len() < 400 && long.ends_with("expected u8 at line 1 column 2097154"), "{long}");
    }
}
