//! A pool: several executors behind one line, each with a thread of its own, from their start to their end.
//!
//! What a thread does meanwhile is [`super::scheduler`]'s.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};

use super::{
    CostTable, Executor, Health,
    dispatcher::{Dispatcher, STUCK_AFTER},
    queue::{Arrival, Queue, Shared},
    scheduler::{Doubt, Worker},
};
use crate::metrics::QueueMetrics;

/// Called with the inputs before each of a pool's executions, on its thread: it may fail, panic or never return. A server
/// has none; tests put their faults here.
pub type Before<E> =
    Arc<dyn Fn(&[<E as Executor>::Input]) -> Result<(), <E as Executor>::Error> + Send + Sync>;

/// What a pool is made of.
pub struct Pool<E: Executor> {
    /// Its name in metrics and logs.
    pub name: &'static str,
    /// One a thread.
    pub executors: Vec<E>,
    /// Seats in its line.
    pub capacity: usize,
    /// What its batches cost.
    pub costs: CostTable,
    /// Where it counts.
    pub metrics: QueueMetrics,
    /// How long a batch runs at least before it is called stuck.
    pub stuck_after: Duration,
    /// What happens before each execution.
    pub before: Option<Before<E>>,
}

/// The threads of one pool. They end when every [`Queue`] clone is gone and what was queued has been answered.
pub struct Workers {
    name: &'static str,
    threads: Vec<JoinHandle<()>>,
    health: Health,
}

impl Workers {
    /// The pool's name, as in its metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A handle for readiness checks.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Waits for the threads; drop every queue clone first.
    pub fn join(self) {
        for thread in self.threads {
            // A worker contains its executor's panics, so a panicked join is a bug that the hook has logged already.
            let _logged_by_the_panic_hook = thread.join();
        }
    }
}

/// Starts one thread per executor behind one line of `capacity` seats; `costs` is what their batches cost.
///
/// # Errors
/// When the operating system refuses a thread.
pub fn start<E: Executor>(
    name: &'static str,
    executors: Vec<E>,
    capacity: usize,
    costs: CostTable,
    metrics: QueueMetrics,
) -> std::io::Result<(Queue<E>, Workers)> {
    Pool { name, executors, capacity, costs, metrics, stuck_after: STUCK_AFTER, before: None }.start()
}

impl<E: Executor> Pool<E> {
    /// Starts its threads.
    ///
    /// # Errors
    /// When the operating system refuses one.
    pub fn start(self) -> std::io::Result<(Queue<E>, Workers)> {
        let Self { name, executors, capacity, costs, metrics, stuck_after, before } = self;
        let count = executors.len();
        let dispatcher = Dispatcher::new(capacity, count, costs).stuck_after(stuck_after);
        let (queue, shared, arrivals) = Queue::new(capacity, count, dispatcher, metrics);
        let books = shared.clone();
        let health = Health::new(move |now| books.dispatcher.lock().trouble(now));
        let nudges = (count > 1).then(|| bounded(count));
        let mut threads = Vec::with_capacity(count);
        for (index, executor) in executors.into_iter().enumerate() {
            let worker = Worker {
                name,
                index,
                executor,
                shared: shared.clone(),
                arrivals: arrivals.clone(),
                nudges: nudges.clone(),
                before: before.clone(),
                doubt: Doubt::default(),
            };
            let farewell = Farewell { shared: shared.clone(), arrivals: arrivals.clone(), index };
            let thread = thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                let _when_the_worker_is_gone = farewell;
                worker.work();
            })?;
            threads.push(thread);
        }
        Ok((queue, Workers { name, threads, health }))
    }
}

/// Strikes a thread off the books when it ends, however it ends.
struct Farewell<E: Executor> {
    shared: Arc<Shared<E>>,
    arrivals: Receiver<Arrival<E>>,
    index: usize,
}

impl<E: Executor> Drop for Farewell<E> {
    fn drop(&mut self) {
        self.shared.lose(self.index, &self.arrivals);
    }
}
