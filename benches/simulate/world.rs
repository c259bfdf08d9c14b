//! The world around a policy on virtual time: clients, readers, decoders and one device, as a queue of events. Every policy
//! meets the same requests for the same seed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{
    device::Device,
    load::{self, Arrivals, Lead, Moments, Random},
};

/// Virtual time since the start.
pub(crate) type Nanos = u64;

/// Deviation of a batch's time around its cost.
const NOISE: f64 = 0.03;

/// The share of requests at the start that is not counted: queues find their length meanwhile.
const WARM_UP: f64 = 0.25;

/// What decides whom to let in and what to run.
pub(crate) trait Policy {
    /// A request's first byte is there; an error says when to come back.
    fn admit(&mut self, now: Nanos, request: usize) -> Result<(), Nanos>;
    /// It has been read whole.
    fn received(&mut self, now: Nanos, request: usize);
    /// It has been decoded.
    fn ready(&mut self, now: Nanos, request: usize);
    /// The device is idle.
    fn next(&mut self, now: Nanos) -> Turn;
    /// The batch is done.
    fn done(&mut self, now: Nanos);
}

/// What the device does now.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) batch: Vec<usize>,
    /// Answered without having run.
    pub(crate) shed: Vec<usize>,
    /// Ask again then at the latest.
    pub(crate) wake: Option<Nanos>,
}

/// What is asked of a policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    pub(crate) arrivals: Arrivals,
    /// As a share of the device's capacity.
    pub(crate) load: f64,
    pub(crate) requests: usize,
    pub(crate) seed: u64,
}

impl Demand {
    /// Clients of a closed loop: at a load of 1 as many as just fill the device with its best batches (Little's law).
    pub(crate) fn clients(&self, device: &Device) -> usize {
        let stay = device.costs().seconds(device.best_batch()) + 1.7e-3;
        ((self.load * device.capacity() * stay).round() as usize).max(1)
    }
}

/// How it went. Times in milliseconds, of answers within the deadline.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) mean: f64,
    pub(crate) p99: f64,
    /// Answers within the deadline, as a share of the device's capacity.
    pub(crate) goodput: f64,
    pub(crate) mean_batch: f64,
    /// Refused or shed, of all requests.
    pub(crate) refused: f64,
    /// Ran although the deadline had passed, of all requests.
    pub(crate) wasted: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Received(usize),
    Decoded(usize),
    Done,
    Wake,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    arrived: Nanos,
    lead: Lead,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Pending,
    Refused,
    Answered(Nanos),
}

pub(crate) struct World<'a> {
    policy: &'a mut dyn Policy,
    demand: Demand,
    device: &'a Device,
    deadline: Nanos,
    now: Nanos,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    scheduled: u64,
    moments: Option<Moments>,
    leads: Random,
    noise: Random,
    costs: Vec<f64>,
    /// A client that was refused comes back after this at the earliest.
    pause: Nanos,
    requests: Vec<Request>,
    decoding: usize,
    undecoded: VecDeque<usize>,
    running: Option<Vec<usize>>,
    batches: usize,
    executed: usize,
    wasted: usize,
}

fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9) as Nanos
}

/// Lets `policy` serve `demand` on `device`.
pub(crate) fn run(policy: &mut dyn Policy, device: &Device, demand: Demand) -> Figures {
    let mut world = World::new(policy, device, demand);
    world.start();
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        world.now = now;
        world.happen(event);
        if world.running.is_none() {
            world.turn();
        }
    }
    world.figures()
}

impl<'a> World<'a> {
    fn new(policy: &'a mut dyn Policy, device: &'a Device, demand: Demand) -> Self {
        let costs = device.costs();
        // Bursts of two of the best batches: long enough to queue, short against a deadline.
        let burst = 2.0 * costs.seconds(device.best_batch());
        let rate = demand.load * device.capacity();
        let open = demand.arrivals != Arrivals::Closed;
        let bursty = demand.arrivals == Arrivals::Bursty;
        Self {
            policy,
            demand,
            device,
            deadline: device.deadline.as_nanos() as Nanos,
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            moments: open.then(|| Moments::new(bursty, rate, burst, demand.seed)),
            leads: Random::new(demand.seed, 2),
            noise: Random::new(demand.seed, 3),
            costs: (0..=device.max_batch()).map(|size| costs.seconds(size)).collect(),
            pause: nanos(costs.seconds(device.best_batch())),
            requests: Vec::with_capacity(demand.requests),
            decoding: 0,
            undecoded: VecDeque::new(),
            running: None,
            batches: 0,
            executed: 0,
            wasted: 0,
        }
    }

