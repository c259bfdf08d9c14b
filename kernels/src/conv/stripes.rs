//! Steps that take an image some rows at a time, one after the other: what lies between them never leaves a core's own
//! cache. It finds such steps and hands out their rows; how a row is computed is the steps' affair.
//!
//! An inverted bottleneck (Sandler et al. 2018) widens its picture, convolves each channel of the wide one and narrows it
//! again; the wide pictures are several times larger than a second level cache. A member keeps the rows of them that the
//! next stripe needs again, so nothing is computed twice but where another member goes on.
#![allow(unsafe_code)]

use std::ops::Range;

use super::frame::{Frame, Scratch};
use super::map::Map;
use super::step::Step;
use super::team::share;

/// Most steps that go together.
const MOST: usize = 3;

/// Floats that the largest picture between the steps must have: twice a second level cache of 512 KiB. With smaller ones
/// the steps are as fast one after the other.
const LEAST: usize = 256 << 10;

/// Floats of all rows between the steps that a member holds: half a second level cache of 512 KiB, more or less.
const ROOM: usize = 72 << 10;

/// Steps that go through each image stripe by stripe.
#[derive(Debug)]
pub(super) struct Stripes {
    /// Which steps.
    pub(super) steps: Range<usize>,
    /// Stripes of an image.
    count: usize,
    /// Floats from the start of a member's memory to the rows that each step but the last writes.
    rows: [usize; MOST - 1],
    /// Floats of a member's memory.
    pub(super) floats: usize,
}

/// The rows of each picture between the steps that a member holds.
type Held = [Range<usize>; MOST - 1];

impl Stripes {
    /// All such steps in a list. The first `head` steps are not mixed with the others.
    pub(super) fn find(steps: &[Step], head: usize) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for at in 0..steps.len() {
            let ends = if at < head { head } else { steps.len() };
            if found.last().is_none_or(|last| last.steps.end <= at) {
                found.extend(Self::begin(steps, at, ends));
            }
        }
        found
    }

    /// The steps from `first` on, before `ends`: products before and after a depthwise convolution, which alone widens the
    /// rows needed.
    fn begin(steps: &[Step], first: usize, ends: usize) -> Option<Self> {
        let widens = |at: usize| steps.get(at).is_some_and(Step::is_depthwise);
        let depthwise = (first..first + 2).find(|&at| widens(at))?;
        if !(first..depthwise).all(|at| steps[at].by_rows()) {
            return None;
        }
        let follows = |end: usize| end <= ends && (first + 1..end).all(|at| joins(steps, first, at));
        let ends_apart = |end: usize| steps[end - 1].target.slot != steps[first].source.slot;
        let end = (depthwise + 1..=depthwise + 2).rev().find(|&end| follows(end) && ends_apart(end))?;
        let between = &steps[first..end - 1];
        let largest = between.iter().map(|step| step.target.map.floats()).max()?;
        (largest >= LEAST).then(|| Self::cut(steps, first..end))
    }

    /// As few stripes as leave a member's rows in its cache.
    fn cut(steps: &[Step], range: Range<usize>) -> Self {
        let height = steps[range.end - 1].target.map.height();
        let of = |count: usize| Self { steps: range.clone(), count, rows: [0; MOST - 1], floats: 0 };
        let fits = (1..height).map(|count| of(count).measured(steps)).find(|cut| cut.floats <= ROOM);
        fits.unwrap_or_else(|| of(height).measured(steps))
    }

    /// With room for as many rows as any stripe needs.
    fn measured(mut self, steps: &[Step]) -> Self {
        let height = steps[self.steps.end - 1].target.map.height();
        let mut most = [0; MOST - 1];
        for stripe in 0..self.count {
            let mut held = Held::default();
            let _ = needs(&steps[self.steps.clone()], share(height, self.count, stripe), &mut held);
            most.iter_mut().zip(held).for_each(|(most, held)| *most = held.len().max(*most));
        }
        self.floats = 0;
        for ((at, step), rows) in self.rows.iter_mut().zip(&steps[self.steps.clone()]).zip(most) {
            *at = self.floats;
            self.floats += rows * step.target.map.row();
        }
        self
    }

    /// Whether the step writes rows that no other step sees.
    pub(super) fn hides(&self, step: usize) -> bool {
        self.steps.contains(&step) && step + 1 < self.steps.end
    }

    /// Does one member's part of the steps; when it returns, all members have done theirs.
    ///
    /// # Safety
    /// As [`Step::run`] for each of the steps, but that places between them need no slots; each member has
    /// [`Self::floats`] at `memory` floats into the arena for itself.
    pub(super) unsafe fn run(&self, steps: &[Step], frame: &Frame<'_>, scratch: &mut Scratch, memory: usize) {
        let height = steps[self.steps.end - 1].target.map.height();
        let (mut held, mut before) = (Held::default(), None);
        frame.member.for_each(frame.batch * self.count, |at| {
            let (image, stripe) = (at / self.count, at % self.count);
            if stripe == 0 || before != Some(at - 1) {
                held = Held::default();
            }
            before = Some(at);
            let rows = share(height, self.count, stripe);
            // SAFETY: the image is in the batch, the rows are in the picture and, as stripes are disjoint, nobody else's;
            // the rest is the caller's promise.
            unsafe { self.stripe(steps, frame, scratch, memory, image, rows, &mut held) };
        });
    }

    /// Computes some rows of the last step's target.
    ///
    /// # Safety
    /// As [`Self::run`]; nobody else computes these rows of this image, and `held` tells which rows this member's memory
    /// holds of it.
    #[allow(
        clippy::too_many_arguments,
        reason = "the operands of the steps and the part of them that is meant"
    )]
    unsafe fn stripe(
        &self,
        steps: &[Step],
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        memory: usize,
        image: usize,
        rows: Range<usize>,
        held: &mut Held,
    ) {
        let steps = &steps[self.steps.clone()];
        let had = held.clone();
        let fresh = needs(steps, rows, held);
        let row = |at: usize| steps[at].target.map.row();
        for (at, (had, has)) in had.iter().zip(&*held).enumerate() {
            let kept = has.start..had.end.max(has.start);
            if has.start > had.start && !kept.is_empty() {
                // SAFETY: the member's memory has room for the rows that it held and for those it holds.
                unsafe {
                    let rows = frame.arena.0.add(memory + self.rows[at]);
                    std::ptr::copy(rows.add((kept.start - had.start) * row(at)), rows, kept.len() * row(at));
                }
            }
        }
        let mut slots = std::mem::take(&mut scratch.slots);
        for (at, (step, fresh)) in steps.iter().zip(fresh).enumerate() {
            slots.clear();
            slots.extend_from_slice(frame.slots);
            // Where the first row of the picture would be, before the member's memory perhaps: only rows that are held
            // are touched.
            let between = |at: usize| {
                (memory + self.rows[at]).wrapping_sub(held[at].start * steps[at].target.map.row())
            };
            let whole = |slot: usize, map: &Map| frame.slots[slot] + image * map.floats();
            let places = [Some(step.source), step.addend, Some(step.target)];
            for place in places.into_iter().flatten() {
                slots[place.slot] = whole(place.slot, &place.map);
            }
            if at > 0 {
                slots[step.source.slot] = between(at - 1);
            }
            if at + 1 < steps.len() {
                slots[step.target.slot] = between(at);
            }
            let frame = Frame { slots: &slots, batch: 1, ..*frame };
            // SAFETY: the source's rows that these need were written before, by this member where they are its own; the
            // target's rows are this member's; `begin` saw to it that no place but these two and the addend is used.
            unsafe { step.run_rows(&frame, scratch, fresh) };
        }
        scratch.slots = slots;
    }
}

