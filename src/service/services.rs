//! The services of one process: where its models are served, and whether they all want traffic.

use std::sync::Arc;

use super::{Photos, Questions, Readiness, Served, Slot};

/// What a process serves.
pub struct Services {
    /// The photo side, when served.
    pub photos: Option<Arc<Slot<Photos>>>,
    /// The FAQ side, when served.
    pub questions: Option<Arc<Slot<Questions>>>,
    /// Whether traffic is wanted.
    pub readiness: Readiness,
}

/// Why nothing serves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The process was told not to.
    #[error("this server does not serve {0}; start it with --services photos,faq")]
    NotServed(&'static str),
    /// An operator has taken the model away for now.
    #[error(
        "`{0}` is unloaded; POST /v2/repository/models/{0}/load, or RepositoryModelLoad over gRPC, brings it back"
    )]
    Unloaded(String),
}

impl Services {
    /// What classifies photos now.
    ///
    /// # Errors
    /// Nothing does.
    pub fn photos(&self) -> Result<Arc<Photos>, Absent> {
        serving(self.photos.as_deref(), "photos")
    }

    /// What answers questions now.
    ///
    /// # Errors
    /// Nothing does.
    pub fn questions(&self) -> Result<Arc<Questions>, Absent> {
        serving(self.questions.as_deref(), "questions")
    }

    /// Updates the gauges of every queue.
    pub fn sample(&self) {
        if let Ok(photos) = self.photos() {
            photos.decoder.sample();
            photos.classifier.sample();
        }
        if let Ok(questions) = self.questions() {
            questions.queue.sample();
        }
    }

    /// Seats in all, of what serves now.
    pub fn seats(&self) -> usize {
        let photos = self.photos().map_or(0, |photos| photos.classifier.capacity());
        photos + self.questions().map_or(0, |questions| questions.queue.capacity())
    }
}

fn serving<T: Served>(slot: Option<&Slot<T>>, service: &'static str) -> Result<Arc<T>, Absent> {
    let slot = slot.ok_or(Absent::NotServed(service))?;
    slot.get().ok_or_else(|| Absent::Unloaded(slot.name().to_string()))
}
