//! Who is next: fair between flows, earliest deadline first within a flow, first come first served among equal
//! deadlines.
//!
//! Between flows it is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with a job as the unit of service:
//! a flow that was served moves ahead by one over its weight, and the flow that is furthest behind goes next. A flow that
//! comes back from idleness starts level with the others, so no credit is saved up and none can starve. With one flow the
//! order is exactly earliest deadline first.
//!
//! Members that are still on their way (their request is being received or decoded) hold their place here as well, so
//! that a newcomer's wait can be told. Costs and time are not known here.

use std::{collections::BTreeMap, time::Instant};

use rustc_hash::FxHashMap;

use super::terms::{Flow, Terms};

/// Lines kept before those that are empty and level are forgotten.
const SPARE_LINES: usize = 64;

/// Where a member stands. Unique for the life of the lineup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    flow: Flow,
    key: Key,
}

impl Place {
    /// The member's deadline.
    pub fn deadline(self) -> Instant {
        self.key.0
    }
}

/// Deadline, then order of announcement.
type Key = (Instant, u64);

/// Ready jobs `J` and members `C` that are still on their way.
#[derive(Debug)]
pub struct Lineup<J, C> {
    lines: FxHashMap<Flow, Line<J, C>>,
    /// The start tag of the last job served, or, when nothing waits, the largest finish tag.
    virtual_time: f64,
    last_finish: f64,
    announced: u64,
    ready: usize,
    coming: usize,
    prune_at: usize,
}

#[derive(Debug)]
struct Line<J, C> {
    weight: f64,
    /// Service taken, in jobs over weight, on the lineup's virtual clock.
    served: f64,
    ready: BTreeMap<Key, J>,
    coming: BTreeMap<Key, C>,
}

impl<J, C> Line<J, C> {
    fn len(&self) -> usize {
        self.ready.len() + self.coming.len()
    }

    /// Members before `key`, by those after it: newcomers mostly stand at the end.
    fn before(&self, key: Key) -> usize {
        self.len() - self.ready.range(key..).count() - self.coming.range(key..).count()
    }

    fn first(&self) -> Option<Key> {
        let heads = [self.ready.keys().next(), self.coming.keys().next()];
        heads.into_iter().flatten().min().copied()
    }
}

impl<J, C> Default for Lineup<J, C> {
    fn default() -> Self {
        Self {
            lines: FxHashMap::default(),
            virtual_time: 0.0,
            last_finish: 0.0,
            announced: 0,
            ready: 0,
            coming: 0,
            prune_at: SPARE_LINES,
        }
    }
}

impl<J, C> Lineup<J, C> {
    /// Jobs that could run now.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// Members on their way.
    pub fn on_their_way(&self) -> usize {
        self.coming
    }

    /// Gives a member that is on its way a place.
    pub fn announce(&mut self, terms: &Terms, coming: C) -> Place {
        self.announced += 1;
        let place = Place { flow: terms.flow(), key: (terms.deadline, self.announced) };
        self.prune();
        let virtual_time = self.virtual_time;
        let line = self.lines.entry(place.flow).or_insert_with(|| Line {
            weight: terms.weight(),
            served: virtual_time,
            ready: BTreeMap::new(),
            coming: BTreeMap::new(),
        });
        if line.len() == 0 {
            line.weight = terms.weight();
            line.served = line.served.max(virtual_time);
        }
        line.coming.insert(place.key, coming);
        self.coming += 1;
        place
    }

    /// What is known of a member on its way.
    pub fn coming_mut(&mut self, place: Place) -> Option<&mut C> {
        self.lines.get_mut(&place.flow)?.coming.get_mut(&place.key)
    }

    /// Every member on its way, in no order.
    pub fn coming(&self) -> impl Iterator<Item = &C> {
        self.lines.values().flat_map(|line| line.coming.values())
    }

    /// The member at `place` is there: its job is ready. Returns what was known of it, or the job if it holds no place.
    ///
    /// # Errors
    /// The job, when no member on its way holds `place`.
    pub fn arrive(&mut self, place: Place, job: J) -> Result<C, J> {
        let Some(line) = self.lines.get_mut(&place.flow) else { return Err(job) };
        let Some(coming) = line.coming.remove(&place.key) else { return Err(job) };
        // Who could not be served until now has been owed nothing, however long something was on its way.
        if line.ready.is_empty() {
            line.served = line.served.max(self.virtual_time);
        }
        line.ready.insert(place.key, job);
        self.coming -= 1;
        self.ready += 1;
        Ok(coming)
    }

