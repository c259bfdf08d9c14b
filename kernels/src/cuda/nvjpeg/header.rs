//! Whether the GPU's JPEG engine may take a file, read off its headers. Entropy-coded data is not looked at, nor is memory
//! taken; how many pixels are allowed is the callers' to check, and what the library itself says is `decoder`'s.
//!
//! ITU-T T.81 B is the syntax. The engine is lenient and its parser has had its troubles with malformed files, so that only
//! plain ones are for it: complete, of a kind that every encoder writes, their tables in order. The rest is for a decoder
//! that is strict, and decodes more.

use std::fmt;

const SOF0: u8 = 0xc0;
const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;
const SOF15: u8 = 0xcf;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DQT: u8 = 0xdb;
const DRI: u8 = 0xdd;
const APP0: u8 = 0xe0;
const APP14: u8 = 0xee;
const APP15: u8 = 0xef;
const COM: u8 = 0xfe;

const MAX_COMPONENTS: usize = 4;

/// Segments before the scan; a profile of colours takes up to 255.
const MAX_SEGMENTS: usize = 1024;

/// The Adobe segment's signature, and where behind it the transform is.
const ADOBE: &[u8] = b"Adobe";
const ADOBE_TRANSFORM: usize = 6;
/// The transform of YCbCr.
const ADOBE_YCBCR: u8 = 1;

/// Why no headers of a JPEG were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoHeader {
    /// The file does not begin as a JPEG does.
    #[error("no JPEG")]
    Signature,
    /// The file ends before its first scan.
    #[error("the file ends before its first scan")]
    CutShort,
    /// Bytes between segments, or a marker that has no place there.
    #[error("no segment of a header at byte {at}")]
    Stray {
        /// From the start of the file.
        at: usize,
    },
    /// A segment is shorter than what it has to hold, or holds what cannot be.
    #[error("the segment at byte {at} makes no sense")]
    Segment {
        /// Of the segment's marker, from the start of the file.
        at: usize,
    },
    /// Other than one frame header before the first scan.
    #[error("not one frame header before the first scan")]
    Frames,
    /// More segments than any encoder writes.
    #[error("more than {MAX_SEGMENTS} segments before the first scan")]
    Segments,
}

/// How densely the two chroma components are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// There is no chroma.
    Gray,
    /// As luma, 4:4:4.
    Full,
    /// Every other column, 4:2:2.
    Columns,
    /// Every other row, 4:4:0.
    Rows,
    /// Every other column and row, 4:2:0.
    Both,
    /// Anything else, and other numbers of components.
    Other,
}

/// What the headers up to the first scan say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Columns; may be 0.
    pub width: u16,
    /// Rows; 0 if they are told after the first scan.
    pub height: u16,
    /// The frame header's marker: 0xc0 is baseline, 0xc2 progressive.
    pub frame: u8,
    /// Bits of a sample.
    pub precision: u8,
    /// Components of the frame.
    pub components: u8,
    /// How they are sampled.
    pub sampling: Sampling,
    /// Components of the first scan; if it has all of a baseline frame, it is the only one.
    pub scanned: u8,
    /// Units between restart markers; 0 if there are none.
    pub restart_interval: u16,
    refusal: Option<Refusal>,
}

impl Traits {
    /// Why the JPEG engine must not get the file; nothing if it may.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }
}

/// Why the JPEG engine must not get a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not baseline: progressive, extended, lossless or arithmetic.
    Frame,
    /// Not 8 bits a sample.
    Precision,
    /// No rows or no columns.
    Size,
    /// Not one component and not three, or two of one name.
    Components,
    /// Not 4:4:4, 4:2:2, 4:2:0, 4:4:0 or gray.
    Sampling,
    /// Components that are not, or need not be, YCbCr.
    Colour,
    /// The first scan has not everything.
    Scans,
    /// The scan's header is not that of a baseline frame.
    Scan,
    /// A table that is used is not there.
    Tables,
    /// The file does not end with the end marker: it is cut short, or goes on.
    End,
    /// Fewer bits than the picture's blocks need.
    Bits,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Frame => "not a baseline picture",
            Self::Precision => "not 8 bits a sample",
            Self::Size => "no rows or no columns",
            Self::Components => "neither one component nor three",
            Self::Sampling => "chroma sampled in a rare way",
            Self::Colour => "not certainly YCbCr",
            Self::Scans => "several scans",
            Self::Scan => "a scan header that is not baseline's",
            Self::Tables => "a table is missing",
            Self::End => "no end marker at the end",
            Self::Bits => "too short for its pixels",
        })
    }
}

