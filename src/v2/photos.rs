//! The photo model's tensors: `image`, encoded photos, or `input`, pixels already cropped; `probabilities` of every class,
//! or the best classes with their labels.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Error, Input, Output, Received, Scored,
    feed::feed,
    infer::{charge_answer, off_runtime},
    metadata::Tensor,
    request::short,
    tensor::{Floats, Values, ranked},
};
use crate::{
    batch::Terms,
    error::ScoreError,
    image::{Prepared, base64},
    memory::Charge,
    service::{Photo, PhotoSeat, Photos, photos::Classified},
    vision::{INPUT_SIZE, Labels, Picture, Prediction},
};

/// Encoded photos, BYTES; as base64 where they come as text.
pub(super) const IMAGE: &str = "image";

/// Cropped photos, red first: UINT8 `[n, 224, 224, 3]`, which the server normalises; FP32 or FP16, normalised by the
/// client as the model was trained, `[n, 3, 224, 224]` or `[n, 224, 224, 3]`. The first is announced: it is the least
/// to send.
const PIXELS: &str = "input";

/// Softmax over all classes, FP32 `[n, classes]`.
const PROBABILITIES: &str = "probabilities";

/// Height, width and colours of one element of [`PIXELS`].
const PIXEL_DIMS: [u64; 3] = [INPUT_SIZE as u64, INPUT_SIZE as u64, 3];

/// The same, colour by colour.
const PLANE_DIMS: [u64; 3] = [3, INPUT_SIZE as u64, INPUT_SIZE as u64];

/// Numbers of one element of [`PIXELS`].
const NUMBERS: usize = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;

/// What it takes, one of them a request.
pub(super) fn inputs() -> Vec<Tensor> {
    vec![
        Tensor { name: IMAGE, datatype: "BYTES", dims: vec![1], optional: true },
        Tensor { name: PIXELS, datatype: "UINT8", dims: PIXEL_DIMS.to_vec(), optional: true },
    ]
}

/// What it answers.
pub(super) fn outputs(photos: &Photos) -> Vec<Tensor> {
    let dims = vec![photos.labels.len() as u64];
    vec![Tensor { name: PROBABILITIES, datatype: "FP32", dims, optional: false }]
}

/// One photo of a request.
#[derive(Debug)]
pub enum Item {
    /// Encoded.
    File(Bytes),
    /// `[224, 224, 3]`.
    Pixels(Bytes),
    /// As the model was trained.
    Normalised {
        /// So many numbers as [`Item::Pixels`] has bytes, all finite.
        values: Floats,
        /// Colour by colour, `[3, 224, 224]`.
        planar: bool,
    },
}

/// Classifies the photos of one request, at most `most` at a time; `gate` is a seat and the terms it was taken on.
pub(super) async fn score(
    photos: &Photos,
    gate: (PhotoSeat, &Terms),
    received: Received,
    most: usize,
) -> Result<Scored, Error> {
    let Received { request, terms, charge, .. } = received;
    let picked = request.picked(&[PROBABILITIES], PROBABILITIES)?;
    let ranked = picked[0].classes.map(|classes| classes.min(photos.labels.len()));
    let top = ranked.unwrap_or(photos.labels.len());
    let weight = request.inputs.iter().map(|input| input.data.weight()).sum();
    let (items, charge) = off_runtime(weight, move || held(request.inputs, charge)).await?;
    let shape = vec![items.len(), top];
    let charge = charge_answer(&charge, items.len(), top, ranked.is_some(), 0)?;
    let terms = &terms;
    let run = move |item, seat: PhotoSeat| async move {
        seat.received();
        let Classified { predictions, timeline } = classify(photos, seat, item, top, terms).await?;
        let row = match ranked {
            Some(_) => labelled(&predictions, &photos.labels),
            None => dense(&predictions),
        };
        Ok((row, timeline))
    };
    let rows = feed(photos, gate, terms, items, most, run).await?;
    let (rows, timelines): (Vec<_>, _) = rows.into_iter().unzip();
    let output = Output { name: PROBABILITIES, shape, values: Values::concat(rows) };
    Ok(Scored { outputs: vec![output], timelines, charge })
}

/// The photos of a request, charged for as long as any of them lives.
fn held(inputs: Vec<Input>, charge: Charge) -> Result<(Vec<Item>, Arc<Charge>), Error> {
    let charge = Arc::new(charge);
    let items = items(inputs)?.into_iter().map(|item| item.held(&charge)).collect();
    Ok((items, charge))
}

