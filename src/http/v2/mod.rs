//! The V2 protocol (Open Inference Protocol) over REST under `/v2`: which endpoint and model a path names, and who answers.
//!
//! The photo model is served under its own name, the FAQ as `faq`, both in version `1`. Requests and answers are `wire`'s,
//! values of tensors `tensor`'s, compression `coding`'s; what is announced is `metadata`'s. `infer` scores, with `photos` and
//! `questions` for what tensors mean to either model and `feed` for requests of more than there are seats; [`statistics`]
//! counts. What others share with this protocol is [`super`]'s.

mod coding;
mod feed;
mod infer;
mod metadata;
mod photos;
mod questions;
mod repository;
pub mod statistics;
mod tensor;
mod wire;

use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::{
    Context,
    body::Body,
    reply::{self, Failure, Reply},
    routes::Ask,
};
use crate::service::{Photos, Questions, Served, Slot, questions::FAQ};

/// The only version of every model.
pub const VERSION: &str = "1";

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

/// Where a model is served, whether or not it is loaded now.
#[derive(Clone, Copy)]
enum Place<'a> {
    Photos(&'a Arc<Slot<Photos>>),
    Questions(&'a Arc<Slot<Questions>>),
}

impl<'a> Place<'a> {
    /// That of every model that the server was started for.
    fn all(context: &'a Context) -> impl Iterator<Item = Self> {
        let photos = context.photos.as_ref().map(Self::Photos);
        photos.into_iter().chain(context.questions.as_ref().map(Self::Questions))
    }

    fn find(context: &'a Context, target: Target) -> Result<Self, Failure> {
        let known = Self::all(context).find(|place| place.name().as_str() == target.model);
        let version_served = target.version.is_none_or(|version| version == VERSION);
        known.filter(|_| version_served).ok_or_else(|| unknown(context, target))
    }

    fn name(self) -> Arc<String> {
        match self {
            Self::Photos(slot) => slot.name(),
            Self::Questions(slot) => slot.name(),
        }
    }

    fn is_empty(self) -> bool {
        self.model().is_none()
    }

    /// What serves there now.
    fn model(self) -> Option<Model> {
        match self {
            Self::Photos(slot) => slot.get().map(Model::Photos),
            Self::Questions(slot) => slot.get().map(Model::Questions),
        }
    }
}

/// One served model, held from the first look at a request to its answer.
enum Model {
    Photos(Arc<Photos>),
    Questions(Arc<Questions>),
}

impl Model {
    /// Every model that is loaded.
    fn all(context: &Context) -> impl Iterator<Item = Self> {
        Place::all(context).filter_map(Place::model)
    }

    fn find(context: &Context, target: Target) -> Result<Self, Failure> {
        let place = Place::find(context, target)?;
        place.model().ok_or_else(|| Failure::unloaded(&place.name()))
    }

    fn name(&self) -> &str {
        match self {
            Self::Photos(photos) => photos.name(),
            Self::Questions(questions) => questions.name(),
        }
    }
}

fn unknown(context: &Context, target: Target) -> Failure {
    let served: Vec<_> = Place::all(context).map(|place| place.name().to_string()).collect();
    let short = |name: &str| name.chars().take(100).collect::<String>();
    let version = target.version.map_or_else(String::new, |version| format!(" version `{}`", short(version)));
    let message = format!(
        "unknown model `{}`{version}; this server has {} in version {VERSION}",
        short(target.model),
        served.join(" and ")
    );
    Failure::new(StatusCode::NOT_FOUND, "unknown_model", message)
}

/// Handles a request to `endpoint`, whose method has been checked.
pub(super) async fn answer(
    endpoint: Endpoint,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
) -> Result<Reply, Failure> {
    let target = Target::of(ask.head.uri.path()).expect("bug: the route is of this path");
    let model = || Model::find(context, target);
    match endpoint {
        Endpoint::Server => ok(metadata::server(context.limits.admin)),
        Endpoint::Live => ok(json!({"live": true})),
        Endpoint::Ready => Ok(ready(context)),
        Endpoint::Models => {
            let names: Vec<_> = Place::all(context).map(Place::name).collect();
            ok(json!({"models": names.iter().map(|name| name.as_str()).collect::<Vec<_>>()}))
        }
        Endpoint::AllStatistics => ok(context.statistics.of(&Model::all(context).collect::<Vec<_>>())),
        Endpoint::Model => ok(metadata::of(&model()?)),
        Endpoint::ModelReady => Ok(model_ready(Place::find(context, target)?, context)),
        Endpoint::Config => ok(metadata::config(&model()?)),
        Endpoint::Statistics => ok(context.statistics.of(&[model()?])),
        Endpoint::Infer => infer::answer(&model()?, ask, body, context).await,
        Endpoint::Index => repository::index(body, context).await,
        Endpoint::Load => repository::load(target, context).await,
        Endpoint::Unload => repository::unload(target, context).await,
    }
}

fn ok(value: impl Serialize) -> Result<Reply, Failure> {
    Ok(reply::json(StatusCode::OK, &value))
}

/// Both members, because the specification and its clients disagree on which one is looked at.
fn ready(context: &Context) -> Reply {
    match context.readiness.check() {
        Ok(()) => reply::json(StatusCode::OK, &json!({"live": true, "ready": true})),
        Err(reason) => {
            let body = json!({"live": true, "ready": false, "error": reason});
            reply::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

fn model_ready(place: Place, context: &Context) -> Reply {
    let name = place.name();
    let ready = match context.readiness.check() {
        Ok(()) if place.is_empty() => Err("unloaded".to_owned()),
        ready => ready,
    };
    match ready {
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
