//! Which implementation computes a step: a matter of shapes alone, so that it can be told before there are weights.

use std::fmt;

use super::map::Map;
use super::micro::LANES;
use super::step::{Method, Window};

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// A matrix product whose rows are pixels.
    Pointwise,
    /// A matrix product whose rows are pointers, one a tap and pixel.
    Implicit,
    /// The same over a picture with a border and no gap between its pixels: one pointer a row of taps.
    Rows,
    /// Winograd's F(4x4, 3x3).
    Winograd,
    /// Channels by themselves.
    Depthwise,
    /// Maxima.
    MaxPool,
    /// Means.
    AveragePool,
}

impl Kernel {
    /// The one for a convolution over whole channels, whose `source` and `target` fit it.
    pub fn of_convolution(window: Window, method: Method, source: &Map, target: &Map) -> Self {
        let winograd = window.kernel == 3
            && window.stride == 1
            && source.channels().is_multiple_of(LANES)
            && source.border() == 0
            && target.pixels() > 1;
        match window.kernel {
            1 => Kernel::Pointwise,
            _ if winograd && method == Method::Fastest => Kernel::Winograd,
            _ if gapless(window, source, target) => Kernel::Rows,
            _ => Kernel::Implicit,
        }
    }
}

/// Whether each row of every window is one run of floats.
fn gapless(window: Window, source: &Map, target: &Map) -> bool {
    let inside = |outputs: usize, inputs: usize| {
        (outputs - 1) * window.stride + window.kernel <= inputs + window.pad + source.border()
    };
    source.stride() == source.channels()
        && window.pad <= source.border()
        && inside(target.height(), source.height())
        && inside(target.width(), source.width())
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kernel::Pointwise => "pointwise",
            Kernel::Implicit => "implicit",
            Kernel::Rows => "rows",
            Kernel::Winograd => "winograd",
            Kernel::Depthwise => "depthwise",
            Kernel::MaxPool => "max-pool",
            Kernel::AveragePool => "average",
        })
    }
}
