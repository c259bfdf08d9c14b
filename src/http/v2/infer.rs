//! `POST /v2/models/{model}/infer`: from a body to a [`Request`] and terms, through the model's own module, and back to a
//! body; headers, compression and counting on the way.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, HeaderName, HeaderValue},
};
use tokio::task::spawn_blocking;

use super::{
    super::{
        Context,
        body::Body,
        reply::{self, Failure, Reply},
        routes::Ask,
        terms, timing,
    },
    Model,
    coding::Coding,
    photos, questions,
    statistics::Measured,
    wire::{self, Output, Request},
};
use crate::{
    batch::{Class, Terms},
    service::Timeline,
};

/// The length of the JSON before binary tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Work on more bytes than this leaves the async runtime.
const INLINE: usize = 256 << 10;

/// Answers below this many bytes are not worth compressing.
const WORTH_COMPRESSING: usize = 1 << 10;

/// Most numbers in an answer: 32 MiB of FP32.
const MAX_VALUES: usize = 8 << 20;

/// A request that has been read.
pub(super) struct Received {
    pub(super) request: Request,
    /// The head's terms as the body changes them.
    pub(super) terms: Terms,
    /// From body to tensors.
    parsing: Duration,
}

/// What a model made of a request.
pub(super) struct Scored {
    pub(super) outputs: Vec<Output>,
    /// One an element of the batch.
    pub(super) timelines: Vec<Timeline>,
}

/// How a request's body is laid out, and how its answer may be.
struct Framing {
    coding: Option<Coding>,
    json: Option<usize>,
    accepted: Option<Coding>,
}

impl Framing {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let json = headers.get(JSON_LENGTH).map(|value| {
            let length = value.to_str().ok().and_then(|value| value.trim().parse().ok());
            length.ok_or_else(|| Failure::invalid("Inference-Header-Content-Length is not a length in bytes"))
        });
        Ok(Self {
            coding: Coding::of_request(headers)?,
            json: json.transpose()?,
            accepted: Coding::accepted(headers),
        })
    }
}

/// Handles the request and counts it.
pub(super) async fn answer(
    model: &Model,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
) -> Result<Reply, Failure> {
    let counted = context.statistics.of_model(model);
    match run(model, ask, body, context).await {
        Ok((reply, measured)) => {
            counted.succeeded(ask.arrived.elapsed(), &measured);
            let timeline = measured.timelines.into_iter().reduce(Timeline::longest).unwrap_or_default();
            Ok(timing::with(reply, timeline))
        }
        Err(failure) => {
            counted.failed(ask.arrived.elapsed());
            Err(failure)
        }
    }
}

async fn run(
    model: &Model,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
) -> Result<(Reply, Measured), Failure> {
    let framing = Framing::of(&ask.head.headers)?;
    let most = context.limits.max_images;
    let (id, parsing, scored) = match model {
        Model::Photos(photos) => {
            let seat = photos.admit(&ask.terms)?;
            let received = receive(&framing, photos::IMAGE, ask, body, context).await?;
            let (id, parsing) = (received.request.id.clone(), received.parsing);
            (id, parsing, photos::score(photos, (seat, &ask.terms), received, most).await?)
        }
        Model::Questions(side) => {
            let seat = side.admit(&ask.terms)?;
            let received = receive(&framing, questions::QUESTION, ask, body, context).await?;
            let (id, parsing) = (received.request.id.clone(), received.parsing);
            (id, parsing, questions::score(side, (seat, &ask.terms), received, most).await?)
        }
    };
    let started = Instant::now();
    let reply = write(model.name(), id, scored.outputs, framing.accepted).await?;
    let measured = Measured { parsing, writing: started.elapsed(), timelines: scored.timelines };
    Ok((reply, measured))
}

/// Reads the body; a raw one becomes the tensor `raw`.
async fn receive(
    framing: &Framing,
    raw: &'static str,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
) -> Result<Received, Failure> {
    let bytes = body.read(&context.limits).await?;
    let started = Instant::now();
    let (coding, json, limit) = (framing.coding, framing.json, context.limits.max_body);
    let length = if coding.is_some() { usize::MAX } else { json.unwrap_or(bytes.len()) };
    let request = off_runtime(length, move || parse(bytes, coding, json, limit, raw)).await?;
    let terms = terms_of(&request, ask);
    Ok(Received { request, terms, parsing: started.elapsed() })
}

