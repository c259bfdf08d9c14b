//! Models that read texts through an encoder: a tiny encoder with seeded weights against a textbook BERT in double precision,
//! hostile folders, and training, saving and answering with it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use convoy::faq::corpus::{Duplicate, Original};
use convoy::faq::encoder::{Precision, Scratch};
use convoy::faq::live::{Mismatch, OpenError};
use convoy::faq::{Corpus, Encoder, Loaded, Matcher, Model, TrainOptions, train, train_with};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const WIDTH: usize = 64;
const WIDE: usize = 96;
const HEAD: usize = 32;
const LAYERS: usize = 2;
const POSITIONS: usize = 24;
const EPSILON: f64 = 1e-12;
#[rustfmt::skip]
const WORDS: [&str; 20] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "reset", "my", "pass", "##word", "parcel", "where", "is", "the", "card", "pay",
    "by", "track", "lost", "a", "##s", "?",
];

/// Tensors by name: shape and values.
type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Seeded weights of the size that training leaves: about one over the root of the inputs.
fn weights() -> Weights {
    let mut state = 7_u32;
    let mut number = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut weights = Weights::new();
    let mut add = |name: String, shape: &[usize], scale: f32, shift: f32| {
        let values = (0..shape.iter().product()).map(|_| shift + scale * number()).collect();
        weights.insert(name, (shape.to_vec(), values));
    };
    add("embeddings.word_embeddings.weight".into(), &[WORDS.len(), WIDTH], 1.0, 0.0);
    add("embeddings.position_embeddings.weight".into(), &[POSITIONS, WIDTH], 0.3, 0.0);
    add("embeddings.token_type_embeddings.weight".into(), &[2, WIDTH], 0.3, 0.0);
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        for (part, outputs, inputs) in [
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", WIDE, WIDTH),
            ("output.dense", WIDTH, WIDE),
        ] {
            add(format!("{}.weight", name(part)), &[outputs, inputs], 0.3, 0.0);
            add(format!("{}.bias", name(part)), &[outputs], 0.3, 0.0);
        }
        norms.extend([name("attention.output.LayerNorm"), name("output.LayerNorm")]);
    }
    for name in norms {
        add(format!("{name}.weight"), &[WIDTH], 0.3, 1.0);
        add(format!("{name}.bias"), &[WIDTH], 0.3, 0.0);
    }
    weights
}