    /// Moves a member that is on its way to another deadline, behind those that have it already.
    pub fn reschedule(&mut self, place: Place, deadline: Instant) -> Option<Place> {
        let line = self.lines.get_mut(&place.flow)?;
        let coming = line.coming.remove(&place.key)?;
        self.announced += 1;
        let key = (deadline, self.announced);
        line.coming.insert(key, coming);
        Some(Place { key, ..place })
    }

    /// Takes a member that is on its way out.
    pub fn withdraw(&mut self, place: Place) -> Option<C> {
        let gone = self.lines.get_mut(&place.flow)?.coming.remove(&place.key)?;
        self.coming -= 1;
        Some(gone)
    }

    /// Takes a ready job out of turn.
    pub fn remove(&mut self, place: Place) -> Option<J> {
        let job = self.lines.get_mut(&place.flow)?.ready.remove(&place.key)?;
        self.ready -= 1;
        Some(job)
    }

    /// Takes the next ready job.
    pub fn pop(&mut self) -> Option<(Place, J)> {
        let next = self.lines.iter_mut().filter_map(|(flow, line)| {
            let head = *line.ready.keys().next()?;
            Some((flow, head, line))
        });
        let (flow, key, line) = next.min_by(|(_, a_key, a), (_, b_key, b)| {
            a.served.total_cmp(&b.served).then_with(|| a_key.cmp(b_key))
        })?;
        let job = line.ready.remove(&key)?;
        self.virtual_time = self.virtual_time.max(line.served);
        line.served += line.weight.recip();
        self.last_finish = self.last_finish.max(line.served);
        self.ready -= 1;
        if self.ready == 0 {
            self.virtual_time = self.last_finish;
        }
        Some((Place { flow: *flow, key }, job))
    }

    /// Takes out every ready job whose deadline is `now` or earlier.
    pub fn expire(&mut self, now: Instant) -> Vec<(Place, J)> {
        let mut expired = Vec::new();
        for (flow, line) in &mut self.lines {
            while let Some(entry) = line.ready.first_entry().filter(|entry| entry.key().0 <= now) {
                let (key, job) = entry.remove_entry();
                expired.push((Place { flow: *flow, key }, job));
            }
        }
        self.ready -= expired.len();
        expired
    }

    /// Takes out every ready job that is `late`, told its deadline and how many that stay would be served before it.
    pub fn shed(&mut self, late: impl Fn(Instant, usize) -> bool) -> Vec<J> {
        let others: Vec<_> = self.lines.iter().map(|(flow, line)| (*flow, line.len(), line.weight)).collect();
        let mut shed = Vec::new();
        for (flow, line) in &mut self.lines {
            let mut stays = 0;
            let gone = line.ready.extract_if(.., |key, _| {
                let others = others.iter().filter(|(other, ..)| other != flow);
                let meanwhile =
                    |&(_, len, weight): &(_, usize, f64)| served_meanwhile(len, weight, line.weight, stays);
                let goes = late(key.0, others.map(meanwhile).sum::<usize>() + stays);
                stays += usize::from(!goes);
                goes
            });
            shed.extend(gone.map(|(_, job)| job));
        }
        self.ready -= shed.len();
        shed
    }

    /// The earliest deadline of a ready job.
    pub fn earliest_ready(&self) -> Option<Instant> {
        self.lines.values().filter_map(|line| line.ready.keys().next()).map(|key| key.0).min()
    }

    /// The earliest deadline of anybody.
    pub fn earliest(&self) -> Option<Instant> {
        self.lines.values().filter_map(Line::first).map(|key| key.0).min()
    }

    /// How many members would be served before a newcomer with `terms`: those of its own flow that are at least as urgent,
    /// and of every other flow what its weight entitles it to meanwhile.
    pub fn ahead_of(&self, terms: &Terms) -> usize {
        let own = self.lines.get(&terms.flow()).map_or(0, |line| line.before((terms.deadline, u64::MAX)));
        own + self.others_ahead(terms.flow(), terms.weight(), own)
    }

    /// For every member of the newcomer's flow that would have to let it pass: its deadline, and how many would be served
    /// before it if the newcomer came in. Rising by deadline.
    pub fn set_back_by(&self, terms: &Terms) -> Vec<(Instant, usize)> {
        let Some(line) = self.lines.get(&terms.flow()) else { return Vec::new() };
        let behind = (terms.deadline, u64::MAX);
        let mut deadlines: Vec<Instant> = line.ready.range(behind..).map(|(key, _)| key.0).collect();
        deadlines.extend(line.coming.range(behind..).map(|(key, _)| key.0));
        deadlines.sort_unstable();
        let first = line.len() - deadlines.len() + 1;
        let ahead = |own| own + self.others_ahead(terms.flow(), line.weight, own);
        deadlines.into_iter().enumerate().map(|(index, deadline)| (deadline, ahead(first + index))).collect()
    }

