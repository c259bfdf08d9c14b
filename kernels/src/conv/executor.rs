//! Runs a list of steps: owns the arena, the scratch and the team, all sized once for the largest batch.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::ConvError;
use super::buffer::Buffer;
use super::frame::{ArenaPtr, Frame, Scratch};
use super::lanes::Isa;
use super::map::Map;
use super::micro::MicroKernels;
use super::step::{Place, Step};
use super::stripes::Stripes;
use super::team::Team;

/// How a network is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// Most images of a run, at least one.
    pub max_batch: usize,
    /// Threads that work, the caller's included; at least one.
    pub threads: usize,
    /// The instructions to use.
    pub isa: Isa,
    /// Steps that a few images go through together before the next few do.
    pub head: Head,
}

/// The first steps of a network, where activations outweigh weights: they stay in the caches when only some images of a
/// batch are at it at once. The rest of the steps, where weights outweigh, see the whole batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// How many steps; the last one's target must have a slot that none of the others uses.
    pub steps: usize,
    /// How many images go together, at least one.
    pub images: usize,
}

/// Some images on their way through some steps.
#[derive(Debug)]
struct Pass {
    steps: Range<usize>,
    images: Range<usize>,
    /// Floats from the start of the arena to the first of these images in each slot.
    slots: Vec<usize>,
}

/// A network ready to run.
#[derive(Debug)]
pub struct Executor {
    steps: Vec<Step>,
    input: Place,
    output: Place,
    max_batch: usize,
    isa: Isa,
    arena: Buffer,
    /// How a full batch goes through the steps.
    passes: Vec<Pass>,
    /// Steps that go together within a pass.
    stripes: Vec<Stripes>,
    /// Floats from the start of the arena to what the first member has for itself, and from there to the next member's.
    own: (usize, usize),
    zeros: Buffer,
    shared: Buffer,
    scratch: Vec<Mutex<Scratch>>,
    team: Team,
}

