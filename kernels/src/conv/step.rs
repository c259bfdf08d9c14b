//! One fused step of a network and the rules that make it safe to run.

#![allow(unsafe_code)]

use std::ops::Range;

use super::ConvError;
use super::depthwise::DepthwiseConv;
use super::frame::{Frame, Scratch};
use super::kernel::Kernel;
use super::map::Map;
use super::micro::Finish;
use super::panels::{Depthwise, Panels};
use super::pooling::{AveragePool, MaxPool};
use super::product::Product;
use super::winograd::Winograd;

/// Largest side of a kernel, largest stride and padding.
const MAX_KERNEL: usize = 16;

/// Where an activation lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the slot.
    pub slot: usize,
    /// Layout of each image there.
    pub map: Map,
}

/// What becomes of the sums of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    fn bounds(self) -> (f32, f32) {
        match self {
            Activation::Linear => (f32::NEG_INFINITY, f32::INFINITY),
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
        }
    }
}

/// How a window moves over a picture. The output's size is the target map's; windows may leave the picture, where a
/// convolution reads zeros and a pooling nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side of the window.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Pixels by which the first window begins outside the picture.
    pub pad: usize,
}

/// How a 3x3 convolution of stride 1 is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Winograd where it applies.
    Fastest,
    /// Always the plain sum of products.
    Direct,
}

/// One operation, weights included.
#[derive(Debug)]
pub enum Op {
    /// `activation(conv(source) + bias + addend)`.
    Conv {
        /// Weights and bias.
        panels: Panels,
        /// The kernel's movement; its side is the panels'.
        window: Window,
        /// What becomes of the sums.
        activation: Activation,
        /// Added to each output; laid out as the target, and may be the target itself.
        addend: Option<Place>,
        /// Which algorithms may be used.
        method: Method,
    },
    /// The same, where each output channel reads one input channel.
    Depthwise {
        /// Weights and bias.
        weights: Depthwise,
        /// The kernel's movement.
        window: Window,
        /// What becomes of the sums.
        activation: Activation,
    },
    /// The largest value of each window.
    MaxPool {
        /// The window's movement.
        window: Window,
    },
    /// The mean of each channel over the whole picture.
    AveragePool,
}

/// An operation with its operands, checked.
#[derive(Debug)]
pub struct Step {
    pub(super) source: Place,
    pub(super) target: Place,
    pub(super) addend: Option<Place>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Product(Product, Ending),
    Winograd(Winograd, Ending),
    Depthwise(DepthwiseConv, Ending),
    MaxPool(MaxPool),
    AveragePool(AveragePool),
}

/// What a convolution does with its sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    addend: Option<Place>,
    low: f32,
    high: f32,
}

impl Ending {
    fn new(activation: Activation, addend: Option<Place>) -> Self {
        let (low, high) = activation.bounds();
        Self { addend, low, high }
    }

    /// The end of sums whose first lies `offset` floats into the target; `bias` has a panel's floats.
    pub(super) fn finish(&self, frame: &Frame<'_>, bias: *const f32, offset: usize) -> Finish {
        let addend = match self.addend {
            // SAFETY: the addend is laid out as the target, in which the offset lies.
            Some(place) => unsafe { frame.at(place, offset).cast_const() },
            None => std::ptr::null(),
        };
        let addend_step = self.addend.map_or(0, |place| place.map.stride());
        Finish { bias, addend, addend_step, low: self.low, high: self.high }
    }
}

