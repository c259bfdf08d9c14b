//! What operators and their machines ask: identity, health, readiness, metrics.

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, reply, reply::Reply};
use crate::{
    service::photos::RANDOM_WEIGHTS,
    v2::{Model, triton},
};

/// Whether the process is worth keeping.
#[derive(Serialize, JsonSchema)]
pub(super) struct Live {
    live: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Whether traffic is wanted, and what is served.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ready<'a> {
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    photos: Option<ReadyPhotos<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    faq: Option<ReadyFaq>,
}

/// The photo model that is loaded.
#[derive(Serialize, JsonSchema)]
struct ReadyPhotos<'a> {
    model: &'a str,
    classes: usize,
    /// That its weights are random, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
    /// What the operator should know of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

/// The FAQ that is loaded.
#[derive(Serialize, JsonSchema)]
struct ReadyFaq {
    questions: usize,
}

/// `GET /` for programs: exactly `Healthy`, as existing clients expect.
pub(super) fn root() -> Reply {
    reply::text(StatusCode::OK, "Healthy")
}

/// `GET /livez`: 200 while the process is worth keeping, else 503 and why it should be replaced.
pub(super) fn livez(context: &Context) -> Reply {
    let reason = context.services.readiness.alive().err();
    reply::json(status(reason.as_ref()), &Live { live: reason.is_none(), reason })
}

fn status(reason: Option<&String>) -> StatusCode {
    if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `GET /version`: what scores, in one line of text.
pub(super) fn version(context: &Context) -> Reply {
    let mut parts = vec![format!("convoy {}", env!("CARGO_PKG_VERSION"))];
    if let Ok(photos) = context.services.photos() {
        let note = photos.model.random.then_some(RANDOM_WEIGHTS).or(photos.hint);
        let note = note.map_or_else(String::new, |note| format!(" ({note})"));
        parts.push(format!("photos: {}{note}", photos.model.name));
    }
    if let Ok(questions) = context.services.questions() {
        parts.push(format!("faq: {} questions", questions.loaded().model().questions().len()));
    }
    reply::text(StatusCode::OK, parts.join("; "))
}

/// `GET /readyz`: 200 while traffic is wanted, else 503 and why.
pub(super) fn readyz(context: &Context) -> Reply {
    let reason = context.services.readiness.check().err();
    let status = status(reason.as_ref());
    let photos = context.services.photos().ok();
    let body = Ready {
        ready: reason.is_none(),
        reason,
        photos: photos.as_ref().map(|photos| ReadyPhotos {
            model: &photos.model.name,
            classes: photos.labels.len(),
            warning: photos.model.random.then_some(RANDOM_WEIGHTS),
            hint: photos.hint,
        }),
        faq: context
            .services
            .questions()
            .ok()
            .map(|questions| ReadyFaq { questions: questions.loaded().model().questions().len() }),
    };
    reply::json(status, &body)
}

/// `GET /metrics`: Prometheus text.
pub(super) fn metrics(context: &Context) -> Reply {
    context.services.sample();
    context.budget.sample();
    let models: Vec<_> = Model::all(&context.services).collect();
    context.metrics.ready.set(if context.services.readiness.check().is_ok() { 1.0 } else { 0.0 });
    reply::with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        format!("{}{}", context.metrics.render(), triton::render(&context.statistics.of(&models))).into(),
    )
}
