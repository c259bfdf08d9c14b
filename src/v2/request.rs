//! An infer request, whichever way it came, and which of its model's outputs it wants.
//!
//! What inputs mean to a model is not known here; the values of tensors are [`super::tensor`]'s.

use std::time::{Duration, Instant};

use super::{Error, tensor::Data};
use crate::batch::{Class, Terms};

/// An infer request.
#[derive(Debug)]
pub struct Request {
    /// Urgency and deadline.
    pub parameters: Parameters,
    /// Its tensors.
    pub inputs: Vec<Input>,
    /// What to answer; all where there are none.
    pub wanted: Vec<Wanted>,
}

/// What a request says of its urgency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Microseconds until the answer is worth nothing; 0 says nothing.
    pub timeout: Option<u64>,
    /// 1 is the most urgent, 0 says nothing.
    pub priority: Option<u64>,
}

/// One input tensor.
#[derive(Debug)]
pub struct Input {
    /// As the request calls it.
    pub name: String,
    /// As the request calls it.
    pub datatype: String,
    /// Batch first.
    pub shape: Vec<u64>,
    /// Its elements.
    pub data: Data,
}

/// An output that a request asks for.
#[derive(Debug)]
pub struct Wanted {
    /// As the request calls it.
    pub name: String,
    /// As the best so many classes instead of as a tensor of numbers; 0 says nothing.
    pub classification: usize,
}

/// One output that is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) name: &'static str,
    pub(super) classes: Option<usize>,
}

impl Parameters {
    /// What is left of `terms`, of a request that arrived at `arrived`: a deadline may only come closer.
    pub fn change(self, terms: &Terms, arrived: Instant) -> Terms {
        let terms = tightened(self.timeout, terms, arrived).unwrap_or(*terms);
        Terms { class: class_of(self.priority, terms.class), ..terms }
    }
}

/// The earlier deadline that `timeout`, in microseconds, asks for, if it does.
pub fn tightened(timeout: Option<u64>, terms: &Terms, arrived: Instant) -> Option<Terms> {
    let wait = timeout.filter(|micros| *micros > 0).map(Duration::from_micros)?;
    let deadline = arrived.checked_add(wait)?;
    (deadline < terms.deadline).then_some(Terms { deadline, ..*terms })
}

/// The most urgent priority is interactive, all others are batch; 0 leaves what the head says.
fn class_of(priority: Option<u64>, asked: Class) -> Class {
    match priority {
        None | Some(0) => asked,
        Some(1) => Class::Interactive,
        Some(_) => Class::Batch,
    }
}

impl Request {
    /// About as many bytes as it takes until it is scored, beside the body that it came in.
    pub fn memory(&self) -> usize {
        let inputs = self.inputs.iter().map(|input| {
            let sides = input.shape.len() * size_of::<u64>();
            input.data.memory(&input.datatype) + input.name.len() + input.datatype.len() + sides
        });
        inputs.sum::<usize>() + self.wanted.iter().map(|output| output.name.len()).sum::<usize>()
    }

    /// The outputs to answer, in the order asked for, of those in `known`; only `ranked` can be had as classes.
    pub(super) fn picked(&self, known: &[&'static str], ranked: &str) -> Result<Vec<Picked>, Error> {
        if self.wanted.is_empty() {
            return Ok(known.iter().map(|name| Picked { name, classes: None }).collect());
        }
        let mut picked: Vec<Picked> = Vec::new();
        for output in &self.wanted {
            let named = known.iter().find(|name| **name == output.name).ok_or_else(|| {
                Error::invalid(format!(
                    "unknown output `{}`; known: {}",
                    short(&output.name),
                    known.join(", ")
                ))
            })?;
            if picked.iter().any(|earlier| earlier.name == *named) {
                return Err(Error::invalid(format!("output `{named}` is asked for twice")));
            }
            let classes = Some(output.classification).filter(|classes| *classes > 0);
            if classes.is_some() && *named != ranked {
                return Err(Error::invalid(format!(
                    "output `{named}` has no classification; `{ranked}` has"
                )));
            }
            picked.push(Picked { name: named, classes });
        }
        Ok(picked)
    }
}

/// Refuses a tensor whose values the client has put into shared memory.
///
/// # Errors
/// It has.
pub fn refuse_shared_memory(asked: bool, tensor: &str) -> Result<(), Error> {
    match asked {
        true => Err(Error::invalid(format!("`{}`: shared memory is not supported", short(tensor)))),
        false => Ok(()),
    }
}

/// Most bytes of a request's id: it is kept while the request waits, and sent back.
pub const MAX_ID: usize = 1 << 10;

/// # Errors
/// The id of a request is longer than [`MAX_ID`].
pub fn check_id(id: &str) -> Result<(), Error> {
    match id.len() {
        length if length > MAX_ID => {
            Err(Error::invalid(format!("`id` has {length} bytes; at most {MAX_ID} are sent back")))
        }
        _ => Ok(()),
    }
}

/// A client's word, cut to a length fit for a message.
pub fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_one_is_interactive_and_zero_says_nothing() {
        for asked in [Class::Interactive, Class::Batch] {
            assert_eq!((class_of(None, asked), class_of(Some(0), asked)), (asked, asked));
            assert_eq!(class_of(Some(1), asked), Class::Interactive);
            assert_eq!(
                (class_of(Some(2), asked), class_of(Some(u64::MAX), asked)),
                (Class::Batch, Class::Batch)
            );
        }
    }

    #[test]
    fn a_request_can_only_shorten_the_deadline() {
        let now = Instant::now();
        let terms = Terms::by(now + Duration::from_secs(1));
        let asked = |timeout| tightened(timeout, &terms, now).map(|terms| terms.deadline - now);
        assert_eq!(asked(Some(5_000)), Some(Duration::from_millis(5)));
        assert_eq!(
            (asked(None), asked(Some(0)), asked(Some(9_000_000)), asked(Some(u64::MAX))),
            (None, None, None, None)
        );
    }

    #[test]
    fn outputs_are_picked_in_the_order_asked_for() {
        let wanted = |name: &str, classification| Wanted { name: name.to_owned(), classification };
        let picked = |wanted| {
            Request { parameters: Parameters::default(), inputs: Vec::new(), wanted }.picked(&["p", "q"], "p")
        };
        let plain = |name| Picked { name, classes: None };
        assert_eq!(picked(vec![]).unwrap(), [plain("p"), plain("q")]);
        assert_eq!(picked(vec![wanted("q", 0), wanted("p", 0)]).unwrap(), [plain("q"), plain("p")]);
        assert_eq!(picked(vec![wanted("p", 2)]).unwrap(), [Picked { name: "p", classes: Some(2) }]);
        for bad in [vec![wanted("r", 0)], vec![wanted("p", 0), wanted("p", 0)], vec![wanted("q", 1)]] {
            assert!(picked(bad).is_err());
        }
    }
}
