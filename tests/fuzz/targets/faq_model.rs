//! FAQ model files. The checksum does not stop the fuzzer at the door: the harness puts the right one in.

use std::sync::{Arc, OnceLock};

use convoy::faq::{
    Corpus, Loaded, Matcher, Model, TrainOptions,
    corpus::{Duplicate, Original},
    train,
};
use safetensors::SafeTensors;

const QUESTIONS: [&str; 3] = ["how do i copy an object", "", "zzz <b>sort</b> an array"];

pub fn run(data: &[u8]) {
    let mut bytes = data.to_vec();
    repair(&mut bytes);
    let model = match Model::from_bytes(&bytes) {
        Ok(model) => model,
        Err(problem) => return super::bounded(&problem),
    };
    let written = model.to_bytes();
    let again = Model::from_bytes(&written).expect("what is written is read");
    assert!(again.to_bytes() == written, "written and read again");
    // A model that needs an encoder does not load without it.
    if let Ok(loaded) = Loaded::new(Arc::new(model), None) {
        answers(&mut Matcher::new(Arc::new(loaded)));
    }
}

/// Whatever the model's numbers are, answers are probabilities.
pub(super) fn answers(matcher: &mut Matcher) {
    for question in QUESTIONS {
        check_answer(matcher, question);
    }
}

pub(super) fn check_answer(matcher: &mut Matcher, question: &str) {
    let ranking = matcher.rank(question, None);
    let originals = matcher.model().questions().len();
    assert_eq!(ranking.matches.len(), originals);
    let probabilities: Vec<f32> = ranking.matches.iter().map(|found| found.probability).collect();
    assert!(probabilities.iter().all(|p| (0.0..=1.001).contains(p)), "{probabilities:?}");
    assert!(probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
    let sum: f32 = probabilities.iter().sum();
    assert!((sum - 1.0).abs() < 0.01, "probabilities sum to {sum}");
    assert!((0.0..=1.0).contains(&ranking.scope), "scope {}", ranking.scope);
    let top = matcher.rank(question, Some(2));
    assert_eq!(top.matches[..], ranking.matches[..originals.min(2)]);
}

/// Writes the checksum over the file's tensors where the header keeps it.
fn repair(bytes: &mut [u8]) {
    const KEY: &[u8] = br#"checksum\":\""#;
    const DIGITS: usize = 16;
    let Some(found) = bytes.windows(KEY.len()).position(|window| window == KEY) else { return };
    let Some(sum) = checksum(bytes) else { return };
    let at = found + KEY.len();
    if let Some(digits) = bytes.get_mut(at..at + DIGITS) {
        digits.copy_from_slice(format!("{sum:016x}").as_bytes());
    }
}

/// FNV-1a over the tensors in the order in which a model has them; `None` where some are missing.
fn checksum(bytes: &[u8]) -> Option<u64> {
    #[rustfmt::skip]
    const ORDER: [&str; 25] = [
        "dense.weight", "dense.scale", "postings.end", "postings.class", "postings.weight", "gram.hash", "gram.kind",
        "gram.idf", "gram.unknown", "class.constant", "near.end", "near.text", "near.value", "near.class_end",
        "near.blend", "kin.end", "kin.class", "kin.share", "scope", "question.id", "question.answer_id",
        "question.text", "question.text_end", "answer.text", "answer.text_end",
    ];
    const EMBEDDING: [&str; 4] =
        ["embedding.head", "embedding.text", "embedding.class_end", "embedding.blend"];
    let (length, rest) = bytes.split_first_chunk()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    // The crate adds offsets up unchecked; convoy looks at them first, and so does this.
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let ends = header.as_object()?.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    if ends.max()? > bytes.len() as u64 {
        return None;
    }
    let file = SafeTensors::deserialize(bytes).ok()?;
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |name: &str| {
        let tensor = file.tensor(name).ok()?;
        tensor.data().iter().for_each(|byte| sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        Some(())
    };
    ORDER.iter().try_for_each(|name| add(name))?;
    // Only with an encoder.
    let _without = EMBEDDING.iter().try_for_each(|name| add(name));
    Some(sum)
}

/// A model of three originals, small enough to be mutated.
pub(super) fn model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let original = |id, text: &str, answer: Option<&str>| Original {
            id,
            answer_id: id + 100,
            text: text.to_owned(),
            answer: answer.map(str::to_owned),
        };
        let duplicate = |id, original, text: &str| Duplicate {
            id,
            original,
            text: text.to_owned(),
            source: String::new(),
        };
        let corpus = Corpus {
            originals: vec![
                original(1, "copy an object", Some("spread")),
                original(2, "sort an array", None),
                original(3, "read a file", None),
            ],
            duplicates: vec![duplicate(4, 0, "clone object"), duplicate(5, 1, "order a list")],
        };
        Arc::new(train(&corpus, &TrainOptions::default(), |_| {}))
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![model().to_bytes()]
}
