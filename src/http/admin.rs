//! `POST /admin/...`: what an operator may ask of a running server. Off unless the configuration turns it on, because
//! nothing here asks who is calling.

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Context,
    reply::{self, Failure, Reply},
};
use crate::{service::Absent, v2::repository};

/// The FAQ model that has taken over.
#[derive(Serialize, JsonSchema)]
pub(super) struct Reloaded<'a> {
    questions: usize,
    /// The digest of what it was trained on.
    training: &'a str,
}

/// Reads the FAQ model's file again and lets it take over.
pub(super) async fn reload_faq(context: &Context) -> Result<Reply, Failure> {
    repository::check_admin(context.limits.admin)?;
    let slot = context.services.questions.as_ref().ok_or(Absent::NotServed("questions"))?;
    let loaded = repository::load_slot(slot).await?.loaded();
    let model = loaded.model();
    let body = Reloaded { questions: model.questions().len(), training: model.digest() };
    Ok(reply::json(StatusCode::OK, &body))
}
