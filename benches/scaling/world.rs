//! One strategy under one load on virtual time: requests, pods that serve them, and the controllers, as a queue of events.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::{
    cluster::{Cluster, Phase, SCAN},
    controller::{Controller, POLL, SCRAPE, SYNC},
    demand::{Curve, Demand},
    ledger::{Figures, Ledger},
    line::Line,
    load::Random,
    pool::{Pool, Strategy},
};

/// Deviation of a batch's time around its cost.
const NOISE: f64 = 0.03;

/// A pod that is told to stop stays for so long at least (`--lame-duck-ms`), without new requests here.
const LAME_DUCK: f64 = 3.0;

#[derive(Debug, Clone, Copy)]
enum Event {
    Arrive,
    Done(usize),
    Wake(usize),
    Ready(usize),
    NodeUp(usize),
    Withdrawn(usize),
    Scrape,
    Sync,
    Poll,
    Scan,
}

struct Due {
    at: f64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

struct World<'a> {
    pool: &'a Pool,
    events: BinaryHeap<Due>,
    scheduled: u64,
    now: f64,
    demand: Demand,
    /// Picks a pod for a request, as a Service does.
    picks: Random,
    noise: Random,
    costs: Vec<f64>,
    cluster: Cluster,
    controller: Controller,
    /// By pod; none before it is ready.
    lines: Vec<Option<Line>>,
    endpoints: Vec<usize>,
    ledger: Ledger,
}

/// Lets `strategy` scale `pool` along `curve`.
pub(crate) fn run(pool: &Pool, strategy: &Strategy, curve: Curve, seed: u64) -> Figures {
    let mut world = World::new(pool, strategy, curve, seed);
    world.begin(strategy.min);
    while let Some(Due { at, event, .. }) = world.events.pop().filter(|due| due.at <= curve.lasts()) {
        world.now = at;
        world.happen(event);
    }
    world.ledger.figures(&world.cluster, curve.lasts(), pool.deadline)
}

impl<'a> World<'a> {
    fn new(pool: &'a Pool, strategy: &Strategy, curve: Curve, seed: u64) -> Self {
        let costs = pool.costs();
        Self {
            pool,
            events: BinaryHeap::new(),
            scheduled: 0,
            now: 0.0,
            demand: Demand::new(curve, pool.peak, seed),
            picks: Random::new(seed, 2),
            noise: Random::new(seed, 3),
            costs: (0..=pool.max_batch()).map(|size| costs.seconds(size)).collect(),
            cluster: Cluster::new(pool, strategy, seed),
            controller: Controller::new(strategy, pool.capacity()),
            lines: Vec::new(),
            endpoints: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    fn schedule(&mut self, at: f64, event: Event) {
        self.scheduled += 1;
        self.events.push(Due { at, order: self.scheduled, event });
    }

    /// `pods` are ready at the start.
    fn begin(&mut self, pods: usize) {
        self.cluster.scale(0.0, pods);
        for (pod, _) in self.cluster.bind(0.0) {
            self.cluster.pods[pod].ready = 0.0;
            self.ready(pod);
        }
        for (at, event) in
            [(7.0, Event::Scrape), (SYNC, Event::Sync), (POLL, Event::Poll), (SCAN, Event::Scan)]
        {
            self.schedule(at, event);
        }
        self.expect_request();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Done(pod) => self.done(pod),
            Event::Wake(pod) => self.turn(pod),
            Event::Ready(pod) => self.ready(pod),
            Event::NodeUp(node) => {
                self.cluster.node_up(node);
                self.bind();
            }
            Event::Withdrawn(pod) => self.end_if_empty(pod),
            Event::Scrape => self.scrape(),
            Event::Sync => {
                let replicas = self.controller.sync(self.now, &self.cluster);
                self.scale(replicas);
                self.schedule(self.now + SYNC, Event::Sync);
            }
            Event::Poll => {
                let replicas = self.controller.poll(self.now, &self.cluster);
                self.scale(replicas);
                self.schedule(self.now + POLL, Event::Poll);
            }
            Event::Scan => {
                for (node, up) in self.cluster.scan(self.now) {
                    self.schedule(up, Event::NodeUp(node));
                }
                self.bind();
                self.schedule(self.now + SCAN, Event::Scan);
            }
        }
    }

    fn expect_request(&mut self) {
        if let Some(at) = self.demand.after(self.now) {
            self.schedule(at, Event::Arrive);
        }
    }

    fn arrive(&mut self) {
        self.expect_request();
        self.ledger.asked += 1;
        if self.endpoints.is_empty() {
            self.ledger.refused += 1;
            return;
        }
        let pod = self.endpoints[(self.picks.uniform() * self.endpoints.len() as f64) as usize];
        let line = self.lines[pod].as_mut().expect("bug: endpoints serve");
        if line.offer(self.now, self.pool.deadline) {
            self.turn(pod);
        } else {
            self.ledger.refused += 1;
        }
    }

    /// The device of `pod` takes a batch, if it is idle and there is one.
    fn turn(&mut self, pod: usize) {
        let Some(line) = self.lines[pod].as_mut().filter(|line| line.is_idle()) else { return };
        let turn = line.next(self.now);
        self.ledger.refused += turn.shed;
        if let Some(at) = turn.wake {
            self.schedule(at.max(self.now + 1e-6), Event::Wake(pod));
        }
        if turn.size > 0 {
            let took = self.costs[turn.size] * self.noise.noise(NOISE);
            self.schedule(self.now + took, Event::Done(pod));
        }
    }

    fn done(&mut self, pod: usize) {
        let Some(line) = self.lines[pod].as_mut() else { return };
        for came in line.done(self.now) {
            self.ledger.answered(self.now - came);
        }
        self.turn(pod);
        self.end_if_empty(pod);
    }

    fn ready(&mut self, pod: usize) {
        if self.cluster.pods[pod].phase != Phase::Starting {
            return;
        }
        self.cluster.pods[pod].phase = Phase::Ready;
        self.lines.resize_with(self.cluster.pods.len(), || None);
        self.lines[pod] = Some(Line::new(self.pool.costs()));
        self.endpoints.push(pod);
    }

    fn scale(&mut self, replicas: Option<usize>) {
        let Some(replicas) = replicas else { return };
        for pod in self.cluster.scale(self.now, replicas) {
            self.endpoints.retain(|&endpoint| endpoint != pod);
            self.schedule(self.now + LAME_DUCK, Event::Withdrawn(pod));
        }
        self.lines.resize_with(self.cluster.pods.len(), || None);
        self.bind();
    }

    fn bind(&mut self) {
        for (pod, ready) in self.cluster.bind(self.now) {
            self.schedule(ready, Event::Ready(pod));
        }
    }

    fn end_if_empty(&mut self, pod: usize) {
        let ending = self.cluster.pods[pod].phase == Phase::Ending;
        if ending && self.lines[pod].as_ref().is_some_and(Line::is_empty) {
            self.lines[pod] = None;
            self.cluster.end(pod, self.now);
        }
    }

    fn scrape(&mut self) {
        self.lines.resize_with(self.cluster.pods.len(), || None);
        let drain = self.controller.scrape(self.now, &self.cluster, &self.lines, self.ledger.asked);
        self.ledger.sample(self.now, SCRAPE, &self.cluster, drain);
        self.schedule(self.now + SCRAPE, Event::Scrape);
    }
}
