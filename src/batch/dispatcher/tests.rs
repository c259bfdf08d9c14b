//! The dispatcher on virtual time: one executor or several, jobs that come, change their mind, and are too late.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::batch::Class;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Batches of up to `max` that take `base + slope * size` milliseconds.
fn affine(max: usize, base: u64, slope: u64) -> CostTable {
    CostTable::from_points(max, (1..=max).map(|size| (size, ms(base + slope * size as u64))))
}

/// A dispatcher that has just run a batch, so that it does not probe.
fn warm(capacity: usize, costs: CostTable, now: Instant) -> Dispatcher<u32> {
    let mut dispatcher = Dispatcher::new(capacity, 1, costs);
    dispatcher.last_end = Some(now);
    dispatcher
}

fn add(
    dispatcher: &mut Dispatcher<u32>,
    now: Instant,
    deadline: Instant,
    job: u32,
) -> Result<Place, Refusal> {
    let place = dispatcher.admit(now, &Terms::by(deadline), 1)?[0];
    dispatcher.submit(place, now, job).unwrap();
    Ok(place)
}

#[test]
fn a_newcomer_that_would_be_late_is_refused_with_the_time_to_come_back() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    for job in 0..9 {
        add(&mut dispatcher, now, now + ms(1000), job).unwrap();
    }
    let refusal = add(&mut dispatcher, now, now + ms(1000), 9).unwrap_err();
    let Refusal::Late { retry_after } = refusal else { panic!("{refusal}") };
    assert!(
        (15..=25).contains(&retry_after.as_millis()),
        "{retry_after:?}: ten take 1020 ms with the margin"
    );
    assert!(add(&mut dispatcher, now + ms(1), now + ms(2000), 10).is_ok(), "the patient are welcome");
}

#[test]
fn a_batch_is_stuck_when_it_takes_eight_times_as_long_as_it_should_and_longer_than_the_floor() {
    let now = Instant::now();
    for (cost, stuck_at) in [(100, 1000), (500, 4000)] {
        let costs = affine(1, 0, cost);
        let mut dispatcher = Dispatcher::new(4, 1, costs).stuck_after(ms(1000));
        add(&mut dispatcher, now, now + ms(60_000), 0).unwrap();
        assert_eq!(dispatcher.next(now, 0, true).batch, [0]);
        let before = now + ms(stuck_at - 1);
        assert_eq!((dispatcher.trouble(before), dispatcher.stuck(before)), (None, 0));
        assert!(dispatcher.admit(before, &Terms::by(now + ms(60_000)), 1).is_ok());
        let at = now + ms(stuck_at);
        assert_eq!(dispatcher.trouble(at), Some(Trouble::Stuck { age: ms(stuck_at) }));
        assert_eq!(
            (dispatcher.admit(at, &Terms::by(now + ms(60_000)), 1), dispatcher.stuck(at)),
            (Err(Refusal::Down), 1)
        );
        dispatcher.release(0);
        dispatcher.finish(at, 0, Some(1));
        assert_eq!(dispatcher.trouble(at), None);
        assert!(dispatcher.admit(at, &Terms::by(now + ms(60_000)), 1).is_ok());
    }
}

#[test]
fn of_two_workers_one_may_be_lost() {
    let now = Instant::now();
    let terms = Terms::by(now + ms(60_000));
    let mut dispatcher = Dispatcher::new(4, 2, affine(1, 0, 100));
    for job in 0..4 {
        add(&mut dispatcher, now, now + ms(60_000), job).unwrap();
    }
    assert_eq!(dispatcher.next(now, 0, true).batch, [0]);
    assert_eq!(dispatcher.lose(now, 0), [0; 0], "the other one runs what waits");
    assert_eq!(dispatcher.depth(), 3, "the seat of what it ran is free");
    assert_eq!(dispatcher.trouble(now + ms(5)), Some(Trouble::Dead { age: ms(5) }));
    assert!((dispatcher.drain_seconds(now) - 0.3).abs() < 1e-9, "one has the work of two");
    assert_eq!(dispatcher.next(now, 1, true).batch, [1]);
    assert_eq!(dispatcher.lose(now, 1), [2, 3], "nobody is left");
    assert_eq!((dispatcher.depth(), dispatcher.admit(now, &terms, 1)), (0, Err(Refusal::Down)));
}

