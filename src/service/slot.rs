//! The place of one model in a running server: what serves now, and how it is loaded, replaced and taken away while
//! requests are in hand.
//!
//! Whoever answers a request takes what serves once and keeps it to the end, so neither a replacement nor an unloading
//! takes anything from a request that was let in. The threads of what no longer serves end with its last request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use crate::batch::{Health, Trouble, Workers};

/// What a slot can hold.
pub trait Served: Send + Sync + 'static {
    /// The name it is asked for by.
    fn name(&self) -> &str;
}

/// Something to serve, and the threads that work for it.
pub struct Fresh<T> {
    /// What serves.
    pub served: Arc<T>,
    /// Pools that it brought along.
    pub workers: Vec<Workers>,
}

/// Loads what a slot is for, given what serves now; that may be handed back, renewed.
pub type Load<T> = dyn Fn(Option<&Arc<T>>) -> anyhow::Result<Fresh<T>> + Send + Sync;

/// The pools of a slot, looked at from outside.
#[derive(Clone, Default)]
pub struct Pools(Arc<ArcSwap<Vec<(&'static str, Health)>>>);

impl Pools {
    /// What is wrong now, with the name of the pool.
    pub fn troubles(&self) -> Vec<(&'static str, Trouble)> {
        let now = Instant::now();
        let trouble = |(name, health): &(&'static str, Health)| Some((*name, health.trouble(now)?));
        self.0.load().iter().filter_map(trouble).collect()
    }
}

/// The place of one model.
pub struct Slot<T> {
    current: ArcSwapOption<T>,
    /// Of what served last, so that an empty slot still has one.
    name: ArcSwap<String>,
    pools: Pools,
    workers: Mutex<Vec<Workers>>,
    load: Box<Load<T>>,
    /// Held while the slot changes, whether or not somebody still waits for it: changes happen one after another.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl<T: Served> Slot<T> {
    /// Loads for the first time. This reads files and may take seconds.
    ///
    /// # Errors
    /// Whatever cannot be loaded.
    pub fn open(load: Box<Load<T>>) -> anyhow::Result<Self> {
        let fresh = load(None)?;
        let slot = Self {
            current: ArcSwapOption::empty(),
            name: ArcSwap::default(),
            pools: Pools::default(),
            workers: Mutex::default(),
            load,
            changing: Arc::default(),
        };
        slot.put(fresh);
        Ok(slot)
    }

    /// What serves now, unless the slot is empty.
    pub fn get(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }

    /// The name of what serves, or served last.
    pub fn name(&self) -> Arc<String> {
        self.name.load_full()
    }

    /// For readiness checks.
    pub fn pools(&self) -> Pools {
        self.pools.clone()
    }

    /// Loads on a thread that may block and lets what was loaded take over.
    ///
    /// # Errors
    /// Whatever cannot be loaded; what served before goes on serving.
    pub async fn load(self: &Arc<Self>) -> anyhow::Result<Arc<T>> {
        let one_at_a_time = self.changing.clone().lock_owned().await;
        let slot = self.clone();
        let loading = tokio::task::spawn_blocking(move || {
            let _until_it_is_put = one_at_a_time;
            let present = slot.get();
            let fresh = (slot.load)(present.as_ref())?;
            let served = fresh.served.clone();
            slot.put(fresh);
            anyhow::Ok(served)
        });
        let loaded =
            loading.await.unwrap_or_else(|_panic| Err(anyhow::anyhow!("loading failed unexpectedly")));
        match &loaded {
            Ok(served) => tracing::info!(model = served.name(), "model loaded"),
            Err(error) => tracing::error!(
                model = self.name().as_str(),
                error = format!("{error:#}"),
                "model not loaded, what served before goes on"
            ),
        }
        loaded
    }

    /// Empties the slot; whether anything was there. Requests in hand are answered.
    pub async fn unload(&self) -> bool {
        let _one_at_a_time = self.changing.lock().await;
        let old = self.current.swap(None);
        self.pools.0.store(Arc::default());
        let _nobody_waits =
            end(self.name().as_str(), std::mem::take(&mut *self.workers.lock()), Some(REPLACED));
        if old.is_some() {
            tracing::info!(model = self.name().as_str(), "model unloaded");
        }
        old.is_some()
    }

    /// Empties the slot, once nothing is being loaded that would fill it again, and waits up to `limit` for the threads, which
    /// end with the last request in hand, unless one is stuck.
    pub async fn close(&self, limit: Duration) {
        let emptied = async {
            let _one_at_a_time = self.changing.lock().await;
            self.current.store(None);
            let workers = std::mem::take(&mut *self.workers.lock());
            let _whatever_they_said = end(self.name().as_str(), workers, None).await;
        };
        if timeout(limit, emptied).await.is_err() {
            tracing::warn!(
                model = self.name().as_str(),
                "its threads do not end, or it is still being loaded; the process ends without them"
            );
        }
    }

    fn put(&self, fresh: Fresh<T>) {
        let Fresh { served, workers } = fresh;
        self.name.store(Arc::new(served.name().to_owned()));
        let renewed = self.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, &served));
        if renewed {
            return;
        }
        let pools = workers.iter().map(|pool| (pool.name(), pool.health())).collect();
        self.current.store(Some(served));
        self.pools.0.store(Arc::new(pools));
        let old = std::mem::replace(&mut *self.workers.lock(), workers);
        let _nobody_waits = end(self.name().as_str(), old, Some(REPLACED));
    }
}

/// What the log says when the threads of a model that was replaced or unloaded have ended.
const REPLACED: &str = "the last request of a replaced model is answered";

/// Waits for threads that nobody gives work any more, on a thread of its own, and says so when they have ended: to whoever
/// holds what it returns, and to the log as it is told to.
fn end(model: &str, workers: Vec<Workers>, word: Option<&'static str>) -> oneshot::Receiver<()> {
    let (said, ended) = oneshot::channel();
    if workers.is_empty() {
        return ended;
    }
    let model = model.to_owned();
    let waiting = std::thread::Builder::new().name("unload".to_owned()).spawn(move || {
        workers.into_iter().for_each(Workers::join);
        if let Some(word) = word {
            tracing::info!(model, "{word}");
        }
        let _nobody_waits = said.send(());
    });
    if let Err(error) = waiting {
        tracing::warn!(%error, "no thread to watch a model's threads end; they end unwatched");
    }
    ended
}
