//! The model repository as JSON.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json as object};

use super::{
    super::{
        Context,
        body::Body,
        json,
        reply::{self, Failure, Reply},
        routes::Ask,
    },
    Target,
};
use crate::v2::repository::{self, Listed};

#[derive(Debug, Default, Deserialize)]
struct Asked {
    /// Only models that are ready.
    #[serde(default, deserialize_with = "json::unquoted")]
    ready: bool,
}

/// `POST /v2/repository/index`, with `{"ready": bool}` or nothing.
pub(super) async fn index(ask: &Ask, body: &mut Body, context: &Context) -> Result<Reply, Failure> {
    let bytes = body.read_small(ask, context).await?;
    let asked: Asked = if bytes.is_empty() {
        Asked::default()
    } else {
        json::whole(&bytes).map_err(|error| Failure::unreadable(r#"{"ready": true} or nothing"#, &error))?
    };
    let entry = |listed: Listed| {
        let Listed { name, version, state, reason } = listed;
        object!({"name": name, "version": version, "state": state, "reason": reason})
    };
    let index = repository::index(&context.services, asked.ready).into_iter().map(entry);
    Ok(reply::json(StatusCode::OK, &index.collect::<Vec<Value>>()))
}

/// `POST /v2/repository/models/{model}/load`: its files are read again, and what they hold takes over.
pub(super) async fn load(target: Target<'_>, context: &Context) -> Result<Reply, Failure> {
    repository::check_admin(context.limits.admin)?;
    let name = target.place(context)?.load().await?;
    Ok(reply::json(StatusCode::OK, &object!({"name": name, "load": true})))
}

/// `POST /v2/repository/models/{model}/unload`: requests in hand are answered, new ones get 503 until it is loaded again.
pub(super) async fn unload(target: Target<'_>, context: &Context) -> Result<Reply, Failure> {
    repository::check_admin(context.limits.admin)?;
    let place = target.place(context)?;
    place.unload().await;
    Ok(reply::json(StatusCode::OK, &object!({"name": *place.name(), "unload": true})))
}