#[test]
fn a_worker_that_is_stuck_is_not_counted_on() {
    let now = Instant::now();
    let costs = affine(1, 0, 100);
    let mut dispatcher = Dispatcher::new(8, 2, costs).stuck_after(ms(1000));
    for job in 0..5 {
        add(&mut dispatcher, now, now + ms(60_000), job).unwrap();
    }
    assert_eq!(dispatcher.next(now, 0, true).batch, [0]);
    assert!((dispatcher.drain_seconds(now) - 0.2).abs() < 1e-9, "two for four");
    let stuck = now + ms(1000);
    assert_eq!(dispatcher.stuck(stuck), 1);
    assert!((dispatcher.drain_seconds(stuck) - 0.4).abs() < 1e-9, "one for four");
}

/// What became of a flood.
struct Flooded {
    ran: usize,
    /// How many of those were done after their deadline.
    late: usize,
    /// From a job's admission to its end, in ms, in the second half.
    longest: u128,
}

/// Offers a job every `every` ms for `lasts` ms, each with a second to be done, to one executor that takes `takes` ms for each.
fn flood(dispatcher: &mut Dispatcher<u32>, now: &mut Instant, every: u64, lasts: u64, takes: u64) -> Flooded {
    let (middle, mut admitted) = (*now + ms(lasts / 2), Vec::new());
    let mut flooded = Flooded { ran: 0, late: 0, longest: 0 };
    let mut running: Option<(u32, Instant)> = None;
    for tick in 0..lasts {
        *now += ms(1);
        if tick % every == 0 && add(dispatcher, *now, *now + ms(1000), admitted.len() as u32).is_ok() {
            admitted.push(*now);
        }
        if let Some((job, _)) = running.take_if(|(_, end)| *end <= *now) {
            dispatcher.release(0);
            dispatcher.finish(*now, 0, Some(1));
            let took = (*now - admitted[job as usize]).as_millis();
            flooded.ran += 1;
            flooded.late += usize::from(took > 1000);
            flooded.longest = if *now > middle { took.max(flooded.longest) } else { 0 };
        }
        if running.is_none() {
            running = dispatcher.next(*now, 0, true).batch.first().map(|&job| (job, *now + ms(takes)));
        }
    }
    while let Some((_, end)) = running.take() {
        *now = end;
        dispatcher.release(0);
        dispatcher.finish(*now, 0, Some(1));
        running = dispatcher.next(*now, 0, true).batch.first().map(|&job| (job, *now + ms(takes)));
    }
    flooded
}

#[test]
fn lasting_overload_shortens_the_queue_and_the_executor_stays_busy() {
    let mut now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    let Flooded { ran, longest, .. } = flood(&mut dispatcher, &mut now, 20, 20_000, 100);
    assert!((195..=200).contains(&ran), "{ran} of 200");
    assert!(longest <= 320, "accepted ones took {longest} ms");
}

#[test]
fn who_is_in_too_great_a_hurry_does_not_make_it_overload() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    add(&mut dispatcher, now, now + ms(140), 0).unwrap();
    assert!(matches!(add(&mut dispatcher, now, now + ms(150), 1), Err(Refusal::Late { .. })));
    assert_eq!(dispatcher.overloaded_since, None);
    let refused = (2..12).filter(|&job| add(&mut dispatcher, now, now + ms(1000), job).is_err()).count();
    assert_eq!((refused, dispatcher.overloaded_since), (2, Some(now)));
}

#[test]
fn after_an_overload_a_burst_is_taken_in_again() {
    let mut now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    flood(&mut dispatcher, &mut now, 20, 20_000, 100);
    let Flooded { ran, longest, .. } = flood(&mut dispatcher, &mut now, 110, 5_000, 100);
    assert!(ran >= 44 && longest <= 200, "{ran}, {longest} ms");
    let burst = (0..9).filter(|&job| add(&mut dispatcher, now, now + ms(1000), job).is_ok()).count();
    assert_eq!(burst, 9);
}

#[test]
fn where_something_else_takes_the_processor_who_is_let_in_is_in_time_all_the_same() {
    let mut now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    let calm = flood(&mut dispatcher, &mut now, 20, 10_000, 100);
    let crowded = flood(&mut dispatcher, &mut now, 20, 20_000, 400);
    assert_eq!((calm.late, crowded.late), (0, 0));
    assert!(crowded.ran >= 47, "{} of 50: nothing is run in vain, and the executor is busy", crowded.ran);
    let calm = flood(&mut dispatcher, &mut now, 20, 10_000, 100);
    assert!(calm.late == 0 && calm.ran >= 96, "{} of 100: all comes back with the processor", calm.ran);
}

