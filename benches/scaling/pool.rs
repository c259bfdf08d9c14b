//! What is scaled, and how: pools of pods with their costs and start-up times, and strategies to compare on them.
//!
//! Every figure that is not measured is an assumption and says so; each can be changed here and the tables printed again.

use std::time::Duration;

use convoy::batch::CostTable;

use super::hpa::{Behaviour, Policy, Rules};

/// A Deployment on a node pool of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    pub(crate) name: &'static str,
    /// Requests in a batch, and its milliseconds; straight lines between them.
    points: &'static [(usize, f64)],
    /// Photos in a request.
    pub(crate) photos: usize,
    /// What a client gives a request, in seconds.
    pub(crate) deadline: f64,
    pub(crate) start: Start,
    pub(crate) nodes: Nodes,
    /// Requests a second at the height of the day and of the spike.
    pub(crate) peak: f64,
    pub(crate) strategies: &'static [Strategy],
    /// Shown in plots.
    pub(crate) plotted: &'static [&'static str],
}

/// Seconds from a bound pod to its first request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// The image, on a node that does not have it.
    pub(crate) pull: f64,
    /// The weights into the pod's volume, each time.
    pub(crate) weights: f64,
    /// From exec to `/readyz`, the probe's second and the endpoints' way to every proxy.
    pub(crate) ready: f64,
}

/// A node pool under the cluster autoscaler.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nodes {
    /// Pods a node holds.
    pub(crate) slots: usize,
    /// Seconds from the request for a node to the first pod bound to it.
    pub(crate) provision: f64,
}

/// What a metric asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    /// An HPA's `Resource` metric: processor time as a share of the request.
    Cpu(f64),
    /// KEDA on `sum(convoy_predicted_drain_seconds)`: seconds for each pod.
    Drain(f64),
    /// KEDA on `sum(avg_over_time(convoy_busy_fraction[1m]))`: share of the time for each pod.
    Busy(f64),
    /// KEDA on `sum(rate(convoy_jobs_total[1m]))`, refused ones with them, times what a photo costs in a full batch
    /// (`convoy_batch_cost_seconds`): the share of the time for each pod that everything asked for would take. At an ingress
    /// it is there while no pod is.
    Offered(f64),
}

/// How many pods when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strategy {
    pub(crate) name: &'static str,
    pub(crate) signals: &'static [Signal],
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Pods of low priority that hold room for as many real ones.
    pub(crate) spare: usize,
    pub(crate) behaviour: Behaviour,
}

impl Strategy {
    const fn fixed(name: &'static str, pods: usize) -> Self {
        Self { name, signals: &[], min: pods, max: pods, spare: 0, behaviour: Behaviour::DEFAULT }
    }

    const fn on(name: &'static str, signals: &'static [Signal]) -> Self {
        Self { name, signals, min: 2, max: 10, spare: 0, behaviour: GENTLE }
    }

    const fn with_spare(self, spare: usize) -> Self {
        Self { spare, ..self }
    }

    const fn with_min(self, min: usize) -> Self {
        Self { min, ..self }
    }

    const fn with(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }
}

/// At most twice as many in 30 s; by the highest need of five minutes, one pod a minute goes.
const GENTLE: Behaviour = Behaviour {
    up: Rules { window: 0.0, policies: &[Policy::Percent(100, 30.0)] },
    down: Rules { window: 300.0, policies: &[Policy::Pods(1, 60.0)] },
};

/// The same, by the highest need of ten minutes, one pod every two: a GPU's node takes long to come back.
const SLOW: Behaviour =
    Behaviour { down: Rules { window: 600.0, policies: &[Policy::Pods(1, 120.0)] }, ..GENTLE };

/// Up after a minute in which nothing less was asked for.
const HESITANT: Behaviour = Behaviour { up: Rules { window: 60.0, ..GENTLE.up }, ..GENTLE };

const CPU_70: &[Signal] = &[Signal::Cpu(0.7)];
const BOTH: &[Signal] = &[Signal::Busy(0.7), Signal::Drain(0.5)];
const OFFERED: &[Signal] = &[Signal::Offered(0.7)];
const SOON: &[Signal] = &[Signal::Offered(0.7), Signal::Drain(0.5)];

