//! The model repository: what is there, and taking it away or loading its files again, where the operator allows it.

use std::sync::Arc;

use super::{Error, Kind, Place, VERSION};
use crate::service::{Served, Services, Slot};

/// One model of the index.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: &'static str,
    /// `READY` or `UNAVAILABLE`.
    pub state: &'static str,
    /// Why it is unavailable.
    pub reason: String,
}

/// Every model that the server was started for; with `ready` only those that are.
pub fn index(services: &Services, ready: bool) -> Vec<Listed> {
    let entry = |place: Place| {
        let (state, reason) = match place.ready(services) {
            Ok(()) => ("READY", String::new()),
            Err(reason) => ("UNAVAILABLE", reason),
        };
        let listed = state == "READY" || !ready;
        listed.then(|| Listed { name: place.name().to_string(), version: VERSION, state, reason })
    };
    Place::all(services).filter_map(entry).collect()
}

/// Refuses where the configuration has not turned administration on.
///
/// # Errors
/// It has not.
pub fn check_admin(on: bool) -> Result<(), Error> {
    if on {
        return Ok(());
    }
    let message = "admin endpoints are off; start the server with --admin, or send it SIGHUP";
    Err(Error::new(Kind::Forbidden, "admin_off", message))
}

/// Loads what a slot is for.
///
/// # Errors
/// Its files cannot be used; what served before goes on.
pub async fn load_slot<T: Served>(slot: &Arc<Slot<T>>) -> Result<Arc<T>, Error> {
    slot.load().await.map_err(|error| {
        let message = format!("the model was not loaded, what served before goes on: {error:#}");
        Error::new(Kind::Unusable, "model_unusable", message)
    })
}

impl Place<'_> {
    /// Reads its files again and lets what they hold take over; the name of what they hold.
    ///
    /// # Errors
    /// The files cannot be used; what served before goes on.
    pub async fn load(self) -> Result<String, Error> {
        match self {
            Self::Photos(slot) => load_slot(slot).await.map(|photos| photos.name().to_owned()),
            Self::Questions(slot) => load_slot(slot).await.map(|questions| questions.name().to_owned()),
        }
    }

    /// Requests in hand are answered, new ones refused until it is loaded again.
    pub async fn unload(self) {
        match self {
            Self::Photos(slot) => slot.unload().await,
            Self::Questions(slot) => slot.unload().await,
        };
    }
}
