//! How activations lie in memory: channels innermost, one padded stride per pixel, images one after the other.
//!
//! Sizes and offsets only; no memory is owned or touched here.

use super::micro::LANES;

/// Largest side and largest channel count of a map: products of three stay far from overflow.
pub const MAX_EXTENT: usize = 1 << 16;

/// The layout of one image's activations, `[height + 2 border, width + 2 border, stride]` floats, of which the first
/// `channels` of each pixel count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    height: usize,
    width: usize,
    channels: usize,
    stride: usize,
    border: usize,
}

impl Map {
    /// The layout that convolutions write and read: whole panels of 16 channels a pixel.
    ///
    /// From 256 channels on a pixel gets 64 bytes more, so that the rows of a tile, a power of two apart otherwise,
    /// do not compete for the same cache sets.
    pub const fn new(height: usize, width: usize, channels: usize) -> Self {
        let whole = channels.next_multiple_of(LANES);
        let stride = if whole.is_multiple_of(256) { whole + LANES } else { whole };
        Self { height, width, channels, stride, border: 0 }
    }

    /// The layout of a network's input: no gap between pixels and `border` pixels of zeros around the picture, so that
    /// a kernel's row over all channels is one run of floats.
    pub const fn input(height: usize, width: usize, channels: usize, border: usize) -> Self {
        Self { height, width, channels, stride: channels, border }
    }

    /// Rows of the picture.
    pub const fn height(&self) -> usize {
        self.height
    }

    /// Columns of the picture.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Channels that count.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// Floats from one pixel to the next.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Pixels of zeros on each side.
    pub const fn border(&self) -> usize {
        self.border
    }

    /// Pixels of the picture, border excluded.
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Floats of one image, border included.
    pub const fn floats(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Floats from one row to the next.
    pub const fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.stride
    }

    /// Where the pixel starts within its image; `y` and `x` may be in the border, counted from the picture's corner.
    pub(crate) const fn offset(&self, y: isize, x: isize) -> usize {
        let border = self.border as isize;
        (y + border) as usize * self.row() + (x + border) as usize * self.stride
    }

    /// Whether the pixel is part of the picture.
    pub(crate) const fn holds(&self, y: isize, x: isize) -> bool {
        y >= 0 && x >= 0 && y < self.height as isize && x < self.width as isize
    }

    /// Whether whole panels fit each pixel.
    pub(crate) const fn has_panels(&self) -> bool {
        self.stride >= self.channels.next_multiple_of(LANES)
    }

    /// Whether every extent is in `1..=MAX_EXTENT`.
    pub(crate) fn is_sane(&self) -> bool {
        let extents = [self.height, self.width, self.channels];
        extents.iter().all(|extent| (1..=MAX_EXTENT).contains(extent)) && self.border <= MAX_EXTENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_whole_panels_and_never_a_kilobyte_apart() {
        for (channels, stride) in
            [(1, 16), (16, 16), (17, 32), (64, 64), (256, 272), (1000, 1008), (1024, 1040)]
        {
            let map = Map::new(3, 5, channels);
            assert_eq!(map.stride(), stride, "{channels}");
            assert!(map.has_panels());
            assert_eq!(map.floats(), 15 * stride);
        }
    }

    #[test]
    fn a_border_surrounds_the_picture() {
        let map = Map::input(4, 6, 3, 2);
        assert_eq!(map.floats(), 8 * 10 * 3);
        assert_eq!(map.offset(-2, -2), 0);
        assert_eq!(map.offset(0, 0), (2 * 10 + 2) * 3);
        assert_eq!(map.offset(5, 7), map.floats() - 3);
        assert!(map.holds(3, 5) && !map.holds(4, 0) && !map.holds(0, -1));
    }
}