impl Step {
    /// Checks that the operation fits its operands.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(op: Op, source: Place, target: Place) -> Result<Self, ConvError> {
        if !source.map.is_sane() || !target.map.is_sane() || !target.map.has_panels() {
            return Err(ConvError::Map);
        }
        if source.slot == target.slot || target.map.border() != 0 {
            return Err(ConvError::Operands);
        }
        let (s, t) = (source.map, target.map);
        let mut addend = None;
        let work = match op {
            Op::Conv { panels, window, activation, addend: added, method } => {
                window.check()?;
                expect(panels.kernel == window.kernel && panels.inputs == s.channels())?;
                expect(panels.outputs == t.channels())?;
                expect(added.is_none_or(|place| place.map == t && place.slot != source.slot))?;
                addend = added;
                let end = Ending::new(activation, added);
                match Kernel::of_convolution(window, method, &s, &t) {
                    Kernel::Winograd => Work::Winograd(Winograd::new(panels, window.pad, &t), end),
                    kernel => Work::Product(Product::new(panels, window, kernel), end),
                }
            }
            Op::Depthwise { weights, window, activation } => {
                window.check()?;
                expect(weights.kernel == window.kernel && weights.channels == s.channels())?;
                expect(s.channels() == t.channels() && s.has_panels() && window.meets(&s, &t))?;
                Work::Depthwise(DepthwiseConv::new(weights, window, &t), Ending::new(activation, None))
            }
            Op::MaxPool { window } => {
                window.check()?;
                expect(s.channels() == t.channels() && s.has_panels())?;
                expect(window.meets(&s, &t))?;
                Work::MaxPool(MaxPool::new(window))
            }
            Op::AveragePool => {
                expect(s.channels() == t.channels() && s.has_panels() && t.pixels() == 1)?;
                Work::AveragePool(AveragePool)
            }
        };
        Ok(Self { source, target, addend, work })
    }

    /// Which implementation was chosen.
    pub fn kernel(&self) -> Kernel {
        match &self.work {
            Work::Product(product, _) => product.kernel(),
            Work::Winograd(..) => Kernel::Winograd,
            Work::Depthwise(..) => Kernel::Depthwise,
            Work::MaxPool(_) => Kernel::MaxPool,
            Work::AveragePool(_) => Kernel::AveragePool,
        }
    }

    /// Bytes of packed weights and biases.
    pub(super) fn weight_bytes(&self) -> usize {
        match &self.work {
            Work::Product(product, _) => product.panels().bytes(),
            Work::Winograd(winograd, _) => winograd.panels().bytes(),
            Work::Depthwise(depthwise, _) => depthwise.weights().bytes(),
            Work::MaxPool(_) | Work::AveragePool(_) => 0,
        }
    }

    /// Everything the step reads or writes.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        [self.source, self.target].into_iter().chain(self.addend)
    }

    /// Pointers of scratch each member needs.
    pub(super) fn pointers(&self) -> usize {
        match &self.work {
            Work::Product(product, _) => product.pointers(),
            Work::Depthwise(depthwise, _) => depthwise.pointers(),
            _ => 0,
        }
    }

    /// Floats of scratch each member needs.
    pub(super) fn floats(&self) -> usize {
        match &self.work {
            Work::Winograd(winograd, _) => winograd.floats(),
            _ => 0,
        }
    }

    /// Floats of scratch that the team needs at this batch.
    pub(super) fn shared(&self, batch: usize) -> usize {
        match &self.work {
            Work::Winograd(winograd, _) => winograd.shared(batch),
            _ => 0,
        }
    }

    /// Whether each channel is convolved by itself.
    pub(super) fn is_depthwise(&self) -> bool {
        matches!(self.work, Work::Depthwise(..))
    }

    /// Whether each pixel of the target needs the same pixel of the source and no other.
    pub(super) fn is_pixelwise(&self) -> bool {
        matches!(&self.work, Work::Product(product, _) if product.is_pixelwise())
    }

    /// Whether it can be done some rows at a time.
    pub(super) fn by_rows(&self) -> bool {
        matches!(self.work, Work::Product(..) | Work::Depthwise(..))
    }

    /// The rows of the source that some rows of the target need, of a step that is depthwise or pixelwise.
    pub(super) fn reads(&self, rows: Range<usize>) -> Range<usize> {
        match &self.work {
            Work::Depthwise(depthwise, _) if !rows.is_empty() => {
                let of = |row: usize| depthwise.window().within(row, self.source.map.height());
                of(rows.start).start..of(rows.end - 1).end
            }
            _ => rows,
        }
    }

    /// Computes some rows of the first image's target, by the calling member alone.
    ///
    /// # Safety
    /// As [`Self::run`], but that only the rows of the source that these need must be there, and that nobody else touches
    /// the target's rows. The step is one that [`Self::by_rows`] says can be done so.
    pub(super) unsafe fn run_rows(&self, frame: &Frame<'_>, scratch: &mut Scratch, rows: Range<usize>) {
        let (source, target) = (self.source, self.target);
        // SAFETY: the caller's promise is what each of them asks for.
        unsafe {
            match &self.work {
                Work::Product(work, end) => work.run_rows(frame, scratch, source, target, end, rows),
                Work::Depthwise(work, end) => work.run_rows(frame, scratch, source, target, end, rows),
                Work::Winograd(..) | Work::MaxPool(_) | Work::AveragePool(_) => {
                    unreachable!("bug: `by_rows` was not asked")
                }
            }
        }
    }

    /// Does one member's part of the step; when it returns, all members have done theirs.
    ///
    /// # Safety
    /// Every place's slot holds its map `frame.batch` times, slots do not overlap, scratch and zeros are as large as
    /// the step asks for, every member of the team runs this step with a frame of the same arena, and nobody else
    /// touches the arena.
    pub(super) unsafe fn run(&self, frame: &Frame<'_>, scratch: &mut Scratch) {
        let (source, target) = (self.source, self.target);
        // SAFETY: the caller's promise is what each of them asks for.
        unsafe {
            match &self.work {
                Work::Product(work, end) => work.run(frame, scratch, source, target, end),
                Work::Winograd(work, end) => work.run(frame, scratch, source, target, end),
                Work::Depthwise(work, end) => work.run(frame, scratch, source, target, end),
                Work::MaxPool(work) => work.run(frame, source, target),
                Work::AveragePool(work) => work.run(frame, source, target),
            }
        }
    }
}

impl Window {
    fn check(self) -> Result<(), ConvError> {
        let sane = (1..=MAX_KERNEL).contains(&self.kernel)
            && (1..=MAX_KERNEL).contains(&self.stride)
            && self.pad < self.kernel;
        expect(sane)
    }

    /// Whether every window has pixels of the picture in it.
    fn meets(self, source: &Map, target: &Map) -> bool {
        let last = |outputs: usize, inputs: usize| (outputs - 1) * self.stride < inputs + self.pad;
        last(target.height(), source.height()) && last(target.width(), source.width())
    }
}

fn expect(fits: bool) -> Result<(), ConvError> {
    if fits { Ok(()) } else { Err(ConvError::Operands) }
}
