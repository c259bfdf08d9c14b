//! What can become of a scoring request once it has been understood.
//!
//! No HTTP here: status codes and JSON shapes are made of these in [`crate::http`].

use crate::{
    batch::{Full, JobError},
    image::DecodeError,
    vision::EngineError,
};

/// Why a photo or a question got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoreError {
    /// No seat was free.
    #[error(transparent)]
    Overloaded(#[from] Full),
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
    #[error("the server is stopping")]
    Stopped,
}

impl ScoreError {
    /// Lifts a job's failure, given what its executor's own errors mean.
    pub fn from_job<X>(error: JobError<X>, own: impl FnOnce(X) -> Self) -> Self {
        match error {
            JobError::Expired => Self::DeadlineExceeded,
            JobError::Panicked => Self::Broken,
            JobError::Stopped => Self::Stopped,
            JobError::Failed(error) => own(error),
        }
    }
}