pub(crate) const POOLS: [Pool; 2] = [
    // ResNet-152 on two AVX2 cores, `--max-batch 8`: measured, see k8s/scaling.md.
    Pool {
        name: "CPU",
        points: &[(1, 97.0), (2, 189.0), (4, 374.0), (8, 760.0)],
        photos: 1,
        deadline: 5.0,
        start: Start { pull: 15.0, weights: 10.0, ready: 5.0 },
        nodes: Nodes { slots: 3, provision: 150.0 },
        peak: 60.0,
        strategies: &[
            Strategy::fixed("fixed 8", 8),
            Strategy::on("HPA CPU 50 %", &[Signal::Cpu(0.5)]),
            Strategy::on("HPA CPU 70 %", CPU_70),
            Strategy::on("HPA CPU 85 %", &[Signal::Cpu(0.85)]),
            Strategy::on("HPA CPU 70 %, default behaviour", CPU_70).with(Behaviour::DEFAULT),
            Strategy::on("HPA CPU 70 %, window up 60 s", CPU_70).with(HESITANT),
            Strategy::on("HPA CPU 70 %, spare 3", CPU_70).with_spare(3),
            Strategy::on("HPA CPU 70 %, spare 6", CPU_70).with_spare(6),
            Strategy::on("HPA CPU 70 %, min 4", CPU_70).with_min(4),
            Strategy::on("KEDA drain 0.5 s", &[Signal::Drain(0.5)]),
            Strategy::on("KEDA drain 1 s", &[Signal::Drain(1.0)]),
            Strategy::on("KEDA drain 2 s", &[Signal::Drain(2.0)]),
            Strategy::on("KEDA busy 70 %, drain 0.5 s", BOTH),
            Strategy::on("KEDA offered 70 %", OFFERED),
            Strategy::on("offered 70 %, drain 0.5 s", SOON),
            Strategy::on("offered, drain, min 4", SOON).with_min(4),
            Strategy::on("offered, drain, spare 3", SOON).with_spare(3),
        ],
        plotted: &["fixed 8", "HPA CPU 70 %", "offered 70 %, drain 0.5 s", "KEDA drain 1 s"],
    },
    // A T4, as benches/simulate/device.rs models it: an estimate, no measurement.
    // Requests carry 32 photos, which go through as one; a batch is of 64 photos at most.
    Pool {
        name: "GPU",
        points: &[(1, 29.30), (2, 53.94)],
        photos: 32,
        deadline: 2.0,
        start: Start { pull: 60.0, weights: 10.0, ready: 8.0 },
        nodes: Nodes { slots: 1, provision: 480.0 },
        peak: 210.0,
        strategies: &[
            Strategy::fixed("fixed 8", 8),
            Strategy::on("KEDA busy 50 %", &[Signal::Busy(0.5)]).with(SLOW),
            Strategy::on("KEDA busy 70 %", &[Signal::Busy(0.7)]).with(SLOW),
            Strategy::on("KEDA busy 85 %", &[Signal::Busy(0.85)]).with(SLOW),
            Strategy::on("KEDA drain 0.1 s", &[Signal::Drain(0.1)]).with(SLOW),
            Strategy::on("KEDA drain 0.5 s", &[Signal::Drain(0.5)]).with(SLOW),
            Strategy::on("KEDA drain 2 s", &[Signal::Drain(2.0)]).with(SLOW),
            Strategy::on("KEDA busy 70 %, drain 0.5 s", BOTH).with(SLOW),
            Strategy::on("KEDA offered 70 %", OFFERED).with(SLOW),
            Strategy::on("offered 70 %, drain 0.5 s", SOON).with(SLOW),
            Strategy::on("offered, drain, min 1", SOON).with(SLOW).with_min(1),
            Strategy::on("offered, drain, min 4", SOON).with(SLOW).with_min(4),
            Strategy::on("offered, drain, spare 2", SOON).with(SLOW).with_spare(2),
            Strategy::on("offered, drain, spare 4", SOON).with(SLOW).with_spare(4),
            Strategy::on("offered at the ingress, min 0", OFFERED).with(SLOW).with_min(0),
        ],
        plotted: &["fixed 8", "KEDA busy 70 %", "offered 70 %, drain 0.5 s", "offered, drain, spare 4"],
    },
];

impl Pool {
    /// The pool of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        POOLS.iter().find(|pool| pool.name == name)
    }

    /// The same with requests of `photos` photos, as many photos a second, and batches of as many at most.
    pub(crate) fn with_points(self, points: &'static [(usize, f64)], photos: usize) -> Self {
        let peak = self.peak * self.photos as f64 / photos as f64;
        Self { points, photos, peak, ..self }
    }

    pub(crate) fn costs(&self) -> CostTable {
        let points = self.points.iter().map(|&(size, ms)| (size, Duration::from_secs_f64(ms / 1e3)));
        CostTable::from_points(self.max_batch(), points)
    }

    pub(crate) fn max_batch(&self) -> usize {
        self.points.last().map_or(1, |point| point.0)
    }

    /// Requests a second that a pod serves at most.
    pub(crate) fn capacity(&self) -> f64 {
        let costs = self.costs();
        (1..=self.max_batch()).map(|size| costs.per_job(size).recip()).fold(0.0, f64::max)
    }
}
