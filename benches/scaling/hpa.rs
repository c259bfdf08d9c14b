//! What Kubernetes' HorizontalPodAutoscaler computes, as arithmetic: replicas from metrics, and what a `behavior` block lets
//! through. No clock, no cluster; times are seconds passed in.
//!
//! After "Horizontal Pod Autoscaling" in Kubernetes' documentation (algorithm details, configurable scaling behavior) and its
//! controller's defaults: sync every 15 s, tolerance 0.1, no window up and 300 s down.

use std::collections::VecDeque;

/// Ratios this close to 1 change nothing (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;

/// What is known of one pod's processor time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Usage {
    /// As a share of its request.
    Share(f64),
    /// It is not ready, or its last sample is from before it was.
    NotReady,
}

/// Replicas for a mean utilisation of `target`, as a `Resource` metric has it; `None` while no pod has a sample.
pub(crate) fn by_utilisation(pods: &[Usage], target: f64) -> Option<usize> {
    let shares: Vec<f64> = pods
        .iter()
        .filter_map(|pod| match pod {
            Usage::Share(share) => Some(*share),
            Usage::NotReady => None,
        })
        .collect();
    if shares.is_empty() {
        return None;
    }
    let (current, measured) = (pods.len(), shares.len());
    let sum: f64 = shares.iter().sum();
    let ratio = sum / measured as f64 / target;
    if measured == current || ratio <= 1.0 {
        return Some(if within(ratio) { current } else { ceil(ratio * measured as f64) });
    }
    // More is wanted while pods are on their way: they count with nothing used.
    let dampened = sum / current as f64 / target;
    if within(dampened) || dampened < 1.0 {
        return Some(current);
    }
    Some(ceil(dampened * current as f64).max(current))
}

/// Replicas for an `External` metric of type `AverageValue`: `total` over all pods, `target` for each.
pub(crate) fn by_average(total: f64, target: f64, current: usize) -> usize {
    if current > 0 && within(total / target / current as f64) { current } else { ceil(total / target) }
}

fn within(ratio: f64) -> bool {
    (ratio - 1.0).abs() <= TOLERANCE
}

/// Rounded up, but not because of the last bit of a quotient.
fn ceil(replicas: f64) -> usize {
    (replicas - 1e-9).ceil().max(0.0) as usize
}

/// How much may change within so many seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    Pods(usize, f64),
    Percent(usize, f64),
}

/// One direction of a `behavior` block; of several policies the one that allows most counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    /// `stabilizationWindowSeconds`.
    pub(crate) window: f64,
    pub(crate) policies: &'static [Policy],
}

/// A `behavior` block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Behaviour {
    pub(crate) up: Rules,
    pub(crate) down: Rules,
}

impl Behaviour {
    /// What holds where nothing is written.
    pub(crate) const DEFAULT: Self = Self {
        up: Rules { window: 0.0, policies: &[Policy::Percent(100, 15.0), Policy::Pods(4, 15.0)] },
        down: Rules { window: 300.0, policies: &[Policy::Percent(100, 15.0)] },
    };
}

/// Bounds, behaviour, and what was recommended and done lately.
#[derive(Debug)]
pub(crate) struct Autoscaler {
    behaviour: Behaviour,
    min: usize,
    max: usize,
    recommended: VecDeque<(f64, usize)>,
    /// Replicas added, or taken away.
    changes: VecDeque<(f64, isize)>,
}

impl Autoscaler {
    pub(crate) fn new(behaviour: Behaviour, min: usize, max: usize) -> Self {
        Self { behaviour, min, max, recommended: VecDeque::new(), changes: VecDeque::new() }
    }

    /// The replicas to set at `now` where the metrics ask for `wanted`.
    pub(crate) fn decide(&mut self, now: f64, current: usize, wanted: usize) -> usize {
        let wanted = wanted.clamp(self.min, self.max);
        let stable = self.stabilised(now, current, wanted);
        let allowed = match stable.cmp(&current) {
            std::cmp::Ordering::Greater => stable.min(self.most(now, current)),
            std::cmp::Ordering::Less => stable.max(self.least(now, current)),
            std::cmp::Ordering::Equal => current,
        };
        if allowed != current {
            self.changes.push_back((now, allowed as isize - current as isize));
        }
        allowed
    }

    /// The least of the recommendations in the window up, the greatest of those in the window down, between which nothing
    /// changes.
    fn stabilised(&mut self, now: f64, current: usize, wanted: usize) -> usize {
        self.recommended.push_back((now, wanted));
        let longest = self.behaviour.up.window.max(self.behaviour.down.window);
        self.recommended.retain(|(at, _)| now - at <= longest);
        let within = |window: f64| {
            let recent = self.recommended.iter().filter(move |(at, _)| now - at <= window);
            recent.map(|(_, replicas)| *replicas)
        };
        let up = within(self.behaviour.up.window).min().unwrap_or(wanted);
        let down = within(self.behaviour.down.window).max().unwrap_or(wanted);
        current.max(up).min(down)
    }

    fn most(&self, now: f64, current: usize) -> usize {
        let limit = self.behaviour.up.policies.iter().map(|policy| match *policy {
            Policy::Pods(pods, period) => self.before(now, period, current) + pods,
            Policy::Percent(percent, period) => {
                ceil(self.before(now, period, current) as f64 * (1.0 + percent as f64 / 100.0))
            }
        });
        limit.max().unwrap_or(current).max(current)
    }

    fn least(&self, now: f64, current: usize) -> usize {
        let limit = self.behaviour.down.policies.iter().map(|policy| match *policy {
            Policy::Pods(pods, period) => self.before(now, period, current).saturating_sub(pods),
            Policy::Percent(percent, period) => {
                let start = self.before(now, period, current) as f64;
                (start * (1.0 - percent as f64 / 100.0)) as usize
            }
        });
        limit.min().unwrap_or(current).min(current)
    }

    /// The replicas there were `period` seconds ago.
    fn before(&self, now: f64, period: f64, current: usize) -> usize {
        let since = self.changes.iter().filter(|(at, _)| now - at < period);
        let change: isize = since.map(|(_, change)| change).sum();
        (current as isize - change).max(0) as usize
    }
}
