//! `POST /classify`: the image file itself as body; `?top=5&transform=stretch`.

use clap::ValueEnum;
use hyper::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Context,
    body::{self, Body},
    reply::{self, Failure, Reply},
    routes::Ask,
    timing,
};
use crate::{
    config::TransformName,
    service::{Photo, photos::RANDOM_WEIGHTS},
};

/// Predictions when the request names no number.
const DEFAULT_TOP: usize = 5;

/// What the query string asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Query {
    /// How many predictions.
    pub(super) top: Option<usize>,
    /// Which transform.
    pub(super) transform: Option<TransformName>,
}

impl Query {
    /// Reads `top` and `transform`; anything else is named in the error.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Failure> {
        let mut parsed = Self { top: None, transform: None };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("top", value) => parsed.top = Some(parse_top(value)?),
                ("transform", value) => parsed.transform = Some(parse_transform(value)?),
                (name, _) => {
                    let name: String = name.chars().take(40).collect();
                    return Err(Failure::invalid(format!(
                        "unknown query parameter `{name}`; known: top, transform"
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

fn parse_top(value: &str) -> Result<usize, Failure> {
    let parsed = value.parse().ok().filter(|top| *top > 0);
    parsed.ok_or_else(|| Failure::invalid("`top` must be a whole number of at least 1"))
}

fn parse_transform(value: &str) -> Result<TransformName, Failure> {
    TransformName::from_str(value, false)
        .map_err(|_unknown| Failure::invalid("`transform` must be resize-crop or stretch"))
}

/// The answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Classified")]
pub(super) struct Answer<'a> {
    predictions: Vec<Labelled<'a>>,
    model: &'a str,
    milliseconds: f64,
    /// That the model's weights are random, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Prediction")]
struct Labelled<'a> {
    label: &'a str,
    class: u32,
    probability: f32,
}

/// Handles the request.
pub(super) async fn answer(ask: &Ask, body: &mut Body, context: &Context) -> Result<Reply, Failure> {
    let photos = context.services.photos()?;
    check_media_type(&ask.head.headers)?;
    let query = Query::parse(ask.head.uri.query())?;
    let admit = || photos.admit(&ask.terms).map_err(Failure::from);
    let (bytes, seat) = body.read_seated(admit()?, admit, ask, context).await?;
    seat.received();
    let top = query.top.unwrap_or(DEFAULT_TOP).min(photos.labels.len());
    let photo = Photo { bytes, transform: query.transform, top };
    let classified = photos.classify(seat, photo, &ask.terms).await?;
    let labelled = classified.predictions.iter().map(|prediction| Labelled {
        label: photos.labels.of(prediction.class),
        class: prediction.class,
        probability: prediction.probability,
    });
    let answer = Answer {
        predictions: labelled.collect(),
        model: &photos.model.name,
        milliseconds: reply::milliseconds(ask.arrived),
        warning: photos.model.random.then_some(RANDOM_WEIGHTS),
    };
    Ok(timing::with(reply::json(StatusCode::OK, &answer), classified.timeline))
}

/// The body is taken for an image whatever it is called, as long as it was not plainly meant for another reader:
/// `curl --data-binary` calls everything a form.
fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    match body::media_type(headers).as_deref() {
        Some("application/json") => {
            Err(Failure::unsupported("POST /classify takes the image file itself; JSON goes to POST /score"))
        }
        Some(kind) if kind.starts_with("multipart/") => Err(Failure::unsupported(
            "POST /classify takes the image file itself, not a form: curl --data-binary @photo.jpg",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_read_strictly() {
        let query = Query::parse(Some("top=3&transform=stretch")).unwrap();
        assert_eq!(query, Query { top: Some(3), transform: Some(TransformName::Stretch) });
        assert_eq!(Query::parse(None).unwrap(), Query { top: None, transform: None });
        for bad in ["top=0", "top=x", "top", "transform=Stretch", "tpo=3"] {
            assert_eq!(Query::parse(Some(bad)).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
