//! The two front doors: a photo goes in and predictions come out, a question goes in and matches come out.
//!
//! Every API family calls these; they know of seats, deadlines and the order of stages, not of HTTP or JSON.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::time::timeout_at;

use crate::{
    batch::{Executor, Permit, Queue, Ticket, queue::Answer, scheduler::Liveness},
    config::{TransformName, Transforms},
    error::ScoreError,
    faq::{self, Answerer, Question, Ranking},
    image::{DecodeJob, Decoder},
    vision::{Classifier, ClassifyInput, Labels, ModelInfo, Prediction, Preprocessing},
};

/// Photos: decoded on the decode pool, classified in batches.
pub struct Photos {
    /// The decode pool's queue.
    pub decoder: Queue<Decoder>,
    /// The engine's queue; its seats are the admission to the whole photo side.
    pub classifier: Queue<Classifier>,
    /// What the loaded model is.
    pub model: ModelInfo,
    /// The label of each class.
    pub labels: Labels,
    /// Resize and normalisation that the weights were trained for.
    pub preprocessing: Preprocessing,
    /// Transforms a request may pick from.
    pub transforms: Transforms,
    /// What the operator should know of the model, such as how to get a better one.
    pub hint: Option<&'static str>,
}

impl Photos {
    /// Takes seats for `count` photos, before their bytes are read or decoded.
    ///
    /// # Errors
    /// [`ScoreError::Overloaded`] when that many are not free.
    pub fn admit(&self, count: usize) -> Result<Permit, ScoreError> {
        Ok(self.classifier.admit(count)?)
    }

    /// Decodes, prepares and classifies one photo: the `top` best classes, best first.
    ///
    /// # Errors
    /// What became of it instead. Dropping the future abandons the photo at whatever stage it is.
    pub async fn classify(
        &self,
        seat: Permit,
        bytes: Bytes,
        transform: Option<TransformName>,
        top: usize,
        deadline: Instant,
    ) -> Result<Vec<Prediction>, ScoreError> {
        let transform = self.transforms.pick(transform, self.preprocessing);
        let job = DecodeJob { bytes, transform };
        let ticket = self.decoder.submit(self.decoder.admit(1)?, job, deadline);
        let image = answer(ticket, deadline, ScoreError::Image).await?;
        let ticket = self.classifier.submit(seat, ClassifyInput { image, top }, deadline);
        answer(ticket, deadline, ScoreError::Engine).await
    }
}

/// Questions: matched on the FAQ's own threads.
pub struct Questions {
    /// The FAQ pool's queue.
    pub queue: Queue<Answerer>,
    /// The loaded model, for the texts behind its answers.
    pub model: Arc<faq::Model>,
}

impl Questions {
    /// Ranks the originals for one question; `top` of them, or all.
    ///
    /// # Errors
    /// What became of it instead.
    pub async fn ask(
        &self,
        seat: Permit,
        text: String,
        top: Option<usize>,
        deadline: Instant,
    ) -> Result<Ranking, ScoreError> {
        let ticket = self.queue.submit(seat, Question { text, top }, deadline);
        answer(ticket, deadline, |never| match never {}).await
    }

    /// Takes the seat of one question.
    ///
    /// # Errors
    /// [`ScoreError::Overloaded`] when none is free.
    pub fn admit(&self) -> Result<Permit, ScoreError> {
        Ok(self.queue.admit(1)?)
    }
}

async fn answer<E: Executor>(
    ticket: Ticket<E>,
    deadline: Instant,
    own: impl FnOnce(E::Error) -> ScoreError,
) -> Result<E::Output, ScoreError> {
    let answered: Answer<E> =
        timeout_at(deadline.into(), ticket).await.map_err(|_elapsed| ScoreError::DeadlineExceeded)?;
    answered.map_err(|error| ScoreError::from_job(error, own))
}

/// Whether the server wants traffic: every worker runs and nobody has asked it to stop.
pub struct Readiness {
    draining: AtomicBool,
    pools: Vec<(&'static str, Liveness)>,
}

impl Readiness {
    /// Ready as long as every one of `pools` runs.
    pub fn new(pools: Vec<(&'static str, Liveness)>) -> Self {
        Self { draining: AtomicBool::new(false), pools }
    }

    /// Turns readiness off for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// `Ok`, or why not.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        if self.draining() {
            return Err("the server is draining".to_owned());
        }
        match self.pools.iter().find(|(_, liveness)| !liveness.all_running()) {
            Some((name, _)) => Err(format!("a thread of the {name} pool has died")),
            None => Ok(()),
        }
    }
}
