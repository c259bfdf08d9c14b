//! `POST /faq`: `{"question": "...", "top": 3}`; the best matches with their texts, or none where the question asks nothing
//! that is known.

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    body::{self, Body},
    json,
    parameters::Parameters,
    reply::{self, Failure, Reply},
    routes::Ask,
    timing,
};
use crate::memory::Charge;

/// Matches when the request names no number.
const DEFAULT_TOP: usize = 3;

/// The request.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Question")]
pub struct Asked {
    #[serde(deserialize_with = "json::question")]
    question: String,
    /// How many matches.
    #[schemars(range(min = 1))]
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    top: Option<usize>,
    #[serde(default, deserialize_with = "json::unquoted")]
    parameters: Parameters,
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 that says what was expected.
    pub fn read(body: &[u8]) -> Result<Self, Failure> {
        let asked: Self = json::whole(body)
            .map_err(|error| Failure::unreadable(r#"{"question": "...", "top": 3}"#, &error))?;
        match asked.top {
            Some(0) => Err(Failure::invalid("`top` must be at least 1")),
            _ => Ok(asked),
        }
    }
}

/// The answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Matches")]
pub(super) struct Answer<'a> {
    /// Empty where nothing that is known is asked.
    matches: Vec<Match<'a>>,
    /// From 0 to 1: how likely it is that any of the originals is asked.
    scope: f32,
    milliseconds: f64,
}

#[derive(Serialize, JsonSchema)]
struct Match<'a> {
    id: i64,
    answer_id: i64,
    probability: f32,
    question: &'a str,
    answer: Option<&'a str>,
}

/// Handles the request.
pub(super) async fn answer(ask: &Ask, body: &mut Body, context: &Context) -> Result<Reply, Failure> {
    let questions = context.services.questions()?;
    if !body::is_json(&ask.head.headers) {
        let message = r#"POST /faq takes Content-Type: application/json and {"question": "..."}"#;
        return Err(Failure::unsupported(message));
    }
    let admit = || questions.admit(&ask.terms).map_err(Failure::from);
    let (bytes, mut seat) = body.read_seated(admit()?, admit, ask, context).await?;
    let read = |bytes: &[u8], _: &mut Charge| Asked::read(bytes);
    let (asked, _small) = json::parse(bytes, context.budget.open(ask.terms.client), read).await?;
    let top = asked.top.unwrap_or(DEFAULT_TOP);
    let tightened = asked.parameters.tightened(&ask.terms, ask.arrived);
    if let Some(terms) = &tightened {
        seat.reschedule(terms.deadline);
    }
    let terms = tightened.unwrap_or(ask.terms);
    let (ranking, timeline) = questions.ask(seat, asked.question, Some(top), &terms).await?;
    let originals = ranking.model.questions();
    let found = if ranking.in_scope() { ranking.matches.as_slice() } else { &[] };
    let matches = found.iter().map(|found| {
        let original = &originals[found.question];
        Match {
            id: original.id,
            answer_id: original.answer_id,
            probability: found.probability,
            question: &original.text,
            answer: original.answer.as_deref(),
        }
    });
    let answer = Answer {
        matches: matches.collect(),
        scope: ranking.scope,
        milliseconds: reply::milliseconds(ask.arrived),
    };
    Ok(timing::with(reply::json(StatusCode::OK, &answer), timeline))
}