/// Reads the headers of `jpeg` up to its first scan. Takes no memory, and time for at most 1024 segments.
///
/// # Errors
///
/// Where the headers depart from the syntax, or are not complete; other decoders may take such a file.
pub fn scan(jpeg: &[u8]) -> Result<Traits, NoHeader> {
    let mut walk = Walk { jpeg, at: 0 };
    if walk.marker() != Some(SOI) {
        return Err(NoHeader::Signature);
    }
    let mut header = Header::default();
    for _ in 0..MAX_SEGMENTS {
        let at = walk.at;
        let marker = match walk.marker() {
            Some(marker) => marker,
            None if walk.left() < 2 => return Err(NoHeader::CutShort),
            None => return Err(NoHeader::Stray { at }),
        };
        let known = matches!(marker, SOF0..=SOF15 | SOS | DQT | DRI | APP0..=APP15 | COM) && marker != JPG;
        if !known {
            return Err(NoHeader::Stray { at });
        }
        let data = walk.segment(at)?;
        let sound = match marker {
            DHT => header.huffman(data),
            DQT => header.quantization(data),
            DRI => header.restarts(data),
            APP14 => header.adobe(data),
            DAC | APP0..=APP15 | COM => Some(()),
            SOS => {
                let Some(frame) = header.frame else { return Err(NoHeader::Frames) };
                let scan = Scan::parse(data).ok_or(NoHeader::Segment { at })?;
                return Ok(header.traits(&frame, &scan, &jpeg[walk.at..]));
            }
            _ if header.frame.is_some() => return Err(NoHeader::Frames),
            _ => Frame::parse(marker, data).map(|frame| header.frame = Some(frame)),
        };
        sound.ok_or(NoHeader::Segment { at })?;
    }
    Err(NoHeader::Segments)
}

struct Walk<'a> {
    jpeg: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn left(&self) -> usize {
        self.jpeg.len() - self.at
    }

    /// The code of the marker that is here.
    fn marker(&mut self) -> Option<u8> {
        match self.jpeg[self.at..] {
            [0xff, code, ..] if code != 0 && code != 0xff => {
                self.at += 2;
                Some(code)
            }
            _ => None,
        }
    }

    /// The data of the segment whose marker, `at`, has just been passed.
    fn segment(&mut self, at: usize) -> Result<&'a [u8], NoHeader> {
        const LENGTH: usize = 2;
        let (length, after) = self.jpeg[self.at..].split_first_chunk().ok_or(NoHeader::CutShort)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let data = length.checked_sub(LENGTH).ok_or(NoHeader::Segment { at })?;
        let data = after.get(..data).ok_or(NoHeader::CutShort)?;
        self.at += length;
        Ok(data)
    }
}

/// What the segments have said so far.
#[derive(Default)]
struct Header {
    frame: Option<Frame>,
    /// Which tables of 8-bit numbers there are.
    quantization: [bool; 4],
    /// Which tables of baseline there are, of DC and AC coefficients.
    huffman: [[bool; 2]; 2],
    restart_interval: u16,
    /// An Adobe segment says something else than YCbCr.
    adobe_other: bool,
}

#[derive(Clone, Copy)]
struct Frame {
    marker: u8,
    precision: u8,
    height: u16,
    width: u16,
    count: u8,
    /// The first of them.
    components: [Component; MAX_COMPONENTS],
}

#[derive(Clone, Copy, Default)]
struct Component {
    id: u8,
    /// Horizontal and vertical sampling factors.
    factors: (u8, u8),
    table: u8,
}

impl Frame {
    fn parse(marker: u8, data: &[u8]) -> Option<Self> {
        let (&[precision, h1, h0, w1, w0, count], specifications) = data.split_first_chunk()?;
        let (specifications, rest) = specifications.as_chunks::<3>();
        if specifications.len() != usize::from(count) || !rest.is_empty() {
            return None;
        }
        let mut components = [Component::default(); MAX_COMPONENTS];
        for (component, &[id, factors, table]) in components.iter_mut().zip(specifications) {
            *component = Component { id, factors: (factors >> 4, factors & 0xf), table };
        }
        Some(Self {
            marker,
            precision,
            height: u16::from_be_bytes([h1, h0]),
            width: u16::from_be_bytes([w1, w0]),
            count,
            components,
        })
    }

    fn components(&self) -> &[Component] {
        &self.components[..usize::from(self.count).min(MAX_COMPONENTS)]
    }

    fn sampling(&self) -> Sampling {
        match self.components() {
            [Component { factors: (1, 1), .. }] => Sampling::Gray,
            [luma, Component { factors: (1, 1), .. }, Component { factors: (1, 1), .. }] => {
                match luma.factors {
                    (1, 1) => Sampling::Full,
                    (2, 1) => Sampling::Columns,
                    (1, 2) => Sampling::Rows,
                    (2, 2) => Sampling::Both,
                    _ => Sampling::Other,
                }
            }
            _ => Sampling::Other,
        }
    }

    /// Names that every decoder takes for YCbCr, or for gray.
    fn named_plainly(&self) -> bool {
        match self.components() {
            [_] => true,
            [first, second, third] => matches!([first.id, second.id, third.id], [1, 2, 3] | [0, 1, 2]),
            _ => false,
        }
    }

    /// Blocks of 8 by 8 samples in the scan of all components, for sampling factors other than `Sampling::Other`.
    fn blocks(&self) -> u64 {
        let (columns, rows) = self.components[0].factors;
        let units = u64::from(self.width).div_ceil(8 * u64::from(columns))
            * u64::from(self.height).div_ceil(8 * u64::from(rows));
        units * (u64::from(columns) * u64::from(rows) + u64::from(self.count) - 1)
    }
}

