//! The V2 protocol over REST under `/v2`: which endpoint and model a path names, and who answers.
//!
//! Requests and answers are `wire`'s, values of tensors `tensor`'s, compression `coding`'s; `metadata` and `repository` tell,
//! `infer` scores. What it all means is [`crate::v2`]'s.

mod coding;
pub mod infer;
mod metadata;
mod repository;
mod tensor;
pub mod wire;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::{
    Context,
    body::Body,
    reply::{self, Failure, Reply},
    routes::Ask,
};
use crate::{
    access::Scope,
    v2::{Model, Place},
};

/// What a path under `/v2` asks for, whichever model it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2`
    Server,
    /// `/v2/health/live`
    Live,
    /// `/v2/health/ready`
    Ready,
    /// `/v2/models`
    Models,
    /// `/v2/models/stats`
    AllStatistics,
    /// `/v2/models/{model}`
    Model,
    /// `/v2/models/{model}/ready`
    ModelReady,
    /// `/v2/models/{model}/config`
    Config,
    /// `/v2/models/{model}/stats`
    Statistics,
    /// `/v2/models/{model}/infer`
    Infer,
    /// `/v2/repository/index`
    Index,
    /// `/v2/repository/models/{model}/load`
    Load,
    /// `/v2/repository/models/{model}/unload`
    Unload,
}

impl Endpoint {
    /// The endpoint of a path; `None` where there is none.
    pub fn of(path: &str) -> Option<Self> {
        Target::of(path).map(|target| target.endpoint)
    }

    /// Its value in the `route` label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "v2_server",
            Self::Live => "v2_live",
            Self::Ready => "v2_ready",
            Self::Models => "v2_models",
            Self::AllStatistics => "v2_all_stats",
            Self::Model => "v2_model",
            Self::ModelReady => "v2_model_ready",
            Self::Config => "v2_config",
            Self::Statistics => "v2_stats",
            Self::Infer => "v2_infer",
            Self::Index => "v2_index",
            Self::Load => "v2_load",
            Self::Unload => "v2_unload",
        }
    }

    /// The scope that a caller needs where keys are on: none to ask whether the server lives and is ready.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::Live | Self::Ready => None,
            Self::Load | Self::Unload => Some(Scope::Admin),
            Self::Server
            | Self::Models
            | Self::AllStatistics
            | Self::Model
            | Self::ModelReady
            | Self::Config
            | Self::Statistics
            | Self::Infer
            | Self::Index => Some(Scope::Score),
        }
    }

    /// Whether it takes POST rather than GET.
    pub fn posts(self) -> bool {
        matches!(self, Self::Infer | Self::Index | Self::Load | Self::Unload)
    }

    /// Whether a 503 from it is an answer rather than a failure.
    pub fn probes(self) -> bool {
        matches!(self, Self::Ready | Self::ModelReady)
    }
}

/// A path taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target<'a> {
    endpoint: Endpoint,
    /// As it stands in the path; empty where the endpoint concerns no single model.
    model: &'a str,
    version: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix("/v2")?.trim_end_matches('/').split('/').take(8).collect();
        let of_all = |endpoint| Some(Self { endpoint, model: "", version: None });
        match parts.as_slice() {
            [""] => of_all(Endpoint::Server),
            ["", "health", "live"] => of_all(Endpoint::Live),
            ["", "health", "ready"] => of_all(Endpoint::Ready),
            ["", "models"] => of_all(Endpoint::Models),
            ["", "models", "stats"] => of_all(Endpoint::AllStatistics),
            ["", "repository", "index"] => of_all(Endpoint::Index),
            ["", "repository", "models", model, "load"] => {
                Some(Self { endpoint: Endpoint::Load, model, version: None })
            }
            ["", "repository", "models", model, "unload"] => {
                Some(Self { endpoint: Endpoint::Unload, model, version: None })
            }
            ["", "models", model, "versions", version, action @ ..] => {
                Some(Self { endpoint: of_model(action)?, model, version: Some(version) })
            }
            ["", "models", model, action @ ..] => {
                Some(Self { endpoint: of_model(action)?, model, version: None })
            }
            _ => None,
        }
    }
}

