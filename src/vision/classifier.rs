//! Turns batches of prepared images into ranked classes on whichever engine it was given.
//!
//! One bad image costs only its own job. Which classes have which names is not known here.

use std::cmp::Ordering;

use kernels::priority::Priority;

use super::{Engine, EngineError, IMAGE, INPUT_SIZE, Picture, Ranking};
use crate::batch::{Executor, Results};
use crate::image::Prepared;

/// One job.
#[derive(Debug, Clone)]
pub struct ClassifyInput {
    /// What to classify.
    pub image: Picture,
    /// How many classes to report; more than there are means all.
    pub top: usize,
}

/// One class of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Index of the class.
    pub class: u32,
    /// Softmax over all classes, reported or not.
    pub probability: f32,
}

/// Executes batches on one engine.
pub struct Classifier {
    engine: Box<dyn Engine>,
    max_batch: usize,
}

impl Classifier {
    /// Runs at most `max_batch` images at once, at least one.
    pub fn new(engine: Box<dyn Engine>, max_batch: usize) -> Self {
        Self { engine, max_batch: max_batch.max(1) }
    }

    /// Runs one full batch of grey images, so that the first caller does not pay for first touches and page faults, and
    /// a network that cannot run is known before the port opens.
    ///
    /// # Errors
    /// Whatever a job would have been told.
    pub fn warm_up(&mut self) -> Result<(), EngineError> {
        let batch = Self::grey(self.max_batch);
        self.run(&batch)?.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// `count` grey images, to try or to time an engine with.
    pub fn grey(count: usize) -> Vec<ClassifyInput> {
        let image = Prepared { pixels: vec![128; IMAGE], size: INPUT_SIZE };
        vec![ClassifyInput { image: image.into(), top: 1 }; count]
    }
}

impl Executor for Classifier {
    type Input = ClassifyInput;
    /// Falling by probability, ties by index.
    type Output = Vec<Prediction>;
    type Error = EngineError;

    fn priority(&self) -> Priority {
        self.engine.priority()
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn sample(&self) -> Vec<ClassifyInput> {
        Self::grey(1)
    }

    fn run(&mut self, batch: &[ClassifyInput]) -> Result<Results<Self>, EngineError> {
        let usable = batch.iter().filter(|input| input.image.check().is_ok());
        let (images, tops): (Vec<&Picture>, Vec<usize>) =
            usable.map(|input| (&input.image, input.top)).unzip();
        let ranked = match images.is_empty() {
            true => Vec::new(),
            false => self.engine.classify(&images, &tops)?,
        };
        let mut ranked = ranked.into_iter();
        let answer = |input: &ClassifyInput| {
            input.image.check()?;
            ranked.next().expect("bug: one ranking an image")
        };
        Ok(batch.iter().map(answer).collect())
    }
}

/// The ranking of each row of logits `[images, classes]`, as long as its `top`.
pub(super) fn rank_rows(logits: &[f32], classes: usize, top: &[usize]) -> Vec<Ranking> {
    logits.chunks_exact(classes).zip(top).map(|(row, &top)| rank(row, top)).collect()
}

/// The `top` classes of one row of logits with their softmax.
///
/// # Errors
/// A logit is not finite.
fn rank(logits: &[f32], top: usize) -> Result<Vec<Prediction>, EngineError> {
    if let Some(class) = logits.iter().position(|logit| !logit.is_finite()) {
        return Err(EngineError::NonFinite { class: class as u32 });
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| (f64::from(logit) - f64::from(max)).exp();
    let total: f64 = logits.iter().copied().map(weight).sum();
    let order = |&a: &u32, &b: &u32| -> Ordering {
        let falling = logits[b as usize].partial_cmp(&logits[a as usize]);
        falling.unwrap_or(Ordering::Equal).then(a.cmp(&b))
    };
    let mut classes: Vec<u32> = (0..logits.len() as u32).collect();
    if top < classes.len() {
        classes.select_nth_unstable_by(top, order);
        classes.truncate(top);
    }
    classes.sort_unstable_by(order);
    let predict =
        |class: u32| Prediction { class, probability: (weight(logits[class as usize]) / total) as f32 };
    Ok(classes.into_iter().map(predict).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// Puts out the row of logits that the first pixel names, or fails at 255.
    struct Scripted(Vec<Vec<f32>>);

    impl Engine for Scripted {
        fn classes(&self) -> usize {
            self.0[0].len()
        }

        fn forward(&mut self, batch: &[&Picture]) -> Result<Vec<f32>, EngineError> {
            let first = |picture: &&Picture| match picture {
                Picture::Rgb8(image) => usize::from(image.pixels[0]),
                Picture::Normalised(values) => values[0] as usize,
            };
            if batch.iter().any(|picture| first(picture) == 255) {
                return Err(EngineError::forward(std::io::Error::other("device lost")));
            }
            Ok(batch.iter().flat_map(|picture| self.0[first(picture)].clone()).collect())
        }
    }

    fn job(first: u8, top: usize) -> ClassifyInput {
        let image = Prepared { pixels: vec![first; IMAGE], size: INPUT_SIZE };
        ClassifyInput { image: image.into(), top }
    }

    fn classes(predictions: &[Prediction]) -> Vec<u32> {
        predictions.iter().map(|p| p.class).collect()
    }

    #[test]
    fn probabilities_are_a_softmax_even_of_huge_logits() {
        let all = rank(&[1000.0, 999.0, -1000.0], 3).unwrap();
        let e = std::f64::consts::E;
        assert_eq!(classes(&all), [0, 1, 2]);
        assert!((f64::from(all[0].probability) - e / (e + 1.0)).abs() < 1e-7);
        assert!((f64::from(all[1].probability) - 1.0 / (e + 1.0)).abs() < 1e-7);
        assert_eq!(all[2].probability, 0.0);
    }

    #[test]
    fn ranks_fall_and_ties_go_to_the_lower_index() {
        let logits = [0.5, 2.0, 0.5, 2.0, -1.0, -0.0, 0.0];
        assert_eq!(classes(&rank(&logits, 3).unwrap()), [1, 3, 0]);
        assert_eq!(classes(&rank(&logits, 99).unwrap()), [1, 3, 0, 2, 5, 6, 4]);
        assert_eq!(rank(&logits, 0).unwrap(), []);
    }

    #[test]
    fn a_bad_image_or_logit_costs_only_its_own_job() {
        let engine = Scripted(vec![vec![0.0, 1.0], vec![0.0, f32::NAN], vec![3.0, 1.0]]);
        let mut classifier = Classifier::new(Box::new(engine), 4);
        let short = ClassifyInput { image: Picture::Normalised([0.0; 3].into()), top: 1 };
        let normalised = ClassifyInput { image: Picture::Normalised(vec![2.0; IMAGE].into()), top: 1 };
        let answers = classifier.run(&[job(0, 1), short, job(1, 1), normalised]).unwrap();
        assert_eq!(classes(answers[0].as_ref().unwrap()), [1]);
        assert!(matches!(answers[1], Err(EngineError::ImageShape { .. })));
        assert!(matches!(answers[2], Err(EngineError::NonFinite { class: 1 })));
        assert_eq!(classes(answers[3].as_ref().unwrap()), [0]);
    }

    #[test]
    fn a_failing_engine_fails_the_batch_with_its_reason() {
        let mut classifier = Classifier::new(Box::new(Scripted(vec![vec![0.0]])), 4);
        let failure = classifier.run(&[job(0, 1), job(255, 1)]).unwrap_err();
        let source = std::error::Error::source(&failure).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("device lost"));
    }
}