    fn start(&mut self) {
        match &mut self.moments {
            Some(moments) => {
                let first = nanos(moments.next());
                self.schedule(first, Event::Arrive);
            }
            None => {
                for _ in 0..self.demand.clients(self.device) {
                    let at = nanos(self.leads.uniform() * self.costs[1]);
                    self.schedule(at, Event::Arrive);
                }
            }
        }
    }

    fn schedule(&mut self, at: Nanos, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Received(request) => {
                self.policy.received(self.now, request);
                self.undecoded.push_back(request);
                self.decode();
            }
            Event::Decoded(request) => {
                self.decoding -= 1;
                self.policy.ready(self.now, request);
                self.decode();
            }
            Event::Done => self.done(),
            Event::Wake => {}
        }
    }

    fn arrive(&mut self) {
        if self.requests.len() == self.demand.requests {
            return;
        }
        let request = self.requests.len();
        let lead = load::lead(&mut self.leads);
        self.requests.push(Request { arrived: self.now, lead, outcome: Outcome::Pending });
        if let Some(moments) = &mut self.moments {
            let next = nanos(moments.next());
            self.schedule(next, Event::Arrive);
        }
        match self.policy.admit(self.now, request) {
            Ok(()) => self.schedule(self.now + nanos(lead.reading), Event::Received(request)),
            Err(retry_after) => {
                self.requests[request].outcome = Outcome::Refused;
                self.again(self.now + retry_after.max(self.pause));
            }
        }
    }

    /// The client of a closed loop asks again.
    fn again(&mut self, at: Nanos) {
        if self.moments.is_none() {
            self.schedule(at, Event::Arrive);
        }
    }

    fn decode(&mut self) {
        while self.decoding < self.device.decoders {
            let Some(request) = self.undecoded.pop_front() else { return };
            self.decoding += 1;
            let took = nanos(self.requests[request].lead.decoding);
            self.schedule(self.now + took, Event::Decoded(request));
        }
    }

    fn turn(&mut self) {
        let turn = self.policy.next(self.now);
        for request in turn.shed {
            self.requests[request].outcome = Outcome::Refused;
            self.again(self.now + self.deadline);
        }
        if let Some(wake) = turn.wake {
            self.schedule(wake.max(self.now + 1), Event::Wake);
        }
        if turn.batch.is_empty() {
            return;
        }
        let size = turn.batch.len();
        let expired = |request: &&usize| self.requests[**request].arrived + self.deadline <= self.now;
        self.wasted += turn.batch.iter().filter(expired).count();
        self.batches += 1;
        self.executed += size;
        let took = nanos(self.costs[size] * self.noise.noise(NOISE));
        self.schedule(self.now + took, Event::Done);
        self.running = Some(turn.batch);
    }

    fn done(&mut self) {
        self.policy.done(self.now);
        for request in self.running.take().unwrap_or_default() {
            self.requests[request].outcome = Outcome::Answered(self.now);
            self.again(self.now);
        }
    }

    fn figures(&self) -> Figures {
        let counted = &self.requests[(self.requests.len() as f64 * WARM_UP) as usize..];
        let all = counted.len() as f64;
        let share = |count: usize| count as f64 / all;
        let stays = counted.iter().filter_map(|request| match request.outcome {
            Outcome::Answered(at) => Some(at - request.arrived),
            _ => None,
        });
        let mut good: Vec<Nanos> = stays.filter(|&stay| stay <= self.deadline).collect();
        good.sort_unstable();
        let at = |share: f64| {
            good.get((good.len() as f64 * share) as usize).map_or(0.0, |&stay| stay as f64 / 1e6)
        };
        // Requests are counted by arrival, so this is the time in which they came.
        let span = (counted[counted.len() - 1].arrived - counted[0].arrived) as f64 / 1e9;
        Figures {
            mean: good.iter().sum::<Nanos>() as f64 / 1e6 / good.len().max(1) as f64,
            p99: at(0.99),
            goodput: good.len() as f64 / span / self.device.capacity(),
            mean_batch: self.executed as f64 / self.batches.max(1) as f64,
            refused: share(counted.iter().filter(|request| request.outcome == Outcome::Refused).count()),
            wasted: self.wasted as f64 / self.requests.len() as f64,
        }
    }
}