fn write_folder(folder: &Path, weights: &Weights) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, (shape, values))| {
            (name.clone(), shape.clone(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    std::fs::write(folder.join("config.json"), config().to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
}

fn config() -> serde_json::Value {
    serde_json::json!({
        "hidden_size": WIDTH, "intermediate_size": WIDE, "num_attention_heads": WIDTH / HEAD,
        "num_hidden_layers": LAYERS, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "vocab_size": WORDS.len(), "layer_norm_eps": EPSILON, "hidden_act": "gelu",
    })
}

fn tokenizer() -> serde_json::Value {
    let vocabulary: BTreeMap<&str, usize> = WORDS.iter().copied().zip(0..).collect();
    let piece = |id: &str| serde_json::json!({"SpecialToken": {"id": id, "type_id": 0}});
    let special = |id: &str| serde_json::json!({"id": id, "ids": [vocabulary[id]], "tokens": [id]});
    serde_json::json!({
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

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &weights());
    folder
}

/// BERT as its paper writes it, one number at a time.
struct Textbook(Weights);

impl Textbook {
    fn tensor(&self, name: &str) -> Vec<f64> {
        self.0[name].1.iter().map(|value| f64::from(*value)).collect()
    }

    fn linear(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        let row = |x: &Vec<f64>| {
            let product = |(output, bias): (usize, &f64)| {
                bias + (0..x.len()).map(|input| weight[output * x.len() + input] * x[input]).sum::<f64>()
            };
            bias.iter().enumerate().map(product).collect()
        };
        x.iter().map(row).collect()
    }

    fn norm(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (scale, shift) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        let row = |x: &Vec<f64>| {
            let mean = x.iter().sum::<f64>() / WIDTH as f64;
            let variance = x.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / WIDTH as f64;
            let unit = |at: usize| (x[at] - mean) / (variance + EPSILON).sqrt() * scale[at] + shift[at];
            (0..WIDTH).map(unit).collect()
        };
        x.iter().map(row).collect()
    }

    fn attention(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let [query, key, value] =
            ["query", "key", "value"].map(|part| self.linear(&format!("{name}.{part}"), x));
        let mixed = |token: usize, at: usize| {
            let head = at / HEAD * HEAD..(at / HEAD + 1) * HEAD;
            let score = |other: usize| {
                let product: f64 = head.clone().map(|at| query[token][at] * key[other][at]).sum();
                (product / (HEAD as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (0..x.len()).map(score).collect();
            let sum: f64 = scores.iter().zip(&value).map(|(score, value)| score * value[at]).sum();
            sum / scores.iter().sum::<f64>()
        };
        (0..x.len()).map(|token| (0..WIDTH).map(|at| mixed(token, at)).collect()).collect()
    }

    fn embed(&self, tokens: &[usize]) -> Vec<f64> {
        let words = self.tensor("embeddings.word_embeddings.weight");
        let positions = self.tensor("embeddings.position_embeddings.weight");
        let types = self.tensor("embeddings.token_type_embeddings.weight");
        let look_up = |(position, token): (usize, &usize)| {
            (0..WIDTH)
                .map(|at| words[token * WIDTH + at] + positions[position * WIDTH + at] + types[at])
                .collect()
        };
        let x: Vec<Vec<f64>> = tokens.iter().enumerate().map(look_up).collect();
        let mut x = self.norm("embeddings.LayerNorm", &x);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let mixed = self.attention(&name("attention.self"), &x);
            let added = add(&x, &self.linear(&name("attention.output.dense"), &mixed));
            x = self.norm(&name("attention.output.LayerNorm"), &added);
            let wide = self.linear(&name("intermediate.dense"), &x);
            let wide: Vec<Vec<f64>> = wide.iter().map(|row| row.iter().map(|x| gelu(*x)).collect()).collect();
            x = self.norm(&name("output.LayerNorm"), &add(&x, &self.linear(&name("output.dense"), &wide)));
        }
        let mean = |at: usize| x.iter().map(|row| row[at]).sum::<f64>() / x.len() as f64;
        let mean: Vec<f64> = (0..WIDTH).map(mean).collect();
        let length = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
        mean.iter().map(|value| value / length).collect()
    }
}

fn add(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// `x Phi(x)` with the series of the error function.
fn gelu(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * sum)
}

#[test]
fn vectors_are_the_textbook_ones_alone_and_in_a_batch() {
    let folder = folder();
    for (precision, most) in [(Precision::F32, 1e-5), (Precision::Int8, 0.02)] {
        let encoder = Encoder::open(folder.path(), precision).unwrap();
        let apart = furthest_from_the_textbook(&encoder);
        assert!(apart < most, "{precision}: {apart}");
    }
}

/// The most that a number of a vector is off; vectors of texts alone are those of the batch, to the last bit.
fn furthest_from_the_textbook(encoder: &Encoder) -> f64 {
    let textbook = Textbook(weights());
    let asked = [
        ("reset my password?", &[2, 4, 5, 6, 7, 19, 3][..]),
        ("", &[2, 3]),
        ("Where is the PARCEL zebra", &[2, 9, 10, 11, 8, 1, 3]),
        ("cards", &[2, 12, 18, 3]),
    ];
    let mut scratch = Scratch::default();
    let batch = encoder.embed(asked.iter().map(|(text, _)| *text), &mut scratch);
    let mut furthest = 0.0_f64;
    for ((text, tokens), found) in asked.iter().zip(batch.chunks_exact(WIDTH)) {
        let expected = textbook.embed(tokens);
        let apart = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        furthest = furthest.max(apart);
        assert_eq!(encoder.embed([*text], &mut scratch), found, "{text:?} alone");
    }
    furthest
}

#[test]
fn a_vector_depends_on_no_batch_and_no_thread() {
    let folder = folder();
    let words = ["reset", "my", "password", "parcel", "where", "is", "the", "card", "pay", "lost", "a", "?"];
    let text = |seed: usize| {
        let word = |at: usize| words[(seed * 7 + at * (seed % 5 + 1)) % words.len()];
        (0..seed % 23).map(word).collect::<Vec<_>>().join(" ")
    };
    let texts: Vec<String> = (0..60).map(text).collect();
    for precision in [Precision::F32, Precision::Int8] {
        let encoder = Encoder::open(folder.path(), precision).unwrap();
        let embed = |batch: usize| -> Vec<u32> {
            let mut scratch = Scratch::default();
            let batches = texts
                .chunks(batch)
                .flat_map(|texts| encoder.embed(texts.iter().map(String::as_str), &mut scratch));
            batches.map(f32::to_bits).collect()
        };
        let alone = embed(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                [1, 2, 7, 60].map(|batch| (batch, scope.spawn(move || embed(batch)))).into();
            for (batch, thread) in threads {
                assert!(thread.join().unwrap() == alone, "{precision} by {batch}");
            }
        });
    }
}

#[test]
fn long_and_strange_texts_are_cut_and_read() {
    let folder = folder();
    let encoder = Encoder::open(folder.path(), Precision::Int8).unwrap();
    let mut scratch = Scratch::default();
    for text in ["card ".repeat(30_000), "\u{0}".repeat(5000), "é😀你".repeat(3000), "a".repeat(100_000)]
    {
        let vector = encoder.embed([text.as_str()], &mut scratch);
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    let cut = encoder.embed(["card ".repeat(POSITIONS).as_str()], &mut scratch);
    assert_eq!(cut, encoder.embed(["card ".repeat(500).as_str()], &mut scratch));
}

#[test]
fn folders_that_are_no_encoder_are_refused_by_file() {
    let refused = |name: &str, change: &dyn Fn(&Path)| {
        let folder = folder();
        change(&folder.path().join(name));
        let error = Encoder::open(folder.path(), Precision::Int8).unwrap_err();
        assert_eq!(error.path, folder.path().join(name), "{error}");
    };
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        refused(name, &|path| std::fs::remove_file(path).unwrap());
        refused(name, &|path| std::fs::write(path, "{}").unwrap());
        let half = |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        };
        refused(name, &half);
    }
    for (key, value) in [
        ("hidden_act", serde_json::json!("relu")),
        ("num_attention_heads", 3.into()),
        ("vocab_size", 0.into()),
        // As zero it would divide a row of equal numbers by zero.
        ("layer_norm_eps", 1e-60.into()),
    ] {
        let changed = |path: &Path| {
            let mut config = config();
            config[key] = value.clone();
            std::fs::write(path, config.to_string()).unwrap();
        };
        refused("config.json", &changed);
    }
    // What the crate that reads tokenizers takes, and then panics at, at the first question or at one of many words.
    for (pointer, value) in [
        ("/post_processor/special_tokens", serde_json::json!({})),
        ("/post_processor/special_tokens/[SEP]/ids", vec![3; 300].into()),
        ("/post_processor/single/1/Sequence/id", "B".into()),
        ("/model/type", "Unigram".into()),
        ("/normalizer/type", "Precompiled".into()),
    ] {
        let changed = |path: &Path| {
            let mut tokenizer = tokenizer();
            *tokenizer.pointer_mut(pointer).unwrap() = value.clone();
            std::fs::write(path, tokenizer.to_string()).unwrap();
        };
        refused("tokenizer.json", &changed);
    }
    refused("model.safetensors", &|path| {
        let mut weights = weights();
        weights.get_mut("embeddings.LayerNorm.bias").unwrap().1[3] = f32::NAN;
        write_folder(path.parent().unwrap(), &weights);
    });
}

fn corpus() -> Corpus {
    let texts = [
        ("reset my password", &["lost my password", "reset password"][..]),
        ("where is the parcel", &["track my parcel", "is the parcel lost"]),
        ("pay by card", &["pay the card", "card pay"]),
    ];
    let mut corpus = Corpus::default();
    for (original, (text, duplicates)) in texts.iter().enumerate() {
        let id = original as i64;
        corpus.originals.push(Original { id, answer_id: id, text: (*text).to_owned(), answer: None });
        let duplicate =
            |text: &&str| Duplicate { id, original, text: (*text).to_owned(), source: String::new() };
        corpus.duplicates.extend(duplicates.iter().map(duplicate));
    }
    corpus
}

#[test]
fn a_model_with_an_encoder_is_saved_and_answers_as_before() {
    let folder = folder();
    let encoder = Arc::new(Encoder::open(folder.path(), Precision::Int8).unwrap());
    let train = || Arc::new(train_with(&corpus(), &TrainOptions::default(), Some(&encoder), |_| {}));
    let model = train();
    assert_eq!(model.encoder(), Some(encoder.identity()));
    assert_eq!(model.to_bytes(), train().to_bytes());
    let path = folder.path().join("faq.safetensors");
    model.save(&path).unwrap();
    let ask = |loaded: Loaded| {
        let mut matcher = Matcher::new(Arc::new(loaded));
        let questions = ["i lost the password", "", "track parcels", "zebra"];
        let alone: Vec<_> = questions.iter().map(|text| matcher.rank(text, None).matches).collect();
        let together = matcher.rank_all(questions.iter().map(|text| (*text, None)));
        assert_eq!(alone, together.into_iter().map(|ranking| ranking.matches).collect::<Vec<_>>());
        alone
    };
    let before = ask(Loaded::new(model, Some(encoder)).unwrap());
    assert_eq!((before[0][0].question, before[2][0].question), (0, 1));
    assert_eq!(before[1][0].probability, before[1][2].probability);
    assert_eq!(before, ask(Loaded::open(&path, Some(folder.path())).unwrap()));
}

#[test]
fn a_model_without_its_encoder_is_a_clear_error() {
    let (folder, other) = (folder(), tempfile::tempdir().unwrap());
    let mut changed = weights();
    changed.get_mut("embeddings.LayerNorm.bias").unwrap().1[3] += 0.5;
    write_folder(other.path(), &changed);
    let encoder = Encoder::open(folder.path(), Precision::Int8).unwrap();
    let path = folder.path().join("faq.safetensors");
    train_with(&corpus(), &TrainOptions::default(), Some(&encoder), |_| {}).save(&path).unwrap();
    let missing = Loaded::open(&path, None).unwrap_err();
    assert!(matches!(&missing, OpenError::Mismatch { mismatch: Mismatch::Missing { .. }, .. }), "{missing}");
    assert!(missing.to_string().contains("--embeddings"), "{missing}");
    let wrong = Loaded::open(&path, Some(other.path())).unwrap_err();
    assert!(matches!(&wrong, OpenError::Mismatch { mismatch: Mismatch::Other { .. }, .. }), "{wrong}");
    // The same files, read in another precision, give other vectors.
    let floats = Arc::new(Encoder::open(folder.path(), Precision::F32).unwrap());
    let model = Arc::new(train_with(&corpus(), &TrainOptions::default(), Some(&encoder), |_| {}));
    let other = Loaded::new(model, Some(floats.clone())).unwrap_err();
    assert!(other.to_string().contains("(int8), not") && other.to_string().contains("(f32) in"), "{other}");
    // A model says which it needs.
    train_with(&corpus(), &TrainOptions::default(), Some(&floats), |_| {}).save(&path).unwrap();
    let loaded = Loaded::open(&path, Some(folder.path())).unwrap();
    assert_eq!(loaded.encoder().unwrap().identity(), floats.identity());
    // A lexical model looks at no folder.
    train(&corpus(), &TrainOptions::default(), |_| {}).save(&path).unwrap();
    assert!(Loaded::open(&path, Some(Path::new("nowhere"))).unwrap().encoder().is_none());
}

#[test]
fn damaged_files_of_a_model_with_an_encoder_are_refused() {
    let folder = folder();
    let encoder = Encoder::open(folder.path(), Precision::Int8).unwrap();
    let bytes = train_with(&corpus(), &TrainOptions::default(), Some(&encoder), |_| {}).to_bytes();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in (header..bytes.len()).step_by((bytes.len() - header) / 400 + 1) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        assert!(Model::from_bytes(&damaged).is_err(), "byte {at}");
    }
    for length in (0..bytes.len()).step_by(bytes.len() / 100 + 1) {
        assert!(Model::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
    }
}
