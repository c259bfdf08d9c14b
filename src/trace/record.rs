//! What is known of a request that has ended, and the spans that it becomes.
//!
//! Pure: stages are durations that the request carries anyway for `Server-Timing`; here they are put on the clock.
//! What a protocol calls things is its own to say, in [`Outcome`].

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use crate::service::Timeline;

/// Photos of one request whose stages become spans; of more, only the first.
const MAX_ELEMENTS: usize = 32;

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Never of a client's making.
    Text(Cow<'static, str>),
    /// A count or a status.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// A name and what it is.
pub type Attribute = (&'static str, Value);

/// From when, for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its beginning.
    pub began: Instant,
    /// Its length.
    pub took: Duration,
}

impl Stretch {
    /// Its end.
    pub fn ended(self) -> Instant {
        self.began + self.took
    }

    /// The part of it within `whole`.
    fn within(self, whole: Self) -> Self {
        let began = self.began.clamp(whole.began, whole.ended());
        Self { began, took: self.ended().clamp(began, whole.ended()) - began }
    }
}

/// What became of a request, in the words of its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The span's name: one of few.
    pub name: Cow<'static, str>,
    /// What it was and how it was answered.
    pub attributes: Vec<Attribute>,
    /// Whether the server is to blame.
    pub failed: bool,
}

/// A request that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What became of it.
    pub outcome: Outcome,
    /// From its head to its answer.
    pub whole: Stretch,
    /// Reading its body, where that is known.
    pub read: Option<Stretch>,
    /// Of its photos or questions, one each, where they were answered.
    pub timelines: Vec<Timeline>,
}

/// A part of a request's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// As in `Server-Timing`.
    pub name: &'static str,
    /// When.
    pub stretch: Stretch,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
}

impl Ended {
    /// The stages, within the request's own time: work that was shared with an earlier request may have begun before
    /// it.
    pub fn stages(&self) -> Vec<Stage> {
        let read = self.read.map(|stretch| Stage { name: "read", stretch, attributes: Vec::new() });
        let several = self.timelines.len() > 1;
        let elements = self.timelines.iter().take(MAX_ELEMENTS).enumerate();
        let elements = elements.flat_map(|(index, timeline)| {
            let mut stages = of(timeline);
            for stage in stages.iter_mut().filter(|_| several) {
                stage.attributes.push(("convoy.element", Value::Number(index as i64)));
            }
            stages
        });
        let mut stages: Vec<_> = read.into_iter().chain(elements).collect();
        for stage in &mut stages {
            stage.stretch = stage.stretch.within(self.whole);
        }
        stages
    }
}

/// The stages of one photo or question: each ends where the next begins, and execution began at a known moment.
fn of(timeline: &Timeline) -> Vec<Stage> {
    let Some(executed) = timeline.executed else { return Vec::new() };
    let mut ends = executed;
    let mut before = |name, took: Duration| {
        ends = ends.checked_sub(took).unwrap_or(ends);
        Stage { name, stretch: Stretch { began: ends, took }, attributes: Vec::new() }
    };
    let batch_wait = before("batch-wait", timeline.batch_wait);
    let queue = before("queue", timeline.queue);
    let decode = before("decode", timeline.decode);
    let mut attributes = vec![("convoy.batch.size", Value::Number(timeline.batch as i64))];
    if timeline.shared {
        attributes.push(("convoy.shared", Value::Flag(true)));
    }
    let stretch = Stretch { began: executed, took: timeline.execute };
    let execute = Stage { name: "execute", stretch, attributes };
    let optional = |stage: &Stage| !stage.stretch.took.is_zero();
    [Some(decode).filter(optional), Some(queue), Some(batch_wait).filter(optional), Some(execute)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ended(began: Instant, timelines: Vec<Timeline>) -> Ended {
        let outcome = Outcome { name: "POST /classify".into(), attributes: Vec::new(), failed: false };
        let read = Stretch { began: began + MS, took: 2 * MS };
        Ended { outcome, whole: Stretch { began, took: 100 * MS }, read: Some(read), timelines }
    }

    fn timeline(executed: Instant) -> Timeline {
        Timeline {
            decode: 5 * MS,
            queue: 10 * MS,
            batch_wait: 3 * MS,
            execute: 40 * MS,
            executed: Some(executed),
            batch: 4,
            shared: false,
        }
    }

    #[test]
    fn stages_follow_each_other_up_to_the_execution() {
        let began = Instant::now();
        let stages = ended(began, vec![timeline(began + 30 * MS)]).stages();
        let times: Vec<_> = stages
            .iter()
            .map(|stage| (stage.name, stage.stretch.began - began, stage.stretch.took))
            .collect();
        assert_eq!(
            times,
            [
                ("read", MS, 2 * MS),
                ("decode", 12 * MS, 5 * MS),
                ("queue", 17 * MS, 10 * MS),
                ("batch-wait", 27 * MS, 3 * MS),
                ("execute", 30 * MS, 40 * MS),
            ]
        );
        assert_eq!(stages[4].attributes, [("convoy.batch.size", Value::Number(4))]);
    }

    #[test]
    fn work_shared_with_an_earlier_request_is_cut_to_this_ones_time() {
        let began = Instant::now() + Duration::from_secs(1);
        let shared = Timeline { shared: true, ..timeline(began - 10 * MS) };
        let stages = ended(began, vec![shared]).stages();
        let execute = stages.last().unwrap();
        assert_eq!(execute.stretch, Stretch { began, took: 30 * MS });
        assert_eq!(execute.attributes[1], ("convoy.shared", Value::Flag(true)));
        assert!(stages.iter().all(|stage| stage.stretch.began >= began));
    }

    #[test]
    fn many_photos_are_numbered_and_bounded() {
        let began = Instant::now();
        let stages = ended(began, vec![timeline(began + 30 * MS); MAX_ELEMENTS + 5]).stages();
        assert_eq!(stages.len(), 1 + 4 * MAX_ELEMENTS);
        let last = stages.last().unwrap().attributes.last().unwrap();
        assert_eq!(*last, ("convoy.element", Value::Number(MAX_ELEMENTS as i64 - 1)));
    }

    #[test]
    fn a_request_that_never_ran_has_no_stages_but_reading() {
        let stages = ended(Instant::now(), vec![Timeline::default()]).stages();
        assert_eq!(stages.iter().map(|stage| stage.name).collect::<Vec<_>>(), ["read"]);
    }
}
