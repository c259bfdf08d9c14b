//! The folder of a sentence encoder: its configuration, its tokenizer, the header of its tensors.

use std::{collections::BTreeMap, fs, sync::OnceLock};

use convoy::faq::{
    Encoder,
    encoder::{Precision, Scratch},
};
use serde_json::{Value, json};

const WIDTH: usize = 32;
const WORDS: [&str; 8] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##s", "?"];
const PRECISIONS: [Precision; 2] = [Precision::Int8, Precision::F32];
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// The first byte says which file the rest is; the others are sound. Of the tensors it is the header alone.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = super::form(data) else { return };
    let at = usize::from(form) % FILES.len();
    let [config, tokenizer, header] = sound();
    let mut files = [config.as_bytes(), tokenizer.as_bytes(), header.as_bytes()];
    files[at] = rest;
    let tensors = [&(files[2].len() as u64).to_le_bytes()[..], files[2], &numbers()].concat();
    super::scratch(|folder| {
        for (name, bytes) in FILES.iter().zip([files[0], files[1], &tensors]) {
            fs::write(folder.join(name), bytes).unwrap();
        }
        let encoder =
            match Encoder::open(folder, PRECISIONS[usize::from(form) / FILES.len() % PRECISIONS.len()]) {
                Ok(encoder) => encoder,
                Err(error) => return super::bounded(&error),
            };
        let vectors = encoder.embed(["hello worlds?", ""], &mut Scratch::default());
        assert_eq!(vectors.len(), 2 * encoder.width());
        for vector in vectors.chunks(encoder.width()) {
            let length: f32 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 0.01, "a vector of length {length}");
        }
    });
}

/// Every number is 0.25, which no norm and no sum minds.
fn numbers() -> Vec<u8> {
    let count: usize = tensors().values().map(|shape| shape.iter().product::<usize>()).sum();
    0.25_f32.to_le_bytes().repeat(count)
}

fn tensors() -> BTreeMap<String, Vec<usize>> {
    let mut tensors = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize]| drop(tensors.insert(name.to_owned(), shape.to_vec()));
    add("embeddings.word_embeddings.weight", &[WORDS.len(), WIDTH]);
    add("embeddings.position_embeddings.weight", &[8, WIDTH]);
    add("embeddings.token_type_embeddings.weight", &[1, WIDTH]);
    for part in
        ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
            .into_iter()
            .chain(["intermediate.dense", "output.dense"])
    {
        add(&format!("encoder.layer.0.{part}.weight"), &[WIDTH, WIDTH]);
        add(&format!("encoder.layer.0.{part}.bias"), &[WIDTH]);
    }
    for norm in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
        add(&format!("{norm}.LayerNorm.weight"), &[WIDTH]);
        add(&format!("{norm}.LayerNorm.bias"), &[WIDTH]);
    }
    tensors
}

/// Three files that go together.
fn sound() -> &'static [String; 3] {
    static SOUND: OnceLock<[String; 3]> = OnceLock::new();
    SOUND.get_or_init(|| {
        let config = json!({
            "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 1, "num_hidden_layers": 1,
            "max_position_embeddings": 8, "type_vocab_size": 1, "vocab_size": WORDS.len(), "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        });
        let mut end = 0;
        let header = tensors().into_iter().map(|(name, shape)| {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            (name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}))
        });
        [config.to_string(), tokenizer().to_string(), Value::Object(header.collect()).to_string()]
    })
}

fn tokenizer() -> Value {
    let vocabulary: BTreeMap<&str, usize> = WORDS.iter().copied().zip(0..).collect();
    let piece = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let special = |id: &str| json!({"id": id, "ids": [vocabulary[id]], "tokens": [id]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
            "pair": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
            "special_tokens": {"[CLS]": special("[CLS]"), "[SEP]": special("[SEP]")}},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let [config, tokenizer, header] = sound();
    vec![super::formed(0, config), super::formed(1, tokenizer), super::formed(2, header)]
}
