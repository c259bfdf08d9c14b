//! What a photo becomes before a network sees it: the evaluation transform and the normalisation that its weights were
//! trained for. The arithmetic is `kernels`'.

use crate::image::{Filter, Transform};

/// The transform and normalisation that belong to a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocessing {
    /// Pixels of the short side after the resize, before the centre crop.
    pub short_side: u32,
    /// Filter of that resize.
    pub filter: Filter,
    /// Mean of red, green and blue, in units of full scale.
    pub mean: [f32; 3],
    /// Standard deviation that goes with it.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// torchvision's evaluation preset, with the mean and deviation of ImageNet. Its V2 weights were evaluated with a
    /// short side of 232.
    pub const TORCHVISION: Self = Self {
        short_side: 256,
        filter: Filter::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// EfficientNet-Lite: a centre crop of 0.875, here 224 of 256 pixels, and bytes mapped by `(v - 127) / 128`
    /// (`MEAN_RGB` and `STDDEV_RGB` of the TensorFlow original).
    pub const LITE: Self =
        Self { short_side: 256, filter: Filter::Bicubic, mean: [127.0 / 255.0; 3], std: [128.0 / 255.0; 3] };

    /// The evaluation transform, with another short side where one is given.
    pub fn resize_crop(self, short_side: Option<u32>) -> Transform {
        Transform::ResizeCrop { short_side: short_side.unwrap_or(self.short_side), filter: self.filter }
    }

    /// Writes the normalised pixels, `[3, height, width]`.
    ///
    /// # Panics
    /// When `pixels` is not whole RGB pixels or `out` differs from it in length.
    pub fn normalize(self, pixels: &[u8], out: &mut [f32]) {
        kernels::normalize(pixels, self.mean, self.std, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lite_maps_bytes_as_its_authors_do() {
        let mut out = [0.0; 6];
        Preprocessing::LITE.normalize(&[0, 127, 255, 1, 128, 63], &mut out);
        let expected = [-127.0, -126.0, 0.0, 1.0, 128.0, -64.0].map(|v: f32| v / 128.0);
        assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
    }
}
