//! `POST /admin/...`: what an operator may ask of a running server. Off unless the configuration turns it on, because
//! nothing here asks who is calling.

use hyper::StatusCode;
use serde_json::json;

use super::{
    Context,
    reply::{self, Failure, Reply},
};

/// Reads the FAQ model's file again and lets it take over.
pub(super) async fn reload_faq(context: &Context) -> Result<Reply, Failure> {
    if !context.limits.admin {
        let message = "admin endpoints are off; start the server with --admin, or send it SIGHUP";
        return Err(Failure::new(StatusCode::FORBIDDEN, "admin_off", message));
    }
    let questions = context.questions.as_ref().ok_or_else(|| Failure::not_served("questions"))?;
    match questions.reload().await {
        Ok(loaded) => {
            let model = loaded.model();
            let body = json!({"questions": model.questions().len(), "training": model.digest()});
            Ok(reply::json(StatusCode::OK, &body))
        }
        Err(error) => {
            let message = format!("the model that answers was not replaced: {:#}", anyhow::Error::new(error));
            Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "model_unusable", message))
        }
    }
}
