//! A model as one safetensors file: numbers and text only, so that loading runs nothing. It owns the names, types and
//! shapes of the tensors and every check between a file and a [`Model`]; a damaged or hostile file gives a [`LoadError`].
//!
//! With `N` originals, `V` grams, `P` postings of classes, `Q` of texts and `K` kin:
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `dense.weight` | I8 | V, N | logistic regression, one row per gram |
//! | `dense.scale` | F32 | V | worth of one unit of a row |
//! | `postings.end` | U32 | V | where each gram's postings end |
//! | `postings.class` | U16 | P | |
//! | `postings.weight` | F16 | P | |
//! | `gram.hash`, `gram.kind`, `gram.idf` | U64, U8, F32 | V | vocabulary |
//! | `gram.unknown` | F32 | 1 | idf of a gram that is not in it |
//! | `class.constant` | F32 | N | score of each class for the number of its texts |
//! | `near.end` | U32 | V | where each gram's postings of texts end |
//! | `near.text`, `near.value` | U32, F16 | Q | |
//! | `near.class_end` | U32 | N | where each class's texts end |
//! | `near.blend` | F32 | 1 | weight of the nearest text |
//! | `kin.end` | U32 | N | where each class's kin end |
//! | `kin.class`, `kin.share` | U16, F16 | K | |
//! | `embedding.head` | F16 | N, D | only with an encoder: regression on vectors of D numbers |
//! | `embedding.text` | F16 | T, D | the texts' vectors |
//! | `embedding.class_end`, `embedding.blend` | U32, F32 | N, 1 | as for `near` |
//! | `scope` | F32 | 4 | three weights and the threshold |
//! | `question.id`, `question.answer_id` | I64 | N | |
//! | `question.text`, `answer.text` | U8 | bytes | UTF-8, one after the other |
//! | `question.text_end`, `answer.text_end` | U32 | N | where each ends; an empty answer is none |
//!
//! The metadata key `convoy.faq` holds JSON: `version`, `digest` (of the training data), `duplicates` (how many), `encoder` (its
//! digest, where one is needed), `precision` (how that computes; f32 if absent) and `checksum` (of the tensors).

use super::bm25::{self, Postings};
use super::corpus::{MAX_ORIGINALS, Original};
use super::embedding::Embedding;
use super::encoder::{Identity, Precision};
use super::features::{Entry, Kind, Vocabulary};
use super::kin::Kinship;
use super::model::{Fnv, Model, Quantised};
use super::neighbours::Neighbours;
use super::scope::Scope;
use half::f16;
use safetensors::tensor::{SafeTensorError, TensorView};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The layout described above.
const VERSION: u32 = 2;
const METADATA_KEY: &str = "convoy.faq";

/// The largest file read: [`MAX_ORIGINALS`] classes at the least vocabulary make about 40 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The largest header read; a model's own is under 2 KB.
const MAX_HEADER_BYTES: u64 = 64 << 10;

/// The longest vector of an encoder.
const MAX_WIDTH: usize = 4096;

/// The most texts a model may be trained on.
const MAX_TEXTS: u32 = 1 << 24;

/// No weight of a sane model comes near; within it no sum can overflow.
const MAX_WEIGHT: f32 = 1e6;

