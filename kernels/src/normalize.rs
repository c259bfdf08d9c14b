//! From 8-bit interleaved pixels to the network's input: normalised, planar, 32-bit floats. The rounding is that of
//! the plain expression, because a table of its 256 values per channel is what gets written.

/// Writes `(v / 255 - mean[c]) / std[c]`, evaluated in `f32` in that order, for every pixel.
///
/// `pixels` is RGB8 in HWC order (`3 * n` bytes), `out` is CHW (`3 * n` floats: all red, all green, all blue).
///
/// # Panics
/// When `pixels` is not whole pixels or `out` differs from it in length.
pub fn normalize(pixels: &[u8], mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    assert!(pixels.len().is_multiple_of(3), "{} bytes are not whole RGB pixels", pixels.len());
    assert_eq!(pixels.len(), out.len(), "one float a byte");
    let (red, rest) = out.split_at_mut(pixels.len() / 3);
    let (green, blue) = rest.split_at_mut(pixels.len() / 3);
    let [red_of, green_of, blue_of] = [0, 1, 2].map(|c| table(mean[c], std[c]));
    for (((pixel, r), g), b) in pixels.as_chunks::<3>().0.iter().zip(red).zip(green).zip(blue) {
        *r = red_of[usize::from(pixel[0])];
        *g = green_of[usize::from(pixel[1])];
        *b = blue_of[usize::from(pixel[2])];
    }
}

fn table(mean: f32, std: f32) -> [f32; 256] {
    std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];

    #[test]
    fn every_value_of_every_channel_is_the_expression() {
        let pixels: Vec<u8> =
            (0..=255_u8).flat_map(|v| [v, v.wrapping_add(85), v.wrapping_add(170)]).collect();
        let mut out = vec![f32::NAN; pixels.len()];
        normalize(&pixels, MEAN, STD, &mut out);
        for (at, &value) in pixels.iter().enumerate() {
            let (pixel, channel) = (at / 3, at % 3);
            let expected = (f32::from(value) / 255.0 - MEAN[channel]) / STD[channel];
            assert_eq!(out[channel * 256 + pixel], expected);
            let exact = (f64::from(value) / 255.0 - f64::from(MEAN[channel])) / f64::from(STD[channel]);
            assert!((f64::from(expected) - exact).abs() < 1e-6);
        }
    }

    #[test]
    #[should_panic(expected = "one float a byte")]
    fn a_short_output_is_refused() {
        normalize(&[0; 6], MEAN, STD, &mut [0.0; 3]);
    }
}