/// Whether a step reads only what the one before it wrote, and nobody else does.
fn joins(steps: &[Step], first: usize, at: usize) -> bool {
    let (between, step) = (steps[at - 1].target, &steps[at]);
    let narrow = step.is_depthwise() || step.is_pixelwise();
    let reads_others = |place: super::step::Place| {
        let hidden = steps[first..at].iter().any(|earlier| earlier.target.slot == place.slot);
        // What the first step reads may be added at the end, but not written over.
        hidden && steps[first].source != place
    };
    narrow
        && step.source == between
        && steps[at - 1].addend.is_none()
        && step.addend.is_none_or(|place| !reads_others(place))
        && is_dead(&steps[at + 1..], between.slot)
}

/// Whether what lies in a slot is written over before anybody reads it.
fn is_dead(later: &[Step], slot: usize) -> bool {
    for step in later {
        if step.source.slot == slot || step.addend.is_some_and(|place| place.slot == slot) {
            return false;
        }
        if step.target.slot == slot {
            return true;
        }
    }
    true
}

/// The rows that each step has to compute for `rows` of the last one's target, where those that are `held` are there
/// already; `held` is brought to what will be held then.
fn needs(steps: &[Step], rows: Range<usize>, held: &mut Held) -> [Range<usize>; MOST] {
    let last = steps.len() - 1;
    let mut fresh: [Range<usize>; MOST] = Default::default();
    fresh[last] = rows;
    for at in (0..last).rev() {
        if fresh[at + 1].is_empty() {
            fresh[at] = held[at].end..held[at].end;
            continue;
        }
        let need = steps[at + 1].reads(fresh[at + 1].clone());
        let start = if held[at].contains(&need.start) { held[at].end } else { need.start };
        fresh[at] = start..need.end.max(start);
        held[at] = need.start..fresh[at].end;
    }
    fresh
}
