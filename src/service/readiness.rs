//! Whether the server wants traffic.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::batch::scheduler::Liveness;

/// Whether the server wants traffic: every worker runs and nobody has asked it to stop.
pub struct Readiness {
    draining: AtomicBool,
    pools: Vec<(&'static str, Liveness)>,
}

impl Readiness {
    /// Ready as long as every one of `pools` runs.
    pub fn new(pools: Vec<(&'static str, Liveness)>) -> Self {
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
        match self.pools.iter().find(|(_, liveness)| !liveness.all_running()) {
            Some((name, _)) => Err(format!("a thread of the {name} pool has died")),
            None => Ok(()),
        }
    }
}
