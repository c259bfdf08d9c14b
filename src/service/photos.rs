//! Photos: decoded on the decode pool, classified in batches.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use metrics::Counter;
use tokio::time::{Instant, timeout_at};

use super::{Served, Timeline, answer, inflight::Inflight};
use crate::{
    batch::{Queue, Refusal, Seat, Terms},
    config::{TransformName, Transforms},
    error::ScoreError,
    image::{DecodeJob, Decoder},
    vision::{Classifier, ClassifyInput, Labels, ModelInfo, Picture, Prediction, Preprocessing},
};

/// What answers say while the classifier's weights are random.
pub const RANDOM_WEIGHTS: &str = "the classifier's weights are random: its labels mean nothing";

/// The photo side of a server.
pub struct Photos {
    /// The decode pool's queue.
    pub decoder: Queue<Decoder>,
    /// The engine's queue.
    pub classifier: Queue<Classifier>,
    /// What the loaded model is.
    pub model: ModelInfo,
    /// What it runs on, in words.
    pub device: String,
    /// The label of each class.
    pub labels: Labels,
    /// Resize and normalisation that the weights were trained for.
    pub preprocessing: Preprocessing,
    /// Transforms a request may pick from.
    pub transforms: Transforms,
    /// What the operator should know of the model, such as how to get a better one.
    pub hint: Option<&'static str>,
    /// Identical photos in flight, when they share executions.
    pub inflight: Option<Arc<Inflight>>,
    /// Counts photos that shared.
    pub shared: Counter,
}

/// A seat at both stages of one photo.
#[derive(Debug)]
pub struct PhotoSeat {
    decode: Seat<Decoder>,
    classify: Seat<Classifier>,
}

impl PhotoSeat {
    /// The request has been received whole; decoding begins.
    pub fn received(&self) {
        self.classify.received();
    }

    /// Changes the deadline, when only the body told it.
    pub fn reschedule(&mut self, deadline: std::time::Instant) {
        self.decode.reschedule(deadline);
        self.classify.reschedule(deadline);
    }
}

/// One photo to classify.
#[derive(Debug, Clone)]
pub struct Photo {
    /// The file.
    pub bytes: Bytes,
    /// How it becomes a square; the server's default when `None`.
    pub transform: Option<TransformName>,
    /// How many classes to report.
    pub top: usize,
}

/// The classes of one photo, best first, and where the time went.
#[derive(Debug, Clone)]
pub struct Classified {
    /// At most as many as were asked for.
    pub predictions: Arc<[Prediction]>,
    /// Stage by stage.
    pub timeline: Timeline,
}

impl Served for Photos {
    fn name(&self) -> &str {
        &self.model.name
    }
}

impl Photos {
    /// Takes the seats of one photo, before its bytes are read or decoded.
    ///
    /// # Errors
    /// As [`Photos::admit_many`].
    pub fn admit(&self, terms: &Terms) -> Result<PhotoSeat, ScoreError> {
        let (classify, decode) = (self.classifier.admit(terms)?, self.decoder.admit(terms)?);
        Ok(PhotoSeat { decode, classify })
    }

    /// Takes the seats of `count` photos, all or none, before their bytes are read or decoded.
    ///
    /// # Errors
    /// [`ScoreError::Refused`] when they are not free or the answers would be late.
    pub fn admit_many(&self, terms: &Terms, count: usize) -> Result<Vec<PhotoSeat>, ScoreError> {
        let classify = self.classifier.admit_many(terms, count)?;
        let decode = self.decoder.admit_many(terms, count)?;
        Ok(decode
            .into_iter()
            .zip(classify)
            .map(|(decode, classify)| PhotoSeat { decode, classify })
            .collect())
    }

    /// As [`Photos::admit`], without counting a refusal.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn try_admit(&self, terms: &Terms) -> Result<PhotoSeat, Refusal> {
        let mut classify = self.classifier.try_admit(terms, 1)?;
        let mut decode = self.decoder.try_admit(terms, 1)?;
        let (classify, decode) = (classify.pop(), decode.pop());
        Ok(PhotoSeat {
            decode: decode.expect("bug: one seat was asked for"),
            classify: classify.expect("bug: one seat was asked for"),
        })
    }

    /// Decodes, prepares and classifies one photo: the best classes, best first.
    ///
    /// # Errors
    /// What became of it instead. Dropping the future abandons the photo at whatever stage it is.
    pub async fn classify(
        &self,
        seat: PhotoSeat,
        photo: Photo,
        terms: &Terms,
    ) -> Result<Classified, ScoreError> {
        let Some(inflight) = &self.inflight else { return self.run(seat, photo, *terms).await };
        let run = |photo: Photo| self.run(seat, photo, *terms);
        let (work, joined) = inflight.join(&photo, terms, run);
        if joined {
            self.shared.increment(1);
        }
        let done = timeout_at(Instant::from_std(terms.deadline), work).await;
        let shared = done.map_err(|_elapsed| ScoreError::DeadlineExceeded)?;
        match shared {
            // The other one's time ran out, not this one's.
            Err(error) if joined && error.is_lateness() => {
                let seat = self.admit(terms)?;
                self.run(seat, photo, *terms).await
            }
            shared => {
                let mut classified = shared?;
                classified.timeline.shared = joined;
                classified.trim(photo.top);
                Ok(classified)
            }
        }
    }

    /// Classifies one photo that is prepared already; nothing is decoded and nothing shared.
    ///
    /// # Errors
    /// What became of it instead. Dropping the future abandons the photo.
    pub async fn classify_prepared(
        &self,
        seat: PhotoSeat,
        image: Picture,
        top: usize,
        terms: &Terms,
    ) -> Result<Classified, ScoreError> {
        let PhotoSeat { decode, classify } = seat;
        drop(decode);
        let ticket = classify.submit(ClassifyInput { image, top });
        let (predictions, timing) = answer(ticket, terms.deadline, ScoreError::Engine).await?;
        Ok(Classified { predictions: predictions.into(), timeline: Timeline::of(timing) })
    }

    /// The two stages, on handles of their own, so that whoever shares the work can drive it.
    fn run(
        &self,
        seat: PhotoSeat,
        photo: Photo,
        terms: Terms,
    ) -> impl Future<Output = Result<Classified, ScoreError>> + Send + 'static {
        let transform = self.transforms.pick(photo.transform, self.preprocessing);
        async move {
            let started = std::time::Instant::now();
            let ticket = seat.decode.submit(DecodeJob { bytes: photo.bytes, transform });
            let (image, _) = answer(ticket, terms.deadline, ScoreError::Image).await?;
            let decode: Duration = started.elapsed();
            let ticket = seat.classify.submit(ClassifyInput { image: image.into(), top: photo.top });
            let (predictions, timing) = answer(ticket, terms.deadline, ScoreError::Engine).await?;
            let timeline = Timeline { decode, ..Timeline::of(timing) };
            Ok(Classified { predictions: predictions.into(), timeline })
        }
    }
}

impl Classified {
    fn trim(&mut self, top: usize) {
        if self.predictions.len() > top {
            self.predictions = self.predictions[..top].into();
        }
    }
}
