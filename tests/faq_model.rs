//! The FAQ model through its public interface: training, files, hostile questions, and its figures on real questions
//! where the shared data is present.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use convoy::batch::Executor;
use convoy::faq::corpus::{Duplicate, Original, read_texts};
use convoy::faq::{
    Answerer, Corpus, Live, Loaded, Matcher, Model, Question, Ranking, TrainOptions, evaluate, train,
};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const SMALL: [(&str, &[&str]); 4] = [
    (
        "How do I reset my password?",
        &["forgot my password", "change the password of my account", "password lost"],
    ),
    ("Where is my parcel?", &["track a parcel", "my parcel has not arrived", "when will the parcel arrive"]),
    ("How can I pay by card?", &["do you take credit cards", "pay with a card", "card payment"]),
    (
        "What does <code>Array.prototype.map()</code> do?",
        &["what is array map in javascript", "use of map on an array"],
    ),
];

fn small_corpus() -> Corpus {
    let mut corpus = Corpus::default();
    for (original, (text, duplicates)) in SMALL.iter().enumerate() {
        let id = original as i64;
        let answer = (original % 2 == 0).then(|| format!("answer {original}"));
        corpus.originals.push(Original { id, answer_id: 100 + id, text: (*text).to_owned(), answer });
        corpus.duplicates.extend(duplicates.iter().map(|text| Duplicate {
            id: 1000,
            original,
            text: (*text).to_owned(),
            source: String::new(),
        }));
    }
    corpus
}

fn trained(corpus: &Corpus) -> Arc<Model> {
    Arc::new(train(corpus, &TrainOptions::default(), |_| {}))
}

fn small_model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| trained(&small_corpus()))
}

fn ask(model: &Arc<Model>, text: &str) -> Ranking {
    matcher(model).rank(text, None)
}

fn loaded(model: &Arc<Model>) -> Loaded {
    Loaded::new(model.clone(), None).unwrap()
}

fn matcher(model: &Arc<Model>) -> Matcher {
    Matcher::new(Arc::new(loaded(model)))
}

fn assert_sound(ranking: &Ranking, originals: usize) {
    let matches = &ranking.matches;
    assert_eq!(matches.len(), originals);
    let sum: f32 = matches.iter().map(|found| found.probability).sum();
    assert!((sum - 1.0).abs() < 1e-4, "sums to {sum}");
    assert!(matches.iter().all(|found| (0.0..=1.0).contains(&found.probability)));
    let in_order = |pair: &[convoy::faq::Match]| {
        pair[0].probability > pair[1].probability
            || (pair[0].probability == pair[1].probability && pair[0].question < pair[1].question)
    };
    assert!(matches.windows(2).all(in_order));
    let mut questions: Vec<usize> = matches.iter().map(|found| found.question).collect();
    questions.sort_unstable();
    assert!(questions.into_iter().eq(0..originals));
}

#[test]
fn finds_originals_by_their_own_and_new_wordings() {
    let asked = [
        ("How do I reset my password?", 0),
        ("i lost the password", 0),
        ("<p>has my <b>parcel</b> arrived</p>", 1),
        ("paying by credit card", 2),
        ("what does array.prototype.map() do", 3),
    ];
    for (text, original) in asked {
        let ranking = ask(small_model(), text);
        assert_sound(&ranking, SMALL.len());
        assert_eq!(ranking.matches[0].question, original, "{text:?}: {ranking:?}");
        assert!(ranking.matches[0].probability > 0.4, "{text:?}: {ranking:?}");
    }
}

