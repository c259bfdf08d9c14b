//! `POST /score`: the contract that existing clients of the replaced services speak.
//!
//! The type of `input` decides: a JSON string is a question and gets every original, ranked; a JSON object is a set
//! of base64 images and gets the three best labels of each, under the keys as sent.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use super::{
    Context,
    body::{self, Body},
    classify::Query,
    parameters::Parameters,
    reply::{self, ErrorBody, Failure, Reply},
    routes::Ask,
    timing,
};
use crate::{
    batch::{Seat, Terms},
    error::ScoreError,
    faq::Answerer,
    image::base64,
    service::{Absent, Photo, PhotoSeat, Photos, Questions, Timeline, photos::Classified},
    vision::Prediction,
};

/// Labels per image.
const DEFAULT_TOP: usize = 3;

/// Bodies above this many bytes are parsed, and their base64 undone, off the async runtime.
const INLINE_PARSE: usize = 256 << 10;

/// The request.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Score")]
pub(super) struct Scored {
    input: Input,
    #[serde(default)]
    parameters: Parameters,
}

enum Input {
    Question(String),
    Images(Vec<(String, Image)>),
}

impl JsonSchema for Input {
    fn schema_name() -> Cow<'static, str> {
        "Input".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A question, or photos by key.",
            "anyOf": [
                {"type": "string"},
                {"type": "object", "additionalProperties": {"type": "string", "description": "A photo in base64."}}
            ]
        })
    }
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
        Ok(Image(base64::decode(text).map(Bytes::from)))
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
    let mut seats = Seats::admit(context, &ask.terms)?;
    let bytes = body.read(&context.limits).await?;
    let Scored { input, parameters } = parse(bytes).await?;
    let terms = parameters.tightened(&ask.terms, ask.arrived);
    if let Some(terms) = &terms {
        seats.reschedule(terms.deadline);
    }
    let terms = terms.unwrap_or(ask.terms);
    match input {
        Input::Question(text) => {
            let (questions, seat) = seats.for_question(&terms)?;
            score_question(&questions, seat, text, &terms, ask.arrived).await
        }
        Input::Images(images) => {
            let (photos, seat) = seats.for_photo(&terms)?;
            let batch = Images { photos: &photos, images, query, terms, limit: context.limits.max_images };
            batch.score(seat, ask.arrived).await
        }
    }
}

/// What serves either side, or why nothing does, and a seat where it has one: admission comes before the body, and only
/// the body tells which side it is for.
struct Seats {
    photos: Result<Arc<Photos>, Absent>,
    questions: Result<Arc<Questions>, Absent>,
    photo: Option<PhotoSeat>,
    question: Option<Seat<Answerer>>,
}

impl Seats {
    /// Fails when no side has a seat.
    fn admit(context: &Context, terms: &Terms) -> Result<Self, Failure> {
        let (photos, questions) = (context.services.photos(), context.services.questions());
        let mut photo = photos.as_ref().ok().and_then(|photos| photos.try_admit(terms).ok());
        let asked = questions.as_ref().ok().and_then(|side| side.queue.try_admit(terms, 1).ok());
        let mut question = asked.and_then(|mut seats| seats.pop());
        match (&photo, &question, &photos, &questions) {
            (None, None, Ok(photos), _) => photo = Some(photos.admit(terms)?),
            (None, None, Err(_), Ok(questions)) => question = Some(questions.admit(terms)?),
            _ => {}
        }
        Ok(Self { photos, questions, photo, question })
    }

    fn reschedule(&mut self, deadline: Instant) {
        if let Some(seat) = &mut self.photo {
            seat.reschedule(deadline);
        }
        if let Some(seat) = &mut self.question {
            seat.reschedule(deadline);
        }
    }

    /// Gives the other side's seat back.
    fn for_question(self, terms: &Terms) -> Result<(Arc<Questions>, Seat<Answerer>), Failure> {
        let questions = self.questions?;
        let seat = self.question.map_or_else(|| questions.admit(terms), Ok)?;
        Ok((questions, seat))
    }

    /// Gives the other side's seat back.
    fn for_photo(self, terms: &Terms) -> Result<(Arc<Photos>, PhotoSeat), Failure> {
        let photos = self.photos?;
        let seat = self.photo.map_or_else(|| photos.admit(terms), Ok)?;
        Ok((photos, seat))
    }
}

async fn parse(bytes: Bytes) -> Result<Scored, Failure> {
    let parsed = if bytes.len() <= INLINE_PARSE {
        serde_json::from_slice::<Scored>(&bytes)
    } else {
        tokio::task::spawn_blocking(move || serde_json::from_slice::<Scored>(&bytes))
            .await
            .expect("bug: parsing neither panics nor is cancelled")
    };
    parsed.map_err(|error| {
        Failure::invalid(format!(
            r#"expected {{"input": "question"}} or {{"input": {{"name": "base64"}}}}: {error}"#
        ))
    })
}

fn computed_in(arrived: Instant) -> String {
    format!("Computed in {:.2} ms", arrived.elapsed().as_secs_f64() * 1e3)
}

