//! Pods and nodes over time: who gets a place, what a start takes, and what the cluster autoscaler adds and removes.
//!
//! Pods go to the oldest node that has room and are taken away youngest first, so that young nodes empty. A spare is a pod of
//! low priority that does nothing: a real pod takes its place at once, and the spare waits for a node in its stead.

use super::{
    load::Random,
    pool::{Pool, Strategy},
};

/// How often the cluster autoscaler looks (`scan-interval`).
pub(crate) const SCAN: f64 = 10.0;

/// How long a node must have been empty (`scale-down-unneeded-time`), and how long after a node was added none is removed
/// (`scale-down-delay-after-add`).
const UNNEEDED: f64 = 600.0;

/// Deviation of what starts and nodes take around what is expected.
const NOISE: f64 = 0.15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for a place.
    Pending,
    /// Image, weights, warm-up.
    Starting,
    /// Takes requests.
    Ready,
    /// Takes none and finishes what it has.
    Ending,
    Gone,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod {
    pub(crate) phase: Phase,
    node: Option<usize>,
    created: f64,
    pub(crate) ready: f64,
    gone: f64,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    requested: f64,
    up: bool,
    gone: f64,
    pods: usize,
    spares: usize,
    has_image: bool,
    /// Since when it holds nothing that needs it.
    empty: Option<f64>,
}

pub(crate) struct Cluster {
    pool: Pool,
    pub(crate) pods: Vec<Pod>,
    nodes: Vec<Node>,
    homeless_spares: usize,
    last_added: f64,
    random: Random,
}

impl Cluster {
    /// As many nodes as `strategy` needs at its least, up and with the image.
    pub(crate) fn new(pool: &Pool, strategy: &Strategy, seed: u64) -> Self {
        let up = Node {
            requested: 0.0,
            up: true,
            gone: f64::INFINITY,
            pods: 0,
            spares: 0,
            has_image: true,
            empty: None,
        };
        let nodes = vec![up; (strategy.min + strategy.spare).div_ceil(pool.nodes.slots)];
        Self {
            pool: *pool,
            pods: Vec::new(),
            nodes,
            homeless_spares: strategy.spare,
            last_added: f64::NEG_INFINITY,
            random: Random::new(seed, 4),
        }
    }

    /// Pods that are meant to be there.
    pub(crate) fn replicas(&self) -> usize {
        let meant = |pod: &&Pod| matches!(pod.phase, Phase::Pending | Phase::Starting | Phase::Ready);
        self.pods.iter().filter(meant).count()
    }

    pub(crate) fn count(&self, phase: Phase) -> usize {
        self.pods.iter().filter(|pod| pod.phase == phase).count()
    }

