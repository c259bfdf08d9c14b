//! The decisions, as pure functions of what waits, what is known to come, and what batches cost: how many jobs run now,
//! and whether to wait a moment for one that is on its way.
//!
//! Times are seconds from now. Who is next is [`super::lineup`]'s, when somebody would be done [`super::forecast`]'s; nothing
//! here waits, locks or reads a clock.

use super::CostTable;

/// A batch size is not used when a job costs this much more in it than at the best smaller size.
pub(super) const WASTE: f64 = 1.10;

/// A batch leaves fewer jobs behind than it takes only if it costs a job this much less than taking all: a table is
/// measured, and hardly more exact, and those few would wait for two batches instead of one.
const GAIN: f64 = 1.03;

/// What is known when an executor is idle.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Jobs that could run now, at least 1.
    pub ready: usize,
    /// When members on their way are expected, rising.
    pub coming: &'a [f64],
    /// Until the earliest deadline of a ready job.
    pub slack: f64,
    /// Jobs that have come since an executor last had nothing to do: the longer that is, the more are likely to follow.
    pub streak: usize,
    /// What batches cost.
    pub costs: &'a CostTable,
}

/// What to do with an idle executor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// Run this many jobs now.
    Run(usize),
    /// Look again after this long, or when something arrives.
    Wait(f64),
}

/// Starts at once, unless waiting for members that are on their way makes everybody's answers come sooner in sum.
pub fn decide(view: &View<'_>) -> Decision {
    let size = batch_size(view);
    if size < view.ready || size == view.costs.max_batch() {
        return Decision::Run(size);
    }
    match worth_waiting(view) {
        Some(seconds) => Decision::Wait(seconds),
        None => Decision::Run(size),
    }
}

/// How long to wait, if that lowers the sum of all completion times: of the ready jobs, and of those members that would
/// otherwise have to sit out the batch that could start now.
fn worth_waiting(view: &View<'_>) -> Option<f64> {
    let costs = view.costs;
    let room = costs.max_batch();
    let now = costs.seconds(view.ready);
    let affected = view.coming.iter().take_while(|&&at| at < now).count().min(room);
    let last = *view.coming[..affected].last()?;
    let total = |joining: usize| -> f64 {
        let start = if joining == 0 { 0.0 } else { view.coming[joining - 1] };
        let done = start + costs.seconds(view.ready + joining);
        let rest = affected - joining;
        (view.ready + joining) as f64 * done + rest as f64 * (done.max(last) + costs.seconds(rest))
    };
    let mut best = (total(0), None);
    for joining in 1..=affected.min(room - view.ready) {
        let start = view.coming[joining - 1];
        let in_time = start + costs.seconds(view.ready + joining) <= view.slack || now > view.slack;
        let sum = total(joining);
        if in_time && sum < best.0 {
            best = (sum, Some(start));
        }
    }
    best.1
}

/// How many of the ready jobs to run. Smaller than the best size if the most urgent job would miss its deadline otherwise
/// and little is lost.
fn batch_size(view: &View<'_>) -> usize {
    let most = view.ready.min(view.costs.max_batch());
    let chosen = retried(view.costs, most, best_size(view, most));
    if view.costs.seconds(chosen) <= view.slack {
        return chosen;
    }
    let floor = WASTE * view.costs.best_per_job(most);
    let in_time =
        |size: &usize| view.costs.seconds(*size) <= view.slack && view.costs.per_job(*size) <= floor;
    (1..chosen).rev().find(in_time).unwrap_or(chosen)
}

/// The size that costs the least time in sum: of the ready jobs until all are done, and of those that follow, which every
/// second spent on the ready ones delays. As many are expected to follow as have come in this streak, since what has
/// lasted long is likely to last as long again. So a few jobs after a quiet time are brought home as soon as they can be,
/// in small batches where large ones gain little, and a device that cannot rest works as efficiently as it can.
fn best_size(view: &View<'_>, most: usize) -> usize {
    let costs = view.costs;
    if costs.best_per_job(most) <= 0.0 {
        return most;
    }
    let largest = (1..=most).rev().find(|&size| is_thrifty(costs, size)).unwrap_or(most);
    let halves = |size: usize| 2 * size <= largest;
    let gains = |size: usize| GAIN * costs.per_job(size) < costs.per_job(largest);
    let smaller = (1..largest).filter(|&size| is_thrifty(costs, size) && (halves(size) || gains(size)));
    let sum = |size: usize| {
        let delays = view.streak as f64 * view.ready as f64 * costs.per_job(size);
        completions(costs, view.ready, size) + delays
    };
    smaller.chain([largest]).min_by(|&a, &b| sum(a).total_cmp(&sum(b))).unwrap_or(most)
}

/// The sum of the completion times of `jobs` in batches of `size` and what is left over.
fn completions(costs: &CostTable, jobs: usize, size: usize) -> f64 {
    let (full, rest) = ((jobs / size) as f64, jobs % size);
    let batch = costs.seconds(size);
    size as f64 * batch * full * (full + 1.0) / 2.0 + rest as f64 * (full * batch + costs.seconds(rest))
}

/// Whether a job costs little more at `size` than at the best smaller one.
fn is_thrifty(costs: &CostTable, size: usize) -> bool {
    costs.per_job(size) <= WASTE * costs.best_per_job(size)
}

