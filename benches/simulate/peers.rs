//! The policies of other servers, for comparison only, as their sources have them. All share one shape: take what waits up
//! to a maximum, after a fixed delay at most. They know neither costs nor deadlines: what has expired runs all the same.

use std::collections::VecDeque;

use super::world::{Nanos, Policy, Turn};

/// From when a delay counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// The oldest request was ready (Triton `max_queue_delay_microseconds`). No delay at all is TEI: whatever gathered
    /// while the last batch ran.
    Oldest,
    /// The idle worker took up the first of them (mosec `--wait`).
    Taken,
}

/// The knobs that an operator may turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) since: Since,
    pub(crate) delay: Nanos,
    pub(crate) max_batch: usize,
    /// Sizes that go at once, rising; none: only the maximum does.
    pub(crate) preferred: &'static [usize],
    /// Requests in the server at once.
    pub(crate) bound: usize,
}

impl Settings {
    pub(crate) fn label(&self) -> String {
        let name = match (self.since, self.delay) {
            (_, 0) if self.preferred.is_empty() => "greedy".to_owned(),
            (Since::Oldest, delay) => format!("triton {} ms", delay as f64 / 1e6),
            (Since::Taken, delay) => format!("mosec {} ms", delay as f64 / 1e6),
        };
        let preferred = if self.preferred.is_empty() { "" } else { " preferred" };
        let bound = if self.bound == usize::MAX { String::new() } else { format!(" <={}", self.bound) };
        format!("{name}{preferred} x{}{bound}", self.max_batch)
    }
}

pub(crate) struct Peer {
    settings: Settings,
    waiting: VecDeque<(usize, Nanos)>,
    inside: usize,
    running: usize,
    taken: Option<Nanos>,
}

impl Peer {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, waiting: VecDeque::new(), inside: 0, running: 0, taken: None }
    }

    /// How many go now, or until when to wait.
    fn decide(&mut self, now: Nanos) -> Result<usize, Nanos> {
        let settings = self.settings;
        let most = self.waiting.len().min(settings.max_batch);
        let preferred = settings.preferred.iter().rev().find(|&&size| size <= most);
        if let Some(&size) = preferred {
            return Ok(size);
        }
        let since = match settings.since {
            Since::Oldest => self.waiting[0].1,
            Since::Taken => *self.taken.get_or_insert(now),
        };
        let until = since + settings.delay;
        if most == settings.max_batch || now >= until { Ok(most) } else { Err(until) }
    }
}

impl Policy for Peer {
    fn admit(&mut self, _now: Nanos, _request: usize) -> Result<(), Nanos> {
        if self.inside >= self.settings.bound {
            return Err(0);
        }
        self.inside += 1;
        Ok(())
    }

    fn received(&mut self, _now: Nanos, _request: usize) {}

    fn ready(&mut self, now: Nanos, request: usize) {
        self.waiting.push_back((request, now));
    }

    fn next(&mut self, now: Nanos) -> Turn {
        if self.waiting.is_empty() {
            return Turn::default();
        }
        match self.decide(now) {
            Ok(size) => {
                self.taken = None;
                self.running = size;
                Turn {
                    batch: self.waiting.drain(..size).map(|(request, _)| request).collect(),
                    ..Turn::default()
                }
            }
            Err(until) => Turn { wake: Some(until), ..Turn::default() },
        }
    }

    fn done(&mut self, _now: Nanos) {
        self.inside -= self.running;
    }
}
