//! What a request asks of the scheduler: by when, how urgently, and on whose account.

use std::{
    hash::{BuildHasher, RandomState},
    time::Instant,
};

/// How soon somebody needs the answer. Under contention interactive work gets [`Class::weight`] times the share of batch
/// work; neither starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// Somebody is waiting.
    #[default]
    Interactive,
    /// Nobody is watching.
    Batch,
}

impl Class {
    /// Share of this class against the other of the same client.
    pub fn weight(self) -> f64 {
        match self {
            Self::Interactive => 8.0,
            Self::Batch => 1.0,
        }
    }
}

/// On whose account a job runs. Clients share an executor by weight, however many jobs each has waiting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Client {
    id: u64,
    weight: f64,
}

impl Client {
    /// Everybody who has no name.
    pub const ANONYMOUS: Self = Self { id: 0, weight: 1.0 };

    /// The client called `name`, hashed by `hasher`: one hasher a process, so that names cannot be made to collide.
    ///
    /// # Panics
    /// When `weight` is not positive and finite: configuration checks it.
    pub fn named(name: impl std::hash::Hash, weight: f64, hasher: &RandomState) -> Self {
        assert!(weight > 0.0 && weight.is_finite(), "bug: weight {weight}");
        Self { id: hasher.hash_one(name), weight }
    }

    /// Tells clients apart for as long as the process runs.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// What one request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// After this moment the answer is worth nothing.
    pub deadline: Instant,
    /// How urgent it is.
    pub class: Class,
    /// Whose it is.
    pub client: Client,
}

impl Terms {
    /// An interactive request of nobody in particular.
    pub fn by(deadline: Instant) -> Self {
        Self { deadline, class: Class::Interactive, client: Client::ANONYMOUS }
    }

    pub(super) fn flow(&self) -> Flow {
        Flow { client: self.client.id, class: self.class }
    }

    pub(super) fn weight(&self) -> f64 {
        self.client.weight * self.class.weight()
    }
}

/// The unit that shares are given to: one client's requests of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    client: u64,
    class: Class,
}