impl Executor {
    /// Lays out the memory of the steps. The first step's source is the network's input, the last one's target its
    /// output. Steps run in order; each slot is as large as the largest map that is put there.
    ///
    /// # Errors
    /// There is nothing to run, an input border is shared with other activations, or there are no threads to be had.
    pub fn new(steps: Vec<Step>, options: ExecutorOptions) -> Result<Self, ConvError> {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Err(ConvError::Empty) };
        let (input, output) = (first.source, last.target);
        let max_batch = options.max_batch.max(1);
        // Borders are zeros that nobody renews.
        let bordered = |place: &Place| place.slot == input.slot && *place != input;
        if input.map.border() > 0 && steps.iter().flat_map(Step::places).any(|place| bordered(&place)) {
            return Err(ConvError::Operands);
        }
        let stripes = Stripes::find(&steps, options.head.steps);
        let (passes, length) = layout(&steps, &stripes, options.head, max_batch)?;
        let most = |need: &dyn Fn(&Step) -> usize| steps.iter().map(need).max().unwrap_or(0);
        let zeros = most(&|step| step.source.map.stride());
        let (pointers, floats) = (most(&Step::pointers), most(&Step::floats));
        let shared = most(&|step| (1..=max_batch).map(|batch| step.shared(batch)).max().unwrap_or(0));
        let slots = passes[0].slots.len();
        let scratch = || Scratch {
            pointers: vec![std::ptr::null(); pointers],
            floats: Buffer::zeros(floats),
            slots: Vec::with_capacity(slots),
        };
        let team = Team::new(options.threads).map_err(ConvError::Threads)?;
        let own = stripes.iter().map(|stripes| stripes.floats).max().unwrap_or(0).next_multiple_of(16);
        Ok(Self {
            input,
            output,
            max_batch,
            isa: options.isa,
            arena: Buffer::zeros(length + own * team.members()),
            passes,
            stripes,
            own: (length, own),
            zeros: Buffer::zeros(zeros),
            shared: Buffer::zeros(shared),
            scratch: (0..team.members()).map(|_| Mutex::new(scratch())).collect(),
            team,
            steps,
        })
    }

    /// Layout of an input image.
    pub fn input_map(&self) -> Map {
        self.input.map
    }

    /// Layout of an output image.
    pub fn output_map(&self) -> Map {
        self.output.map
    }

    /// Most images of a run.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Name of the instruction set in use.
    pub fn instructions(&self) -> &'static str {
        self.isa.name()
    }

    /// Bytes of packed weights and biases.
    pub fn weight_bytes(&self) -> usize {
        self.steps.iter().map(Step::weight_bytes).sum()
    }

    /// Bytes of activations and scratch, weights not counted.
    pub fn working_bytes(&self) -> usize {
        let scratch = self.scratch.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner));
        let scratch: usize =
            scratch.map(|s| size_of_val(s.floats.floats()) + size_of_val(s.pointers.as_slice())).sum();
        size_of_val(self.arena.floats()) + size_of_val(self.shared.floats()) + scratch
    }

    /// The input of the `image`th of a batch, to be filled before a run: [`Executor::input_map`]'s floats. Its border
    /// must stay zero.
    ///
    /// # Panics
    /// When `image` is not below [`Executor::max_batch`].
    pub fn input(&mut self, image: usize) -> &mut [f32] {
        assert!(image < self.max_batch, "image {image} of {}", self.max_batch);
        let floats = self.input.map.floats();
        let start = self.passes[0].slots[self.input.slot] + image * floats;
        &mut self.arena.floats_mut()[start..][..floats]
    }

    /// The output of the `image`th of the last run, [`Executor::output_map`]'s floats.
    ///
    /// # Panics
    /// When `image` is not below [`Executor::max_batch`].
    pub fn output(&self, image: usize) -> &[f32] {
        assert!(image < self.max_batch, "image {image} of {}", self.max_batch);
        let floats = self.output.map.floats();
        let last = self.passes.last().expect("bug: there is always a pass");
        let start = last.slots[self.output.slot] + image * floats;
        &self.arena.floats()[start..][..floats]
    }

    /// Runs all steps on the first `batch` inputs. Inputs may be overwritten where their slot is used again.
    ///
    /// # Panics
    /// When `batch` exceeds [`Executor::max_batch`].
    pub fn run(&mut self, batch: usize) {
        self.run_timed(batch, |_| ());
    }

    /// Runs all steps as [`Executor::run`] does and tells `done` after each which one it was, after steps that go together
    /// the last of them; for measuring.
    ///
    /// # Panics
    /// As [`Executor::run`].
    pub fn run_timed(&mut self, batch: usize, done: impl Fn(usize) + Sync) {
        assert!(batch <= self.max_batch, "{batch} images of {}", self.max_batch);
        let arena = ArenaPtr(self.arena.floats_mut().as_mut_ptr());
        let shared = ArenaPtr(self.shared.floats_mut().as_mut_ptr());
        let (steps, passes, zeros) = (&self.steps, &self.passes, &self.zeros);
        let (stripes, own) = (&self.stripes, self.own);
        let (isa, scratch) = (self.isa, &self.scratch);
        self.team.run(&|member| {
            let kernels = MicroKernels::of(isa);
            let zeros = zeros.floats();
            let (arena, shared) = (arena, shared);
            let mut scratch = scratch[member.index()].lock().unwrap_or_else(PoisonError::into_inner);
            for pass in passes.iter().filter(|pass| pass.images.start < batch) {
                let (slots, batch) = (pass.slots.as_slice(), pass.images.end.min(batch) - pass.images.start);
                let frame = Frame { arena, slots, zeros, shared, kernels, isa, batch, member };
                let mut at = pass.steps.start;
                while at < pass.steps.end {
                    let together = stripes.iter().find(|stripes| stripes.steps.start == at);
                    // SAFETY: `layout` gave every slot room for each of its maps as often as a pass has images, side by
                    // side, and `new` each member floats for stripes behind them; `new` sized scratch and zeros by the
                    // steps' needs at every batch up to there; `self` is borrowed exclusively, so that only this team is
                    // at the arena; all members do the same steps.
                    unsafe {
                        match together {
                            Some(stripes) => {
                                stripes.run(steps, &frame, &mut scratch, own.0 + member.index() * own.1);
                            }
                            None => steps[at].run(&frame, &mut scratch),
                        }
                    }
                    at = together.map_or(at + 1, |stripes| stripes.steps.end);
                    if member.index() == 0 {
                        done(at - 1);
                    }
                }
            }
        });
    }
}

