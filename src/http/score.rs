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
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

use super::{
    Context,
    body::{self, Body},
    classify::Query,
    json,
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
    memory::{Charge, Full},
    service::{Absent, Photo, PhotoSeat, Photos, Questions, Timeline, photos::Classified},
    vision::Prediction,
};

/// Labels per image.
const DEFAULT_TOP: usize = 3;

/// The request.
#[derive(Debug, PartialEq, JsonSchema)]
#[schemars(rename = "Score")]
pub struct Scored {
    /// What is to be scored.
    pub input: Input,
    #[schemars(default)]
    parameters: Parameters,
}

/// What is to be scored.
#[derive(Debug, PartialEq)]
pub enum Input {
    /// A question.
    Question(String),
    /// Those that may be in one request, in the order of their keys, which differ, and how many there are beyond.
    Images(Vec<(String, Image)>, usize),
}

/// The bytes behind a base64 string, or `None` when it is not base64.
pub type Image = Option<Vec<u8>>;

impl Scored {
    /// Reads a body; of its photos the first `limit`. What is kept is added to `charge`.
    ///
    /// # Errors
    /// 400 that says what was expected, or that there is no memory for it.
    pub fn read(body: &[u8], limit: usize, charge: &mut Charge) -> Result<Self, Failure> {
        Reading { charge, limit, full: None }.read(body)
    }
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

/// Reads a body without a copy of it: strings are undone where they stand, and charged before they are.
struct Reading<'a> {
    charge: &'a mut Charge,
    /// Most images.
    limit: usize,
    full: Option<Full>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Input,
    Parameters,
    #[serde(other)]
    Other,
}

impl Reading<'_> {
    fn read(mut self, bytes: &[u8]) -> Result<Scored, Failure> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let read = self.scored(&mut json).and_then(|scored| json.end().map(|()| scored));
        read.map_err(|error| match self.full {
            Some(full) => full.into(),
            None => Failure::unreadable(r#"{"input": "question"} or {"input": {"name": "base64"}}"#, &error),
        })
    }

    fn scored<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<Scored, D::Error> {
        deserializer.deserialize_any(Whole(self))
    }

    fn charge<E: de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.charge.add(bytes).map_err(|full| {
            self.full = Some(full);
            E::custom(full)
        })
    }
}

/// The body.
struct Whole<'a, 'b>(&'a mut Reading<'b>);

impl<'de> Visitor<'de> for Whole<'_, '_> {
    type Value = Scored;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_str<E: de::Error>(self, _not_repeated: &str) -> Result<Scored, E> {
        Err(E::invalid_type(de::Unexpected::Other("string"), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scored, A::Error> {
        let (mut input, mut parameters) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Input if input.is_some() => return Err(de::Error::duplicate_field("input")),
                Field::Input => input = Some(map.next_value_seed(Inputs(&mut *self.0))?),
                Field::Parameters if parameters.is_some() => {
                    return Err(de::Error::duplicate_field("parameters"));
                }
                Field::Parameters => {
                    let json::Unquoted(given) = map.next_value()?;
                    parameters = Some(given);
                }
                Field::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        let input = input.ok_or_else(|| de::Error::missing_field("input"))?;
        Ok(Scored { input, parameters: parameters.unwrap_or_default() })
    }
}

/// The value of `input`.
struct Inputs<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Inputs<'_, '_> {
    type Value = Input;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_, '_> {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a question as a string, or an object of base64 images")
    }

    fn visit_str<E>(self, text: &str) -> Result<Input, E> {
        Ok(Input::Question(json::looked_at(text).to_owned()))
    }

    /// Keeps the order of keys; of two equal keys the last counts, as in Python.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
        let (mut images, mut beyond): (Vec<(String, Image)>, usize) = (Vec::new(), 0);
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some(key) = map.next_key_seed(Key(&mut *self.0))? {
            match places.get(&key) {
                Some(&place) => images[place].1 = map.next_value_seed(Base64(&mut *self.0))?,
                None if images.len() == self.0.limit => {
                    beyond += 1;
                    map.next_value::<IgnoredAny>()?;
                }
                None => {
                    let image = map.next_value_seed(Base64(&mut *self.0))?;
                    places.insert(key.clone(), images.len());
                    images.push((key, image));
                }
            }
        }
        Ok(Input::Images(images, beyond))
    }
}

/// The key of an image, which is kept twice.
struct Key<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        self.0.charge(2 * text.len())?;
        Ok(text.to_owned())
    }
}

/// An image.
struct Base64<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Base64<'_, '_> {
    type Value = Image;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Image, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Base64<'_, '_> {
    type Value = Image;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image as a base64 string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Image, E> {
        self.0.charge(base64::decoded_at_most(text.len()))?;
        Ok(base64::decode(text))
    }
}

/// Handles the request.
pub(super) async fn answer(ask: &Ask, body: &mut Body, context: &Context) -> Result<Reply, Failure> {
    if !body::is_json(&ask.head.headers) {
        return Ok(reply::json(StatusCode::UNSUPPORTED_MEDIA_TYPE, &serde_json::json!({})));
    }
    let query = Query::parse(ask.head.uri.query())?;
    let admit = || Seats::admit(context, &ask.terms);
    let (bytes, mut seats) = body.read_seated(admit()?, admit, ask, context).await?;
    let limit = context.limits.max_images;
    let read = move |bytes: &[u8], charge: &mut Charge| Scored::read(bytes, limit, charge);
    let (Scored { input, parameters }, charge) =
        json::parse(bytes, context.budget.open(ask.terms.client), read).await?;
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
        Input::Images(images, beyond) => {
            let (photos, seat) = seats.for_photo(&terms)?;
            let images = held(images, charge);
            let batch = Images { photos: &photos, images, beyond, query, terms, limit };
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

/// Images whose bytes are charged for as long as any of them lives.
fn held(images: Vec<(String, Image)>, charge: Charge) -> Vec<(String, Option<Bytes>)> {
    let charge = Arc::new(charge);
    images.into_iter().map(|(key, image)| (key, image.map(|bytes| charge.hold_shared(bytes)))).collect()
}

struct Images<'a> {
    photos: &'a Photos,
    images: Vec<(String, Option<Bytes>)>,
    /// How many more there were than are kept.
    beyond: usize,
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
        let count = self.images.len() + self.beyond;
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
    async fn score_one(&self, image: &Option<Bytes>, seat: PhotoSeat) -> Result<Outcome, Failure> {
        let Some(bytes) = image.clone() else {
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