#[test]
fn a_question_without_known_words_gets_one_over_n() {
    for text in ["", " \t\n", "??!", "\u{0}\u{0}", "你好吗", "<pre>password parcel card</pre>", "zqxj"] {
        let ranking = ask(small_model(), text);
        let expected: Vec<_> = (0..SMALL.len()).map(|question| (question, 0.25)).collect();
        let found: Vec<_> = ranking.matches.iter().map(|found| (found.question, found.probability)).collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

#[test]
fn top_cuts_the_full_ranking() {
    let mut matcher = matcher(small_model());
    let all = matcher.rank("card for my parcel", None);
    for top in 0..=SMALL.len() + 1 {
        let some = matcher.rank("card for my parcel", Some(top));
        assert_eq!(some.matches, all.matches[..top.min(SMALL.len())]);
    }
}

#[test]
fn the_answerer_answers_a_batch_in_order() {
    let live = Live::new(loaded(small_model()), Path::new("nowhere"), None);
    let mut answerer = Answerer::new(Arc::new(live));
    let batch =
        ["lost password", "", "credit card"].map(|text| Question { text: text.to_owned(), top: Some(1) });
    let answers: Vec<Ranking> = answerer.run(&batch).unwrap().into_iter().map(Result::unwrap).collect();
    assert!(answerer.max_batch() >= batch.len());
    let best: Vec<usize> = answers.iter().map(|answer| answer.matches[0].question).collect();
    assert_eq!(best, [0, 0, 2]);
    // Nothing of one question may leak into the next.
    assert_eq!(answers[2].matches, ask(small_model(), "credit card").matches[..1]);
}

#[test]
fn a_new_file_takes_over_with_the_next_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    small_model().save(&path).unwrap();
    let live = Arc::new(Live::open(&path, None).unwrap());
    let mut answerer = Answerer::new(live.clone());
    let ask = |answerer: &mut Answerer| {
        let question = Question { text: "lost password".to_owned(), top: Some(1) };
        answerer.run(&[question]).unwrap().remove(0).unwrap()
    };
    let before = ask(&mut answerer);
    std::fs::write(&path, "damaged").unwrap();
    assert!(live.reload().is_err());
    assert!(Arc::ptr_eq(&before.model, &ask(&mut answerer).model), "the old model answers on");
    let mut corpus = small_corpus();
    corpus.originals.truncate(1);
    corpus.duplicates.retain(|duplicate| duplicate.original == 0);
    trained(&corpus).save(&path).unwrap();
    live.reload().unwrap();
    let after = ask(&mut answerer);
    assert_eq!(after.model.questions().len(), 1);
    // An answer keeps the model that its indices belong to.
    assert_eq!(before.model.questions().len(), SMALL.len());
}

#[test]
fn strangers_match_nothing() {
    for text in ["", "purple elephants dance", "你好吗"] {
        let ranking = ask(small_model(), text);
        assert!(!ranking.in_scope(), "{text:?}: {}", ranking.scope);
    }
    for text in ["How do I reset my password?", "what is array map in javascript"] {
        let ranking = ask(small_model(), text);
        assert!(ranking.in_scope(), "{text:?}: {}", ranking.scope);
    }
}

#[test]
fn training_is_deterministic_and_knows_its_data() {
    let options = TrainOptions::default();
    let bytes = |corpus: &Corpus, options: &TrainOptions| train(corpus, options, |_| {}).to_bytes();
    let first = bytes(&small_corpus(), &options);
    assert_eq!(first, bytes(&small_corpus(), &options));
    assert_ne!(first, bytes(&small_corpus(), &TrainOptions { seed: 2, ..options }));
    let mut other = small_corpus();
    other.duplicates[0].text.push('!');
    let other = trained(&other);
    assert_ne!(other.digest(), small_model().digest());
}

#[test]
fn originals_alone_make_a_model() {
    let mut corpus = small_corpus();
    corpus.duplicates.clear();
    let model = trained(&corpus);
    assert_eq!(ask(&model, "where is the parcel").matches[0].question, 1);
    corpus.originals.truncate(1);
    let single = trained(&corpus);
    assert_eq!(ask(&single, "anything").matches[0].probability, 1.0);
}

#[test]
fn a_saved_model_answers_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "an older file").unwrap();
    small_model().save(&path).unwrap();
    let loaded = Arc::new(Model::load(&path).unwrap());
    assert_eq!(loaded.questions(), small_model().questions());
    assert_eq!(loaded.to_bytes(), small_model().to_bytes());
    for text in ["my card", "parcel?", "map an array"] {
        let (loaded, small) = (ask(&loaded, text), ask(small_model(), text));
        assert_eq!((loaded.matches, loaded.scope), (small.matches, small.scope));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays behind");
}