/// Why a model file could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot load the FAQ model", path.display())]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a model file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is larger than any model.
    #[error("{bytes} bytes are more than the {MAX_FILE_BYTES} a model may have")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Its header is no safetensors header, or does not fit the file.
    #[error("not a safetensors file")]
    Format(#[from] SafeTensorError),
    /// Its header is longer than a model's or points outside the file.
    #[error("its header is out of bounds")]
    Header,
    /// It is a safetensors file, but no FAQ model.
    #[error("not an FAQ model: no valid {METADATA_KEY:?} metadata")]
    NotAModel,
    /// It was written by another version of this program.
    #[error("format version {found}, but this program reads {VERSION}")]
    Version {
        /// The file's.
        found: u32,
    },
    /// The tensors are not the ones that were written.
    #[error("damaged: the checksum differs")]
    Checksum,
    /// A tensor has another type or shape than the others imply.
    #[error("tensor {tensor:?} should be {dtype:?} of shape {shape:?}")]
    Shape {
        /// Its name.
        tensor: &'static str,
        /// The type it should have.
        dtype: Dtype,
        /// The shape it should have.
        shape: Vec<usize>,
    },
    /// A tensor holds a value it may not.
    #[error("tensor {tensor:?} holds an invalid value")]
    Value {
        /// Its name.
        tensor: &'static str,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    version: u32,
    digest: String,
    duplicates: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<Precision>,
    checksum: String,
}

impl Model {
    /// The version of the file format that is written and read.
    pub const FORMAT_VERSION: u32 = VERSION;

    /// Writes the model to `path`, replacing what was there in one step: a reader sees the old file or the new one.
    ///
    /// # Errors
    /// Whatever the file system reports; `path` is then untouched.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = self.to_bytes();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let written = write_synced(&partial, &bytes).and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            // The write's own error says more than a failure to tidy up after it.
            let _ = std::fs::remove_file(&partial);
        }
        written
    }

    /// Reads a model from `path`.
    ///
    /// # Errors
    /// [`LoadError`] where the file cannot be read or is not exactly what [`Model::save`] writes.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let loaded = read_bounded(path).and_then(|bytes| Self::from_bytes(&bytes));
        loaded.map_err(|problem| LoadError { path: path.to_owned(), problem })
    }

    /// The bytes of a model file. The same model gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = self.tensors();
        let mut checksum = Fnv::new();
        tensors.iter().for_each(|tensor| checksum.write(&tensor.bytes));
        let metadata = Metadata {
            version: VERSION,
            digest: self.digest.clone(),
            duplicates: self.duplicates,
            encoder: self.encoder().map(|encoder| encoder.digest.clone()),
            precision: self.encoder().map(|encoder| encoder.precision),
            checksum: checksum.hex(),
        };
        let metadata = serde_json::to_string(&metadata).expect("bug: plain fields are JSON");
        let views = tensors.iter().map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (tensor.name, view.expect("bug: a tensor's bytes fit its shape"))
        });
        // One key only: the order of several would vary from run to run.
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        safetensors::serialize(views, Some(metadata)).expect("bug: distinct names and whole bytes serialise")
    }

    fn tensors(&self) -> Vec<Tensor> {
        let entries = self.vocabulary.entries();
        let near = &self.neighbours;
        let (n, v, p, q) =
            (self.originals.len(), entries.len(), self.bm25.postings.classes.len(), near.texts.len());
        let (kin, k) = (&self.kinship, self.kinship.classes.len());
        let [constant, log_p, evidence] = self.scope.weights;
        let scope = [constant, log_p, evidence, self.scope.threshold];
        let (texts, text_ends) = concatenate(self.originals.iter().map(|original| original.text.as_str()));
        let answers = self.originals.iter().map(|original| original.answer.as_deref().unwrap_or_default());
        let (answers, answer_ends) = concatenate(answers);
        let kind = |entry: &Entry| entry.kind as u8;
        let round = |weight: &f32| f16::from_f32(*weight);
        let mut tensors = vec![
            tensor("dense.weight", Dtype::I8, [v, n], &self.dense.data, |x| x.to_le_bytes()),
            tensor("dense.scale", Dtype::F32, [v], &self.dense.scales, |x| x.to_le_bytes()),
            tensor("postings.end", Dtype::U32, [v], &self.bm25.postings.ends, |x| x.to_le_bytes()),
            tensor("postings.class", Dtype::U16, [p], &self.bm25.postings.classes, |x| x.to_le_bytes()),
            tensor("postings.weight", Dtype::F16, [p], &self.bm25.postings.weights, |x| {
                round(x).to_le_bytes()
            }),
            tensor("gram.hash", Dtype::U64, [v], entries, |x| x.hash.to_le_bytes()),
            tensor("gram.kind", Dtype::U8, [v], entries, |x| [kind(x)]),
            tensor("gram.idf", Dtype::F32, [v], entries, |x| x.idf.to_le_bytes()),
            tensor("gram.unknown", Dtype::F32, [1], &[self.vocabulary.unknown_idf()], |x| x.to_le_bytes()),
            tensor("class.constant", Dtype::F32, [n], &self.constants, |x| x.to_le_bytes()),
            tensor("near.end", Dtype::U32, [v], &near.ends, |x| x.to_le_bytes()),
            tensor("near.text", Dtype::U32, [q], &near.texts, |x| x.to_le_bytes()),
            tensor("near.value", Dtype::F16, [q], &near.values, |x| round(x).to_le_bytes()),
            tensor("near.class_end", Dtype::U32, [n], &near.class_ends, |x| x.to_le_bytes()),
            tensor("near.blend", Dtype::F32, [1], &[self.nearest], |x| x.to_le_bytes()),
            tensor("kin.end", Dtype::U32, [n], &kin.ends, |x| x.to_le_bytes()),
            tensor("kin.class", Dtype::U16, [k], &kin.classes, |x| x.to_le_bytes()),
            tensor("kin.share", Dtype::F16, [k], &kin.shares, |x| round(x).to_le_bytes()),
            tensor("scope", Dtype::F32, [4], &scope, |x| x.to_le_bytes()),
            tensor("question.id", Dtype::I64, [n], &self.originals, |x| x.id.to_le_bytes()),
            tensor("question.answer_id", Dtype::I64, [n], &self.originals, |x| x.answer_id.to_le_bytes()),
            tensor("question.text", Dtype::U8, [texts.len()], texts.as_bytes(), |x| [*x]),
            tensor("question.text_end", Dtype::U32, [n], &text_ends, |x| x.to_le_bytes()),
            tensor("answer.text", Dtype::U8, [answers.len()], answers.as_bytes(), |x| [*x]),
            tensor("answer.text_end", Dtype::U32, [n], &answer_ends, |x| x.to_le_bytes()),
        ];
        if let Some((embedding, _)) = &self.embedding {
            tensors.extend(embedding_tensors(embedding));
        }
        tensors
    }

    /// Reads the bytes of a model file.
    ///
    /// # Errors
    /// [`Problem`] where they are not exactly what [`Model::to_bytes`] gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        check_header(bytes)?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY));
        let metadata: Metadata =
            metadata.and_then(|json| serde_json::from_str(json).ok()).ok_or(Problem::NotAModel)?;
        if metadata.version != VERSION {
            return Err(Problem::Version { found: metadata.version });
        }
        let file = Tensors(SafeTensors::deserialize(bytes)?);
        let classes = file.length("question.id", 1, MAX_ORIGINALS)?;
        let features = file.length("gram.hash", 0, u32::MAX as usize)?;
        let model = Self {
            originals: file.originals(classes)?,
            vocabulary: file.vocabulary(features)?,
            dense: file.dense(features, classes)?,
            bm25: bm25::Index::new(file.postings(features, classes)?, classes),
            constants: file.weights("class.constant", Dtype::F32, classes, f32::from_le_bytes)?,
            neighbours: file.neighbours(features, classes)?,
            nearest: file.weights("near.blend", Dtype::F32, 1, f32::from_le_bytes)?[0],
            kinship: file.kinship(classes)?,
            embedding: match metadata.encoder {
                Some(digest) => {
                    let precision = metadata.precision.unwrap_or(Precision::F32);
                    Some((file.embedding(classes)?, Identity { digest, precision }))
                }
                None => None,
            },
            scope: file.scope()?,
            duplicates: metadata.duplicates,
            digest: metadata.digest,
        };
        let mut checksum = Fnv::new();
        model.tensors().iter().for_each(|tensor| checksum.write(&tensor.bytes));
        if checksum.hex() == metadata.checksum { Ok(model) } else { Err(Problem::Checksum) }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Problem> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        length if length > MAX_FILE_BYTES => Err(Problem::TooLarge { bytes: length }),
        _ => Ok(bytes),
    }
}

