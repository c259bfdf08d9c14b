//! Time to answer one question, per length of question, on one thread. The corpus is made here, in the size of a real
//! one, so that the bench runs on any clone; its answers are asserted before anything is timed.

use convoy::faq::corpus::{Duplicate, Original};
use convoy::faq::{Corpus, Loaded, Matcher, Model, TrainOptions, train};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;

const CLASSES: usize = 227;
const DUPLICATES: usize = 15;
const WORDS_PER_QUESTION: usize = 11;

/// A pronounceable word for every number.
fn word(mut number: usize) -> String {
    let mut word = String::new();
    for _ in 0..3 {
        word.push(char::from(b"bcdfghklmnprstvw"[number % 16]));
        word.push(char::from(b"aeiou"[number / 16 % 5]));
        number /= 80;
    }
    word
}

/// Words of class `class`: half its own, half common to all, chosen by `seed`.
fn question(class: usize, seed: usize) -> String {
    let word = |position: usize| match position % 2 {
        0 => word(1000 + class * 12 + (seed * 5 + position) % 12),
        _ => word((seed * 31 + position * 17 + class * 7) % 400),
    };
    (0..WORDS_PER_QUESTION).map(word).collect::<Vec<_>>().join(" ")
}

fn model() -> Model {
    let mut corpus = Corpus::default();
    for class in 0..CLASSES {
        let id = class as i64;
        corpus.originals.push(Original { id, answer_id: id, text: question(class, 0), answer: None });
        corpus.duplicates.extend((1..=DUPLICATES).map(|seed| Duplicate {
            id,
            original: class,
            text: question(class, seed),
            source: String::new(),
        }));
    }
    train(&corpus, &TrainOptions::default(), |_| {})
}

fn answer(criterion: &mut Criterion) {
    let mut matcher = Matcher::new(Arc::new(
        Loaded::new(Arc::new(model()), None).expect("a lexical model needs nothing else"),
    ));
    let mut group = criterion.benchmark_group("faq");
    for words in [1, 11, 100, 16_000] {
        let text = question(42, DUPLICATES + 1).split(' ').cycle().take(words).collect::<Vec<_>>().join(" ");
        assert_eq!(matcher.rank(&text, Some(1)).matches[0].question, 42);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("{words} words"), |bencher| {
            bencher.iter(|| matcher.rank(black_box(&text), None));
        });
    }
    group.finish();
}

criterion_group!(benches, answer);
criterion_main!(benches);
