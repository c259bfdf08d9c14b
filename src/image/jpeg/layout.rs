//! A JPEG's segments, walked without decoding: what is read off them before the decoder is let at the file, and how much
//! of the file it is given. ITU-T T.81 B.1 is the syntax; where a file departs from it, the walk does as libjpeg does.

/// The most scans that are decoded. Each goes over the whole picture, however few bytes it takes; libjpeg writes ten for
/// a colour picture.
const MAX_SCANS: usize = 100;

const SOF0: u8 = 0xc0;
const SOF1: u8 = 0xc1;
const SOF2: u8 = 0xc2;
const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;
const SOF15: u8 = 0xcf;
const RST0: u8 = 0xd0;
const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP1: u8 = 0xe1;
const TEM: u8 = 0x01;

const EXIF_SIGNATURE: &[u8] = b"Exif\0\0";

/// Why a file's segments are not those of a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LayoutError {
    #[error("the file ends early")]
    CutShort,
    #[error("component {id} has no scan")]
    NoScan { id: u8 },
    #[error("no frame header before the first scan or the end of the image")]
    NoFrame,
    #[error("more than {MAX_SCANS} scans")]
    TooManyScans,
    #[error("frame type {frame:#04x}, {components} components of {precision} bits")]
    Unsupported { frame: u8, components: u8, precision: u8 },
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout<'a> {
    /// Columns, unchecked.
    pub(super) width: u16,
    /// Rows, unchecked.
    pub(super) height: u16,
    /// Bytes of coefficients that are kept until the last scan, if there are several; each is a 16-bit number.
    pub(super) coefficients: u64,
    /// EXIF data without its signature.
    pub(super) exif: Option<&'a [u8]>,
    /// The file; up to its end marker if the picture takes several scans.
    pub(super) picture: &'a [u8],
}

impl<'a> Layout<'a> {
    /// Walks `file` to its first scan if that has the whole picture, and to the end marker otherwise: without one, scans
    /// may be missing and nobody could tell.
    pub(super) fn of(file: &'a [u8]) -> Result<Self, LayoutError> {
        let mut walk = Walk { rest: file };
        let mut exif = None;
        let mut frame = None;
        let (frame, picture) = loop {
            match walk.marker().ok_or(LayoutError::CutShort)? {
                TEM | RST0..=SOI => {}
                EOI => break (frame, &file[..file.len() - walk.rest.len()]),
                marker => {
                    let data = walk.segment().ok_or(LayoutError::CutShort)?;
                    match marker {
                        APP1 => exif = exif.or(data.strip_prefix(EXIF_SIGNATURE)),
                        DHT | JPG | DAC => {}
                        SOF0..=SOF15 if frame.is_none() => frame = Some(Frame::parse(marker, data)?),
                        SOS if frame.as_mut().ok_or(LayoutError::NoFrame)?.completed_by(data)? => {
                            break (frame, file);
                        }
                        _ => {}
                    }
                }
            }
        };
        let frame = frame.ok_or(LayoutError::NoFrame)?;
        match frame.unscanned.first() {
            Some(&id) => Err(LayoutError::NoScan { id }),
            None => {
                let (width, height, coefficients) = (frame.width, frame.height, frame.coefficients());
                Ok(Self { width, height, coefficients, exif, picture })
            }
        }
    }
}

struct Frame {
    width: u16,
    height: u16,
    progressive: bool,
    components: u8,
    /// Horizontal and vertical sampling factors of each component.
    factors: Vec<(u8, u8)>,
    /// Whether one scan has everything, so that nothing is kept until the next.
    at_once: bool,
    /// Identifiers of components that no scan has had yet.
    unscanned: Vec<u8>,
    scans: usize,
}

impl Frame {
    /// Huffman-coded DCT with 8 bits; one component, three, or four.
    fn parse(marker: u8, data: &[u8]) -> Result<Self, LayoutError> {
        let Some((&[precision, h1, h0, w1, w0, components], specifications)) = data.split_first_chunk()
        else {
            return Err(LayoutError::CutShort);
        };
        if !matches!((marker, precision, components), (SOF0 | SOF1 | SOF2, 8, 1 | 3 | 4)) {
            return Err(LayoutError::Unsupported { frame: marker, components, precision });
        }
        let specifications = &specifications.as_chunks::<3>().0;
        let specifications = &specifications[..specifications.len().min(components.into())];
        Ok(Self {
            width: u16::from_be_bytes([w1, w0]),
            height: u16::from_be_bytes([h1, h0]),
            progressive: marker == SOF2,
            components,
            factors: specifications.iter().map(|&[_, factors, _]| (factors >> 4, factors & 0xf)).collect(),
            at_once: false,
            unscanned: specifications.iter().map(|&[id, ..]| id).collect(),
            scans: 0,
        })
    }