#[test]
fn an_urgent_newcomer_may_not_break_an_earlier_promise() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    for job in 0..9 {
        add(&mut dispatcher, now, now + ms(930), job).unwrap();
    }
    assert!(matches!(add(&mut dispatcher, now, now + ms(300), 9), Err(Refusal::Late { .. })));
}

#[test]
fn a_deadline_below_the_work_itself_is_hopeless_and_not_called_overload() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(4, 50, 0), now);
    let refusal = add(&mut dispatcher, now, now + ms(20), 0).unwrap_err();
    assert_eq!(refusal, Refusal::Hopeless { needs: ms(50) });
}

#[test]
fn an_estimate_that_forbids_everything_is_put_to_the_test() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 9_000, 0), now);
    assert!(add(&mut dispatcher, now, now + ms(500), 0).is_err());
    let later = now + ms(1500);
    add(&mut dispatcher, later, later + ms(500), 1).unwrap();
    assert_eq!(dispatcher.next(later, 0, true).batch, [1]);
    dispatcher.release(0);
    for at in 0..300 {
        dispatcher.finish(later + ms(10 + at), 0, Some(1));
    }
    assert!(dispatcher.costs().seconds(1) < 9.0);
}

#[test]
fn jobs_that_became_too_late_are_shed_and_the_rest_runs() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    add(&mut dispatcher, now, now + ms(150), 1).unwrap();
    add(&mut dispatcher, now, now + ms(400), 2).unwrap();
    let turn = dispatcher.next(now + ms(120), 0, true);
    assert_eq!((turn.late, turn.batch, turn.expired), (vec![1], vec![2], vec![]));
}

#[test]
fn a_line_that_fell_behind_is_shed_at_once_and_only_as_far_as_needed() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(1, 0, 100), now);
    for job in 0..9 {
        add(&mut dispatcher, now, now + ms(1000), job).unwrap();
    }
    let turn = dispatcher.next(now + ms(450), 0, true);
    assert_eq!((turn.batch, turn.late), (vec![0], vec![5, 6, 7, 8]), "five fit into what is left");
}

#[test]
fn erratic_batches_make_the_door_stricter() {
    let now = Instant::now();
    let admitted = |jitter: u64| {
        let mut dispatcher = warm(100, affine(1, 0, 100), now);
        for round in 0..100 {
            add(&mut dispatcher, now, now + ms(60_000), 0).unwrap();
            dispatcher.next(now, 0, true);
            dispatcher.release(0);
            dispatcher.finish(now + ms(100 + jitter * (round % 2) - jitter / 2), 0, Some(1));
        }
        (0..50).take_while(|&job| add(&mut dispatcher, now, now + ms(1050), job).is_ok()).count()
    };
    assert_eq!(admitted(0), 10);
    assert!((6..9).contains(&admitted(40)), "{}", admitted(40));
}

#[test]
fn waits_for_a_member_that_is_nearly_there_and_no_longer() {
    let now = Instant::now();
    let mut dispatcher = warm(100, affine(8, 40, 1), now);
    let far = now + ms(60_000);
    // Preparation takes 2 ms, it learns.
    for job in 0..20 {
        let place = dispatcher.admit(now, &Terms::by(far), 1).unwrap()[0];
        dispatcher.received(place, now);
        dispatcher.submit(place, now + ms(2), job).unwrap();
        dispatcher.cancel(place);
    }
    add(&mut dispatcher, now, far, 1).unwrap();
    let coming = dispatcher.admit(now, &Terms::by(far), 1).unwrap()[0];
    dispatcher.received(coming, now);
    let turn = dispatcher.next(now + ms(1), 0, true);
    let wake = turn.wake.unwrap();
    assert!(turn.batch.is_empty() && wake <= now + ms(4), "{:?}", wake - now);
    assert_eq!(dispatcher.next(now + ms(1), 0, false).batch, [1], "nothing comes to a closed door");
    dispatcher.release(0);
    dispatcher.finish(now + ms(1), 0, None);
    add(&mut dispatcher, now, far, 2).unwrap();
    let turn = dispatcher.next(now + ms(6), 0, true);
    assert_eq!(turn.batch, [2], "the member is overdue");
}

#[test]
fn batch_work_yields_but_does_not_starve() {
    let now = Instant::now();
    let mut dispatcher = warm(1000, CostTable::unmeasured(1), now);
    let far = now + ms(60_000);
    let background = Terms { class: Class::Batch, ..Terms::by(far) };
    for job in 0..10 {
        let place = dispatcher.admit(now, &background, 1).unwrap()[0];
        dispatcher.submit(place, now, 1000 + job).unwrap();
    }
    let mut waited = Vec::new();
    for turn in 0..90u32 {
        add(&mut dispatcher, now, far, turn).unwrap();
        let ran = dispatcher.next(now, 0, true).batch;
        dispatcher.release(0);
        dispatcher.finish(now, 0, None);
        if ran[0] >= 1000 {
            waited.push(turn);
        }
    }
    assert_eq!(waited.len(), 10);
}

