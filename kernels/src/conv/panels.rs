//! Weights as the kernels read them: panels of 16 output channels, the last one filled up with zeros.
//!
//! Packed once at load; where the numbers come from is the callers' business.

use super::ConvError;
use super::buffer::Buffer;
use super::micro::LANES;

/// A convolution's weights, `[ceil(outputs / 16), kernel, kernel, inputs, 16]`, and bias.
#[derive(Debug)]
pub struct Panels {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) kernel: usize,
    weight: Buffer,
    bias: Buffer,
}

impl Panels {
    /// Packs `weight`, `[outputs, inputs, kernel, kernel]` row-major, and `bias`, `[outputs]`.
    ///
    /// # Errors
    /// [`ConvError::Weights`] when lengths do not agree.
    pub fn pack(weight: &[f32], bias: &[f32], inputs: usize, kernel: usize) -> Result<Self, ConvError> {
        let outputs = bias.len();
        let filter = inputs.checked_mul(kernel * kernel).filter(|&n| n > 0).ok_or(ConvError::Weights)?;
        if outputs == 0 || outputs.checked_mul(filter) != Some(weight.len()) {
            return Err(ConvError::Weights);
        }
        let taps = kernel * kernel;
        let mut packed = Buffer::zeros(outputs.next_multiple_of(LANES) * filter);
        let panels = packed.floats_mut().chunks_exact_mut(filter * LANES);
        for (panel, filters) in panels.zip(weight.chunks(filter * LANES)) {
            for (lane, filter) in filters.chunks_exact(filter).enumerate() {
                for (channel, weights) in filter.chunks_exact(taps).enumerate() {
                    for (tap, &weight) in weights.iter().enumerate() {
                        panel[(tap * inputs + channel) * LANES + lane] = weight;
                    }
                }
            }
        }
        Ok(Self { outputs, inputs, kernel, weight: packed, bias: padded(bias) })
    }

    /// Packs the weights of a depthwise convolution, `[channels, kernel, kernel]`: each output reads the input channel
    /// of its own number.
    ///
    /// # Errors
    /// [`ConvError::Weights`] when lengths do not agree.
    pub fn pack_depthwise(weight: &[f32], bias: &[f32], kernel: usize) -> Result<Depthwise, ConvError> {
        let (channels, taps) = (bias.len(), kernel * kernel);
        if channels == 0 || taps == 0 || channels.checked_mul(taps) != Some(weight.len()) {
            return Err(ConvError::Weights);
        }
        let mut packed = Buffer::zeros(channels.next_multiple_of(LANES) * taps);
        let panels = packed.floats_mut().chunks_exact_mut(taps * LANES);
        for (panel, filters) in panels.zip(weight.chunks(taps * LANES)) {
            for (lane, filter) in filters.chunks_exact(taps).enumerate() {
                for (tap, &weight) in filter.iter().enumerate() {
                    panel[tap * LANES + lane] = weight;
                }
            }
        }
        Ok(Depthwise { channels, kernel, weight: packed, bias: padded(bias) })
    }

    /// Reorders each panel to `[inputs, kernel, kernel, 16]`, so that all taps of a channel are neighbours.
    pub(super) fn gather_taps(&mut self) {
        let (taps, inputs) = (self.kernel * self.kernel, self.inputs);
        let mut copy = vec![0.0; self.panel_floats()];
        for panel in self.weight.floats_mut().chunks_exact_mut(taps * inputs * LANES) {
            copy.copy_from_slice(panel);
            for (at, weights) in panel.chunks_exact_mut(LANES).enumerate() {
                let (channel, tap) = (at / taps, at % taps);
                weights.copy_from_slice(&copy[(tap * inputs + channel) * LANES..][..LANES]);
            }
        }
    }

    /// Bytes of weights and bias.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.weight.floats()) + size_of_val(self.bias.floats())
    }

    /// Panels of 16 output channels.
    pub(super) fn count(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// Floats of one panel.
    pub(super) fn panel_floats(&self) -> usize {
        self.kernel * self.kernel * self.inputs * LANES
    }

    /// Weights of one panel.
    pub(super) fn panel(&self, at: usize) -> &[f32] {
        &self.weight.floats()[at * self.panel_floats()..][..self.panel_floats()]
    }

    /// A panel in portions, empty where there is no such panel: for fetching it ahead bit by bit.
    pub(super) fn portions(&self, at: usize, count: usize) -> std::slice::Chunks<'_, f32> {
        let panel: &[f32] = if at < self.count() { self.panel(at) } else { &[] };
        panel.chunks(panel.len().div_ceil(count).max(1))
    }

    /// Bias of one panel's channels.
    pub(super) fn bias(&self, at: usize) -> &[f32] {
        &self.bias.floats()[at * LANES..][..LANES]
    }
}

/// A depthwise convolution's weights, `[ceil(channels / 16), kernel, kernel, 16]`, and bias.
#[derive(Debug)]
pub struct Depthwise {
    pub(super) channels: usize,
    pub(super) kernel: usize,
    pub(super) weight: Buffer,
    pub(super) bias: Buffer,
}

impl Depthwise {
    /// Bytes of weights and bias.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.weight.floats()) + size_of_val(self.bias.floats())
    }
}

fn padded(bias: &[f32]) -> Buffer {
    let mut padded = Buffer::zeros(bias.len().next_multiple_of(LANES));
    padded.floats_mut()[..bias.len()].copy_from_slice(bias);
    padded
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn every_weight_lies_where_the_kernels_look() {
        for (outputs, inputs, kernel) in [(1, 1, 1), (16, 3, 3), (17, 5, 2), (33, 2, 7)] {
            let filter = inputs * kernel * kernel;
            let weight: Vec<f32> = (1..=outputs * filter).map(|n| n as f32).collect();
            let bias: Vec<f32> = (0..outputs).map(|n| n as f32).collect();
            let panels = Panels::pack(&weight, &bias, inputs, kernel).unwrap();
            for output in 0..panels.count() * LANES {
                let (panel, lane) = (output / LANES, output % LANES);
                for channel in 0..inputs {
                    for tap in 0..kernel * kernel {
                        let found = panels.panel(panel)[(tap * inputs + channel) * LANES + lane];
                        let at = output * filter + channel * kernel * kernel + tap;
                        assert_eq!(found, if output < outputs { weight[at] } else { 0.0 });
                    }
                }
                let found = panels.bias(panel)[lane];
                assert_eq!(found, if output < outputs { output as f32 } else { 0.0 });
            }
        }
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        assert!(Panels::pack(&[0.0; 9], &[0.0], 1, 3).is_ok());
        for (weights, outputs, inputs, kernel) in
            [(8, 1, 1, 3), (9, 2, 1, 3), (0, 0, 1, 1), (0, 1, 0, 1), (1, 1, usize::MAX, 2)]
        {
            let refused = Panels::pack(&vec![0.0; weights], &vec![0.0; outputs], inputs, kernel);
            assert!(matches!(refused, Err(ConvError::Weights)));
        }
        assert!(Panels::pack_depthwise(&[0.0; 9], &[0.0; 2], 3).is_err());
    }
}