    /// Counts a scan by its header; whether it has the whole picture.
    fn completed_by(&mut self, header: &[u8]) -> Result<bool, LayoutError> {
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(LayoutError::TooManyScans);
        }
        let (&components, specifications) = header.split_first().ok_or(LayoutError::CutShort)?;
        let scanned = &specifications.as_chunks::<2>().0;
        let scanned = &scanned[..scanned.len().min(components.into())];
        self.unscanned.retain(|id| !scanned.iter().any(|[scanned, _]| scanned == id));
        self.at_once = self.scans == 1 && !self.progressive && components >= self.components;
        Ok(!self.progressive && components >= self.components)
    }

    /// Of every component, blocks of 64 of its part of the picture's samples, rounded up to whole units of the scan.
    fn coefficients(&self) -> u64 {
        if self.at_once {
            return 0;
        }
        let most = |factor: fn(&(u8, u8)) -> u8| {
            u64::from(self.factors.iter().map(factor).max().unwrap_or(1).max(1))
        };
        let (columns, rows) = (most(|factors| factors.0), most(|factors| factors.1));
        let units = u64::from(self.width).div_ceil(8 * columns) * u64::from(self.height).div_ceil(8 * rows);
        let blocks =
            self.factors.iter().map(|(column, row)| u64::from(*column) * u64::from(*row)).sum::<u64>();
        units * blocks * 64 * size_of::<i16>() as u64
    }
}

struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    /// The next marker's code. Skips what is in between, be it entropy-coded data or bytes that do not belong there.
    fn marker(&mut self) -> Option<u8> {
        loop {
            let prefix = self.rest.iter().position(|&byte| byte == 0xff)?;
            self.rest = &self.rest[prefix..];
            let code = self.rest.iter().position(|&byte| byte != 0xff)?;
            let marker = self.rest[code];
            self.rest = &self.rest[code + 1..];
            if marker != 0 {
                return Some(marker);
            }
        }
    }

    /// The data of the segment that a marker began.
    fn segment(&mut self) -> Option<&'a [u8]> {
        const LENGTH: usize = 2;
        let (length, after) = self.rest.split_first_chunk::<LENGTH>()?;
        let length = usize::from(u16::from_be_bytes(*length)).checked_sub(LENGTH)?;
        let (data, rest) = after.split_at_checked(length)?;
        self.rest = rest;
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
        [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat()
    }

    fn frame(marker: u8, components: u8) -> Vec<u8> {
        let specifications = (1..=components).flat_map(|id| [id, 0x11, 0]);
        let header = [8, 0, 2, 0, 3, components];
        segment(marker, &header.into_iter().chain(specifications).collect::<Vec<_>>())
    }

    fn scan(components: &[u8]) -> Vec<u8> {
        let specifications = components.iter().flat_map(|&id| [id, 0]);
        let header = std::iter::once(components.len() as u8).chain(specifications).chain([0, 63, 0]);
        let mut scan = segment(SOS, &header.collect::<Vec<_>>());
        scan.extend([1, 0xff, 0, 0xff, 0xff, RST0, 2]);
        scan
    }

    fn jpeg(parts: &[Vec<u8>]) -> Vec<u8> {
        [&[0xff, SOI], &parts.concat()[..]].concat()
    }

    const END: [u8; 2] = [0xff, EOI];

    #[test]
    fn one_scan_of_all_components_needs_no_end() {
        let exif = [segment(APP1, b"http://"), segment(APP1, b"Exif\0\0one"), segment(APP1, b"Exif\0\0two")];
        let file = jpeg(&[exif.concat(), frame(SOF0, 3), scan(&[1, 2, 3])]);
        let expected = Layout { width: 3, height: 2, coefficients: 0, exif: Some(b"one"), picture: &file };
        assert_eq!(Layout::of(&file), Ok(expected));
    }

    #[test]
    fn several_scans_end_with_the_marker() {
        for (marker, scans) in [(SOF0, [scan(&[1]), scan(&[2, 3])]), (SOF2, [scan(&[1, 2, 3]), scan(&[1])])] {
            let file = jpeg(&[frame(marker, 3), scans.concat()]);
            assert_eq!(Layout::of(&file), Err(LayoutError::CutShort));
            let whole = [&file[..], &END].concat();
            let trailed = [&whole[..], b"trailing"].concat();
            let layout = Layout::of(&trailed).unwrap();
            assert_eq!(
                (layout.picture, layout.coefficients),
                (&whole[..], 3 * 64 * 2),
                "a block of each component"
            );
        }
    }

    #[test]
    fn every_component_has_a_scan() {
        let file = jpeg(&[frame(SOF2, 3), scan(&[1]), scan(&[3]), END.to_vec()]);
        assert_eq!(Layout::of(&file), Err(LayoutError::NoScan { id: 2 }));
        assert_eq!(Layout::of(&jpeg(&[frame(SOF0, 1), END.to_vec()])), Err(LayoutError::NoScan { id: 1 }));
    }

    #[test]
    fn scans_are_limited_and_need_a_frame() {
        let file = |scans| jpeg(&[frame(SOF2, 1), scan(&[1]).repeat(scans), END.to_vec()]);
        assert!(Layout::of(&file(MAX_SCANS)).is_ok());
        assert_eq!(Layout::of(&file(MAX_SCANS + 1)), Err(LayoutError::TooManyScans));
        assert_eq!(Layout::of(&jpeg(&[scan(&[1])])), Err(LayoutError::NoFrame));
        assert_eq!(Layout::of(&jpeg(&[END.to_vec()])), Err(LayoutError::NoFrame));
    }

    #[test]
    fn what_is_not_decoded_is_said_to_be_unsupported() {
        for (marker, components) in [(0xc3, 3), (0xc9, 3), (0xca, 1), (SOF0, 2), (SOF1, 5)] {
            let expected = LayoutError::Unsupported { frame: marker, components, precision: 8 };
            assert_eq!(Layout::of(&jpeg(&[frame(marker, components)])), Err(expected));
        }
    }
}