#[test]
fn busy_time_and_drain_are_told() {
    let now = Instant::now();
    let mut dispatcher = warm(10, affine(1, 0, 100), now);
    for job in 0..3 {
        add(&mut dispatcher, now, now + ms(10_000), job).unwrap();
    }
    assert_eq!(dispatcher.next(now, 0, true).batch, [0]);
    let later = now + ms(40);
    assert!((dispatcher.drain_seconds(later) - 0.26).abs() < 1e-9);
    assert!((dispatcher.busy_seconds(later) - 0.04).abs() < 1e-9);
    assert_eq!(dispatcher.batch_age(later), ms(40));
    assert_eq!((dispatcher.depth(), dispatcher.ready()), (3, 2));
    dispatcher.finish(later, 0, Some(1));
    assert_eq!(dispatcher.batch_age(later + ms(5)), Duration::ZERO, "none runs");
}

/// One thing that can happen to a pool.
#[derive(Debug, Clone)]
enum Event {
    Admit { slack: u64, client: u8, class: Class, count: usize },
    Submit(usize),
    Cancel(usize),
    Pass(u64),
    Finish(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let class = prop_oneof![Just(Class::Interactive), Just(Class::Batch)];
    prop_oneof![
        4 => (1u64..400, 0u8..3, class, 1usize..4)
            .prop_map(|(slack, client, class, count)| Event::Admit { slack, client, class, count }),
        4 => any::<usize>().prop_map(Event::Submit),
        1 => any::<usize>().prop_map(Event::Cancel),
        3 => (0u64..60).prop_map(Event::Pass),
        3 => any::<bool>().prop_map(Event::Finish),
    ]
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ran,
    Expired,
    Late,
    Cancelled,
}

struct World {
    now: Instant,
    dispatcher: Dispatcher<u32>,
    coming: Vec<Place>,
    waiting: Vec<(u32, Place)>,
    jobs: u32,
    fates: HashMap<u32, Fate>,
    running: Vec<Option<usize>>,
    max: usize,
}

impl World {
    fn settle(&mut self, jobs: Vec<u32>, fate: Fate) -> Result<(), TestCaseError> {
        for job in jobs {
            prop_assert_eq!(self.fates.insert(job, fate), None, "job {} left twice", job);
        }
        Ok(())
    }

    fn turn(&mut self, worker: usize) -> Result<bool, TestCaseError> {
        let before = self.dispatcher.ready();
        let turn = self.dispatcher.next(self.now, worker, true);
        prop_assert!(turn.batch.len() <= self.max);
        let deadlines: HashMap<u32, Instant> =
            self.waiting.iter().map(|(job, place)| (*job, place.deadline())).collect();
        for job in &turn.batch {
            prop_assert!(deadlines[job] > self.now, "job {} ran after its deadline", job);
        }
        for job in &turn.expired {
            prop_assert!(deadlines[job] <= self.now);
        }
        let left = turn.expired.len() + turn.late.len() + turn.batch.len();
        prop_assert_eq!(self.dispatcher.ready(), before - left);
        let idle = turn.batch.is_empty() && turn.wake.is_none();
        prop_assert!(!idle || self.dispatcher.ready() == 0, "an idle executor beside waiting jobs");
        if !turn.batch.is_empty() {
            self.running[worker] = Some(turn.batch.len());
        }
        let ran = !turn.batch.is_empty();
        self.settle(turn.expired, Fate::Expired)?;
        self.settle(turn.late, Fate::Late)?;
        self.settle(turn.batch, Fate::Ran)?;
        Ok(ran)
    }

