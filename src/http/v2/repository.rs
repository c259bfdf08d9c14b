//! The model repository: what is there, and loading the FAQ again. Models neither come nor go while the server runs, so
//! nothing else can be loaded or unloaded.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{
        Context, admin,
        body::Body,
        reply::{self, Failure, Reply},
    },
    Model, VERSION,
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
    let (state, reason) = match context.readiness.check() {
        Ok(()) => ("READY", String::new()),
        Err(reason) => ("UNAVAILABLE", reason),
    };
    let listed = Model::all(context).filter(|_| state == "READY" || !asked.ready);
    let entry =
        |model: Model| json!({"name": model.name(), "version": VERSION, "state": state, "reason": reason});
    Ok(reply::json(StatusCode::OK, &listed.map(entry).collect::<Vec<_>>()))
}

/// `POST /v2/repository/models/{model}/load`: the FAQ's file is read again, where admin endpoints are on.
pub(super) async fn load(model: Model<'_>, context: &Context) -> Result<Reply, Failure> {
    match model {
        Model::Questions(_) => admin::reload_faq(context).await,
        Model::Photos(_) => {
            Err(unsupported("the photo model cannot be replaced while the server runs; start another server"))
        }
    }
}

/// `POST /v2/repository/models/{model}/unload`.
pub(super) fn unload(model: Model) -> Result<Reply, Failure> {
    Err(unsupported(&format!("{} cannot be unloaded; stop the server instead", model.name())))
}

fn unsupported(message: &str) -> Failure {
    Failure::new(StatusCode::NOT_IMPLEMENTED, "unsupported", message)
}