    fn others_ahead(&self, flow: Flow, weight: f64, own: usize) -> usize {
        let others = self.lines.iter().filter(|(other, _)| **other != flow);
        others.map(|(_, line)| served_meanwhile(line.len(), line.weight, weight, own)).sum()
    }

    /// Forgets lines that are empty and not ahead of the others, once there are many.
    fn prune(&mut self) {
        if self.lines.len() < self.prune_at {
            return;
        }
        let virtual_time = self.virtual_time;
        self.lines.retain(|_, line| line.len() > 0 || line.served > virtual_time);
        self.prune_at = 2 * self.lines.len() + SPARE_LINES;
    }
}

/// How many of another flow's `len` members, whose weight is `other`, are served until the one comes up that stands behind
/// `own` members of a flow with `weight`.
fn served_meanwhile(len: usize, other: f64, weight: f64, own: usize) -> usize {
    len.min(((own + 1) as f64 * other / weight).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use std::{hash::RandomState, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Class, Client};

    type Jobs = Lineup<u32, ()>;

    fn add(lineup: &mut Jobs, terms: &Terms, job: u32) -> Place {
        let place = lineup.announce(terms, ());
        lineup.arrive(place, job).unwrap();
        place
    }

    fn drain(lineup: &mut Jobs) -> Vec<u32> {
        std::iter::from_fn(|| lineup.pop()).map(|(_, job)| job).collect()
    }

    fn of(name: &str, weight: f64, hasher: &RandomState, deadline: Instant) -> Terms {
        Terms { client: Client::named(name, weight, hasher), ..Terms::by(deadline) }
    }

    #[test]
    fn one_flow_goes_by_deadline_then_by_arrival() {
        let (mut lineup, now) = (Jobs::default(), Instant::now());
        let late = now + Duration::from_secs(9);
        for (job, deadline) in [(1, late), (2, now), (3, late), (4, now)] {
            add(&mut lineup, &Terms::by(deadline), job);
        }
        assert_eq!((lineup.earliest(), lineup.ready()), (Some(now), 4));
        assert_eq!(drain(&mut lineup), [2, 4, 1, 3]);
    }

    #[test]
    fn a_place_is_held_from_announcement_to_departure() {
        let (mut lineup, now) = (Jobs::default(), Instant::now());
        let first = lineup.announce(&Terms::by(now), ());
        let second = add(&mut lineup, &Terms::by(now), 2);
        assert_eq!((lineup.on_their_way(), lineup.ready()), (1, 1));
        lineup.arrive(first, 1).unwrap();
        assert_eq!(lineup.arrive(first, 1), Err(1), "it has arrived already");
        assert_eq!(lineup.remove(second), Some(2));
        assert_eq!((lineup.remove(second), lineup.withdraw(first)), (None, None));
        assert_eq!(drain(&mut lineup), [1]);
    }

    #[test]
    fn a_noisy_client_does_not_delay_a_quiet_one() {
        let (mut lineup, now, hasher) = (Jobs::default(), Instant::now(), RandomState::new());
        let noisy = of("noisy", 1.0, &hasher, now);
        for job in 0..100 {
            add(&mut lineup, &noisy, job);
        }
        for _ in 0..50 {
            lineup.pop();
        }
        let quiet = of("quiet", 1.0, &hasher, now + Duration::from_secs(60));
        assert_eq!(lineup.ahead_of(&quiet), 1);
        for job in 1000..1003 {
            add(&mut lineup, &quiet, job);
        }
        let order = drain(&mut lineup);
        let places: Vec<_> = (1000..1003).map(|job| order.iter().position(|&j| j == job).unwrap()).collect();
        assert_eq!(places, [0, 2, 4], "turn and turn about, whatever the deadlines: {order:?}");
    }

    #[test]
    fn shares_follow_weights_and_batch_work_gets_a_ninth() {
        let (mut lineup, now, hasher) = (Jobs::default(), Instant::now(), RandomState::new());
        let (one, three) = (of("one", 1.0, &hasher, now), of("three", 3.0, &hasher, now));
        let background = Terms { class: Class::Batch, ..three };
        for _ in 0..400 {
            add(&mut lineup, &one, 1);
            add(&mut lineup, &three, 3);
            add(&mut lineup, &background, 0);
        }
        let first: Vec<u32> = (0..350).map(|_| lineup.pop().unwrap().1).collect();
        let share = |job| first.iter().filter(|&&j| j == job).count();
        assert_eq!((share(1), share(3), share(0)), (80, 240, 30));
    }

    #[test]
    fn an_idle_flow_saves_no_credit_and_is_forgotten() {
        let (mut lineup, now, hasher) = (Jobs::default(), Instant::now(), RandomState::new());
        let idle = of("idle", 1.0, &hasher, now);
        add(&mut lineup, &idle, 7);
        lineup.pop();
        let busy = of("busy", 1.0, &hasher, now);
        for job in 0..50 {
            add(&mut lineup, &busy, job);
        }
        for _ in 0..20 {
            lineup.pop();
        }
        for job in 100..110 {
            add(&mut lineup, &idle, job);
        }
        let next: Vec<u32> = (0..4).map(|_| lineup.pop().unwrap().1).collect();
        assert_eq!(next.iter().filter(|&&job| job >= 100).count(), 2, "{next:?}");
        drain(&mut lineup);
        for client in 0..1000 {
            add(&mut lineup, &of(&client.to_string(), 1.0, &hasher, now), client);
            lineup.pop();
        }
        assert!(lineup.lines.len() < 300, "{} lines", lineup.lines.len());
    }

    #[test]
    fn nor_does_one_that_always_has_something_on_its_way() {
        let (mut lineup, now, hasher) = (Jobs::default(), Instant::now(), RandomState::new());
        let slow = of("slow", 1.0, &hasher, now);
        let place = lineup.announce(&slow, ());
        let busy = of("busy", 1.0, &hasher, now);
        for job in 0..100 {
            add(&mut lineup, &busy, job);
            lineup.pop();
        }
        for job in 0..10 {
            add(&mut lineup, &busy, job);
        }
        lineup.arrive(place, 100).unwrap();
        for job in 101..110 {
            add(&mut lineup, &slow, job);
        }
        let next: Vec<u32> = (0..4).map(|_| lineup.pop().unwrap().1).collect();
        assert_eq!(next.iter().filter(|&&job| job >= 100).count(), 2, "{next:?}");
    }

    #[test]
    fn a_newcomer_sets_back_those_behind_it() {
        let (mut lineup, now) = (Jobs::default(), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        for secs in [1, 5, 9] {
            add(&mut lineup, &Terms::by(at(secs)), 0);
        }
        lineup.announce(&Terms::by(at(7)), ());
        let newcomer = Terms::by(at(5));
        assert_eq!(lineup.ahead_of(&newcomer), 2);
        assert_eq!(lineup.set_back_by(&newcomer), [(at(7), 3), (at(9), 4)]);
    }

    proptest! {
        /// Whatever comes, goes and expires: every job leaves once, in deadline order within its flow.
        #[test]
        fn every_job_leaves_exactly_once(
            steps in prop::collection::vec((0u8..8, 0u64..20, 0usize..4, 0usize..40), 1..300)
        ) {
            let (mut lineup, origin, hasher) = (Jobs::default(), Instant::now(), RandomState::new());
            let mut now = origin;
            let (mut places, mut left, mut jobs) = (Vec::new(), Vec::new(), 0u32);
            for (step, slack, client, pick) in steps {
                match step {
                    0..=3 => {
                        let terms = of(&client.to_string(), 1.0 + client as f64, &hasher, now + Duration::from_secs(slack));
                        let place = lineup.announce(&terms, ());
                        if step > 0 {
                            lineup.arrive(place, jobs).unwrap();
                            jobs += 1;
                        }
                        places.push(place);
                    }
                    4 | 5 => left.extend(lineup.pop().map(|(_, job)| job)),
                    6 => {
                        now += Duration::from_secs(1);
                        left.extend(lineup.expire(now).into_iter().map(|(_, job)| job));
                        prop_assert!(lineup.earliest_ready().is_none_or(|deadline| deadline > now));
                    }
                    _ if places.is_empty() => {}
                    _ => {
                        let place = places[pick % places.len()];
                        left.extend(lineup.remove(place));
                        lineup.withdraw(place);
                    }
                }
            }
            let mut last = std::collections::HashMap::new();
            while let Some((place, job)) = lineup.pop() {
                let before = last.insert(place.flow, place.key);
                prop_assert!(before.is_none_or(|key| key < place.key));
                left.push(job);
            }
            left.sort_unstable();
            prop_assert_eq!(left, (0..jobs).collect::<Vec<_>>());
            prop_assert_eq!(lineup.ready(), 0);
        }
    }
}
