//! A fully connected layer over any number of rows, on the calling thread: the micro-kernel of the convolutions behind an
//! interface of slices. It owns packed weights; what rows mean is the callers' business.
#![allow(unsafe_code)]

use super::ConvError;
use super::lanes::Isa;
use super::micro::{Finish, LANES, MOST_ROWS, MicroKernels, Tile};
use super::panels::Panels;
use super::team::share;

/// Floats of input that stay in the second level cache while all weights pass by.
const INPUT_BLOCK: usize = 64 << 10;

/// `y = W x + b` for rows `x`, packed for this processor.
#[derive(Debug)]
pub struct Dense {
    panels: Panels,
    isa: Isa,
}

impl Dense {
    /// Packs `weight`, `[outputs, inputs]` row-major, and `bias`, `[outputs]`.
    ///
    /// # Errors
    /// [`ConvError::Weights`] when lengths do not agree.
    pub fn pack(weight: &[f32], bias: &[f32], inputs: usize) -> Result<Self, ConvError> {
        Ok(Self { panels: Panels::pack(weight, bias, inputs, 1)?, isa: Isa::best() })
    }

    /// The same with the instructions of `isa`.
    #[must_use]
    pub fn with(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// Numbers of a row.
    pub fn inputs(&self) -> usize {
        self.panels.inputs
    }

    /// Numbers of a result: the outputs packed, filled up with zeros to a multiple of 16.
    pub fn outputs(&self) -> usize {
        self.panels.count() * LANES
    }

    /// The weight of an input for an output that was packed.
    ///
    /// # Panics
    /// There is no such input or output.
    pub fn weight(&self, output: usize, input: usize) -> f32 {
        assert!(input < self.inputs(), "input {input} of {}", self.inputs());
        self.panels.panel(output / LANES)[input * LANES + output % LANES]
    }

    /// Multiplies `rows`, `[n, inputs]`, into `out`, `[n, outputs]`. A row's result does not depend on its company.
    ///
    /// # Panics
    /// The lengths are not those of as many rows.
    pub fn apply(&self, rows: &[f32], out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let count = rows.len() / inputs;
        assert_eq!(rows.len(), count * inputs, "whole rows");
        assert_eq!(out.len(), count * outputs, "room for as many results");
        if count == 0 {
            return;
        }
        let blocks = count.div_ceil((INPUT_BLOCK / inputs).max(MOST_ROWS));
        for block in 0..blocks {
            let range = share(count, blocks, block);
            let rows = &rows[range.start * inputs..range.end * inputs];
            self.block(rows, &mut out[range.start * outputs..range.end * outputs]);
        }
    }

    /// Panel by panel, the next one on its way from memory meanwhile.
    fn block(&self, rows: &[f32], out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let kernels = MicroKernels::of(self.isa);
        let tiles = kernels.cut(rows.len() / inputs);
        let parts = tiles.clone().count();
        for panel in 0..self.panels.count() {
            let finish = Finish { bias: self.panels.bias(panel).as_ptr(), ..Finish::PLAIN };
            let mut ahead = self.panels.portions(panel + 1, parts);
            for (first, count) in tiles.clone() {
                let rows = &rows[first * inputs..][..count * inputs];
                // Wrapping, because rows that the tile does not have may lie outside; they are not read.
                let pointers: [*const f32; MOST_ROWS] =
                    std::array::from_fn(|row| rows.as_ptr().wrapping_add(row * inputs));
                let tile = Tile {
                    rows: pointers.as_ptr(),
                    row_step: 0,
                    taps: 1,
                    depth: inputs,
                    panel: self.panels.panel(panel).as_ptr(),
                    ahead: ahead.next().unwrap_or_default().as_ptr_range(),
                    out: out[first * outputs + panel * LANES..][..(count - 1) * outputs + LANES].as_mut_ptr(),
                    out_step: outputs,
                    finish,
                };
                // SAFETY: `count` pointers to `inputs` floats each, a panel of as many rows and a bias; the results of
                // these rows lie in `out`, which is borrowed exclusively.
                unsafe { kernels.run(count, &tile) };
            }
        }
    }
}
