//! A run as figures, and how they are shown: a table, JSON, a page of HTML. Figures are computed here once, so that the
//! three cannot differ.

mod axis;
mod charts;
mod html;
mod plot;
mod summary;
mod table;

use serde::Serialize;

pub use html::page;
pub use summary::{CurvePoint, Latency, Moment, Summary};
pub use table::{step_line, table};

use super::{Arrivals, Goal, Pace, Plan, Recording, Step};

/// What a search for the highest rate found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// 99th percentile of latency to be kept, in milliseconds.
    pub goal_p99_ms: f64,
    /// The highest rate that kept it, in requests per second.
    pub rate: Option<f64>,
    /// Everything that was tried, in that order.
    pub steps: Vec<Step>,
}

/// Everything there is to report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of convoy that made it.
    pub version: &'static str,
    /// The run; with a search, the one at the highest rate that kept the goal, or the last one.
    pub run: Summary,
    /// With a search, what it found.
    pub search: Option<Found>,
}

impl Report {
    /// Of one run.
    pub fn of_run(plan: &Plan, recording: &Recording) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), run: Summary::new(plan, recording), search: None }
    }

    /// Of a search; `None` when it tried nothing.
    pub fn of_search(plan: &Plan, goal: &Goal, steps: &[(Step, Recording)]) -> Option<Self> {
        let kept = steps.iter().filter(|(step, _)| step.kept());
        let best = kept.max_by(|(a, _), (b, _)| a.rate.total_cmp(&b.rate));
        let (step, recording) = best.or(steps.last())?;
        let (arrivals, seed) = match plan.pace {
            Pace::Open { arrivals, seed, .. } => (arrivals, seed),
            Pace::Closed => (Arrivals::Poisson, 0),
        };
        let plan = Plan { pace: Pace::Open { rate: step.rate, arrivals, seed }, ..plan.clone() };
        let found = Found {
            goal_p99_ms: goal.p99.as_secs_f64() * 1e3,
            rate: best.map(|(step, _)| step.rate),
            steps: steps.iter().map(|(step, _)| step.clone()).collect(),
        };
        Some(Self { search: Some(found), ..Self::of_run(&plan, recording) })
    }

    /// As JSON, on several lines.
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("bug: figures and texts can be written as JSON") + "\n"
    }
}
