//! Whether the server wants traffic.

use std::sync::atomic::{AtomicBool, Ordering};

use super::slot::Pools;

/// Whether the server wants traffic: every worker runs and nobody has asked it to stop.
pub struct Readiness {
    draining: AtomicBool,
    pools: Vec<Pools>,
}

impl Readiness {
    /// Ready as long as every thread of `pools` runs. A model that was unloaded on purpose has none.
    pub fn new(pools: Vec<Pools>) -> Self {
        Self { draining: AtomicBool::new(false), pools }
    }

    /// Turns readiness off for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// `Ok`, or why not.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        if self.draining() {
            return Err("the server is draining".to_owned());
        }
        match self.pools.iter().find_map(Pools::broken) {
            Some(name) => Err(format!("a thread of the {name} pool has died")),
            None => Ok(()),
        }
    }
}
