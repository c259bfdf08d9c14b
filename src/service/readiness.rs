//! Whether the server wants traffic, and whether it can go on at all.
//!
//! Nothing is remembered but that the server was told to stop: the rest is read off the pools whenever somebody asks, so
//! that a pool that recovers is ready again at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::slot::Pools;
use crate::batch::Trouble;

/// See the module's text.
pub struct Readiness {
    draining: AtomicBool,
    pools: Vec<Pools>,
    dead_after: Duration,
}

impl Readiness {
    /// Ready as long as nothing is wrong with `pools`, and given up once it has been wrong for `dead_after`. A model that was
    /// unloaded on purpose has no pools.
    pub fn new(pools: Vec<Pools>, dead_after: Duration) -> Self {
        Self { draining: AtomicBool::new(false), pools, dead_after }
    }

    /// Turns readiness off for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether traffic is wanted: `Ok`, or why not.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        if self.draining() {
            return Err("the server is draining".to_owned());
        }
        self.sound(|_| true)
    }

    /// Whether the process is worth keeping: `Ok`, or why a new one should take its place. A lost thread does not come back;
    /// what else is wrong may pass, and is given time for it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn alive(&self) -> Result<(), String> {
        self.sound(|trouble| matches!(trouble, Trouble::Dead { .. }) || trouble.age() >= self.dead_after)
    }

    fn sound(&self, counts: impl Fn(Trouble) -> bool) -> Result<(), String> {
        let mut troubles = self.pools.iter().flat_map(Pools::troubles);
        match troubles.find(|(_, trouble)| counts(*trouble)) {
            Some((name, trouble)) => Err(format!("the {name} pool {trouble}")),
            None => Ok(()),
        }
    }
}
