//! Turns texts into vectors whose cosine says how alike they mean: a sentence encoder of the MiniLM family on the thread
//! that calls it. It owns the files of an encoder, their checks and their digest, and the cutting of texts into tokens.
//!
//! candle's `BertModel` gives the same vectors (a test compares them with the reference's); it is not used because it
//! multiplies by weights that are not packed and pads every text of a batch to the longest.

mod elementwise;
mod linear;
mod load;
mod network;

use std::fmt;
use std::path::{Path, PathBuf};

pub(super) use elementwise::Simd;
pub use linear::Precision;
pub use load::{EncoderError, Problem};
use network::{Network, Workspace};
use tokenizers::Tokenizer;

/// Texts are cut to so many tokens, as the encoder was trained.
const MAX_TOKENS: usize = 256;

/// Bytes of a cleaned text that are looked at: [`MAX_TOKENS`] words of prose have about 1.3 KB.
const MAX_BYTES: usize = 4096;

/// Tokens computed at once. More would spread the weights' way from memory thinner but leave the cache.
const BATCH_TOKENS: usize = 128;

/// A sentence encoder, shared by every worker.
pub struct Encoder {
    tokenizer: Tokenizer,
    network: Network,
    identity: Identity,
    path: PathBuf,
}

/// What an encoder's vectors depend on: a model that was trained on some answers with no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of the three files, one after the other, and, but for [`Precision::F32`], of the precision's name; in
    /// hexadecimal.
    pub digest: String,
    /// How it computes.
    pub precision: Precision,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.16} ({})", self.digest, self.precision)
    }
}

/// Working memory of one thread.
#[derive(Debug, Default)]
pub struct Scratch {
    space: Workspace,
}

impl Encoder {
    /// Reads `model.safetensors`, `tokenizer.json` and `config.json` in `folder`, to compute in `precision`.
    ///
    /// # Errors
    /// [`EncoderError`] where a file is missing, damaged, or of another kind of network.
    pub fn open(folder: &Path, precision: Precision) -> Result<Self, EncoderError> {
        load::open(folder, precision)
    }

    /// What its vectors depend on.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The folder it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        self.network.width
    }

    /// The vectors of cleaned texts, of length one, row by row. A batch is cut by its tokens, not padded.
    pub fn embed<'t>(&self, texts: impl IntoIterator<Item = &'t str>, scratch: &mut Scratch) -> Vec<f32> {
        let tokens: Vec<Vec<u32>> = texts.into_iter().map(|text| self.tokens(text)).collect();
        let mut out = Vec::with_capacity(tokens.len() * self.width());
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let mut sum = 0;
            let fits = |text: &&Vec<u32>| {
                sum += text.len();
                sum <= BATCH_TOKENS
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let batch: Vec<&[u32]> = rest[..count].iter().map(Vec::as_slice).collect();
            self.network.embed(&batch, &mut scratch.space, &mut out);
            rest = &rest[count..];
        }
        out
    }

    /// The token numbers of a text, at least one. A text that the tokenizer cannot take is taken as empty.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let text = &text[..text.floor_char_boundary(MAX_BYTES)];
        let encoding =
            self.tokenizer.encode_fast(text, true).or_else(|_| self.tokenizer.encode_fast("", true));
        let tokens = encoding.map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
        let known = |token: &u32| (*token as usize) < self.network.vocabulary();
        let tokens: Vec<u32> = tokens.into_iter().filter(known).collect();
        if tokens.is_empty() { vec![0] } else { tokens }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("path", &self.path)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}