    fn happen(&mut self, event: Event, hasher: &std::hash::RandomState) -> Result<(), TestCaseError> {
        match event {
            Event::Admit { slack, client, class, count } => {
                let client = crate::batch::Client::named(client, f64::from(client) + 1.0, hasher);
                let terms = Terms { deadline: self.now + ms(slack), class, client };
                if let Ok(places) = self.dispatcher.admit(self.now, &terms, count) {
                    prop_assert_eq!(places.len(), count);
                    self.coming.extend(places);
                }
            }
            Event::Submit(pick) if !self.coming.is_empty() => {
                let place = self.coming.swap_remove(pick % self.coming.len());
                prop_assert!(self.dispatcher.submit(place, self.now, self.jobs).is_ok());
                self.waiting.push((self.jobs, place));
                self.jobs += 1;
            }
            Event::Cancel(pick) if !self.waiting.is_empty() => {
                let (job, place) = self.waiting[pick % self.waiting.len()];
                if self.dispatcher.cancel(place) {
                    self.settle(vec![job], Fate::Cancelled)?;
                }
            }
            Event::Pass(millis) => self.now += ms(millis),
            Event::Finish(well) => {
                for worker in 0..self.running.len() {
                    if let Some(size) = self.running[worker].take() {
                        self.dispatcher.release(worker);
                        self.dispatcher.finish(self.now, worker, well.then_some(size));
                    }
                }
            }
            Event::Submit(_) | Event::Cancel(_) => {}
        }
        for worker in 0..self.running.len() {
            if self.running[worker].is_none() {
                self.turn(worker)?;
            }
        }
        let seats = self.dispatcher.depth();
        prop_assert!(seats <= 32, "{} seats", seats);
        Ok(())
    }
}

proptest! {
    /// Whatever happens in whatever order: every submitted job leaves exactly once, batches are bounded, nothing runs past
    /// its deadline, no executor idles beside jobs that it does not deliberately hold back, seats are bounded and all come back.
    #[test]
    fn every_job_has_exactly_one_fate(
        events in prop::collection::vec(event(), 1..200),
        max in 1usize..9,
        workers in 1usize..4,
        base in 0u64..40,
        slope in 0u64..20,
    ) {
        let now = Instant::now();
        let mut world = World {
            now,
            dispatcher: Dispatcher::new(32, workers, affine(max, base, slope)),
            coming: Vec::new(),
            waiting: Vec::new(),
            jobs: 0,
            fates: HashMap::new(),
            running: vec![None; workers],
            max,
        };
        let hasher = std::hash::RandomState::new();
        for event in events {
            world.happen(event, &hasher)?;
        }
        for place in std::mem::take(&mut world.coming) {
            prop_assert!(world.dispatcher.cancel(place));
        }
        for _ in 0..1000 {
            world.happen(Event::Finish(true), &hasher)?;
            world.now += ms(1);
        }
        prop_assert_eq!(world.fates.len(), world.jobs as usize);
        prop_assert_eq!(world.dispatcher.depth(), 0);
    }

    /// With equal deadlines and one client, first come is first served.
    #[test]
    fn equal_deadlines_are_first_come_first_served(
        bursts in prop::collection::vec((1usize..12, 0u64..50), 1..40),
        max in 1usize..9,
        base in 0u64..40,
        slope in 0u64..20,
    ) {
        let origin = Instant::now();
        let mut now = origin;
        let far = origin + Duration::from_secs(3600);
        let mut dispatcher = Dispatcher::new(1000, 1, affine(max, base, slope));
        let (mut jobs, mut ran) = (0, Vec::new());
        for (count, pause) in bursts {
            for _ in 0..count {
                add(&mut dispatcher, now, far, jobs).unwrap();
                jobs += 1;
            }
            now += ms(pause);
            let batch = dispatcher.next(now, 0, true).batch;
            dispatcher.release(0);
            dispatcher.finish(now, 0, None);
            ran.extend(batch);
        }
        prop_assert_eq!(ran.clone(), (0..ran.len() as u32).collect::<Vec<_>>());
    }

    /// However heavy the interactive load, a job of the batch class gets its turn within ten turns of its place in line.
    #[test]
    fn nobody_starves(background in 1u32..20, pressure in 1u32..5) {
        let now = Instant::now();
        let far = now + Duration::from_secs(3600);
        let mut dispatcher = Dispatcher::new(100_000, 1, CostTable::unmeasured(1));
        let terms = Terms { class: Class::Batch, ..Terms::by(far) };
        for job in 0..background {
            let place = dispatcher.admit(now, &terms, 1).unwrap()[0];
            dispatcher.submit(place, now, 1_000_000 + job).unwrap();
        }
        let mut done = 0;
        for turn in 0..10 * background {
            for _ in 0..pressure {
                add(&mut dispatcher, now, now + Duration::from_secs(60), turn).unwrap();
            }
            done += u32::from(dispatcher.next(now, 0, true).batch[0] >= 1_000_000);
            dispatcher.release(0);
            dispatcher.finish(now, 0, None);
        }
        prop_assert_eq!(done, background);
    }
}
