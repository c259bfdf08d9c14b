//! `POST /score`: the contract that existing clients of the replaced services speak.
//!
//! The type of `input` decides: a JSON string is a question and gets every original, ranked; a JSON object is a set
//! of base64 images and gets the three best labels of each, under the keys as sent.

use std::{collections::HashMap, fmt, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::StatusCode;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use super::{
    Context, base64_image,
    body::{self, Body},
    classify::Query,
    reply::{self, ErrorBody, Failure, Reply},
    routes::Ask,
};
use crate::{
    batch::Permit,
    error::ScoreError,
    service::{Photos, Questions},
    vision::Prediction,
};

/// Labels per image.
const DEFAULT_TOP: usize = 3;

/// Bodies above this many bytes are parsed, and their base64 undone, off the async runtime.
const INLINE_PARSE: usize = 256 << 10;

#[derive(Deserialize)]
struct Scored {
    input: Input,
}

enum Input {
    Question(String),
    Images(Vec<(String, Image)>),
}

/// The bytes behind a base64 string, or `None` when it is not base64.
struct Image(Option<Bytes>);

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ImageVisitor)
    }
}

struct ImageVisitor;

impl Visitor<'_> for ImageVisitor {
    type Value = Image;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image as a base64 string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Image, E> {
        Ok(Image(base64_image::decode(text).map(Bytes::from)))
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a question as a string, or an object of base64 images")
    }

    fn visit_str<E>(self, text: &str) -> Result<Input, E> {
        Ok(Input::Question(text.to_owned()))
    }

    /// Keeps the order of keys; of two equal keys the last counts, as in Python.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
        let mut images: Vec<(String, Image)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((key, image)) = map.next_entry::<String, Image>()? {
            match places.get(&key) {
                Some(&place) => images[place].1 = image,
                None => {
                    places.insert(key.clone(), images.len());
                    images.push((key, image));
                }
            }
        }
        Ok(Input::Images(images))
    }
}

/// Handles the request.
pub(super) async fn answer(ask: &Ask, body: &mut Body, context: &Context) -> Result<Reply, Failure> {
    if !body::is_json(&ask.head.headers) {
        return Ok(reply::json(StatusCode::UNSUPPORTED_MEDIA_TYPE, &serde_json::json!({})));
    }
    let query = Query::parse(ask.head.uri.query())?;
    let seats = Seats::admit(context)?;
    let bytes = body.read(&context.limits).await?;
    match parse(bytes).await? {
        Input::Question(text) => {
            let questions = context.questions.as_ref().ok_or_else(|| Failure::not_served("questions"))?;
            let seat = seats.for_question(questions)?;
            score_question(questions, seat, text, ask).await
        }
        Input::Images(images) => {
            let photos = context.photos.as_ref().ok_or_else(|| Failure::not_served("photos"))?;
            let seat = seats.for_photo(photos)?;
            let batch = Images { photos, images, query, limit: context.limits.max_images };
            batch.score(seat, ask).await
        }
    }
}

/// A seat on each side that has one: admission comes before the body, and only the body tells which side it is for.
struct Seats {
    photo: Option<Permit>,
    question: Option<Permit>,
}

impl Seats {
    /// Fails when no side has a seat left.
    fn admit(context: &Context) -> Result<Self, ScoreError> {
        let photo = context.photos.as_ref().and_then(|photos| photos.classifier.try_admit(1));
        let question = context.questions.as_ref().and_then(|questions| questions.queue.try_admit(1));
        match (&photo, &question, &context.photos, &context.questions) {
            (None, None, Some(photos), _) => photos.admit(1).map(|seat| Self { photo: Some(seat), question }),
            (None, None, None, Some(questions)) => {
                questions.admit().map(|seat| Self { photo, question: Some(seat) })
            }
            _ => Ok(Self { photo, question }),
        }
    }

    /// Gives the other side's seat back.
    fn for_question(self, questions: &Questions) -> Result<Permit, ScoreError> {
        self.question.map_or_else(|| questions.admit(), Ok)
    }

    /// Gives the other side's seat back.
    fn for_photo(self, photos: &Photos) -> Result<Permit, ScoreError> {
        self.photo.map_or_else(|| photos.admit(1), Ok)
    }
}

async fn parse(bytes: Bytes) -> Result<Input, Failure> {
    let parsed = if bytes.len() <= INLINE_PARSE {
        serde_json::from_slice::<Scored>(&bytes)
    } else {
        tokio::task::spawn_blocking(move || serde_json::from_slice::<Scored>(&bytes))
            .await
            .expect("bug: parsing neither panics nor is cancelled")
    };
    parsed.map(|scored| scored.input).map_err(|error| {
        Failure::invalid(format!(
            r#"expected {{"input": "question"}} or {{"input": {{"name": "base64"}}}}: {error}"#
        ))
    })
}

