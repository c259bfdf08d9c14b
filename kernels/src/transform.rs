//! What a picture goes through on its way to the network's square input: which filter, which crop. Names and
//! validity live here; the arithmetic is in [`crate::geometry`].

use std::fmt;
use std::str::FromStr;

/// An antialiased interpolation filter: its support widens with the downscale factor, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Cubic convolution with a = -0.5 (Keys, 1981), support 2.
    Bicubic,
}

impl Filter {
    /// Half the filter's width in source pixels at scale 1.
    pub(crate) fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The filter's value at distance `x`, in Pillow's order of operations so that rounding agrees.
    pub(crate) fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        }
    }
}

/// How a picture of any shape becomes a square.
///
/// As text: `resize-crop[:SHORT_SIDE[:FILTER]]` (default 256, bilinear) or `stretch[:FILTER]` (default bicubic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transform {
    /// Short side to `short_side`, long side to `floor(short_side * long / short)`, then the centre square.
    /// An odd margin is halved to the even neighbour, as torchvision's `CenterCrop` does.
    ResizeCrop {
        /// Pixels of the short side after the resize; at least the side of the square.
        short_side: u32,
        /// Interpolation filter.
        filter: Filter,
    },
    /// Straight to the square, aspect ratio ignored.
    Stretch {
        /// Interpolation filter.
        filter: Filter,
    },
}

impl Transform {
    /// torchvision's evaluation transform for ImageNet: `resize-crop`.
    pub const RESIZE_CROP: Self = Self::ResizeCrop { short_side: 256, filter: Filter::Bilinear };
    /// `stretch` with its default filter.
    pub const STRETCH: Self = Self::Stretch { filter: Filter::Bicubic };

    /// The interpolation filter.
    #[must_use]
    pub fn filter(self) -> Filter {
        match self {
            Self::ResizeCrop { filter, .. } | Self::Stretch { filter } => filter,
        }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RESIZE_CROP => f.write_str("resize-crop"),
            Self::STRETCH => f.write_str("stretch"),
            Self::ResizeCrop { short_side, filter } => {
                write!(f, "resize-crop:{short_side}:{}", filter.name())
            }
            Self::Stretch { filter } => write!(f, "stretch:{}", filter.name()),
        }
    }
}

/// A text that names no transform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not resize-crop[:SHORT_SIDE[:FILTER]] or stretch[:FILTER], FILTER being bilinear or bicubic"
)]
pub struct TransformParseError {
    /// The refused text.
    pub text: String,
}

impl FromStr for Transform {
    type Err = TransformParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| TransformParseError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Transform> {
    let mut fields = text.split(':');
    let transform = match fields.next()? {
        "resize-crop" => {
            let short_side = fields.next().map_or(Some(256), |side| side.parse().ok().filter(|&n| n > 0))?;
            Transform::ResizeCrop { short_side, filter: parse_filter(fields.next(), Filter::Bilinear)? }
        }
        "stretch" => Transform::Stretch { filter: parse_filter(fields.next(), Filter::Bicubic)? },
        _ => return None,
    };
    fields.next().is_none().then_some(transform)
}

fn parse_filter(field: Option<&str>, default: Filter) -> Option<Filter> {
    match field {
        None => Some(default),
        Some("bilinear") => Some(Filter::Bilinear),
        Some("bicubic") => Some(Filter::Bicubic),
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "resize-crop",
            "stretch",
            "resize-crop:232:bilinear",
            "resize-crop:256:bicubic",
            "stretch:bilinear",
        ] {
            let transform: Transform = text.parse().unwrap();
            assert_eq!(transform.to_string(), text);
        }
        assert_eq!("resize-crop:256".parse(), Ok(Transform::RESIZE_CROP));
        assert_eq!("stretch:bicubic".parse(), Ok(Transform::STRETCH));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "crop", "stretch:", "stretch:lanczos", "resize-crop:0", "resize-crop:256:bicubic:1"]
        {
            assert_eq!(text.parse::<Transform>(), Err(TransformParseError { text: text.to_owned() }));
        }
    }
}
