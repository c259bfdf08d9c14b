//! What answers now: a model with the encoder it needs, replaced as one while questions are answered. Workers take it once
//! per batch, so a batch is answered by one model and no question is dropped when another takes its place.

use super::encoder::{Encoder, EncoderError, Identity};
use super::model::Model;
use super::storage::LoadError;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model and the encoder it needs.
#[derive(Debug, Clone)]
pub struct Loaded {
    model: Arc<Model>,
    encoder: Option<Arc<Encoder>>,
}

/// Why a model and an encoder do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The model needs an encoder.
    #[error(
        "the FAQ model needs the embedding model {needed}: give its folder (--embeddings, of `convoy serve` --faq-embeddings)"
    )]
    Missing {
        /// Which.
        needed: Identity,
    },
    /// The model needs another encoder.
    #[error("the FAQ model needs the embedding model {needed}, not {found} in {}", path.display())]
    Other {
        /// The one it needs.
        needed: Identity,
        /// The one given.
        found: Identity,
        /// Where that one is.
        path: PathBuf,
    },
}

/// Why there is nothing to answer with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The model's file.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The encoder's files.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// Both are sound, but not each other's.
    #[error("{}: {mismatch}", path.display())]
    Mismatch {
        /// The model's file.
        path: PathBuf,
        /// Why.
        mismatch: Mismatch,
    },
}

impl Loaded {
    /// Puts both together; an encoder that the model does not need is let go.
    ///
    /// # Errors
    /// [`Mismatch`] where the model needs another encoder or one that is not given.
    pub fn new(model: Arc<Model>, encoder: Option<Arc<Encoder>>) -> Result<Self, Mismatch> {
        let Some(needed) = model.encoder().cloned() else {
            return Ok(Self { model, encoder: None });
        };
        match encoder {
            None => Err(Mismatch::Missing { needed }),
            Some(encoder) if *encoder.identity() != needed => {
                let (found, path) = (encoder.identity().clone(), encoder.path().to_owned());
                Err(Mismatch::Other { needed, found, path })
            }
            Some(encoder) => Ok(Self { model, encoder: Some(encoder) }),
        }
    }

    /// Reads the model in `path` and, where it needs one, the encoder in the folder `embeddings`, to compute as the
    /// model asks.
    ///
    /// # Errors
    /// [`OpenError`] where a file cannot be used or both do not go together.
    pub fn open(path: &Path, embeddings: Option<&Path>) -> Result<Self, OpenError> {
        let model = Arc::new(Model::load(path)?);
        let needed = embeddings.zip(model.encoder());
        let encoder = needed.map(|(folder, needed)| Encoder::open(folder, needed.precision));
        let encoder = encoder.transpose()?.map(Arc::new);
        Self::new(model, encoder).map_err(|mismatch| OpenError::Mismatch { path: path.to_owned(), mismatch })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The encoder, where the model needs one.
    pub fn encoder(&self) -> Option<&Arc<Encoder>> {
        self.encoder.as_ref()
    }
}

/// The model that answers now, and where a new one is looked for.
#[derive(Debug)]
pub struct Live {
    current: ArcSwap<Loaded>,
    path: PathBuf,
    embeddings: Option<PathBuf>,
}

impl Live {
    /// Reads the model in `path`, and its encoder in `embeddings` where it needs one.
    ///
    /// # Errors
    /// As [`Loaded::open`].
    pub fn open(path: &Path, embeddings: Option<&Path>) -> Result<Self, OpenError> {
        Ok(Self::new(Loaded::open(path, embeddings)?, path, embeddings))
    }

    /// One that begins with `loaded` and reloads from these files.
    pub fn new(loaded: Loaded, path: &Path, embeddings: Option<&Path>) -> Self {
        let current = ArcSwap::from_pointee(loaded);
        Self { current, path: path.to_owned(), embeddings: embeddings.map(Path::to_owned) }
    }

    /// The model that answers now.
    pub fn load(&self) -> Arc<Loaded> {
        self.current.load_full()
    }

    /// Reads the files again and lets what they hold take over with each worker's next batch. An encoder that has not
    /// changed costs its reading, not its place: the old one is freed when the last batch that uses it is answered.
    /// This reads files: not for a thread of the async runtime.
    ///
    /// # Errors
    /// As [`Loaded::open`]; the model that answered goes on answering.
    pub fn reload(&self) -> Result<Arc<Loaded>, OpenError> {
        let loaded = Arc::new(Loaded::open(&self.path, self.embeddings.as_deref())?);
        self.current.store(loaded.clone());
        Ok(loaded)
    }
}