    /// Nodes that are paid for.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.iter().filter(|node| node.gone.is_infinite()).count()
    }

    /// Creates pods, or ends some: those that wait first, then those that start, then the youngest. The ready ones among them
    /// are told.
    pub(crate) fn scale(&mut self, now: f64, replicas: usize) -> Vec<usize> {
        for _ in self.replicas()..replicas {
            let pod = Pod {
                phase: Phase::Pending,
                node: None,
                created: now,
                ready: f64::INFINITY,
                gone: f64::INFINITY,
            };
            self.pods.push(pod);
        }
        let mut told = Vec::new();
        for _ in replicas..self.replicas() {
            let of = |phase: Phase| self.pods.iter().rposition(|pod| pod.phase == phase);
            let chosen = of(Phase::Pending).or_else(|| of(Phase::Starting)).or_else(|| of(Phase::Ready));
            let pod = chosen.expect("bug: as many as are counted");
            if self.pods[pod].phase == Phase::Ready {
                self.pods[pod].phase = Phase::Ending;
                told.push(pod);
            } else {
                self.end(pod, now);
            }
        }
        told
    }

    /// `pod` leaves its place.
    pub(crate) fn end(&mut self, pod: usize, now: f64) {
        let pod = &mut self.pods[pod];
        pod.phase = Phase::Gone;
        pod.gone = now;
        if let Some(node) = pod.node {
            self.nodes[node].pods -= 1;
        }
    }

    /// Gives places to pods and spares that wait; the pods, with the moments they will be ready.
    pub(crate) fn bind(&mut self, now: f64) -> Vec<(usize, f64)> {
        let mut started = Vec::new();
        for pod in 0..self.pods.len() {
            if self.pods[pod].phase != Phase::Pending {
                continue;
            }
            let Some(node) = self.place() else { break };
            let start = self.pool.start;
            let pull = if self.nodes[node].has_image { 0.0 } else { start.pull };
            let takes = (pull + start.weights + start.ready) * self.random.noise(NOISE);
            let place = &mut self.nodes[node];
            (place.pods, place.has_image) = (place.pods + 1, true);
            let pod_of = &mut self.pods[pod];
            (pod_of.phase, pod_of.node, pod_of.ready) = (Phase::Starting, Some(node), now + takes);
            started.push((pod, now + takes));
        }
        while self.homeless_spares > 0 {
            let Some(node) = self.free().next() else { break };
            self.nodes[node].spares += 1;
            self.homeless_spares -= 1;
        }
        started
    }

    /// A free place, or that of a spare.
    fn place(&mut self) -> Option<usize> {
        let free = self.free().next();
        if free.is_some() {
            return free;
        }
        let node = self.nodes.iter().position(|node| node.up && node.spares > 0)?;
        self.nodes[node].spares -= 1;
        self.homeless_spares += 1;
        Some(node)
    }

    /// Nodes with room, once for each place.
    fn free(&self) -> impl Iterator<Item = usize> {
        let slots = self.pool.nodes.slots;
        let rooms = self.nodes.iter().enumerate().filter(|(_, node)| node.up);
        rooms.flat_map(move |(index, node)| std::iter::repeat_n(index, slots - node.pods - node.spares))
    }

    /// One look of the cluster autoscaler: nodes for what has no place, with the moments they will be up; nodes that have
    /// long held nothing go.
    pub(crate) fn scan(&mut self, now: f64) -> Vec<(usize, f64)> {
        self.remove(now);
        let slots = self.pool.nodes.slots;
        let on_their_way = self.nodes.iter().filter(|node| !node.up && node.gone.is_infinite()).count();
        let homeless = self.count(Phase::Pending) + self.homeless_spares;
        let more = homeless.saturating_sub(on_their_way * slots).div_ceil(slots);
        let mut requested = Vec::new();
        for _ in 0..more {
            let up_at = now + self.pool.nodes.provision * self.random.noise(NOISE);
            requested.push((self.nodes.len(), up_at));
            let gone = f64::INFINITY;
            let node =
                Node { requested: now, up: false, gone, pods: 0, spares: 0, has_image: false, empty: None };
            self.nodes.push(node);
            self.last_added = now;
        }
        requested
    }

    pub(crate) fn node_up(&mut self, node: usize) {
        self.nodes[node].up = true;
    }

    fn remove(&mut self, now: f64) {
        for index in (0..self.nodes.len()).rev() {
            let node = self.nodes[index];
            let elsewhere = self.free().filter(|&free| free != index).count();
            if !node.up || node.pods > 0 || node.spares > elsewhere {
                self.nodes[index].empty = None;
                continue;
            }
            let since = *self.nodes[index].empty.get_or_insert(now);
            if now - since >= UNNEEDED && now - self.last_added >= UNNEEDED {
                self.homeless_spares += node.spares;
                self.nodes[index] = Node { up: false, gone: now, spares: 0, ..node };
            }
        }
    }

    /// Hours that pods and nodes were there, until `now`.
    pub(crate) fn hours(&self, now: f64) -> (f64, f64) {
        let pods = self.pods.iter().map(|pod| pod.gone.min(now) - pod.created);
        let nodes = self.nodes.iter().map(|node| node.gone.min(now) - node.requested);
        (pods.sum::<f64>() / 3600.0, nodes.sum::<f64>() / 3600.0)
    }
}
