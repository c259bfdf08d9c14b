//! Reads an encoder's folder: configuration, tokenizer and tensors, each checked before it is used. It owns the tensors'
//! names; a damaged or hostile file gives an [`EncoderError`].

use super::elementwise::{Norm, Simd};
use super::linear::{Linear, Precision};
use super::network::{HEAD, Layer, Network};
use super::{Encoder, Identity, MAX_TOKENS};
use crate::faq::storage::check_header;
use safetensors::tensor::SafeTensorError;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokenizers::{Tokenizer, TruncationParams};

/// The largest file read; that of a network with 12 layers of width 768 has 440 MB.
const MAX_BYTES: u64 = 1 << 30;

/// The most tokens that a template adds to a text, whatever its length: BERT's adds two.
const MAX_ADDED: usize = 4;

/// Characters of what a parser says that an error repeats: its words may be the file's.
const MAX_SAID: usize = 300;

/// Why an encoder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot load the embedding model", path.display())]
pub struct EncoderError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What is wrong with an encoder's file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is larger than any encoder.
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The configuration is not one of a BERT encoder.
    #[error("not the configuration of a BERT encoder")]
    Config(#[from] serde_json::Error),
    /// The configuration asks for something this program does not compute.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The tokenizer cannot be used.
    #[error("not a tokenizer: {0}")]
    Tokenizer(String),
    /// The tensors' file is none.
    #[error("not a safetensors file")]
    Format(#[from] SafeTensorError),
    /// The header is out of bounds.
    #[error("its header is out of bounds")]
    Header,
    /// A tensor is missing or has another type or shape than the configuration says.
    #[error("tensor {name:?} is not F32 of shape {shape:?}")]
    Tensor {
        /// Its name.
        name: String,
        /// The shape it should have.
        shape: Vec<usize>,
    },
    /// A tensor holds something that is no number.
    #[error("tensor {name:?} holds a value that is not finite")]
    Value {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

impl Config {
    fn check(&self) -> Result<(), Problem> {
        let sizes = [self.hidden_size, self.intermediate_size];
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        let rules = [
            (
                self.hidden_act == "gelu" && positions == "absolute",
                "only GELU and absolute positions are computed",
            ),
            (
                self.num_attention_heads.checked_mul(HEAD) == Some(self.hidden_size),
                "attention heads are not 32 wide",
            ),
            (
                sizes.iter().all(|size| (HEAD..=4096).contains(size) && size % HEAD == 0),
                "a width is out of bounds",
            ),
            ((1..=48).contains(&self.num_hidden_layers), "the number of layers is out of bounds"),
            ((1..=1 << 17).contains(&self.vocab_size), "the vocabulary is out of bounds"),
            ((8..=8192).contains(&self.max_position_embeddings), "the number of positions is out of bounds"),
            ((1..=16).contains(&self.type_vocab_size), "the number of sentence types is out of bounds"),
            ((f32::MIN_POSITIVE..=0.1).contains(&self.layer_norm_eps), "layer_norm_eps is out of bounds"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Problem::Unsupported(rule)),
            None => Ok(()),
        }
    }
}

/// What `tokenizer.json` is made of. The crate that reads it takes far more kinds than BERT's, and trusts all of them: a
/// template with an unknown token, or with more tokens than a text may have, would make it panic at every question.
#[derive(Deserialize)]
struct Parts {
    model: Part,
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
    post_processor: Option<PostProcessor>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
}

/// What is put around the tokens of a text.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    BertProcessing,
    TemplateProcessing { single: Vec<Piece>, special_tokens: HashMap<String, Special> },
}

#[derive(Deserialize)]
enum Piece {
    Sequence { id: String },
    SpecialToken { id: String },
}

/// A token of a template, which may stand for several.
#[derive(Deserialize)]
struct Special {
    ids: Vec<IgnoredAny>,
}

impl Parts {
    fn check(bytes: &[u8]) -> Result<(), Problem> {
        let parts: Self = serde_json::from_slice(bytes)
            .map_err(|error| Problem::Tokenizer(error.to_string().chars().take(MAX_SAID).collect()))?;
        let is = |part: &Option<Part>, kind| part.as_ref().is_none_or(|part| part.kind == kind);
        let rules = [
            (parts.model.kind == "WordPiece", "only WordPiece is computed"),
            (is(&parts.normalizer, "BertNormalizer"), "its normalizer is not BERT's"),
            (is(&parts.pre_tokenizer, "BertPreTokenizer"), "its pre-tokenizer is not BERT's"),
            (
                parts.post_processor.is_none_or(|processor| processor.is_sound()),
                "its template is not a text with a few known tokens around it",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Problem::Unsupported(rule)),
            None => Ok(()),
        }
    }
}

impl PostProcessor {
    fn is_sound(&self) -> bool {
        let Self::TemplateProcessing { single, special_tokens } = self else { return true };
        let added = single.iter().try_fold(0, |added, piece| match piece {
            Piece::Sequence { id } => (id == "A").then_some(added),
            Piece::SpecialToken { id } => Some(added + special_tokens.get(id)?.ids.len()),
        });
        added.is_some_and(|added| added <= MAX_ADDED)
    }
}

/// See [`Encoder::open`].
pub(super) fn open(folder: &Path, precision: Precision) -> Result<Encoder, EncoderError> {
    let mut hasher = Sha256::new();
    let mut read = |name: &str| {
        let path = folder.join(name);
        let bytes = read_bounded(&path).map_err(|problem| EncoderError { path: path.clone(), problem })?;
        hasher.update(&bytes);
        Ok((path, bytes))
    };
    let [config, tokenizer, tensors] =
        [read("config.json")?, read("tokenizer.json")?, read("model.safetensors")?];
    let parsed = at(&config.0, parse_config(&config.1))?;
    let tokens = parsed.max_position_embeddings.min(MAX_TOKENS);
    let tokenizer = at(&tokenizer.0, parse_tokenizer(&tokenizer.1, tokens))?;
    let network = at(&tensors.0, build(&parsed, precision, &tensors.1))?;
    if precision != Precision::F32 {
        hasher.update(precision.name());
    }
    let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Encoder { tokenizer, network, identity: Identity { digest, precision }, path: folder.to_owned() })
}

fn at<T>(path: &Path, result: Result<T, Problem>) -> Result<T, EncoderError> {
    result.map_err(|problem| EncoderError { path: path.to_owned(), problem })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(Problem::TooLarge) } else { Ok(bytes) }
}

