//! Protobuf messages to and from the bytes of gRPC's frames.
//!
//! A few bytes of protobuf can ask for many times their size in memory: each empty element of a repeated field takes two. So
//! the elements of an infer request are counted before any of them exists. How many bytes a message may have is the frame's
//! to check.

use std::{fmt::Display, marker::PhantomData};

use bytes::{Buf, Bytes};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::proto::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest,
};
use crate::v2::tensor::MAX_ELEMENTS;

/// Most elements of all repeated fields of an infer request: those of the largest tensor, and room for everything around it.
const MAX_PARTS: usize = MAX_ELEMENTS + 1024;

/// About as many bytes as a decoded message holds beside the bytes it was decoded from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held(pub usize);

/// Bytes of a field that takes memory of its own: a name, an element, a tensor.
const PART: usize = 160;

/// Bytes of a number that stands alone, of eight bytes, in a list that doubles.
const NUMBER: usize = 16;

/// A message that is looked over before it is decoded.
pub trait Checked: Message + Default + 'static {
    /// Refuses bytes that would take too much memory, and tells how much they take.
    ///
    /// # Errors
    /// They would, or they are no protobuf.
    fn check(bytes: &[u8]) -> Result<Held, Status>;
}

impl Checked for ModelInferRequest {
    fn check(bytes: &[u8]) -> Result<Held, Status> {
        let (mut parts, mut numbers) = (0, 0);
        count(bytes, Level::Request, &mut parts, &mut numbers)?;
        match parts > MAX_PARTS {
            true => Err(Status::invalid_argument(format!(
                "the request has more than {MAX_PARTS} tensors, elements and parameters; \
                 {MAX_ELEMENTS} photos or questions are the most"
            ))),
            false => Ok(Held(parts * PART + numbers)),
        }
    }
}

/// The frame's limit is enough for messages that hold a name or two.
macro_rules! unchecked {
    ($($message:ty),*) => {
        $(impl Checked for $message {
            fn check(_: &[u8]) -> Result<Held, Status> {
                Ok(Held::default())
            }
        })*
    };
}

unchecked!(
    ModelConfigRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelStatisticsRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest
);

/// Where in an infer request a message stands.
#[derive(Debug, Clone, Copy)]
enum Level {
    Request,
    Input,
    Leaf,
}

impl Level {
    /// What the field `tag` holds, if that is a message with repeated fields of its own.
    fn below(self, tag: u32) -> Option<Self> {
        match (self, tag) {
            (Self::Request, 5) => Some(Self::Input),
            // A requested output, the contents of an input.
            (Self::Request, 6) | (Self::Input, 5) => Some(Self::Leaf),
            _ => None,
        }
    }

    /// Bytes that a byte of the field `tag` comes to, if that is a list of packed numbers: they take a byte or four each, and
    /// four or eight in a list that doubles.
    fn packed(self, tag: u32) -> usize {
        match (self, tag) {
            (Self::Input, 3) => NUMBER,
            (Self::Leaf, 4) => 8,
            (Self::Leaf, 6) => 2,
            _ => 0,
        }
    }
}

/// Counts the fields of `message` and below that take memory of their own, until there are too many, and the bytes of
/// their numbers.
fn count(mut message: &[u8], level: Level, parts: &mut usize, numbers: &mut usize) -> Result<(), Status> {
    while message.has_remaining() && *parts <= MAX_PARTS {
        let (tag, wire) = decode_key(&mut message).map_err(undecodable)?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, tag, &mut message, DecodeContext::default()).map_err(undecodable)?;
            *numbers += NUMBER;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message).map_err(undecodable)?).unwrap_or(usize::MAX);
        let Some((field, rest)) = message.split_at_checked(length) else {
            return Err(undecodable("it is cut short"));
        };
        *parts += 1;
        *numbers += level.packed(tag) * field.len();
        if let Some(below) = level.below(tag) {
            count(field, below, parts, numbers)?;
        }
        message = rest;
    }
    Ok(())
}

fn undecodable(why: impl Display) -> Status {
    Status::invalid_argument(format!("the message cannot be decoded: {why}"))
}

/// Decodes `D` once it is checked; encodes `E`.
pub struct Bounded<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Bounded<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Message + 'static, D: Checked> Codec for Bounded<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Half<E>;
    type Decoder = Half<D>;

    fn encoder(&mut self) -> Half<E> {
        Half(PhantomData)
    }

    fn decoder(&mut self) -> Half<D> {
        Half(PhantomData)
    }
}

/// One direction of [`Bounded`].
pub struct Half<T>(PhantomData<T>);

impl<T: Message> Encoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(out).expect("bug: the buffer grows");
        Ok(())
    }
}

impl<T: Checked> Decoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, frame: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let bytes: Bytes = frame.copy_to_bytes(frame.remaining());
        T::check(&bytes)?;
        T::decode(bytes).map(Some).map_err(undecodable)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;
    use crate::grpc::proto::{InferTensorContents, model_infer_request::InferInputTensor};

    fn request(inputs: usize, elements: usize) -> Vec<u8> {
        let contents =
            InferTensorContents { bytes_contents: vec![Bytes::new(); elements], ..Default::default() };
        let input = InferInputTensor { contents: Some(contents), ..Default::default() };
        ModelInferRequest { inputs: vec![input; inputs], ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn elements_are_counted_wherever_they_stand() {
        ModelInferRequest::check(&request(1, MAX_ELEMENTS)).unwrap();
        for bytes in [
            request(1, MAX_PARTS),
            request(MAX_PARTS + 1, 0),
            request(64, 100),
            [0x3a, 0].repeat(MAX_PARTS + 1),
            [0x32, 2, 0x12, 0].repeat(MAX_PARTS),
        ] {
            assert_eq!(ModelInferRequest::check(&bytes).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn numbers_are_charged_what_they_come_to() {
        let contents = |contents| {
            let input = InferInputTensor { contents: Some(contents), ..Default::default() };
            let bytes = ModelInferRequest { inputs: vec![input], ..Default::default() }.encode_to_vec();
            ModelInferRequest::check(&bytes).unwrap().0
        };
        let numbers = contents(InferTensorContents { uint_contents: vec![1; 100_000], ..Default::default() });
        assert!((800_000..801_000).contains(&numbers), "{numbers}");
        let floats =
            contents(InferTensorContents { fp32_contents: vec![1.0; 100_000], ..Default::default() });
        assert!((800_000..801_000).contains(&floats), "{floats}");
        // A shape of numbers that are not packed: two bytes each.
        let alone = [&[0x2a, 200, 1][..], &[0x18, 1].repeat(100)].concat();
        assert_eq!(ModelInferRequest::decode(&alone[..]).unwrap().inputs[0].shape.len(), 100);
        assert_eq!(ModelInferRequest::check(&alone).unwrap(), Held(PART + 100 * NUMBER));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = request(2, 3);
        for length in 1..whole.len() {
            let decoded = ModelInferRequest::decode(&whole[..length]).is_ok();
            assert_eq!(ModelInferRequest::check(&whole[..length]).is_ok(), decoded, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            if ModelInferRequest::check(&bytes).is_err() {
                prop_assert!(ModelInferRequest::decode(&bytes[..]).is_err());
            }
        }
    }
}