fn computed_in(arrived: Instant) -> String {
    format!("Computed in {:.2} ms", arrived.elapsed().as_secs_f64() * 1e3)
}

#[derive(Serialize)]
struct Answer<T> {
    result: (T, String),
}

async fn score_question(
    questions: &Questions,
    seat: Permit,
    text: String,
    ask: &Ask,
) -> Result<Reply, Failure> {
    let ranking = questions.ask(seat, text, None, ask.deadline).await?;
    let originals = questions.model.questions();
    let triples: Vec<(i64, i64, f32)> = ranking
        .matches
        .iter()
        .map(|found| {
            let original = &originals[found.question];
            (original.id, original.answer_id, found.probability)
        })
        .collect();
    Ok(reply::json(StatusCode::OK, &Answer { result: (triples, computed_in(ask.arrived)) }))
}

struct Images<'a> {
    photos: &'a Photos,
    images: Vec<(String, Image)>,
    query: Query,
    limit: usize,
}

impl Images<'_> {
    async fn score(self, seat: Permit, ask: &Ask) -> Result<Reply, Failure> {
        let seats = self.seats(seat)?;
        let scored =
            self.images.iter().zip(seats).map(|((_, image), seat)| self.score_one(image, seat, ask.deadline));
        let outcomes = join_all(scored).await;
        let outcomes: Vec<_> = outcomes.into_iter().collect::<Result<_, Failure>>()?;
        if let Some(failure) = all_failed(&outcomes) {
            return Err(failure);
        }
        let keyed = self.images.iter().map(|(key, _)| key.as_str()).zip(outcomes.iter());
        let result = Keyed(keyed.map(|(key, outcome)| (key, self.wire(outcome))).collect());
        Ok(reply::json(StatusCode::OK, &Answer { result: (result, computed_in(ask.arrived)) }))
    }

    /// A seat for every image, or none at all: a request is not half admitted.
    fn seats(&self, first: Permit) -> Result<Vec<Permit>, Failure> {
        let count = self.images.len();
        if count == 0 {
            return Err(Failure::invalid("`input` holds no image"));
        }
        if count > self.limit {
            let message = format!("{count} images in one request; at most {} (--max-images)", self.limit);
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_images", message));
        }
        let mut rest = self.photos.admit(count - 1)?;
        let mut seats = vec![first];
        seats.extend(std::iter::from_fn(|| rest.take_one()));
        Ok(seats)
    }

    /// The inner error concerns this image alone; the outer one the whole request.
    async fn score_one(
        &self,
        image: &Image,
        seat: Permit,
        deadline: Instant,
    ) -> Result<Result<Vec<Prediction>, Failure>, Failure> {
        let Some(bytes) = image.0.clone() else {
            return Ok(Err(Failure::invalid("the image is not base64")));
        };
        let top = self.query.top.unwrap_or(DEFAULT_TOP).min(self.photos.labels.len());
        match self.photos.classify(seat, bytes, self.query.transform, top, deadline).await {
            Ok(predictions) => Ok(Ok(predictions)),
            Err(error @ ScoreError::Image(_)) => Ok(Err(error.into())),
            Err(error) => Err(error.into()),
        }
    }

    fn wire<'b>(&'b self, outcome: &'b Result<Vec<Prediction>, Failure>) -> WireOutcome<'b> {
        match outcome {
            Ok(predictions) => {
                let label = |prediction: &Prediction| self.photos.labels.of(prediction.class);
                WireOutcome::Labels(predictions.iter().map(|p| (label(p), p.probability)).collect())
            }
            Err(failure) => WireOutcome::Failed { error: failure.body() },
        }
    }
}

/// The first image's failure, when no image has an answer to lose.
fn all_failed(outcomes: &[Result<Vec<Prediction>, Failure>]) -> Option<Failure> {
    let failures: Option<Vec<&Failure>> = outcomes.iter().map(|outcome| outcome.as_ref().err()).collect();
    failures?.first().map(|failure| (*failure).clone())
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireOutcome<'a> {
    Labels(Vec<(&'a str, f32)>),
    Failed { error: ErrorBody<'a> },
}

/// A JSON object whose keys keep their order.
struct Keyed<'a>(Vec<(&'a str, WireOutcome<'a>)>);

impl Serialize for Keyed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, outcome)| (key, outcome)))
    }
}
