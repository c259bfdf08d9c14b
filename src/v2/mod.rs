//! The V2 protocol (Open Inference Protocol) apart from how it travels: its models and their tensors, scoring, what is
//! announced, counted and listed.
//!
//! The photo model is served under its own name, the FAQ as `faq`, both in version `1`. [`request`] and [`tensor`] are what
//! comes in, [`infer`] scores it, with [`photos`] and [`questions`] for what tensors mean to either model and `feed` for requests
//! of more than there are seats; [`metadata`], [`statistics`], [`triton`] and [`repository`] tell. REST is [`crate::http`]'s, gRPC
//! [`crate::grpc`]'s.

mod error;
mod feed;
pub mod infer;
pub mod metadata;
pub mod photos;
pub mod questions;
pub mod repository;
pub mod request;
pub mod statistics;
pub mod tensor;
pub mod triton;

use std::sync::Arc;

pub use error::{Error, Kind};
pub use infer::{Output, Received, Scored};
pub use request::{Input, Parameters, Request, Wanted};
pub use statistics::Statistics;

use crate::service::{Absent, Photos, Questions, Served, Services, Slot};

/// The only version of every model.
pub const VERSION: &str = "1";

/// Where a model is served, whether or not it is loaded now.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// The photo side.
    Photos(&'a Arc<Slot<Photos>>),
    /// The FAQ side.
    Questions(&'a Arc<Slot<Questions>>),
}

impl<'a> Place<'a> {
    /// That of every model that the server was started for.
    pub fn all(services: &'a Services) -> impl Iterator<Item = Self> {
        let photos = services.photos.as_ref().map(Self::Photos);
        photos.into_iter().chain(services.questions.as_ref().map(Self::Questions))
    }

    /// That of the model called `name`, in `version` where one is asked for.
    ///
    /// # Errors
    /// There is no such model.
    pub fn find(services: &'a Services, name: &str, version: Option<&str>) -> Result<Self, Error> {
        let known = Self::all(services).find(|place| place.name().as_str() == name);
        let version_served = version.is_none_or(|version| version == VERSION);
        known.filter(|_| version_served).ok_or_else(|| unknown(services, name, version))
    }

    /// The name of what serves there, or served last.
    pub fn name(self) -> Arc<String> {
        match self {
            Self::Photos(slot) => slot.name(),
            Self::Questions(slot) => slot.name(),
        }
    }

    /// What serves there now.
    pub fn model(self) -> Option<Model> {
        match self {
            Self::Photos(slot) => slot.get().map(Model::Photos),
            Self::Questions(slot) => slot.get().map(Model::Questions),
        }
    }

    /// `Ok`, or why it wants no traffic.
    ///
    /// # Errors
    /// A few words for the operator.
    pub fn ready(self, services: &Services) -> Result<(), String> {
        match self.model() {
            None => Err("unloaded".to_owned()),
            Some(_) => services.readiness.check(),
        }
    }
}

/// One served model, held from the first look at a request to its answer.
pub enum Model {
    /// Classifies photos.
    Photos(Arc<Photos>),
    /// Answers questions.
    Questions(Arc<Questions>),
}

impl Model {
    /// Every model that is loaded.
    pub fn all(services: &Services) -> impl Iterator<Item = Self> {
        Place::all(services).filter_map(Place::model)
    }

    /// The model called `name`, in `version` where one is asked for.
    ///
    /// # Errors
    /// There is no such model, or it is unloaded.
    pub fn find(services: &Services, name: &str, version: Option<&str>) -> Result<Self, Error> {
        let place = Place::find(services, name, version)?;
        Ok(place.model().ok_or_else(|| Absent::Unloaded(place.name().to_string()))?)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Photos(photos) => photos.name(),
            Self::Questions(questions) => questions.name(),
        }
    }
}

fn unknown(services: &Services, name: &str, version: Option<&str>) -> Error {
    let served: Vec<_> = Place::all(services).map(|place| place.name().to_string()).collect();
    let short = |name: &str| name.chars().take(100).collect::<String>();
    let version = version.map_or_else(String::new, |version| format!(" version `{}`", short(version)));
    let message = format!(
        "unknown model `{}`{version}; this server has {} in version {VERSION}",
        short(name),
        served.join(" and ")
    );
    Error::new(Kind::NotFound, "unknown_model", message)
}
