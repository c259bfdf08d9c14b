//! What came of it: every request's fate, and a sample of the pool every few seconds.

use super::cluster::{Cluster, Phase};

/// The pool at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: f64,
    /// Requests a second since the last sample.
    pub(crate) asked: f64,
    /// Of these, refused.
    pub(crate) refused: f64,
    pub(crate) ready: usize,
    pub(crate) nodes: usize,
    /// The longest predicted drain, in seconds.
    pub(crate) drain: f64,
}

/// Counts while it runs.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) asked: usize,
    pub(crate) refused: usize,
    times: Vec<f32>,
    samples: Vec<Sample>,
    before: (usize, usize),
}

/// How it went; times in seconds.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) asked: usize,
    /// Refused or shed, of all.
    pub(crate) refused: f64,
    /// Answered within the deadline, of all.
    pub(crate) in_time: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) drain: f64,
    pub(crate) pods: usize,
    pub(crate) pod_hours: f64,
    pub(crate) node_hours: f64,
    pub(crate) samples: Vec<Sample>,
}

impl Ledger {
    /// A request was answered after `seconds`.
    pub(crate) fn answered(&mut self, seconds: f64) {
        self.times.push(seconds as f32);
    }

    pub(crate) fn sample(&mut self, at: f64, since: f64, cluster: &Cluster, drain: f64) {
        let now = (self.asked, self.refused);
        self.samples.push(Sample {
            at,
            asked: (now.0 - self.before.0) as f64 / since,
            refused: (now.1 - self.before.1) as f64 / since,
            ready: cluster.count(Phase::Ready),
            nodes: cluster.nodes(),
            drain,
        });
        self.before = now;
    }

    pub(crate) fn figures(mut self, cluster: &Cluster, lasted: f64, deadline: f64) -> Figures {
        self.times.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| {
            let index = (self.times.len() as f64 * share) as usize;
            self.times.get(index).map_or(0.0, |&seconds| f64::from(seconds))
        };
        let in_time = self.times.partition_point(|&seconds| f64::from(seconds) <= deadline);
        let (pod_hours, node_hours) = cluster.hours(lasted);
        Figures {
            asked: self.asked,
            refused: self.refused as f64 / self.asked.max(1) as f64,
            in_time: in_time as f64 / self.asked.max(1) as f64,
            p50: at(0.5),
            p99: at(0.99),
            drain: self.samples.iter().map(|sample| sample.drain).fold(0.0, f64::max),
            pods: self.samples.iter().map(|sample| sample.ready).max().unwrap_or(0),
            pod_hours,
            node_hours,
            samples: self.samples,
        }
    }
}
