//! The one mapping from what went wrong to a gRPC status, and the names of statuses.

use std::time::Duration;

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    access::Denied,
    batch::Refusal,
    error::ScoreError,
    image::DecodeError,
    memory::Full,
    v2::{self, Kind},
};

/// Milliseconds after which a client does well to ask again, under the name that gRPC's own retry policies look for.
pub(super) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The status of a request that has no answer.
pub(super) fn of(error: &v2::Error) -> Status {
    let (code, retry_after) = match error {
        v2::Error::Score(error) => (score_code(error), score_retry(error)),
        v2::Error::Refused { kind, retry_after, .. } => (kind_code(*kind), *retry_after),
    };
    with_retry(code, error.to_string(), retry_after)
}

/// A status that tells when to come back, where that is known.
pub(super) fn with_retry(code: Code, message: impl Into<String>, retry_after: Option<Duration>) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(wait) = retry_after {
        metadata.insert(PUSHBACK, MetadataValue::from((wait.as_millis() as u64).max(1)));
    }
    Status::with_metadata(code, message, metadata)
}

/// The status of a call for which there is no memory.
pub(super) fn full(full: &Full) -> Status {
    of(&v2::Error::Score((*full).into()))
}

/// The status of a call that its caller may not make.
pub(super) fn denied(denied: &Denied) -> Status {
    let (code, retry_after) = match denied {
        Denied::Missing | Denied::Unknown(_) | Denied::Expired(_) => (Code::Unauthenticated, None),
        Denied::Forbidden { .. } => (Code::PermissionDenied, None),
        Denied::RateLimited { retry_after, .. } => (Code::ResourceExhausted, Some(*retry_after)),
    };
    with_retry(code, denied.to_string(), retry_after)
}

/// The status of a call whose handler panicked.
pub(super) fn panicked() -> Status {
    Status::internal("the server failed unexpectedly on this request; its log has the details")
}

fn kind_code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid | Kind::TooLarge => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Unavailable => Code::Unavailable,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::Unusable => Code::FailedPrecondition,
    }
}

fn score_code(error: &ScoreError) -> Code {
    match error {
        ScoreError::Refused(Refusal::Hopeless { .. }) | ScoreError::DeadlineExceeded => {
            Code::DeadlineExceeded
        }
        ScoreError::Refused(Refusal::Down) => Code::Unavailable,
        ScoreError::Refused(_) | ScoreError::Shed { .. } | ScoreError::Memory(Full::Now { .. }) => {
            Code::ResourceExhausted
        }
        ScoreError::Image(DecodeError::NoMemory) => Code::ResourceExhausted,
        ScoreError::Memory(Full::Ever { .. }) | ScoreError::Image(_) => Code::InvalidArgument,
        ScoreError::Engine(_) | ScoreError::Broken => Code::Internal,
        ScoreError::Stopped => Code::Unavailable,
    }
}

fn score_retry(error: &ScoreError) -> Option<Duration> {
    match error {
        ScoreError::Refused(Refusal::Full { retry_after } | Refusal::Late { retry_after })
        | ScoreError::Shed { retry_after }
        | ScoreError::Memory(Full::Now { retry_after }) => Some(*retry_after),
        ScoreError::Stopped | ScoreError::Refused(Refusal::Down) => Some(Duration::from_secs(1)),
        _ => None,
    }
}

/// A status by its name in the protocol's documents, as metrics and logs have it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_says_when_to_come_back() {
        let full = ScoreError::Refused(Refusal::Full { retry_after: Duration::from_millis(250) });
        let status = of(&full.into());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "250");
        let late = of(&ScoreError::DeadlineExceeded.into());
        assert_eq!((late.code(), late.metadata().is_empty()), (Code::DeadlineExceeded, true));
    }
}
