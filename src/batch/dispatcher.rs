//! Everything a pool knows and decides, without threads, locks or clocks: seats, the line, costs, who is busy until when.
//!
//! The queue and the scheduler's threads drive it on real time behind a lock; tests and `benches/simulate` drive the
//! same code on virtual time. What a job is and how an answer travels is not known here.

use std::time::{Duration, Instant};

use super::{
    CostTable, Terms,
    forecast::{Forecast, Pace},
    health::Trouble,
    lineup::{Lineup, Place},
    policy::{self, Decision, View},
};

/// A newcomer's wait is taken longer than predicted by this many mean deviations of batches from their predictions, and by
/// a share between these bounds: an accepted request must be in time.
const DEVIATIONS: f64 = 2.0;
const MARGIN: std::ops::RangeInclusive<f64> = 0.02..=0.5;

/// Weight of a new batch in that deviation, one part in this many.
const DEVIATION_MEMORY: f64 = 16.0;

/// After this long without a batch an idle executor takes a job whatever its table says: an estimate that forbids every
/// job would never be corrected.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// A batch that takes this many times as long as expected may be stuck. Halving one that failed takes four times as long as
/// running it, and processors that are shared or throttled do the rest.
const STUCK_FACTOR: u32 = 8;

/// Below this no batch is called stuck, unless the owner says otherwise: as long as the largest photos take to decode and
/// the largest network to run on a processor with much else to do.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Weight of a new sample in the estimate of how long members are on their way, one part in this many (as TCP smooths its
/// round trips, RFC 6298).
const LEAD_MEMORY: f64 = 8.0;

/// Why nobody gets a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Every seat is taken.
    #[error("the queue is full; it drains in about {} ms", .retry_after.as_millis())]
    Full {
        /// When seats are likely to be free.
        retry_after: Duration,
    },
    /// By the time the answer could be there its deadline, or that of an accepted request it would delay, has passed; or
    /// overload has lasted so long that a longer queue would only make everybody wait.
    #[error("too much waits before it; try again in about {} ms", .retry_after.as_millis())]
    Late {
        /// When the same request is likely to be accepted.
        retry_after: Duration,
    },
    /// Every thread is stuck or has ended.
    #[error("nothing can be executed at the moment; another server may answer")]
    Down,
    /// The deadline is shorter than the work takes on an idle server.
    #[error("the deadline is too short: the work alone takes about {} ms", .needs.as_millis())]
    Hopeless {
        /// What it takes.
        needs: Duration,
    },
}

/// What one look at the line brought.
#[derive(Debug)]
pub struct Turn<J> {
    /// Jobs to run now.
    pub batch: Vec<J>,
    /// Jobs whose deadline has passed.
    pub expired: Vec<J>,
    /// Jobs that could only be late, and when their like is likely to be in time again.
    pub late: Vec<J>,
    /// Look again at this moment at the latest, when `batch` is empty and something is worth waiting for.
    pub wake: Option<Instant>,
    /// Since when the executor has been held back, if it was.
    pub held_since: Option<Instant>,
}

/// A member that is on its way.
#[derive(Debug, Clone, Copy)]
struct Coming {
    admitted: Instant,
    received: Option<Instant>,
}

/// A batch that runs.
#[derive(Debug, Clone, Copy)]
struct Run {
    began: Instant,
    /// Seconds that it costs.
    cost: f64,
}