/// The passes of a full batch, and how many floats the slots have together.
fn layout(
    steps: &[Step],
    stripes: &[Stripes],
    head: Head,
    max_batch: usize,
) -> Result<(Vec<Pass>, usize), ConvError> {
    let lasting = lasting(steps, head)?;
    let lasts = |slot: usize| lasting.iter().flatten().find(|place| place.slot == slot);
    let group = head.images.clamp(1, max_batch);
    let images = |step: usize, place: &Place| {
        let between = |stripes: &Stripes| {
            let hidden = stripes.hides(step) && steps[step].target == *place;
            hidden || step > 0 && stripes.hides(step - 1) && steps[step].source == *place
        };
        match step < head.steps && lasts(place.slot).is_none() {
            _ if stripes.iter().any(between) => 0,
            true => group,
            false => max_batch,
        }
    };
    let (slots, length) = slots(steps, images)?;
    let shifted = |start: usize| -> Vec<usize> {
        let shift = |slot: usize| lasts(slot).map_or(0, |place| start * place.map.floats());
        slots.iter().enumerate().map(|(slot, &at)| at + shift(slot)).collect()
    };
    let starts = (0..max_batch).step_by(group).take_while(|_| head.steps > 0);
    let pass = |start: usize| Pass {
        steps: 0..head.steps,
        images: start..max_batch.min(start + group),
        slots: shifted(start),
    };
    let mut passes: Vec<Pass> = starts.map(pass).collect();
    passes.push(Pass { steps: head.steps..steps.len(), images: 0..max_batch, slots });
    Ok((passes, length))
}

/// What goes into the head and what comes out: there for the whole batch, where all else in it is for a group.
fn lasting(steps: &[Step], head: Head) -> Result<[Option<Place>; 2], ConvError> {
    let first = steps.get(..head.steps).ok_or(ConvError::Operands)?;
    let lasting = [first.first().map(|step| step.source), first.last().map(|step| step.target)];
    let clashes = |place: Place| lasting.iter().flatten().any(|l| l.slot == place.slot && *l != place);
    match first.iter().flat_map(Step::places).any(clashes) {
        true => Err(ConvError::Operands),
        false => Ok(lasting),
    }
}

/// Where each slot starts, and how many floats all have, when a step keeps so many `images` at a place.
fn slots(steps: &[Step], images: impl Fn(usize, &Place) -> usize) -> Result<(Vec<usize>, usize), ConvError> {
    let places =
        || steps.iter().enumerate().flat_map(|(at, step)| step.places().map(move |place| (at, place)));
    let count = places().map(|(_, place)| place.slot).max().map_or(0, |slot| slot.saturating_add(1));
    // A list of slots with gaps is a mistake, and a huge number must not be allocated for.
    if count > places().count() {
        return Err(ConvError::Operands);
    }
    let mut slots = vec![0_usize; count];
    for (at, place) in places() {
        let floats = place.map.floats().checked_mul(images(at, &place)).ok_or(ConvError::Map)?;
        slots[place.slot] = slots[place.slot].max(floats);
    }
    let mut end = 0_usize;
    for slot in &mut slots {
        let floats = slot.checked_next_multiple_of(16).ok_or(ConvError::Map)?;
        *slot = end;
        end = end.checked_add(floats).ok_or(ConvError::Map)?;
    }
    Ok((slots, end))
}