fn of_model(action: &[&str]) -> Option<Endpoint> {
    match action {
        [] => Some(Endpoint::Model),
        ["ready"] => Some(Endpoint::ModelReady),
        ["config"] => Some(Endpoint::Config),
        ["stats"] => Some(Endpoint::Statistics),
        ["infer"] => Some(Endpoint::Infer),
        _ => None,
    }
}

impl Target<'_> {
    fn place<'a>(&self, context: &'a Context) -> Result<Place<'a>, Failure> {
        Ok(Place::find(&context.services, self.model, self.version)?)
    }

    fn model(&self, context: &Context) -> Result<Model, Failure> {
        Ok(Model::find(&context.services, self.model, self.version)?)
    }
}

/// Handles a request to `endpoint`, whose method has been checked.
pub(super) async fn answer(
    endpoint: Endpoint,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
) -> Result<Reply, Failure> {
    let target = Target::of(ask.head.uri.path()).expect("bug: the route is of this path");
    let model = || target.model(context);
    let statistics = |models: &[Model]| ok(json!({"model_stats": context.statistics.of(models)}));
    match endpoint {
        Endpoint::Server => ok(metadata::server(context.limits.admin)),
        Endpoint::Live => Ok(live(context)),
        Endpoint::Ready => Ok(ready(context)),
        Endpoint::Models => {
            let names: Vec<_> = Place::all(&context.services).map(Place::name).collect();
            ok(json!({"models": names.iter().map(|name| name.as_str()).collect::<Vec<_>>()}))
        }
        Endpoint::AllStatistics => statistics(&Model::all(&context.services).collect::<Vec<_>>()),
        Endpoint::Model => ok(metadata::of(&model()?)),
        Endpoint::ModelReady => Ok(model_ready(target.place(context)?, context)),
        Endpoint::Config => ok(metadata::config(&model()?)),
        Endpoint::Statistics => statistics(&[model()?]),
        Endpoint::Infer => infer::answer(&model()?, ask, body, context).await,
        Endpoint::Index => repository::index(ask, body, context).await,
        Endpoint::Load => repository::load(target, context).await,
        Endpoint::Unload => repository::unload(target, context).await,
    }
}

fn ok(value: impl Serialize) -> Result<Reply, Failure> {
    Ok(reply::json(StatusCode::OK, &value))
}

fn live(context: &Context) -> Reply {
    match context.services.readiness.alive() {
        Ok(()) => reply::json(StatusCode::OK, &json!({"live": true})),
        Err(reason) => reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"live": false, "error": reason})),
    }
}

/// Both members, because the specification and its clients disagree on which one is looked at.
fn ready(context: &Context) -> Reply {
    match context.services.readiness.check() {
        Ok(()) => reply::json(StatusCode::OK, &json!({"live": true, "ready": true})),
        Err(reason) => {
            let body = json!({"live": true, "ready": false, "error": reason});
            reply::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

fn model_ready(place: Place, context: &Context) -> Reply {
    let name = place.name();
    match place.ready(&context.services) {
        Ok(()) => reply::json(StatusCode::OK, &json!({"name": *name, "ready": true})),
        Err(reason) => {
            let body = json!({"name": *name, "ready": false, "error": reason});
            reply::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// The answer to a request under `/v2` that has none of its own: `{"error": "..."}`.
pub(super) fn refuse(failure: &Failure) -> Reply {
    failure.reply_of(&json!({"error": failure.message}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_endpoints_models_and_versions() {
        let of = |path| Target::of(path).map(|target| (target.endpoint, target.model, target.version));
        for (path, expected) in [
            ("/v2", (Endpoint::Server, "", None)),
            ("/v2/", (Endpoint::Server, "", None)),
            ("/v2/health/live", (Endpoint::Live, "", None)),
            ("/v2/models/stats", (Endpoint::AllStatistics, "", None)),
            ("/v2/models/m", (Endpoint::Model, "m", None)),
            ("/v2/models/m/versions/2", (Endpoint::Model, "m", Some("2"))),
            ("/v2/models/m/versions/1/infer", (Endpoint::Infer, "m", Some("1"))),
            ("/v2/models/m/stats", (Endpoint::Statistics, "m", None)),
            ("/v2/repository/models/m/load", (Endpoint::Load, "m", None)),
        ] {
            assert_eq!(of(path), Some(expected), "{path}");
        }
        for path in ["/v22", "/v2x/models", "/v2/model", "/v2/models/m/versions", "/v2/models/m/infer/x", "/"]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