/// Checks that no offset in the header points outside the file: the safetensors reader adds them up unchecked.
pub(super) fn check_header(bytes: &[u8]) -> Result<(), Problem> {
    let (length, rest) = bytes.split_first_chunk().ok_or(SafeTensorError::HeaderTooSmall)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(Problem::Header);
    }
    let header = rest.get(..length as usize).ok_or(SafeTensorError::InvalidHeaderLength)?;
    let header: HashMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    let ends = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    if ends.max().unwrap_or(0) > bytes.len() as u64 { Err(Problem::Header) } else { Ok(()) }
}

/// A tensor to be written.
struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tensor<T, const D: usize, const W: usize>(
    name: &'static str,
    dtype: Dtype,
    shape: [usize; D],
    items: &[T],
    bytes: impl Fn(&T) -> [u8; W],
) -> Tensor {
    Tensor { name, dtype, shape: shape.to_vec(), bytes: items.iter().flat_map(bytes).collect() }
}

fn embedding_tensors(embedding: &Embedding) -> [Tensor; 4] {
    let (width, classes) = (embedding.width, embedding.class_ends.len());
    let (head, texts) = (embedding.head_rows(), embedding.text_rows());
    let round = |x: &f32| f16::from_f32(*x).to_le_bytes();
    let ends = &embedding.class_ends;
    [
        tensor("embedding.head", Dtype::F16, [classes, width], &head, round),
        tensor("embedding.text", Dtype::F16, [texts.len() / width, width], &texts, round),
        tensor("embedding.class_end", Dtype::U32, [classes], ends, |x| x.to_le_bytes()),
        tensor("embedding.blend", Dtype::F32, [1], &[embedding.similar], |x| x.to_le_bytes()),
    ]
}

