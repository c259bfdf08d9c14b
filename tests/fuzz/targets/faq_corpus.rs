//! The files that an FAQ model is trained on, in each of their formats; the smallest are trained on, too.

use std::{collections::HashSet, fs};

use convoy::faq::{
    Corpus, Model, TrainOptions,
    corpus::{MAX_ORIGINALS, read_texts},
    train,
};

/// Between the questions, the duplicates and the answers.
const BETWEEN: u8 = 0x1e;

const ENDINGS: [&str; 3] = ["tsv", "csv", "jsonl"];

pub fn run(data: &[u8]) {
    let Some((form, rest)) = super::form(data) else { return };
    let mut parts = rest.split(|byte| *byte == BETWEEN);
    super::scratch(|folder| {
        let mut write = |name: &str| {
            let path = folder.join(name).with_extension(ENDINGS[usize::from(form) % ENDINGS.len()]);
            parts.next().map(|part| {
                fs::write(&path, part).unwrap();
                path
            })
        };
        let (questions, duplicates, answers) = (write("questions"), write("duplicates"), write("answers"));
        let questions = questions.expect("the first part is there, if only empty");
        match Corpus::read(&questions, &Vec::from_iter(duplicates), answers.as_deref()) {
            Ok(corpus) => check(&corpus, form),
            Err(error) => super::bounded(&error),
        }
        if let Err(error) = read_texts(&questions) {
            super::bounded(&error);
        }
    });
}

fn check(corpus: &Corpus, form: u8) {
    let Corpus { originals, duplicates } = corpus;
    assert!((1..=MAX_ORIGINALS).contains(&originals.len()));
    let ids: HashSet<i64> = originals.iter().map(|original| original.id).collect();
    let answers: HashSet<i64> = originals.iter().map(|original| original.answer_id).collect();
    assert_eq!((ids.len(), answers.len()), (originals.len(), originals.len()));
    assert!(duplicates.iter().all(|duplicate| duplicate.original < originals.len()));
    if form >= 0x80 && originals.len() <= 3 && duplicates.len() <= 3 {
        let model = train(corpus, &TrainOptions { folds: 2, epochs: 1, ..TrainOptions::default() }, |_| {});
        Model::from_bytes(&model.to_bytes()).expect("what is trained is read");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let tabs = "Id\tAnswerId\tText\n1\t10\tfirst\n2\t20\tNA\n\u{1e}Source\tText\tAnswerId\tId\nweb\t\"say \"\"hi\"\"\"\t20\t7\n\u{1e}AnswerId\tText\n20\tdo this\n10\t\n";
    let commas = "\u{feff}Id,AnswerId,Text\n1,10,first\n2,20,NA\n\u{1e}Id,AnswerId,Text,Source\n7,20,\"say \"\"a, b\"\"\",web\n";
    let json = "\u{feff}{\"Id\": 1, \"AnswerId\": \"10\", \"Text\": \"first\"}\n\n{\"Id\":2,\"AnswerId\":20,\"Text\":\"NA\"}\u{1e}{\"Text\":\"a\",\"Id\":7,\"AnswerId\":20,\"Other\":[1]}";
    [(0, tabs), (1, commas), (2, json), (0xff, tabs)].map(|(form, text)| super::formed(form, text)).into()
}