/// The answer about a question: every original, ranked, and how long it took.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ranked {
    result: (Vec<(i64, i64, f32)>, String),
}

/// The answer about photos: labels by key, and how long it took.
#[derive(Serialize, JsonSchema)]
pub(super) struct Labelled<'a> {
    result: (Keyed<'a>, String),
}

async fn score_question(
    questions: &Questions,
    seat: Seat<Answerer>,
    text: String,
    terms: &Terms,
    arrived: Instant,
) -> Result<Reply, Failure> {
    let (ranking, timeline) = questions.ask(seat, text, None, terms).await?;
    let originals = ranking.model.questions();
    let triples: Vec<(i64, i64, f32)> = ranking
        .matches
        .iter()
        .map(|found| {
            let original = &originals[found.question];
            (original.id, original.answer_id, found.probability)
        })
        .collect();
    let answer = Ranked { result: (triples, computed_in(arrived)) };
    Ok(timing::with(reply::json(StatusCode::OK, &answer), timeline))
}

struct Images<'a> {
    photos: &'a Photos,
    images: Vec<(String, Image)>,
    query: Query,
    terms: Terms,
    limit: usize,
}

/// What became of one image while others of its request may fare otherwise.
type Outcome = Result<Classified, Failure>;

impl Images<'_> {
    async fn score(self, seat: PhotoSeat, arrived: Instant) -> Result<Reply, Failure> {
        let seats = self.seats(seat)?;
        seats.iter().for_each(PhotoSeat::received);
        let scored = self.images.iter().zip(seats).map(|((_, image), seat)| self.score_one(image, seat));
        let outcomes = join_all(scored).await;
        let outcomes: Vec<Outcome> = outcomes.into_iter().collect::<Result<_, Failure>>()?;
        if let Some(failure) = all_failed(&outcomes) {
            return Err(failure);
        }
        let keyed = self.images.iter().map(|(key, _)| key.as_str()).zip(outcomes.iter());
        let result = Keyed(keyed.map(|(key, outcome)| (key, self.wire(outcome))).collect());
        let timelines: Vec<_> = outcomes.iter().flatten().map(|classified| classified.timeline).collect();
        let timeline = timelines.iter().copied().reduce(Timeline::longest).unwrap_or_default();
        let answer = Labelled { result: (result, computed_in(arrived)) };
        let reply = timing::with(reply::json(StatusCode::OK, &answer), timeline);
        Ok(timing::with_each(reply, timelines))
    }

    /// A seat for every image, or none at all: a request is not half admitted.
    fn seats(&self, first: PhotoSeat) -> Result<Vec<PhotoSeat>, Failure> {
        let count = self.images.len();
        if count == 0 {
            return Err(Failure::invalid("`input` holds no image"));
        }
        if count > self.limit {
            let message = format!("{count} images in one request; at most {} (--max-images)", self.limit);
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_images", message));
        }
        let mut seats = vec![first];
        if count > 1 {
            seats.extend(self.photos.admit_many(&self.terms, count - 1)?);
        }
        Ok(seats)
    }

    /// The inner error concerns this image alone; the outer one the whole request.
    async fn score_one(&self, image: &Image, seat: PhotoSeat) -> Result<Outcome, Failure> {
        let Some(bytes) = image.0.clone() else {
            return Ok(Err(Failure::invalid("the image is not base64")));
        };
        let top = self.query.top.unwrap_or(DEFAULT_TOP).min(self.photos.labels.len());
        let photo = Photo { bytes, transform: self.query.transform, top };
        match self.photos.classify(seat, photo, &self.terms).await {
            Ok(classified) => Ok(Ok(classified)),
            Err(error @ (ScoreError::Image(_) | ScoreError::Engine(_) | ScoreError::Broken)) => {
                Ok(Err(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn wire<'b>(&'b self, outcome: &'b Outcome) -> WireOutcome<'b> {
        match outcome {
            Ok(classified) => {
                let label = |prediction: &Prediction| self.photos.labels.of(prediction.class);
                WireOutcome::Labels(
                    classified.predictions.iter().map(|p| (label(p), p.probability)).collect(),
                )
            }
            Err(failure) => WireOutcome::Failed { error: failure.body() },
        }
    }
}

/// The first image's failure, when no image has an answer to lose.
fn all_failed(outcomes: &[Outcome]) -> Option<Failure> {
    let failures: Option<Vec<&Failure>> = outcomes.iter().map(|outcome| outcome.as_ref().err()).collect();
    failures?.first().map(|failure| (*failure).clone())
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Outcome")]
enum WireOutcome<'a> {
    Labels(Vec<(&'a str, f32)>),
    Failed { error: ErrorBody<'a> },
}

/// A JSON object whose keys keep their order.
pub(super) struct Keyed<'a>(Vec<(&'a str, WireOutcome<'a>)>);

impl JsonSchema for Keyed<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Outcomes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let outcome = generator.subschema_for::<WireOutcome>();
        json_schema!({"type": "object", "additionalProperties": outcome})
    }
}

impl Serialize for Keyed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, outcome)| (key, outcome)))
    }
}