fn parse(
    body: Bytes,
    coding: Option<Coding>,
    json: Option<usize>,
    limit: usize,
    raw: &str,
) -> Result<Request, Failure> {
    let body = match coding {
        Some(coding) => coding.inflate(&body, limit)?,
        None => body,
    };
    match json {
        Some(0) => Ok(Request::raw(raw, body)),
        json => Request::read(&body, json),
    }
}

/// Runs `work`, which takes time in proportion to `bytes`, where it holds up nobody.
async fn off_runtime<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE {
        return work();
    }
    spawn_blocking(work).await.expect("bug: reading and writing bodies does not panic and is not cancelled")
}

fn terms_of(request: &Request, ask: &Ask) -> Terms {
    let parameters = terms::Parameters { timeout: request.parameters.timeout };
    let terms = parameters.tightened(&ask.terms, ask.arrived).unwrap_or(ask.terms);
    let class = class_of(request.parameters.priority, terms.class);
    Terms { class, ..terms }
}

/// The most urgent priority is interactive, all others are batch; 0 leaves what the headers say.
fn class_of(priority: Option<u64>, asked: Class) -> Class {
    match priority {
        None | Some(0) => asked,
        Some(1) => Class::Interactive,
        Some(_) => Class::Batch,
    }
}

/// Refuses an answer of more than [`MAX_VALUES`] numbers, `width` an element.
pub(super) fn check_size(count: usize, width: usize) -> Result<(), Failure> {
    if count.saturating_mul(width) <= MAX_VALUES {
        return Ok(());
    }
    let message = format!(
        "{count} times {width} numbers are over the {MAX_VALUES} of an answer; ask for fewer, or for a classification"
    );
    Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large", message))
}

async fn write(
    model: &str,
    id: Option<String>,
    outputs: Vec<Output>,
    accepted: Option<Coding>,
) -> Result<Reply, Failure> {
    let size = outputs.iter().map(|output| output.values.binary_size()).sum();
    let model = model.to_owned();
    let render = move || {
        let rendered = wire::render(&model, id.as_deref(), &outputs);
        let coding = accepted.filter(|_| rendered.body.len() >= WORTH_COMPRESSING);
        let body = match coding {
            Some(coding) => coding.deflate(&rendered.body)?,
            None => rendered.body,
        };
        Ok::<_, std::io::Error>((body, rendered.json, coding))
    };
    let (body, json, coding) = off_runtime(size, render).await.map_err(|error| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("the answer was not compressed: {error}"),
        )
    })?;
    let media_type = if json.is_some() { "application/octet-stream" } else { "application/json" };
    let mut reply = reply::with_type(StatusCode::OK, media_type, body.into());
    if let Some(json) = json {
        reply.headers_mut().insert(JSON_LENGTH, HeaderValue::from(json));
    }
    if let Some(coding) = coding {
        reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_one_is_interactive_and_zero_says_nothing() {
        for asked in [Class::Interactive, Class::Batch] {
            assert_eq!((class_of(None, asked), class_of(Some(0), asked)), (asked, asked));
            assert_eq!(class_of(Some(1), asked), Class::Interactive);
            assert_eq!(
                (class_of(Some(2), asked), class_of(Some(u64::MAX), asked)),
                (Class::Batch, Class::Batch)
            );
        }
    }

    #[test]
    fn answers_are_bounded() {
        assert!(check_size(4096, 1000).is_ok());
        assert!(check_size(4096, 21_000).is_err() && check_size(usize::MAX, 2).is_err());
    }

    #[test]
    fn the_length_of_the_json_is_a_number() {
        let of = |value| Framing::of(&HeaderMap::from_iter([(JSON_LENGTH, HeaderValue::from_static(value))]));
        assert_eq!(of("17").unwrap().json, Some(17));
        for bad in ["", "-1", "x", "1.5", "99999999999999999999999"] {
            assert_eq!(of(bad).err().map(|failure| failure.status), Some(StatusCode::BAD_REQUEST), "{bad}");
        }
    }
}