/// The photos of a request, from the one input that it has.
///
/// # Errors
/// It has another, or one that does not hold what it says.
pub fn items(inputs: Vec<Input>) -> Result<Vec<Item>, Error> {
    let one = <[Input; 1]>::try_from(inputs).map_err(|inputs| {
        Error::invalid(format!("expected one input, `{IMAGE}` or `{PIXELS}`; found {}", inputs.len()))
    })?;
    let [input] = one;
    match input.name.as_str() {
        IMAGE => {
            let count = input.batch("BYTES", &[1])?;
            let files = input.into_elements(count, from_base64)?;
            Ok(files.into_iter().map(Item::File).collect())
        }
        PIXELS if ["FP32", "FP16"].contains(&input.datatype.as_str()) => {
            let planar = input.shape.get(1) == Some(&PLANE_DIMS[0]);
            let count = input.batch(&input.datatype, if planar { &PLANE_DIMS } else { &PIXEL_DIMS })?;
            let mut values = input.into_floats(count * NUMBERS)?;
            Ok((0..count).map(|_| Item::Normalised { values: values.next(NUMBERS), planar }).collect())
        }
        PIXELS => {
            let count = input.batch("UINT8", &PIXEL_DIMS)?;
            let mut pixels = input.into_uint8(count * NUMBERS)?;
            Ok((0..count).map(|_| Item::Pixels(pixels.split_to(NUMBERS))).collect())
        }
        other => {
            let other = short(other);
            Err(Error::invalid(format!("unknown input `{other}`; known: `{IMAGE}`, `{PIXELS}`")))
        }
    }
}

impl Item {
    /// Files and pixels wait in queues, where the request that they came with cannot speak for them.
    fn held(self, charge: &Arc<Charge>) -> Self {
        match self {
            Self::File(bytes) => Self::File(charge.hold_shared(bytes)),
            other => other,
        }
    }
}

fn from_base64(text: String) -> Result<Bytes, Error> {
    let decoded = base64::decode(&text).map(Bytes::from);
    decoded.ok_or_else(|| Error::invalid(format!("`{IMAGE}` as text is base64; this is not")))
}

/// One photo with its colours side by side.
fn normalised(values: Floats, planar: bool) -> Picture {
    let values = values.into_values();
    if !planar {
        return Picture::Normalised(values.into());
    }
    let pixels = NUMBERS / 3;
    let pixel = |at: usize| [values[at], values[pixels + at], values[2 * pixels + at]];
    Picture::Normalised((0..pixels).flat_map(pixel).collect())
}

async fn classify(
    photos: &Photos,
    seat: PhotoSeat,
    item: Item,
    top: usize,
    terms: &Terms,
) -> Result<Classified, ScoreError> {
    match item {
        Item::File(bytes) => photos.classify(seat, Photo { bytes, transform: None, top }, terms).await,
        Item::Pixels(pixels) => {
            let image = Prepared { pixels: pixels.to_vec(), size: INPUT_SIZE };
            photos.classify_prepared(seat, image.into(), top, terms).await
        }
        Item::Normalised { values, planar } => {
            let picture = off_runtime(4 * NUMBERS, move || normalised(values, planar)).await;
            photos.classify_prepared(seat, picture, top, terms).await
        }
    }
}

/// The probability of every class, by its index.
fn dense(predictions: &[Prediction]) -> Values {
    let mut row = vec![0.0; predictions.len()];
    for prediction in predictions {
        row[prediction.class as usize] = prediction.probability;
    }
    Values::Fp32(row)
}

fn labelled(predictions: &[Prediction], labels: &Labels) -> Values {
    let class = |p: &Prediction| ranked(p.probability, p.class as usize, labels.of(p.class));
    Values::Bytes(predictions.iter().map(class).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranked_classes_go_back_to_their_places() {
        let of = |class, probability| Prediction { class, probability };
        let predictions = [of(2, 0.5), of(0, 0.375), of(1, 0.125)];
        assert_eq!(dense(&predictions), Values::Fp32(vec![0.375, 0.125, 0.5]));
        let expected = format!("0.5:2:{}", Labels::imagenet().of(2));
        assert_eq!(labelled(&predictions[..1], &Labels::imagenet()), Values::Bytes(vec![expected]));
    }
}
