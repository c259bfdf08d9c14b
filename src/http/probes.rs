//! What operators and their machines ask: identity, health, readiness, metrics.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{Context, reply, reply::Reply};
use crate::service::photos::RANDOM_WEIGHTS;

/// `GET /` for programs: exactly `Healthy`, as existing clients expect.
pub(super) fn root() -> Reply {
    reply::text(StatusCode::OK, "Healthy")
}

/// `GET /livez`: the process answers.
pub(super) fn livez() -> Reply {
    reply::json(StatusCode::OK, &json!({"live": true}))
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
    let (status, reason) = match context.services.readiness.check() {
        Ok(()) => (StatusCode::OK, Value::Null),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Value::String(reason)),
    };
    let mut body = json!({"ready": status == StatusCode::OK});
    if !reason.is_null() {
        body["reason"] = reason;
    }
    if let Ok(photos) = context.services.photos() {
        body["photos"] = json!({"model": photos.model.name, "classes": photos.labels.len()});
        if photos.model.random {
            body["photos"]["warning"] = RANDOM_WEIGHTS.into();
        }
        if let Some(hint) = photos.hint {
            body["photos"]["hint"] = hint.into();
        }
    }
    if let Ok(questions) = context.services.questions() {
        body["faq"] = json!({"questions": questions.loaded().model().questions().len()});
    }
    reply::json(status, &body)
}

/// `GET /metrics`: Prometheus text.
pub(super) fn metrics(context: &Context) -> Reply {
    context.services.sample();
    context.metrics.ready.set(if context.services.readiness.check().is_ok() { 1.0 } else { 0.0 });
    reply::with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        context.metrics.render().into(),
    )
}
