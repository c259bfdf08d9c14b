//! `POST /admin/...`: what an operator may ask of a running server. Off unless the configuration turns it on, because
//! nothing here asks who is calling.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use super::{
    Context,
    reply::{self, Failure, Reply},
};
use crate::service::{Served, Slot};

/// Reads the FAQ model's file again and lets it take over.
pub(super) async fn reload_faq(context: &Context) -> Result<Reply, Failure> {
    check_on(context)?;
    let slot = context.questions.as_ref().ok_or_else(|| Failure::not_served("questions"))?;
    let loaded = load(slot).await?.loaded();
    let model = loaded.model();
    let body = json!({"questions": model.questions().len(), "training": model.digest()});
    Ok(reply::json(StatusCode::OK, &body))
}

/// Refuses where the configuration has not turned administration on.
pub(super) fn check_on(context: &Context) -> Result<(), Failure> {
    if context.limits.admin {
        return Ok(());
    }
    let message = "admin endpoints are off; start the server with --admin, or send it SIGHUP";
    Err(Failure::new(StatusCode::FORBIDDEN, "admin_off", message))
}

/// Loads what a slot is for.
pub(super) async fn load<T: Served>(slot: &Arc<Slot<T>>) -> Result<Arc<T>, Failure> {
    slot.load().await.map_err(|error| {
        let message = format!("the model was not loaded, what served before goes on: {error:#}");
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "model_unusable", message)
    })
}