#[test]
fn a_missing_file_is_named() {
    let error = Model::load(Path::new("nowhere.safetensors")).unwrap_err();
    assert!(error.to_string().starts_with("nowhere.safetensors: "), "{error}");
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small_model().to_bytes();
    let step = bytes.len() / 500 + 1;
    for length in (0..bytes.len()).step_by(step).chain(0..64).chain([bytes.len() - 1]) {
        assert!(Model::from_bytes(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
}

/// Header bytes may be white space or a digest nobody checks; whatever loads must still be the model.
#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let bytes = small_model().to_bytes();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let body_step = (bytes.len() - header) / 1500 + 1;
    for at in (0..header).chain((header..bytes.len()).step_by(body_step)) {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match Model::from_bytes(&damaged) {
                Err(_) => {}
                Ok(model) => {
                    assert!(at < header, "byte {at} flipped by {flip:#x} passed");
                    let answer = ask(&Arc::new(model), "my card");
                    assert_eq!(answer.matches, ask(small_model(), "my card").matches);
                }
            }
        }
    }
}

/// The reader adds offsets up unchecked: huge ones must be refused before it sees them.
#[test]
fn offsets_that_overflow_are_refused() {
    let huge = 1_u64 << 61;
    let mut tensors = String::new();
    for index in 0..8_u64 {
        let (start, end) = (index * (huge - 8), (index + 1) * (huge - 8));
        let length = huge - 8;
        tensors +=
            &format!(r#","t{index}":{{"dtype":"U8","shape":[{length}],"data_offsets":[{start},{end}]}}"#);
    }
    let header = format!(r#"{{"__metadata__":{{"convoy.faq":"{{}}"}}{tensors}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    assert!(Model::from_bytes(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_gets_a_sound_ranking(text in any::<String>()) {
        assert_sound(&ask(small_model(), &text), SMALL.len());
    }

    #[test]
    fn any_mixture_of_known_and_strange_text_gets_a_sound_ranking(
        parts in prop::collection::vec(
            prop::sample::select(vec!["password ", "\u{0}", "😀", "<a ", "&#0;", "card", "```", "e\u{301}", "<pre>", "ﬁ", "İ", "'"]),
            0..200,
        )
    ) {
        assert_sound(&ask(small_model(), &parts.concat()), SMALL.len());
    }

    #[test]
    fn random_bytes_are_no_model(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(Model::from_bytes(&bytes).is_err());
    }
}

#[test]
fn a_hundred_kilobytes_are_answered_soundly() {
    for seed in ["password ", "<a<a", "😀", "\u{0}", "x", "a b c d ", "'", "+#"] {
        let text = seed.repeat(100 * 1024 / seed.len());
        assert_sound(&ask(small_model(), &text), SMALL.len());
    }
}

/// The real questions, where a checkout has them beside it.
fn shared() -> Option<PathBuf> {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    shared.exists().then(|| shared.join("faq"))
}

#[test]
fn figures_on_real_questions() {
    let Some(folder) = shared() else { return };
    let answers = folder.join("answers.tsv");
    for answers in [None, Some(answers.as_path())] {
        let read = |duplicates: &str| {
            Corpus::read(&folder.join("questions.tsv"), &[folder.join(duplicates)], answers).unwrap()
        };
        let started = Instant::now();
        let model = trained(&read("dupes_train.tsv"));
        assert!(started.elapsed() < Duration::from_secs(300), "training took {:?}", started.elapsed());
        assert!(model.to_bytes().len() <= 10_000_000);
        let out_of_scope = read_texts(&folder.join("out_of_scope.tsv")).unwrap();
        let mut matcher = matcher(&model);
        let report = evaluate(&mut matcher, &read("dupes_test.tsv"), &out_of_scope).unwrap();
        assert!(report.overall.at[0] >= 0.885, "{report}");
        assert!(report.overall.at[9] >= 0.985, "{report}");
        assert!(report.overall.mean_rank <= 1.6, "{report}");
        assert!(report.calibration_error <= 0.03, "{report}");
        assert!(report.out_of_scope_auroc.unwrap() >= 0.985, "{report}");
        assert!(report.gate.right >= 0.94 && report.gate.outside.unwrap() <= 0.08, "{report}");
        check_long_text(&mut matcher);
    }
}

fn check_long_text(matcher: &mut Matcher) {
    let prose =
        "how do i transfer money to another account and why was my card payment declined ".repeat(1300);
    matcher.rank(&prose, None);
    let tries = (0..3).map(|_| {
        let started = Instant::now();
        assert_sound(&matcher.rank(&prose, None), matcher.model().questions().len());
        started.elapsed()
    });
    let took = tries.min().unwrap();
    assert!(took < Duration::from_millis(200), "100 KB took {took:?}");
}
