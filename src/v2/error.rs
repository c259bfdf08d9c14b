//! Why a request of the V2 protocol has no answer of its own: what kind of mistake it is, whoever carries it to the client.
//!
//! Status codes and error shapes are the transports'.

use std::time::Duration;

use crate::{error::ScoreError, service::Absent};

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request does not say what is wanted, or says what cannot be.
    Invalid,
    /// There is no such model.
    NotFound,
    /// The answer would be larger than any may be.
    TooLarge,
    /// Not now.
    Unavailable,
    /// The operator has not turned it on.
    Forbidden,
    /// The files of a model cannot be used.
    Unusable,
}

/// Why a request has no answer of its own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It was understood; scoring failed.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// It was not scored.
    #[error("{message}")]
    Refused {
        /// What kind of refusal it is.
        kind: Kind,
        /// Stable, for programs.
        code: &'static str,
        /// For people: what is wrong and what to do.
        message: String,
        /// When the same request is likely to be answered.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// A refusal that names no time to come back.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { kind, code, message: message.into(), retry_after: None }
    }

    /// The request does not say what is wanted.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, "invalid_request", message)
    }

    /// Its kind; `None` where scoring failed.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Score(_) => None,
            Self::Refused { kind, .. } => Some(*kind),
        }
    }
}

impl From<Absent> for Error {
    fn from(absent: Absent) -> Self {
        let (kind, code) = match absent {
            Absent::NotServed(_) => (Kind::NotFound, "not_served"),
            Absent::Unloaded(_) => (Kind::Unavailable, "unloaded"),
        };
        Self::new(kind, code, absent.to_string())
    }
}