fn concatenate<'a>(texts: impl Iterator<Item = &'a str>) -> (String, Vec<u32>) {
    let mut all = String::new();
    let end = |text| {
        all.push_str(text);
        u32::try_from(all.len()).expect("bug: a corpus's questions or answers exceed 4 GB")
    };
    let ends = texts.map(end).collect();
    (all, ends)
}

/// A file whose header is sound.
struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    /// The length of a tensor of one dimension, from `least` to `most`.
    fn length(&self, tensor: &'static str, least: usize, most: usize) -> Result<usize, Problem> {
        let view = self.0.tensor(tensor)?;
        match *view.shape() {
            [length] if (least..=most).contains(&length) => Ok(length),
            _ => Err(Problem::Value { tensor }),
        }
    }

    /// The numbers of a tensor of exactly this type and shape.
    fn read<T, const W: usize>(
        &self,
        tensor: &'static str,
        dtype: Dtype,
        shape: &[usize],
        number: impl Fn([u8; W]) -> T,
    ) -> Result<Vec<T>, Problem> {
        let view = self.0.tensor(tensor)?;
        if view.dtype() != dtype || view.shape() != shape {
            return Err(Problem::Shape { tensor, dtype, shape: shape.to_vec() });
        }
        Ok(view.data().as_chunks().0.iter().map(|bytes| number(*bytes)).collect())
    }

    /// Like `read`, for weights: finite and of sane size.
    fn weights<const W: usize>(
        &self,
        tensor: &'static str,
        dtype: Dtype,
        length: usize,
        number: impl Fn([u8; W]) -> f32,
    ) -> Result<Vec<f32>, Problem> {
        self.matrix(tensor, dtype, &[length], number)
    }

    /// Like `weights`, of any shape.
    fn matrix<const W: usize>(
        &self,
        tensor: &'static str,
        dtype: Dtype,
        shape: &[usize],
        number: impl Fn([u8; W]) -> f32,
    ) -> Result<Vec<f32>, Problem> {
        let weights = self.read(tensor, dtype, shape, number)?;
        let sane = weights.iter().all(|weight| weight.abs() <= MAX_WEIGHT);
        if sane { Ok(weights) } else { Err(Problem::Value { tensor }) }
    }

    /// Class numbers below `classes`.
    fn classes(&self, tensor: &'static str, length: usize, classes: usize) -> Result<Vec<u16>, Problem> {
        let of = self.read(tensor, Dtype::U16, &[length], u16::from_le_bytes)?;
        let known = of.iter().all(|class| usize::from(*class) < classes);
        if known { Ok(of) } else { Err(Problem::Value { tensor }) }
    }

    /// Ends of consecutive ranges that cover exactly `total`.
    fn ends(&self, tensor: &'static str, length: usize, total: usize) -> Result<Vec<u32>, Problem> {
        let ends = self.read(tensor, Dtype::U32, &[length], u32::from_le_bytes)?;
        let last = ends.last().map_or(0, |end| *end as usize);
        if ends.is_sorted() && last == total { Ok(ends) } else { Err(Problem::Value { tensor }) }
    }

    fn texts(&self, bytes: &'static str, ends: &'static str, length: usize) -> Result<Vec<String>, Problem> {
        let total = self.length(bytes, 0, u32::MAX as usize)?;
        let raw = self.read(bytes, Dtype::U8, &[total], |[byte]| byte)?;
        let mut start = 0;
        let mut cut = |end: u32| {
            let text = std::str::from_utf8(&raw[start..end as usize]).map(str::to_owned);
            start = end as usize;
            text.map_err(|_| Problem::Value { tensor: bytes })
        };
        self.ends(ends, length, total)?.into_iter().map(&mut cut).collect()
    }

    fn originals(&self, classes: usize) -> Result<Vec<Original>, Problem> {
        let ids = self.read("question.id", Dtype::I64, &[classes], i64::from_le_bytes)?;
        let answer_ids = self.read("question.answer_id", Dtype::I64, &[classes], i64::from_le_bytes)?;
        let texts = self.texts("question.text", "question.text_end", classes)?;
        let answers = self.texts("answer.text", "answer.text_end", classes)?;
        let ids = ids.into_iter().zip(answer_ids);
        let originals = ids.zip(texts).zip(answers).map(|(((id, answer_id), text), answer)| {
            let answer = Some(answer).filter(|answer| !answer.is_empty());
            Original { id, answer_id, text, answer }
        });
        Ok(originals.collect())
    }

    fn vocabulary(&self, features: usize) -> Result<Vocabulary, Problem> {
        let hashes = self.read("gram.hash", Dtype::U64, &[features], u64::from_le_bytes)?;
        let kinds = self.read("gram.kind", Dtype::U8, &[features], |[kind]| Kind::from_index(kind))?;
        let idfs = self.weights("gram.idf", Dtype::F32, features, f32::from_le_bytes)?;
        let unknown = self.weights("gram.unknown", Dtype::F32, 1, f32::from_le_bytes)?[0];
        if idfs.iter().chain([&unknown]).any(|idf| *idf < 1.0) {
            return Err(Problem::Value { tensor: "gram.idf" });
        }
        let mut entries = Vec::with_capacity(features);
        for ((hash, kind), idf) in hashes.into_iter().zip(kinds).zip(idfs) {
            let kind = kind.ok_or(Problem::Value { tensor: "gram.kind" })?;
            entries.push(Entry { hash, kind, idf });
        }
        Ok(Vocabulary::from_entries(entries, unknown))
    }

    fn dense(&self, features: usize, classes: usize) -> Result<Quantised, Problem> {
        let data = self.read("dense.weight", Dtype::I8, &[features, classes], i8::from_le_bytes)?;
        let scales = self.weights("dense.scale", Dtype::F32, features, f32::from_le_bytes)?;
        Ok(Quantised { data, scales })
    }

    fn postings(&self, features: usize, classes: usize) -> Result<Postings, Problem> {
        let total = self.length("postings.class", 0, u32::MAX as usize)?;
        let ends = self.ends("postings.end", features, total)?;
        let of = self.classes("postings.class", total, classes)?;
        let half = |bytes| f16::from_le_bytes(bytes).to_f32();
        let weights = self.weights("postings.weight", Dtype::F16, total, half)?;
        Ok(Postings { ends, classes: of, weights })
    }

    fn neighbours(&self, features: usize, classes: usize) -> Result<Neighbours, Problem> {
        let total = self.length("near.text", 0, u32::MAX as usize)?;
        let ends = self.ends("near.end", features, total)?;
        let texts = self.read("near.text", Dtype::U32, &[total], u32::from_le_bytes)?;
        let half = |bytes| f16::from_le_bytes(bytes).to_f32();
        let values = self.weights("near.value", Dtype::F16, total, half)?;
        let class_ends = self.read("near.class_end", Dtype::U32, &[classes], u32::from_le_bytes)?;
        // A text without any posting is known by the class ends alone: bound what they make the scratch space.
        let last = class_ends.last().copied().unwrap_or(0);
        if !class_ends.is_sorted() || last > MAX_TEXTS {
            return Err(Problem::Value { tensor: "near.class_end" });
        }
        if texts.iter().any(|text| *text >= last) {
            return Err(Problem::Value { tensor: "near.text" });
        }
        Ok(Neighbours { ends, texts, values, class_ends })
    }

    fn embedding(&self, classes: usize) -> Result<Embedding, Problem> {
        let width = match *self.0.tensor("embedding.head")?.shape() {
            [_, width] if (1..=MAX_WIDTH).contains(&width) => width,
            _ => return Err(Problem::Value { tensor: "embedding.head" }),
        };
        let class_ends = self.read("embedding.class_end", Dtype::U32, &[classes], u32::from_le_bytes)?;
        let texts = class_ends.last().map_or(0, |end| *end as usize);
        if !class_ends.is_sorted() {
            return Err(Problem::Value { tensor: "embedding.class_end" });
        }
        let half = |bytes| f16::from_le_bytes(bytes).to_f32();
        let head = self.matrix("embedding.head", Dtype::F16, &[classes, width], half)?;
        let texts = self.matrix("embedding.text", Dtype::F16, &[texts, width], half)?;
        let similar = self.weights("embedding.blend", Dtype::F32, 1, f32::from_le_bytes)?[0];
        Ok(Embedding::new(width, &head, &texts, class_ends, similar))
    }

    fn kinship(&self, classes: usize) -> Result<Kinship, Problem> {
        let total = self.length("kin.class", 0, u32::MAX as usize)?;
        let ends = self.ends("kin.end", classes, total)?;
        let kin = self.classes("kin.class", total, classes)?;
        let half = |bytes| f16::from_le_bytes(bytes).to_f32();
        let shares = self.weights("kin.share", Dtype::F16, total, half)?;
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return Err(Problem::Value { tensor: "kin.share" });
        }
        Ok(Kinship { ends, classes: kin, shares })
    }

    fn scope(&self) -> Result<Scope, Problem> {
        let numbers = self.weights("scope", Dtype::F32, 4, f32::from_le_bytes)?;
        match numbers[..] {
            [constant, log_p, evidence, threshold] if (0.0..=1.0).contains(&threshold) => {
                Ok(Scope { weights: [constant, log_p, evidence], threshold })
            }
            _ => Err(Problem::Value { tensor: "scope" }),
        }
    }
}