fn parse_config(bytes: &[u8]) -> Result<Config, Problem> {
    let config: Config = serde_json::from_slice(bytes)?;
    config.check()?;
    Ok(config)
}

fn parse_tokenizer(bytes: &[u8], tokens: usize) -> Result<Tokenizer, Problem> {
    Parts::check(bytes)?;
    let fail =
        |error: tokenizers::Error| Problem::Tokenizer(error.to_string().chars().take(MAX_SAID).collect());
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(fail)?;
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: tokens, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(fail)?;
    Ok(tokenizer)
}

fn build(config: &Config, precision: Precision, bytes: &[u8]) -> Result<Network, Problem> {
    check_header(bytes).map_err(|_| Problem::Header)?;
    let tensors = Tensors::new(SafeTensors::deserialize(bytes)?, precision);
    let width = config.hidden_size;
    let types = tensors.read("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, width])?;
    let shape = [config.max_position_embeddings, width];
    let mut positions = tensors.read("embeddings.position_embeddings.weight", &shape)?;
    for position in positions.chunks_exact_mut(width) {
        position.iter_mut().zip(&types).for_each(|(position, kind)| *position += kind);
    }
    Ok(Network {
        simd: Simd::detect(),
        width,
        words: tensors.read("embeddings.word_embeddings.weight", &[config.vocab_size, width])?,
        positions,
        norm: tensors.norm("embeddings.LayerNorm", config)?,
        layers: (0..config.num_hidden_layers)
            .map(|at| tensors.layer(at, config))
            .collect::<Result<_, _>>()?,
    })
}

/// The tensors by name; a prefix `bert.` is allowed. Layers are packed in one precision.
struct Tensors<'a> {
    file: SafeTensors<'a>,
    prefix: &'static str,
    precision: Precision,
}

impl<'a> Tensors<'a> {
    fn new(file: SafeTensors<'a>, precision: Precision) -> Self {
        let prefixed = file.names().iter().any(|name| name.starts_with("bert."));
        Self { file, prefix: if prefixed { "bert." } else { "" }, precision }
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Problem> {
        let name = format!("{}{name}", self.prefix);
        let view =
            self.file.tensor(&name).ok().filter(|view| view.dtype() == Dtype::F32 && view.shape() == shape);
        let view = view.ok_or_else(|| Problem::Tensor { name: name.clone(), shape: shape.to_vec() })?;
        let values: Vec<f32> =
            view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(Problem::Value { name }) }
    }

    fn norm(&self, name: &str, config: &Config) -> Result<Norm, Problem> {
        Ok(Norm {
            scale: self.read(&format!("{name}.weight"), &[config.hidden_size])?,
            shift: self.read(&format!("{name}.bias"), &[config.hidden_size])?,
            epsilon: config.layer_norm_eps,
        })
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, Problem> {
        let weight = self.read(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.read(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear::pack(self.precision, &weight, &bias, inputs))
    }

    fn layer(&self, at: usize, config: &Config) -> Result<Layer, Problem> {
        let name = |part: &str| format!("encoder.layer.{at}.{part}");
        let (width, wide) = (config.hidden_size, config.intermediate_size);
        Ok(Layer {
            attention: self.attention(&name("attention.self"), width)?,
            attention_out: self.linear(&name("attention.output.dense"), width, width)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), config)?,
            up: self.linear(&name("intermediate.dense"), width, wide)?,
            down: self.linear(&name("output.dense"), wide, width)?,
            norm: self.norm(&name("output.LayerNorm"), config)?,
        })
    }

    /// Query, key and value as one product, the query scaled as attention asks.
    fn attention(&self, name: &str, width: usize) -> Result<Linear, Problem> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            let scale = if part == "query" { 1.0 / (HEAD as f32).sqrt() } else { 1.0 };
            let weights = self.read(&format!("{name}.{part}.weight"), &[width, width])?;
            weight.extend(weights.iter().map(|value| value * scale));
            bias.extend(
                self.read(&format!("{name}.{part}.bias"), &[width])?.iter().map(|value| value * scale),
            );
        }
        Ok(Linear::pack(self.precision, &weight, &bias, width))
    }
}
