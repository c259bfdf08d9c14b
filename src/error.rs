//! What can become of a scoring request once it has been understood.
//!
//! No transport here: status codes and answers are made of these in [`crate::http`] and [`crate::grpc`].

use std::time::Duration;

use crate::{
    batch::{JobError, Refusal},
    image::DecodeError,
    memory::Full,
    vision::EngineError,
};

/// Why a photo or a question got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoreError {
    /// It was not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no memory for it or for its answer.
    #[error(transparent)]
    Memory(#[from] Full),
    /// It was admitted, then work took longer than expected, and it could only have been late.
    #[error("the server fell behind; the answer would have been late")]
    Shed {
        /// When a request like it is likely to be in time.
        retry_after: Duration,
    },
    /// The deadline passed before the answer was there.
    #[error("the answer was not ready before the request's deadline")]
    DeadlineExceeded,
    /// The bytes are not an image that can be read within the limits.
    #[error(transparent)]
    Image(DecodeError),
    /// The vision engine failed on this image.
    #[error(transparent)]
    Engine(EngineError),
    /// An executor panicked; the request may be tried again.
    #[error("the server failed unexpectedly on this request; its log has the details")]
    Broken,
    /// The executor's threads are gone.
    #[error("the server is stopping, or has lost the threads that do this work; another one may answer")]
    Stopped,
}

impl ScoreError {
    /// Lifts a job's failure, given what its executor's own errors mean.
    pub fn from_job<X>(error: JobError<X>, own: impl FnOnce(X) -> Self) -> Self {
        match error {
            JobError::Expired => Self::DeadlineExceeded,
            JobError::Late { retry_after } => Self::Shed { retry_after },
            JobError::Panicked => Self::Broken,
            JobError::Stopped => Self::Stopped,
            JobError::Failed(error) => own(error),
        }
    }

    /// Whether it is a matter of time alone: the same request with a later deadline might have been answered.
    pub fn is_lateness(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Shed { .. } | Self::DeadlineExceeded)
    }
}