impl Run {
    fn age(self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// How many times what it costs it has taken; `None` where nothing is known of that.
    fn ratio(self, now: Instant) -> Option<f64> {
        (self.cost > 0.0).then(|| self.age(now).as_secs_f64() / self.cost)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Worker {
    busy: Option<Run>,
    held_since: Option<Instant>,
    /// Seats of the jobs in its batch.
    running: usize,
    gone_since: Option<Instant>,
    failing_since: Option<Instant>,
}

impl Worker {
    /// How long its batch has run, if that is far too long.
    fn stuck_for(&self, now: Instant, after: Duration) -> Option<Duration> {
        let run = self.busy?;
        let age = run.age(now);
        (age >= after.max(STUCK_FACTOR * Duration::from_secs_f64(run.cost))).then_some(age)
    }

    /// Whether it has ended, or its batch has run for far too long.
    fn is_down(&self, now: Instant, stuck_after: Duration) -> bool {
        self.gone_since.is_some() || self.stuck_for(now, stuck_after).is_some()
    }
}

/// See the module's text. `J` is whatever the owner wants back when it is a job's turn.
#[derive(Debug)]
pub struct Dispatcher<J> {
    lineup: Lineup<J, Coming>,
    costs: CostTable,
    capacity: usize,
    running: usize,
    workers: Vec<Worker>,
    stuck_after: Duration,
    /// Jobs that became ready since an executor last found nothing to do.
    streak: usize,
    /// Since when there has been more to do than can be done in time, for those who leave time for a full batch.
    overloaded_since: Option<Instant>,
    /// Whether anybody has been refused for lateness since the line was last emptied.
    turned_away: bool,
    reading: Lead,
    preparing: Lead,
    pace: Pace,
    /// Mean deviation of batches from their predictions, as a share.
    deviation: f64,
    busy: Duration,
    last_end: Option<Instant>,
}

impl<J> Dispatcher<J> {
    /// `workers` executors with the same `costs` and `capacity` seats between them.
    pub fn new(capacity: usize, workers: usize, costs: CostTable) -> Self {
        Self {
            lineup: Lineup::default(),
            costs,
            capacity,
            running: 0,
            workers: vec![Worker::default(); workers.max(1)],
            stuck_after: STUCK_AFTER,
            streak: 0,
            overloaded_since: None,
            turned_away: false,
            reading: Lead::default(),
            preparing: Lead::default(),
            pace: Pace::default(),
            deviation: 0.0,
            busy: Duration::ZERO,
            last_end: None,
        }
    }

    /// The same where no batch is called stuck before it has run for `stuck_after`.
    #[must_use]
    pub fn stuck_after(self, stuck_after: Duration) -> Self {
        Self { stuck_after, ..self }
    }

    /// Seats taken: members on their way, waiting and running.
    pub fn depth(&self) -> usize {
        self.lineup.on_their_way() + self.lineup.ready() + self.running
    }

    /// Jobs that wait for an executor.
    pub fn ready(&self) -> usize {
        self.lineup.ready()
    }

    /// The costs as they are known now.
    pub fn costs(&self) -> &CostTable {
        &self.costs
    }

    /// Seconds until everything admitted so far would be done.
    pub fn drain_seconds(&self, now: Instant) -> f64 {
        let members = self.lineup.on_their_way() + self.lineup.ready();
        self.free_in(now) + self.forecast(now).drain(members)
    }

    /// Seconds of work done so far, all executors together.
    pub fn busy_seconds(&self, now: Instant) -> f64 {
        let current = self.workers.iter().filter_map(|worker| worker.busy);
        let running: Duration = current.map(|run| run.age(now)).sum();
        (self.busy + running).as_secs_f64()
    }

    /// How long the batch that has run longest has run; zero when none runs.
    pub fn batch_age(&self, now: Instant) -> Duration {
        self.workers.iter().filter_map(|worker| worker.busy).map(|run| run.age(now)).max().unwrap_or_default()
    }

    /// The worst that is wrong with the workers.
    pub fn trouble(&self, now: Instant) -> Option<Trouble> {
        let since = |moment: Instant| now.saturating_duration_since(moment);
        let longest = |of: &dyn Fn(&Worker) -> Option<Duration>| self.workers.iter().filter_map(of).max();
        let dead = longest(&|worker| worker.gone_since.map(since)).map(|age| Trouble::Dead { age });
        let stuck = longest(&|worker| worker.stuck_for(now, self.stuck_after));
        let failing = longest(&|worker| worker.failing_since.map(since));
        let stuck = stuck.map(|age| Trouble::Stuck { age });
        dead.or(stuck).or(failing.map(|age| Trouble::Failing { age }))
    }

    /// Workers whose batch has run for far too long.
    pub fn stuck(&self, now: Instant) -> usize {
        self.workers.iter().filter(|worker| worker.stuck_for(now, self.stuck_after).is_some()).count()
    }

    /// Takes `count` seats for jobs on their way, all or none.
    ///
    /// # Errors
    /// Nobody to execute them, no seats, or no prospect of an answer in time for all of them and for those accepted before.
    pub fn admit(&mut self, now: Instant, terms: &Terms, count: usize) -> Result<Vec<Place>, Refusal> {
        if self.workers.iter().all(|worker| worker.is_down(now, self.stuck_after)) {
            return Err(Refusal::Down);
        }
        if self.capacity - self.depth().min(self.capacity) < count {
            let wait = self.free_in(now) + self.forecast(now).drain(count);
            return Err(Refusal::Full { retry_after: Duration::from_secs_f64(wait) });
        }
        if self.depth() == 0 {
            self.overloaded_since = None;
        }
        let forecast = self.forecast(now);
        let foreseen = self.foresee(now, &forecast, terms, count);
        let slack = terms.deadline.saturating_duration_since(now).as_secs_f64();
        if slack >= self.brisk_seconds(&forecast) && matches!(foreseen, Err(Refusal::Late { .. })) {
            self.turned_away = true;
            self.overloaded_since.get_or_insert(now);
        }
        foreseen?;
        let coming = Coming { admitted: now, received: None };
        Ok((0..count).map(|_| self.lineup.announce(terms, coming)).collect())
    }

    /// The request at `place` has been received whole; what remains is its preparation.
    pub fn received(&mut self, place: Place, now: Instant) {
        if let Some(coming) = self.lineup.coming_mut(place) {
            coming.received = Some(now);
            self.reading.record(now.saturating_duration_since(coming.admitted));
        }
    }

    /// Gives the member at `place` another deadline while it is on its way.
    pub fn reschedule(&mut self, place: Place, deadline: Instant) -> Option<Place> {
        self.lineup.reschedule(place, deadline)
    }

    /// The job of `place` is ready to run.
    ///
    /// # Errors
    /// The job, when `place` is not on its way.
    pub fn submit(&mut self, place: Place, now: Instant, job: J) -> Result<(), J> {
        let coming = self.lineup.arrive(place, job)?;
        let since = coming.received.unwrap_or(coming.admitted);
        self.preparing.record(now.saturating_duration_since(since));
        self.streak += 1;
        Ok(())
    }

    /// Gives the seat at `place` back, and drops its job if that waits: its owner has gone. Whether there was anything to
    /// give back.
    pub fn cancel(&mut self, place: Place) -> bool {
        self.lineup.withdraw(place).is_some() || self.lineup.remove(place).is_some()
    }

    /// What idle worker `index` does next; `open` says whether anything can still arrive.
    pub fn next(&mut self, now: Instant, index: usize, open: bool) -> Turn<J> {
        let expired = self.lineup.expire(now).into_iter().map(|(_, job)| job).collect();
        let late = self.fallen_behind(now);
        let mut turn = Turn { batch: Vec::new(), expired, late, wake: None, held_since: None };
        while self.lineup.ready() > 0 && turn.batch.is_empty() {
            match self.decide(now, open) {
                Decision::Run(size) => self.form(now, size, &mut turn),
                Decision::Wait(seconds) => {
                    self.workers[index].held_since.get_or_insert(now);
                    turn.wake = Some(now + Duration::from_secs_f64(seconds));
                    return turn;
                }
            }
        }
        turn.held_since = self.workers[index].held_since.take();
        self.relent(now, turn.batch.len());
        if turn.batch.is_empty() {
            self.streak = 0;
        } else {
            let size = turn.batch.len();
            self.running += size;
            self.workers[index].running = size;
            self.occupy(now, index, size);
        }
        turn
    }

    /// Worker `index` begins a batch of `size`, be it of jobs or one that is nobody's.
    pub fn occupy(&mut self, now: Instant, index: usize, size: usize) {
        self.workers[index].busy = Some(Run { began: now, cost: self.costs.seconds(size) });
    }

    /// Gives back the seats of the jobs that worker `index` has run.
    pub fn release(&mut self, index: usize) {
        self.running -= std::mem::take(&mut self.workers[index].running);
    }

    /// Whether worker `index` fails on a batch that it must be able to answer.
    pub fn examined(&mut self, now: Instant, index: usize, failing: bool) {
        let since = &mut self.workers[index].failing_since;
        *since = failing.then(|| since.unwrap_or(now));
    }

    /// Worker `index` has ended. If it was the last, the jobs in the line come back: nobody will run them.
    pub fn lose(&mut self, now: Instant, index: usize) -> Vec<J> {
        self.release(index);
        self.workers[index] = Worker { gone_since: Some(now), ..Worker::default() };
        if self.workers.iter().all(|worker| worker.gone_since.is_some()) {
            return self.lineup.shed(|_, _| true);
        }
        Vec::new()
    }

    /// Worker `index` is done; a batch of `size` that went well also says what it costs.
    pub fn finish(&mut self, now: Instant, index: usize, size: Option<usize>) {
        let Some(run) = self.workers[index].busy.take() else { return };
        let took = run.age(now);
        if let Some(ratio) = run.ratio(now).filter(|_| size.is_some()) {
            let off = (ratio / self.pace.trend() - 1.0).abs().min(1.0);
            self.deviation += (off - self.deviation) / DEVIATION_MEMORY;
            self.pace.record(ratio);
        }
        self.busy += took;
        self.last_end = Some(now);
        if let Some(size) = size {
            self.costs.record(size, took);
        }
    }

    fn decide(&self, now: Instant, open: bool) -> Decision {
        let ready = self.lineup.ready();
        let coming = if open && ready < self.costs.max_batch() { self.expected(now) } else { Vec::new() };
        let deadline = self.lineup.earliest_ready().unwrap_or(now);
        policy::decide(&View {
            ready,
            coming: &coming,
            // In the table's seconds, of which fewer are left where batches take longer.
            slack: deadline.saturating_duration_since(now).as_secs_f64() / self.stretch(now),
            streak: self.streak,
            costs: &self.costs,
        })
    }

    /// Of what is in the line.
    fn forecast(&self, now: Instant) -> Forecast<'_> {
        Forecast::of_line(&self.costs, self.at_work(now), &self.pace)
    }

    /// How many times as long as their table says batches take that run or start now.
    fn stretch(&self, now: Instant) -> f64 {
        let here = self.workers.iter().filter(|worker| !worker.is_down(now, self.stuck_after));
        let running = here.filter_map(|worker| worker.busy?.ratio(now));
        self.pace.now(running.fold(0.0, f64::max))
    }

    /// When members on their way should be ready, in seconds from `now`, rising; those that are overdue are not counted on.
    fn expected(&self, now: Instant) -> Vec<f64> {
        let since = |moment: Instant| now.saturating_duration_since(moment).as_secs_f64();
        let left = |coming: &Coming| match coming.received {
            Some(received) => self.preparing.left(since(received)),
            None => Some(self.reading.left(since(coming.admitted))? + self.preparing.typical()?),
        };
        let mut expected: Vec<f64> = self.lineup.coming().filter_map(left).collect();
        expected.sort_unstable_by(f64::total_cmp);
        expected
    }

    /// Takes `size` jobs for a batch, leaving out those that could not be in time in it.
    fn form(&mut self, now: Instant, size: usize, turn: &mut Turn<J>) {
        let done = now + Duration::from_secs_f64(self.stretch(now) * self.costs.seconds(size));
        let probe = self.may_probe(now);
        while turn.batch.len() < size {
            let Some((place, job)) = self.lineup.pop() else { break };
            if place.deadline() < done && !probe {
                turn.late.push(job);
            } else {
                turn.batch.push(job);
            }
        }
    }

    fn may_probe(&self, now: Instant) -> bool {
        let idle = self.running == 0;
        idle && self.last_end.is_none_or(|end| now.saturating_duration_since(end) > PROBE_AFTER)
    }

    /// Ready jobs that can no longer be in time because work took longer than predicted when they were accepted: they are
    /// told at once, and make room for those that can.
    fn fallen_behind(&mut self, now: Instant) -> Vec<J> {
        // Not by `forecast`, which would borrow the line as well.
        let forecast = Forecast::of_line(&self.costs, self.at_work(now), &self.pace);
        let (ready, probe) = (self.lineup.ready(), self.may_probe(now));
        let Some(earliest) = self.lineup.earliest_ready().filter(|_| !probe) else { return Vec::new() };
        let slack = |deadline: Instant| deadline.saturating_duration_since(now).as_secs_f64();
        if forecast.drain(ready) <= slack(earliest) {
            return Vec::new();
        }
        self.lineup.shed(|deadline, ahead| {
            let slack = slack(deadline);
            forecast.finish(ahead, 0, slack) > slack
        })
    }

    /// The share by which predictions are stretched for newcomers.
    fn margin(&self) -> f64 {
        1.0 + (DEVIATIONS * self.deviation).clamp(*MARGIN.start(), *MARGIN.end())
    }

    /// Whether `count` newcomers would be in time, and nobody accepted before would be late because of them.
    fn foresee(
        &self,
        now: Instant,
        forecast: &Forecast<'_>,
        terms: &Terms,
        count: usize,
    ) -> Result<(), Refusal> {
        let free = self.free_in(now);
        let members = self.lineup.on_their_way() + self.lineup.ready();
        let slack = |deadline: Instant| deadline.saturating_duration_since(now).as_secs_f64();
        let margin = self.margin();
        let everybody = free + margin * forecast.drain(members + count);
        let earliest = self.lineup.earliest().map_or(terms.deadline, |first| first.min(terms.deadline));
        let brisk = self.brisk_seconds(forecast);
        if everybody <= slack(earliest).min(brisk) || members == 0 && self.may_probe(now) {
            return Ok(());
        }
        let own = slack(terms.deadline);
        let alone = Forecast { stretch: 1.0, ..*forecast }.finish(count - 1, 0, own);
        if alone > own {
            return Err(Refusal::Hopeless { needs: Duration::from_secs_f64(alone) });
        }
        let finish = |ahead: usize, all: usize, slack: f64| {
            free + margin * forecast.finish(ahead, all - ahead - 1, slack - free)
        };
        let late = |excess: f64| Refusal::Late { retry_after: Duration::from_secs_f64(excess) };
        let all = members + count;
        let ahead = (self.lineup.ahead_of(terms) + count - 1).min(all - 1);
        let done = finish(ahead, all, own);
        if done > own {
            return Err(late(done - own));
        }
        let limit = brisk.max(self.patience(now, own));
        if done > limit {
            return Err(late(done - limit));
        }
        for (deadline, ahead) in self.lineup.set_back_by(terms) {
            let (slack, ahead) = (slack(deadline), ahead.min(all - count));
            let before = finish(ahead - 1, members, slack);
            let after = finish(ahead + count - 1, all, slack);
            if after > slack && before <= slack {
                return Err(late(after - slack));
            }
        }
        Ok(())
    }

    /// What an answer takes at most in a queue that is no longer than it need be.
    fn brisk_seconds(&self, forecast: &Forecast<'_>) -> f64 {
        let lead = [&self.reading, &self.preparing].map(|lead| lead.typical().unwrap_or(0.0));
        forecast.brisk() + lead.iter().sum::<f64>()
    }

    /// Takes back an eighth of the time that overload has lasted when a batch of no more than an efficient `size` emptied the line
    /// and nobody had been refused: once may be chance, and many times show that the load has gone.
    fn relent(&mut self, now: Instant, size: usize) {
        if self.lineup.ready() > 0 {
            return;
        }
        let refused = std::mem::take(&mut self.turned_away);
        if !refused && size <= self.costs.efficient() {
            let later = |since: Instant| since + now.saturating_duration_since(since) / 8;
            self.overloaded_since = self.overloaded_since.map(later);
        }
    }

    /// How long a newcomer with `slack` seconds may have to wait, in view of how long overload has lasted: all its time at
    /// first, and once overload has outlasted that, less by one second in two, so that the queue shrinks while half of what is
    /// served is made up for. A burst comes and goes and is taken in whole. What lasts is overload, and there a queue adds to
    /// every answer and serves nobody (the good and the bad queue of Nichols and Jacobson, RFC 8289).
    fn patience(&self, now: Instant, slack: f64) -> f64 {
        let Some(since) = self.overloaded_since else { return slack };
        let lasted = now.saturating_duration_since(since).as_secs_f64();
        slack - (lasted - slack).max(0.0) / 2.0
    }

    /// Workers that go on working, at least one.
    fn at_work(&self, now: Instant) -> usize {
        self.workers.iter().filter(|worker| !worker.is_down(now, self.stuck_after)).count().max(1)
    }

    /// Seconds until a worker is free.
    fn free_in(&self, now: Instant) -> f64 {
        let stretch = self.stretch(now);
        let left = |worker: &Worker| {
            worker.busy.map_or(0.0, |run| (stretch * run.cost - run.age(now).as_secs_f64()).max(0.0))
        };
        let here = self.workers.iter().filter(|worker| !worker.is_down(now, self.stuck_after));
        here.map(left).min_by(f64::total_cmp).unwrap_or(0.0)
    }
}

/// How long members take on their way: a smoothed mean and mean deviation, in seconds.
#[derive(Debug, Default)]
struct Lead {
    mean: f64,
    deviation: f64,
    known: bool,
}

impl Lead {
    fn record(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        if self.known {
            self.deviation += ((took - self.mean).abs() - self.deviation) / LEAD_MEMORY;
            self.mean += (took - self.mean) / LEAD_MEMORY;
        } else {
            *self = Self { mean: took, deviation: took / 2.0, known: true };
        }
    }

    fn typical(&self) -> Option<f64> {
        self.known.then_some(self.mean)
    }

    /// Seconds left of one that has taken `so_far`, on the safe side; `None` when it is overdue or nothing is known.
    fn left(&self, so_far: f64) -> Option<f64> {
        let expected = self.mean + self.deviation;
        (self.known && so_far <= expected).then_some(expected - so_far)
    }
}

#[cfg(test)]
mod tests;