/// A size above `chosen` gets a try when nothing is known of it, or its estimate rules it out and is too old to do so.
fn retried(costs: &CostTable, most: usize, chosen: usize) -> usize {
    let worth_a_try =
        |size: &usize| costs.is_unknown(*size) || costs.is_stale(*size) && !is_thrifty(costs, *size);
    (chosen + 1..=most).rev().find(worth_a_try).unwrap_or(chosen)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn table(millis: &[f64]) -> CostTable {
        let points = millis.iter().enumerate();
        CostTable::from_points(
            millis.len(),
            points.map(|(index, ms)| (index + 1, Duration::from_secs_f64(ms / 1e3))),
        )
    }

    /// `base` and `slope` milliseconds.
    fn affine(max: usize, base: f64, slope: f64) -> CostTable {
        table(&(1..=max).map(|size| base + slope * size as f64).collect::<Vec<_>>())
    }

    fn view(costs: &CostTable, ready: usize) -> View<'_> {
        View { ready, coming: &[], slack: 60.0, streak: ready, costs }
    }

    #[test]
    fn a_lone_job_starts_at_once() {
        for costs in [affine(8, 10.0, 1.0), affine(8, 0.0, 100.0), CostTable::unmeasured(8)] {
            assert_eq!(decide(&view(&costs, 1)), Decision::Run(1));
        }
    }

    #[test]
    fn an_unmeasured_executor_takes_what_there_is() {
        let costs = CostTable::unmeasured(8);
        assert_eq!(decide(&view(&costs, 5)), Decision::Run(5));
        assert_eq!(decide(&view(&costs, 50)), Decision::Run(8));
    }

    #[test]
    fn no_size_wastes_a_tenth_and_the_rest_waits() {
        let mut millis: Vec<f64> = (1..=40).map(|size| 4.0 + 0.25 * f64::from(size)).collect();
        millis[32..].iter_mut().for_each(|ms| *ms += 8.0);
        let costs = table(&millis);
        assert_eq!(decide(&view(&costs, 33)), Decision::Run(32), "33 costs three fifths more than 32");
        assert_eq!(decide(&view(&costs, 40)), Decision::Run(32));
        let smooth = affine(40, 4.0, 0.25);
        assert_eq!(decide(&view(&smooth, 33)), Decision::Run(33), "32 + 1 is dearer");
    }

    #[test]
    fn where_batches_gain_nothing_one_at_a_time_answers_soonest() {
        let linear = affine(8, 0.0, 100.0);
        assert_eq!(decide(&view(&linear, 8)), Decision::Run(1));
        assert_eq!(decide(&View { streak: 1_000_000, ..view(&linear, 8) }), Decision::Run(1));
    }

    #[test]
    fn the_longer_a_streak_the_more_efficiency_counts() {
        // One at a time costs 110 ms a job, eight at a time 101.
        let nearly_linear = affine(8, 10.0, 100.0);
        let after = |streak| decide(&View { streak, ..view(&nearly_linear, 8) });
        assert_eq!([8, 100, 1000].map(after), [Decision::Run(2), Decision::Run(4), Decision::Run(8)]);
        let steep = affine(8, 100.0, 100.0);
        assert_eq!(decide(&View { streak: 20, ..view(&steep, 8) }), Decision::Run(8));
    }

    #[test]
    fn nobody_is_left_behind_for_the_jitter_of_a_table() {
        let mut millis: Vec<f64> = (1..=32).map(|size| 4.0 + 0.25 * f64::from(size)).collect();
        millis[26] *= 0.98;
        assert_eq!(decide(&view(&table(&millis), 29)), Decision::Run(29));
        millis[26] *= 0.9;
        assert_eq!(decide(&view(&table(&millis), 29)), Decision::Run(27), "that is more than jitter");
    }

    #[test]
    fn an_urgent_job_gets_a_smaller_batch_only_if_little_is_lost() {
        let linear = affine(8, 5.0, 100.0);
        let urgent = View { slack: 0.35, streak: 1000, ..view(&linear, 8) };
        assert_eq!(decide(&urgent), Decision::Run(3));
        let gpu = affine(8, 100.0, 5.0);
        assert_eq!(decide(&View { slack: 0.11, ..view(&gpu, 8) }), Decision::Run(8));
    }

    #[test]
    fn waits_for_what_is_coming_only_if_that_pays() {
        let gpu = affine(8, 4.0, 0.1);
        let soon = [0.000_3];
        assert_eq!(decide(&View { coming: &soon, ..view(&gpu, 1) }), Decision::Wait(0.000_3));
        let later = [0.003];
        assert_eq!(
            decide(&View { coming: &later, ..view(&gpu, 1) }),
            Decision::Run(1),
            "3 ms for two to gain 1 ms"
        );
        let crowd = [0.000_3, 0.000_4, 0.000_5, 0.003_9];
        assert_eq!(decide(&View { coming: &crowd, ..view(&gpu, 2) }), Decision::Wait(0.000_5));
        let cpu = affine(8, 1.0, 100.0);
        assert_eq!(decide(&View { coming: &soon, ..view(&cpu, 1) }), Decision::Run(1));
        let urgent = View { coming: &soon, slack: 0.004_2, ..view(&gpu, 1) };
        assert_eq!(decide(&urgent), Decision::Run(1), "waiting would cost its deadline");
    }

    #[test]
    fn an_old_grudge_is_given_another_try() {
        let mut costs =
            CostTable::from_points(2, [(1, Duration::from_millis(10)), (2, Duration::from_secs(9))]);
        let saturated = |costs: &CostTable| decide(&View { streak: 1000, ..view(costs, 2) });
        assert_eq!(saturated(&costs), Decision::Run(1));
        for _ in 0..300 {
            costs.record(1, Duration::from_millis(10));
        }
        assert_eq!(saturated(&costs), Decision::Run(2));
        costs.record(2, Duration::from_millis(12));
        assert_eq!(saturated(&costs), Decision::Run(2), "and kept, as it proved good");
    }
}