struct Scan<'a> {
    /// Of each component its name and the numbers of its tables.
    components: &'a [[u8; 2]],
    /// Spectral selection and approximation.
    bands: [u8; 3],
}

impl<'a> Scan<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (&count, data) = data.split_first()?;
        let (components, &bands) = data.split_last_chunk::<3>()?;
        let (components, rest) = components.as_chunks::<2>();
        let whole = components.len() == usize::from(count) && rest.is_empty() && count > 0;
        whole.then_some(Self { components, bands })
    }
}

impl Header {
    /// Of a segment of any number of tables; nothing if it makes no sense.
    fn quantization(&mut self, mut data: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = data.split_first() {
            let (wide, number) = (head >> 4, usize::from(head & 0xf));
            let length = match wide {
                0 => 64,
                1 => 128,
                _ => return None,
            };
            *self.quantization.get_mut(number)? = wide == 0;
            data = rest.get(length..)?;
        }
        Some(())
    }

    /// Of a segment of any number of tables; nothing if it makes no sense.
    fn huffman(&mut self, mut data: &[u8]) -> Option<()> {
        /// Bits that follow a code, at most, of 8-bit samples.
        const DC_BITS: u8 = 11;
        const AC_BITS: u8 = 10;
        while let Some((&[head, ref counts @ ..], rest)) = data.split_first_chunk::<17>() {
            let (class, number) = (usize::from(head >> 4), usize::from(head & 0xf));
            let mut codes = 0_u32;
            for (bits, &count) in (1_u32..).zip(counts) {
                codes = codes * 2 + u32::from(count);
                // No code is all ones.
                if count > 0 && codes >= 1 << bits {
                    return None;
                }
            }
            let symbols = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols)?;
            let plain = match class {
                0 => symbols.iter().all(|&symbol| symbol <= DC_BITS),
                1 => symbols.iter().all(|&symbol| symbol & 0xf <= AC_BITS),
                _ => return None,
            };
            if symbols.is_empty() || symbols.len() > 256 || number >= 4 {
                return None;
            }
            // Progressive pictures have more than two of a class.
            if let Some(there) = self.huffman[class].get_mut(number) {
                *there = plain;
            }
            data = rest;
        }
        data.is_empty().then_some(())
    }

    fn restarts(&mut self, data: &[u8]) -> Option<()> {
        self.restart_interval = u16::from_be_bytes(data.try_into().ok()?);
        Some(())
    }

    /// Of any segment of the number that Adobe's has.
    fn adobe(&mut self, data: &[u8]) -> Option<()> {
        if let Some(data) = data.strip_prefix(ADOBE) {
            self.adobe_other |= data.get(ADOBE_TRANSFORM) != Some(&ADOBE_YCBCR);
        }
        Some(())
    }

    /// With the first scan, behind whose header the file has `rest`.
    fn traits(&self, frame: &Frame, scan: &Scan<'_>, rest: &[u8]) -> Traits {
        Traits {
            width: frame.width,
            height: frame.height,
            frame: frame.marker,
            precision: frame.precision,
            components: frame.count,
            sampling: frame.sampling(),
            scanned: scan.components.len() as u8,
            restart_interval: self.restart_interval,
            refusal: self.refusal(frame, scan, rest),
        }
    }

    fn refusal(&self, frame: &Frame, scan: &Scan<'_>, rest: &[u8]) -> Option<Refusal> {
        const END: [u8; 2] = [0xff, EOI];
        let components = frame.components();
        if frame.marker != SOF0 {
            return Some(Refusal::Frame);
        }
        if frame.precision != 8 {
            return Some(Refusal::Precision);
        }
        if frame.width == 0 || frame.height == 0 {
            return Some(Refusal::Size);
        }
        if !matches!(frame.count, 1 | 3) {
            return Some(Refusal::Components);
        }
        if frame.sampling() == Sampling::Other {
            return Some(Refusal::Sampling);
        }
        if !frame.named_plainly() || (self.adobe_other && frame.count > 1) {
            return Some(Refusal::Colour);
        }
        if scan.components.len() != components.len() {
            return Some(Refusal::Scans);
        }
        let scanned = components.iter().zip(scan.components);
        if scan.bands != [0, 63, 0] || scanned.clone().any(|(component, [id, _])| component.id != *id) {
            return Some(Refusal::Scan);
        }
        let there = |tables: &[bool], number: u8| tables.get(usize::from(number)).copied().unwrap_or(false);
        let complete = scanned.clone().all(|(component, [_, tables])| {
            there(&self.quantization, component.table)
                && there(&self.huffman[0], tables >> 4)
                && there(&self.huffman[1], tables & 0xf)
        });
        if !complete {
            return Some(Refusal::Tables);
        }
        let Some(data) = rest.strip_suffix(&END) else { return Some(Refusal::End) };
        // A block has at least one code of each class, a code at least one bit.
        (frame.blocks() * 2 > data.len() as u64 * 8).then_some(Refusal::Bits)
    }
}

#[cfg(test)]
mod tests;
