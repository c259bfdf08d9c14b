//! `POST /v2/models/{model}/infer`: from a body to a request and back to a body; headers, compression and counting on the
//! way.

use std::time::Instant;

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, HeaderName, HeaderValue},
};

use super::{
    super::{
        Context,
        body::Body,
        json,
        reply::{self, Failure, Reply},
        routes::Ask,
        timing,
    },
    coding::Coding,
    wire::{self, Asked, Form},
};
use crate::{
    memory::Charge,
    v2::{
        Model, Output, Received,
        infer::off_runtime,
        statistics::{Measured, Reason},
    },
};

/// The length of the JSON before binary tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Bytes that a byte of JSON takes at most once it is parsed: numbers of two characters become floats of four bytes, in a
/// buffer that doubles.
const PARSED: usize = 4;

/// Answers below this many bytes are not worth compressing.
const WORTH_COMPRESSING: usize = 1 << 10;

/// How a request's body is laid out, and how its answer may be.
#[derive(Debug, Clone, Copy)]
pub struct Framing {
    coding: Option<Coding>,
    json: Option<usize>,
    accepted: Option<Coding>,
}

impl Framing {
    /// As `headers` tell of it.
    ///
    /// # Errors
    /// 400 or 501: they do not say how to read the body.
    pub fn of(headers: &HeaderMap) -> Result<Self, Failure> {
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

    /// Reads a body, which inflates to at most `limit` bytes; one that is all a single element becomes the tensor `raw`. What
    /// the request holds is charged.
    ///
    /// # Errors
    /// 413 when it inflates to more; 400 that says what does not fit; there is no memory for it.
    pub fn read(
        self,
        body: Bytes,
        limit: usize,
        raw: &str,
        mut charge: Charge,
    ) -> Result<(Asked, Charge), Failure> {
        let body = match self.coding {
            Some(coding) => coding.inflate(body, limit, &charge)?,
            None => body,
        };
        if self.json == Some(0) {
            return Ok((Asked::raw(raw, body), charge));
        }
        let length = self.json.unwrap_or(body.len()).min(body.len());
        let _working = json::working(&body[..length], &charge)?;
        charge.add(PARSED * length)?;
        let asked = Asked::read(&body, self.json)?;
        charge.shrink_to(asked.request.memory() + asked.form.memory());
        Ok((asked, charge))
    }

    /// About as many bytes as reading `body` looks through; all there are where it is compressed.
    fn weight(self, body: &Bytes) -> usize {
        if self.coding.is_some() { usize::MAX } else { self.json.unwrap_or(body.len()) }
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
            let reply = timing::with(reply, measured.longest());
            Ok(timing::with_each(reply, measured.timelines))
        }
        Err(failure) => {
            counted.failed(ask.arrived.elapsed(), reason(&failure));
            Err(failure)
        }
    }
}

fn reason(failure: &Failure) -> Reason {
    match failure.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Reason::Rejected,
        status if status.is_server_error() && status != StatusCode::GATEWAY_TIMEOUT => Reason::Backend,
        _ => Reason::Other,
    }
}

async fn run(
    model: &Model,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
) -> Result<(Reply, Measured), Failure> {
    let framing = Framing::of(&ask.head.headers)?;
    let admit = || model.admit(&ask.terms).map_err(Failure::from);
    let (bytes, gate) = body.read_seated(admit()?, admit, ask, context).await?;
    let (received, form) = receive(bytes, framing, model.raw_input(), ask, context).await?;
    let parsing = received.parsing;
    let scored = gate.score(received, context.limits.max_images).await?;
    let started = Instant::now();
    let reply = write(model.name(), form, scored.outputs, framing.accepted, scored.charge).await?;
    let measured = Measured { parsing, writing: started.elapsed(), timelines: scored.timelines };
    Ok((reply, measured))
}

/// Reads the request; a raw body becomes the tensor `raw`.
async fn receive(
    bytes: Bytes,
    framing: Framing,
    raw: &'static str,
    ask: &Ask,
    context: &Context,
) -> Result<(Received, Form), Failure> {
    let started = Instant::now();
    let (limit, charge) = (context.limits.max_body, context.budget.open(ask.terms.client));
    let weight = framing.weight(&bytes);
    let parsed = off_runtime(weight, move || framing.read(bytes, limit, raw, charge)).await?;
    let (Asked { request, form }, charge) = parsed;
    let terms = request.parameters.change(&ask.terms, ask.arrived);
    Ok((Received { request, terms, parsing: started.elapsed(), charge }, form))
}

async fn write(
    model: &str,
    form: Form,
    outputs: Vec<Output>,
    accepted: Option<Coding>,
    mut charge: Charge,
) -> Result<Reply, Failure> {
    let size: usize = outputs.iter().map(|output| output.values.binary_size()).sum();
    if size > WORTH_COMPRESSING / 8 {
        charge.add(accepted.map_or(0, Coding::writing))?;
    }
    let model = model.to_owned();
    let render = move || {
        let rendered = wire::render(&model, &form, &outputs);
        let coding = accepted.filter(|_| rendered.body.len() >= WORTH_COMPRESSING);
        let body = match coding {
            Some(coding) => coding.deflate(&rendered.body)?,
            None => rendered.body,
        };
        // Whoever gives up does not end what is being written: what it is charged stays with it.
        drop(charge);
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
    fn the_length_of_the_json_is_a_number() {
        let of = |value| Framing::of(&HeaderMap::from_iter([(JSON_LENGTH, HeaderValue::from_static(value))]));
        assert_eq!(of("17").unwrap().json, Some(17));
        for bad in ["", "-1", "x", "1.5", "99999999999999999999999"] {
            assert_eq!(of(bad).err().map(|failure| failure.status), Some(StatusCode::BAD_REQUEST), "{bad}");
        }
    }
}
