//! What can be wrong with a pool, and how anybody may ask. The facts are the dispatcher's; what follows from them for the
//! process is decided elsewhere.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The worst that is wrong with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A thread has ended. None takes its place: it ended by a mistake in the books that all of them share, and only a new
    /// process has clean ones.
    Dead {
        /// How long ago.
        age: Duration,
    },
    /// A batch has been in its executor for far longer than it should.
    Stuck {
        /// How long it has run.
        age: Duration,
    },
    /// An executor fails on a batch that it must be able to answer.
    Failing {
        /// For how long.
        age: Duration,
    },
}

impl Trouble {
    /// How long it has lasted.
    pub fn age(self) -> Duration {
        let (Self::Dead { age } | Self::Stuck { age } | Self::Failing { age }) = self;
        age
    }
}

/// The rest of a sentence that begins with the pool.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.age().as_secs();
        match self {
            Self::Dead { .. } => write!(f, "has lost a thread {seconds} s ago, which does not come back"),
            Self::Stuck { .. } => write!(f, "is stuck: a batch has been running for {seconds} s"),
            Self::Failing { .. } => {
                write!(f, "has failed on everything, a known good batch too, for {seconds} s")
            }
        }
    }
}

/// Tells, from anywhere, what is wrong with a pool.
#[derive(Clone)]
pub struct Health(Arc<dyn Fn(Instant) -> Option<Trouble> + Send + Sync>);

impl Health {
    pub(super) fn new(look: impl Fn(Instant) -> Option<Trouble> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// The worst that is wrong at `now`, if anything is.
    pub fn trouble(&self, now: Instant) -> Option<Trouble> {
        (self.0)(now)
    }
}
