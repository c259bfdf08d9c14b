//! The FAQ's tensors: `question` in; the probability of each original, how likely it is that any is asked, and the best one
//! with its number, its text and its answer out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Error, Input, Kind, Output, Received, Scored,
    feed::feed,
    infer::charge_answer,
    metadata::Tensor,
    request::{Picked, short},
    tensor::{Values, ranked},
};
use crate::{
    batch::{Seat, Terms},
    error::ScoreError,
    faq::{Answerer, Model, Ranking, clean::MAX_TEXT_BYTES, corpus::Original},
    service::{Questions, Timeline},
};

/// Questions, BYTES of UTF-8.
pub(super) const QUESTION: &str = "question";

/// Of each original, FP32 `[n, originals]`.
const PROBABILITIES: &str = "probabilities";
/// How likely it is that any original is asked, FP32 `[n, 1]`.
const SCOPE: &str = "scope";
/// The number of the best original, INT64 `[n, 1]`; -1 where none is asked.
const ID: &str = "id";
/// Its text, BYTES `[n, 1]`; empty where none is asked.
const MATCH: &str = "match";
/// Its answer, BYTES `[n, 1]`; empty where none is asked or it has none.
const ANSWER: &str = "answer";

const OUTPUTS: [&str; 5] = [PROBABILITIES, SCOPE, ID, MATCH, ANSWER];

/// What it takes.
pub(super) fn inputs() -> Vec<Tensor> {
    vec![Tensor { name: QUESTION, datatype: "BYTES", dims: vec![1], optional: false }]
}

/// What it answers.
pub(super) fn outputs(questions: &Questions) -> Vec<Tensor> {
    let originals = questions.loaded().model().questions().len() as u64;
    let tensor = |name, datatype, side| Tensor { name, datatype, dims: vec![side], optional: false };
    vec![
        tensor(PROBABILITIES, "FP32", originals),
        tensor(SCOPE, "FP32", 1),
        tensor(ID, "INT64", 1),
        tensor(MATCH, "BYTES", 1),
        tensor(ANSWER, "BYTES", 1),
    ]
}

/// What came of one question: its row of each output, where the time went, and which model answered.
struct Row {
    values: Vec<Values>,
    timeline: Timeline,
    model: Arc<Model>,
}

/// Answers the questions of one request, at most `most` at a time; `gate` is a seat and the terms it was taken on.
pub(super) async fn score(
    questions: &Questions,
    gate: (Seat<Answerer>, &Terms),
    received: Received,
    most: usize,
) -> Result<Scored, Error> {
    let Received { request, terms, charge, .. } = received;
    let picked = request.picked(&OUTPUTS, PROBABILITIES)?;
    let mut copied = charge.another();
    let bytes = request.inputs.iter().map(|input| input.data.copied()).sum();
    copied.add(bytes).map_err(ScoreError::from)?;
    let texts = texts(request.inputs)?;
    let count = texts.len();
    let top = matches_needed(&picked);
    let charge = {
        let loaded = questions.loaded();
        let originals = loaded.model().questions();
        let labelled = picked.iter().any(|output| output.classes.is_some());
        let width = top.unwrap_or(originals.len()).min(originals.len());
        let labels = if labelled { labels(originals, width) } else { 0 };
        charge_answer(&charge, count, width, labelled, longest(&picked, originals) + labels)?
    };
    let (terms, wanted) = (&terms, picked.as_slice());
    let run = move |text, seat| async move {
        let (ranking, timeline) = questions.ask(seat, text, top, terms).await?;
        let values = wanted.iter().map(|output| value(output, &ranking)).collect();
        Ok::<_, ScoreError>(Row { values, timeline, model: ranking.model })
    };
    let rows = feed(questions, gate, terms, texts, most, run).await?;
    if rows.iter().any(|row| !Arc::ptr_eq(&row.model, &rows[0].model)) {
        return Err(replaced());
    }
    drop(copied);
    let timelines = rows.iter().map(|row| row.timeline).collect();
    Ok(Scored { outputs: outputs_of(&picked, rows), timelines, charge })
}

/// Most bytes of text in an element of the answer.
fn longest(picked: &[Picked], originals: &[Original]) -> usize {
    let text =
        |original: &Original| original.text.len() + original.answer.as_ref().map_or(0, |text| text.len());
    let has_text = picked.iter().any(|output| [MATCH, ANSWER].contains(&output.name));
    has_text.then(|| originals.iter().map(text).max()).flatten().unwrap_or(0)
}

