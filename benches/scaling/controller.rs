//! What is scraped from pods and what the HPA and KEDA make of it.
//!
//! Metrics are as old as their pipeline makes them: a sample every 15 s (metrics-server's resolution, and the scrape interval
//! of the monitoring component), read by a sync every 15 s (HPA) that falls in between.

use std::collections::VecDeque;

use super::{
    cluster::{Cluster, Phase},
    hpa::{Autoscaler, Usage, by_average, by_utilisation},
    line::Line,
    pool::{Signal, Strategy},
};

/// Seconds between samples, and between syncs.
pub(crate) const SCRAPE: f64 = 15.0;
pub(crate) const SYNC: f64 = 15.0;

/// KEDA's `pollingInterval`: how often it looks whether anything is asked for at all.
pub(crate) const POLL: f64 = 30.0;

/// KEDA's `cooldownPeriod`: from the last time anything was asked for to no pods.
const COOLDOWN: f64 = 300.0;

/// The range of `avg_over_time` and `rate` in the queries.
const RANGE: f64 = 60.0;

/// Of the request, beside the engine: HTTP, decoding, probes.
const OTHER_CPU: f64 = 0.03;

/// One pod's samples.
#[derive(Debug, Default)]
struct Series {
    busy_before: f64,
    usage: Option<f64>,
    /// Moment, drain seconds, busy share.
    recent: VecDeque<(f64, f64, f64)>,
}

pub(crate) struct Controller {
    signals: &'static [Signal],
    to_zero: bool,
    /// Requests a second that a pod serves at most.
    capacity: f64,
    autoscaler: Autoscaler,
    series: Vec<Series>,
    /// Moments and requests until then.
    asked: VecDeque<(f64, usize)>,
    last_active: f64,
}

impl Controller {
    pub(crate) fn new(strategy: &Strategy, capacity: f64) -> Self {
        Self {
            signals: strategy.signals,
            to_zero: strategy.min == 0,
            capacity,
            autoscaler: Autoscaler::new(strategy.behaviour, strategy.min.max(1), strategy.max),
            series: Vec::new(),
            asked: VecDeque::new(),
            last_active: 0.0,
        }
    }

    /// Takes a sample of every ready pod and of the ingress, which has seen `asked` requests so far. The longest drain.
    pub(crate) fn scrape(
        &mut self,
        now: f64,
        cluster: &Cluster,
        lines: &[Option<Line>],
        asked: usize,
    ) -> f64 {
        self.series.resize_with(cluster.pods.len(), Series::default);
        let mut longest = 0.0f64;
        for (index, (series, pod)) in self.series.iter_mut().zip(&cluster.pods).enumerate() {
            series.recent.retain(|sample| now - sample.0 <= RANGE);
            let Some(line) = lines[index].as_ref().filter(|_| pod.phase == Phase::Ready) else { continue };
            let (busy, drain) = (line.busy_seconds(now), line.drain_seconds(now));
            let share = ((busy - series.busy_before) / SCRAPE.min(now - pod.ready).max(1e-3)).min(1.0);
            series.busy_before = busy;
            // A sample from before the pod was ready does not count.
            series.usage = (pod.ready <= now - SCRAPE).then_some((share + OTHER_CPU).min(1.0));
            series.recent.push_back((now, drain, share));
            longest = longest.max(drain);
        }
        self.asked.push_back((now, asked));
        self.asked.retain(|(at, _)| now - at <= RANGE);
        longest
    }

    /// One sync of the HPA: the replicas there should be.
    pub(crate) fn sync(&mut self, now: f64, cluster: &Cluster) -> Option<usize> {
        let current = cluster.replicas();
        if current == 0 {
            return None;
        }
        let wanted = self.signals.iter().filter_map(|signal| self.wanted(*signal, cluster, current)).max()?;
        Some(self.autoscaler.decide(now, current, wanted))
    }

    fn wanted(&self, signal: Signal, cluster: &Cluster, current: usize) -> Option<usize> {
        match signal {
            Signal::Cpu(target) => {
                let meant =
                    self.series.iter().zip(&cluster.pods).filter_map(|(series, pod)| match pod.phase {
                        Phase::Ready => Some(series.usage.map_or(Usage::NotReady, Usage::Share)),
                        Phase::Pending | Phase::Starting => Some(Usage::NotReady),
                        Phase::Ending | Phase::Gone => None,
                    });
                let mut pods: Vec<Usage> = meant.collect();
                pods.resize(current, Usage::NotReady);
                by_utilisation(&pods, target)
            }
            Signal::Drain(target) => Some(by_average(self.drain(cluster), target, current)),
            Signal::Busy(target) => Some(by_average(self.busy(), target, current)),
            Signal::Offered(target) => Some(by_average(self.rate() / self.capacity, target, current)),
        }
    }

    /// `sum(convoy_predicted_drain_seconds)`: the last samples of pods that are there.
    fn drain(&self, cluster: &Cluster) -> f64 {
        let there = self.series.iter().zip(&cluster.pods).filter(|(_, pod)| pod.phase == Phase::Ready);
        there.filter_map(|(series, _)| series.recent.back()).map(|sample| sample.1).sum()
    }

    /// `sum(avg_over_time(convoy_busy_fraction[1m]))`: pods that have gone count as long as they have samples in the range.
    fn busy(&self) -> f64 {
        let sampled = self.series.iter().filter(|series| !series.recent.is_empty());
        let mean = |recent: &VecDeque<(f64, f64, f64)>| {
            recent.iter().map(|sample| sample.2).sum::<f64>() / recent.len() as f64
        };
        sampled.map(|series| mean(&series.recent)).sum()
    }

    fn rate(&self) -> f64 {
        match (self.asked.front(), self.asked.back()) {
            (Some(first), Some(last)) if last.0 > first.0 => (last.1 - first.1) as f64 / (last.0 - first.0),
            _ => 0.0,
        }
    }

    /// One poll of KEDA: from no pods to one, or to none.
    pub(crate) fn poll(&mut self, now: f64, cluster: &Cluster) -> Option<usize> {
        if self.rate() > 0.0 {
            self.last_active = now;
            return (cluster.replicas() == 0).then_some(1);
        }
        (self.to_zero && cluster.replicas() > 0 && now - self.last_active >= COOLDOWN).then_some(0)
    }
}
