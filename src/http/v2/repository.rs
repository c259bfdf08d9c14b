//! The model repository: what is there, and taking it away or loading its files again, where admin endpoints are on.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        Context, admin,
        body::Body,
        reply::{self, Failure, Reply},
    },
    Place, Target, VERSION,
};

#[derive(Debug, Default, Deserialize)]
struct Asked {
    /// Only models that are ready.
    #[serde(default)]
    ready: bool,
}

/// `POST /v2/repository/index`, with `{"ready": bool}` or nothing.
pub(super) async fn index(body: &mut Body, context: &Context) -> Result<Reply, Failure> {
    let bytes = body.read(&context.limits).await?;
    let asked: Asked = if bytes.is_empty() {
        Asked::default()
    } else {
        let expected = |error| Failure::invalid(format!(r#"expected {{"ready": true}} or nothing: {error}"#));
        serde_json::from_slice(&bytes).map_err(expected)?
    };
    let readiness = context.readiness.check();
    let entry = |place: Place| {
        let (state, reason) = match &readiness {
            _ if place.is_empty() => ("UNAVAILABLE", "unloaded"),
            Ok(()) => ("READY", ""),
            Err(reason) => ("UNAVAILABLE", reason.as_str()),
        };
        let listed = state == "READY" || !asked.ready;
        let name = place.name();
        listed.then(|| json!({"name": *name, "version": VERSION, "state": state, "reason": reason}))
    };
    Ok(reply::json(StatusCode::OK, &Place::all(context).filter_map(entry).collect::<Vec<Value>>()))
}

/// `POST /v2/repository/models/{model}/load`: its files are read again, and what they hold takes over.
pub(super) async fn load(target: Target<'_>, context: &Context) -> Result<Reply, Failure> {
    admin::check_on(context)?;
    let name = match Place::find(context, target)? {
        Place::Photos(slot) => admin::load(slot).await.map(|photos| photos.model.name.clone()),
        Place::Questions(slot) => admin::load(slot).await.map(|_questions| super::FAQ.to_owned()),
    }?;
    Ok(reply::json(StatusCode::OK, &json!({"name": name, "load": true})))
}

/// `POST /v2/repository/models/{model}/unload`: requests in hand are answered, new ones get 503 until it is loaded again.
pub(super) async fn unload(target: Target<'_>, context: &Context) -> Result<Reply, Failure> {
    admin::check_on(context)?;
    let place = Place::find(context, target)?;
    match place {
        Place::Photos(slot) => slot.unload().await,
        Place::Questions(slot) => slot.unload().await,
    };
    Ok(reply::json(StatusCode::OK, &json!({"name": *place.name(), "unload": true})))
}