/// Most bytes of text in an element that names `width` of `originals`.
fn labels(originals: &[Original], width: usize) -> usize {
    let lengths = || originals.iter().map(|original| original.text.len());
    lengths().sum::<usize>().min(width * lengths().max().unwrap_or(0))
}

/// How many matches the outputs are made of; `None` for all.
fn matches_needed(picked: &[Picked]) -> Option<usize> {
    let needed = |output: &Picked| match output.name {
        PROBABILITIES => output.classes,
        _ => Some(1),
    };
    picked.iter().map(needed).try_fold(1, |most, needed| Some(needed?.max(most)))
}

/// The questions of a request, from the one input that it has.
///
/// # Errors
/// It has another, or one that does not hold what it says.
pub fn texts(inputs: Vec<Input>) -> Result<Vec<String>, Error> {
    let one = <[Input; 1]>::try_from(inputs).map_err(|inputs| {
        Error::invalid(format!("expected one input, `{QUESTION}`; found {}", inputs.len()))
    })?;
    let [input] = one;
    if input.name != QUESTION {
        let message = format!("unknown input `{}`; known: `{QUESTION}`", short(&input.name));
        return Err(Error::invalid(message));
    }
    let count = input.batch("BYTES", &[1])?;
    let elements = input.into_elements(count, |text| Ok(Bytes::from(text)))?;
    // What is not looked at is not kept, and what is kept is no part of the body.
    let text = |bytes: Bytes| {
        let text = str::from_utf8(&bytes);
        let text = text.map_err(|_invalid| Error::invalid(format!("`{QUESTION}` is not UTF-8")))?;
        Ok(text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned())
    };
    elements.into_iter().map(text).collect()
}

/// One question's row of one output.
fn value(output: &Picked, ranking: &Ranking) -> Values {
    let originals = ranking.model.questions();
    let best = ranking.matches.first().filter(|_| ranking.in_scope());
    let best = best.map(|found| &originals[found.question]);
    match (output.name, output.classes) {
        (PROBABILITIES, None) => {
            let mut row = vec![0.0; originals.len()];
            ranking.matches.iter().for_each(|found| row[found.question] = found.probability);
            Values::Fp32(row)
        }
        (PROBABILITIES, Some(classes)) => {
            let matches = ranking.matches.iter().take(classes);
            let class = matches.map(|m| ranked(m.probability, m.question, &originals[m.question].text));
            Values::Bytes(class.collect())
        }
        (SCOPE, _) => Values::Fp32(vec![ranking.scope]),
        (ID, _) => Values::Int64(vec![best.map_or(-1, |original| original.id)]),
        (MATCH, _) => Values::Bytes(vec![best.map_or_else(String::new, |original| original.text.clone())]),
        _ => Values::Bytes(vec![best.and_then(|original| original.answer.clone()).unwrap_or_default()]),
    }
}

/// The rows of each output under each other.
fn outputs_of(picked: &[Picked], rows: Vec<Row>) -> Vec<Output> {
    let count = rows.len();
    let mut rows: Vec<_> = rows.into_iter().map(|row| row.values.into_iter()).collect();
    let output = |output: &Picked| {
        let column = rows.iter_mut().map(|row| row.next().expect("bug: a row has a value of each output"));
        let values = Values::concat(column.collect());
        let shape = vec![count, values.len() / count];
        Output { name: output.name, shape, values }
    };
    picked.iter().map(output).collect()
}

/// The rows of one answer cannot be of two models, whose originals differ.
fn replaced() -> Error {
    Error::Refused {
        kind: Kind::Unavailable,
        code: "replaced",
        message: "the FAQ was replaced while this request was answered; send it again".to_owned(),
        retry_after: Some(Duration::from_secs(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_no_longer_than_all_there_are() {
        let original = |id, length| Original { id, text: "x".repeat(length), answer: None, answer_id: -1 };
        let originals = [original(1, 10), original(2, 3), original(3, 4)];
        assert_eq!([1, 2, 3].map(|width| labels(&originals, width)), [10, 17, 17]);
    }

    #[test]
    fn only_as_many_matches_are_asked_for_as_the_outputs_need() {
        let picked = |name, classes| Picked { name, classes };
        assert_eq!(matches_needed(&[picked(ID, None), picked(SCOPE, None)]), Some(1));
        assert_eq!(matches_needed(&[picked(PROBABILITIES, Some(4)), picked(ID, None)]), Some(4));
        assert_eq!(matches_needed(&[picked(PROBABILITIES, None), picked(ID, None)]), None);
    }
}
