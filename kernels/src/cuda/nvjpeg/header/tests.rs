//! Files are put together by [`Recipe`], whose default the engine takes, or are those of the image decoders' tests.

use proptest::prelude::*;

use super::*;

const JFIF: &[u8] = b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0";

fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
    [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat()
}

/// One code of one bit for `symbol`.
fn codes(head: u8, symbol: u8) -> Vec<u8> {
    let mut table = vec![head, 1];
    table.extend([0; 15]);
    table.push(symbol);
    table
}

fn adobe(transform: u8) -> Vec<u8> {
    [ADOBE, &[0, 100, 0, 0, 0, 0, transform]].concat()
}

#[derive(Debug, Clone)]
struct Recipe {
    before: Vec<Vec<u8>>,
    quantization: Vec<u8>,
    huffman: Vec<u8>,
    frame: u8,
    precision: u8,
    size: (u16, u16),
    /// Name, sampling factors and quantization table of each component.
    components: Vec<[u8; 3]>,
    /// Name and Huffman tables of each component.
    scanned: Vec<[u8; 2]>,
    bands: [u8; 3],
    data: usize,
    end: Vec<u8>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            before: vec![segment(APP0, JFIF)],
            quantization: [&[0], &[1; 64][..]].concat(),
            huffman: [codes(0, 0), codes(0x10, 0)].concat(),
            frame: SOF0,
            precision: 8,
            size: (33, 17),
            components: vec![[1, 0x22, 0], [2, 0x11, 0], [3, 0x11, 0]],
            scanned: vec![[1, 0], [2, 0], [3, 0]],
            bands: [0, 63, 0],
            data: 100,
            end: vec![0xff, EOI],
        }
    }
}

impl Recipe {
    fn file(&self) -> Vec<u8> {
        let (width, height) = self.size;
        let frame = [
            &[self.precision][..],
            &height.to_be_bytes(),
            &width.to_be_bytes(),
            &[self.components.len() as u8],
            self.components.as_flattened(),
        ];
        let scan = [&[self.scanned.len() as u8], self.scanned.as_flattened(), &self.bands];
        [
            vec![0xff, SOI],
            self.before.concat(),
            segment(DQT, &self.quantization),
            segment(self.frame, &frame.concat()),
            segment(DHT, &self.huffman),
            segment(SOS, &scan.concat()),
            vec![0x55; self.data],
            self.end.clone(),
        ]
        .concat()
    }

    fn refusal(&self) -> Option<Refusal> {
        scan(&self.file()).unwrap().refusal()
    }

    fn gray() -> Self {
        Self { components: vec![[1, 0x11, 0]], scanned: vec![[1, 0]], ..Self::default() }
    }
}

#[test]
fn a_plain_file_is_taken() {
    let expected = Traits {
        width: 33,
        height: 17,
        frame: SOF0,
        precision: 8,
        components: 3,
        sampling: Sampling::Both,
        scanned: 3,
        restart_interval: 0,
        refusal: None,
    };
    assert_eq!(scan(&Recipe::default().file()), Ok(expected));
    let gray = scan(&Recipe::gray().file()).unwrap();
    assert_eq!((gray.sampling, gray.components, gray.refusal()), (Sampling::Gray, 1, None));
    let restarts = Recipe { before: vec![segment(DRI, &[1, 2])], ..Recipe::default() };
    let traits = scan(&restarts.file()).unwrap();
    assert_eq!((traits.restart_interval, traits.refusal()), (0x102, None));
}

#[test]
fn samplings_are_told_apart() {
    let sampled = |factors: [u8; 3]| {
        let components = (1..).zip(factors).map(|(id, factors)| [id, factors, 0]).collect();
        let recipe = Recipe { components, ..Recipe::default() };
        let traits = scan(&recipe.file()).unwrap();
        (traits.sampling, traits.refusal())
    };
    assert_eq!(sampled([0x11, 0x11, 0x11]), (Sampling::Full, None));
    assert_eq!(sampled([0x21, 0x11, 0x11]), (Sampling::Columns, None));
    assert_eq!(sampled([0x12, 0x11, 0x11]), (Sampling::Rows, None));
    assert_eq!(sampled([0x22, 0x11, 0x11]), (Sampling::Both, None));
    for rare in [
        [0x41, 0x11, 0x11],
        [0x42, 0x11, 0x11],
        [0x22, 0x12, 0x12],
        [0x11, 0x22, 0x11],
        [0, 0x11, 0x11],
        [0xff; 3],
    ] {
        assert_eq!(sampled(rare), (Sampling::Other, Some(Refusal::Sampling)), "{rare:x?}");
    }
}

#[test]
fn every_refusal_has_its_reason() {
    let plain = Recipe::default;
    let with = |before: Vec<u8>| Recipe { before: vec![before], ..Recipe::default() };
    let four = vec![[1, 0x11, 0], [2, 0x11, 0], [3, 0x11, 0], [4, 0x11, 0]];
    let named = |names: [u8; 3]| Recipe {
        components: names.map(|name| [name, 0x11, 0]).to_vec(),
        scanned: names.map(|name| [name, 0]).to_vec(),
        ..Recipe::default()
    };
    let cases = [
        (Recipe { frame: 0xc1, ..plain() }, Refusal::Frame),
        (Recipe { frame: 0xc2, ..plain() }, Refusal::Frame),
        (Recipe { frame: 0xc9, ..plain() }, Refusal::Frame),
        (Recipe { precision: 12, ..plain() }, Refusal::Precision),
        (Recipe { size: (0, 1), ..plain() }, Refusal::Size),
        (Recipe { size: (1, 0), ..plain() }, Refusal::Size),
        (Recipe { components: four, ..plain() }, Refusal::Components),
        (Recipe { components: vec![], ..plain() }, Refusal::Components),
        (Recipe { components: vec![[1, 0x11, 0]; 255], ..plain() }, Refusal::Components),
        (Recipe { components: vec![[1, 0x22, 0]], scanned: vec![[1, 0]], ..plain() }, Refusal::Sampling),
        (named(*b"RGB"), Refusal::Colour),
        (named([1, 1, 1]), Refusal::Colour),
        (with(segment(APP14, &adobe(0))), Refusal::Colour),
        (with(segment(APP14, &adobe(2))), Refusal::Colour),
        (with(segment(APP14, ADOBE)), Refusal::Colour),
        (Recipe { scanned: vec![[1, 0]], ..plain() }, Refusal::Scans),
        (Recipe { scanned: vec![[1, 0], [3, 0], [2, 0]], ..plain() }, Refusal::Scan),
        (Recipe { bands: [0, 0, 0], ..plain() }, Refusal::Scan),
        (Recipe { bands: [0, 63, 1], ..plain() }, Refusal::Scan),
        (Recipe { quantization: [&[1], &[1; 64][..]].concat(), ..plain() }, Refusal::Tables),
        (Recipe { quantization: [&[0x10], &[1; 128][..]].concat(), ..plain() }, Refusal::Tables),
        (Recipe { huffman: codes(0, 0), ..plain() }, Refusal::Tables),
        (Recipe { huffman: [codes(0, 12), codes(0x10, 0)].concat(), ..plain() }, Refusal::Tables),
        (Recipe { huffman: [codes(0, 0), codes(0x10, 0x0b)].concat(), ..plain() }, Refusal::Tables),
        (Recipe { scanned: vec![[1, 0], [2, 0x22], [3, 0]], ..plain() }, Refusal::Tables),
        (Recipe { end: vec![], ..plain() }, Refusal::End),
        (Recipe { end: vec![0xff, EOI, 0], ..plain() }, Refusal::End),
        (Recipe { size: (u16::MAX, u16::MAX), ..plain() }, Refusal::Bits),
        (Recipe { data: 8, ..plain() }, Refusal::Bits),
    ];
    for (recipe, refusal) in cases {
        assert_eq!(recipe.refusal(), Some(refusal), "{recipe:?}");
        assert!(!refusal.to_string().is_empty());
    }
    assert_eq!(Recipe { data: 9, ..plain() }.refusal(), None, "36 blocks of two bits");
    assert_eq!(with(segment(APP14, &adobe(1))).refusal(), None);
    assert_eq!(with(segment(APP14, b"another")).refusal(), None);
    assert_eq!(named([0, 1, 2]).refusal(), None);
    let gray = Recipe { before: vec![segment(APP14, &adobe(0))], ..Recipe::gray() };
    assert_eq!(gray.refusal(), None);
}

#[test]
fn headers_that_are_none_are_not_read() {
    let with = |before: Vec<u8>| scan(&Recipe { before: vec![before], ..Recipe::default() }.file());
    assert_eq!(scan(b""), Err(NoHeader::Signature));
    assert_eq!(scan(b"\x89PNG\r\n\x1a\n"), Err(NoHeader::Signature));
    assert_eq!(scan(&[0xff, SOI]), Err(NoHeader::CutShort));
    assert_eq!(scan(&[0xff, SOI, 0xff]), Err(NoHeader::CutShort));
    assert_eq!(scan(&[0xff, SOI, 0xff, COM, 0, 3]), Err(NoHeader::CutShort));
    assert_eq!(with(vec![0]), Err(NoHeader::Stray { at: 2 }));
    assert_eq!(with(vec![0xff]), Err(NoHeader::Stray { at: 2 }));
    for marker in [0x01, 0xc8, 0xd0, SOI, EOI, 0xdc, 0xde, 0xf0] {
        assert_eq!(with(segment(marker, &[])), Err(NoHeader::Stray { at: 2 }), "{marker:x}");
    }
    assert_eq!(with(vec![0xff, COM, 0, 1]), Err(NoHeader::Segment { at: 2 }));
    let overfull = [&[0][..], &[2; 16], &[0; 32]].concat();
    let nonsense = [
        segment(DRI, &[1]),
        segment(SOF0, &[8, 0, 1, 0, 1, 1]),
        segment(SOF0, &[8, 0, 1, 0, 1, 1, 1, 0x11, 0, 0]),
        segment(DQT, &[0; 64]),
        segment(DQT, &[0x20; 65]),
        segment(DQT, &[4; 65]),
        segment(DHT, &[0; 16]),
        segment(DHT, &[0; 17]),
        segment(DHT, &codes(0, 0)[..17]),
        segment(DHT, &codes(0x20, 0)),
        segment(DHT, &codes(4, 0)),
        segment(DHT, &overfull),
    ];
    for segment in nonsense {
        assert_eq!(with(segment.clone()), Err(NoHeader::Segment { at: 2 }), "{segment:x?}");
    }
    let twice = segment(SOF0, &[8, 0, 1, 0, 1, 1, 1, 0x11, 0]);
    assert_eq!(with(twice), Err(NoHeader::Frames));
    assert_eq!(
        scan(&[&[0xff, SOI], &segment(SOS, &[1, 1, 0, 0, 63, 0])[..]].concat()),
        Err(NoHeader::Frames)
    );
    let comments = |count| with(segment(COM, b"").repeat(count)).map(|traits| traits.refusal());
    assert_eq!(comments(MAX_SEGMENTS - 4), Ok(None));
    assert_eq!(comments(MAX_SEGMENTS), Err(NoHeader::Segments));
    for count in [0, 2] {
        let recipe = Recipe { scanned: vec![[1, 0]; count], data: 0, end: vec![], ..Recipe::default() };
        let mut file = recipe.file();
        // Components are said to be three.
        let at = file.len() - recipe.bands.len() - 2 * count - 1;
        file[at] = 3;
        assert!(matches!(scan(&file), Err(NoHeader::Segment { .. })), "{file:x?}");
    }
}

/// The image decoders' golden files.
fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/images");
    std::fs::read(format!("{folder}/{name}.jpg")).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn what_encoders_write_is_seen_for_what_it_is() {
    let cases = [
        ("gray", Sampling::Gray, None),
        ("yuv444", Sampling::Full, None),
        ("yuv422", Sampling::Columns, None),
        ("yuv440", Sampling::Rows, None),
        ("yuv420", Sampling::Both, None),
        ("restarts", Sampling::Both, None),
        ("orientation6", Sampling::Full, None),
        ("progressive", Sampling::Both, Some(Refusal::Frame)),
        ("cmyk", Sampling::Other, Some(Refusal::Components)),
        ("ycck", Sampling::Other, Some(Refusal::Components)),
    ];
    for (name, sampling, refusal) in cases {
        let traits = scan(&golden(name)).unwrap();
        assert_eq!((traits.sampling, traits.refusal()), (sampling, refusal), "{name}: {traits:?}");
    }
    assert!(scan(&golden("restarts")).unwrap().restart_interval > 0);
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn no_file_that_is_cut_short_is_taken() {
    let file = golden("yuv420");
    for length in 0..file.len() {
        let taken = scan(&file[..length]).is_ok_and(|traits| traits.refusal().is_none());
        assert!(!taken, "{length} of {} bytes", file.len());
    }
}

proptest! {
    #[test]
    fn garbage_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = scan(&bytes);
        let _ = scan(&[&[0xff, SOI], &bytes[..]].concat());
    }

    #[test]
    fn garbage_in_segments_is_harmless(
        segments in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20,
        ),
    ) {
        const MARKERS: [u8; 9] = [SOF0, 0xc2, DHT, DAC, SOS, DQT, DRI, APP0, APP14];
        let segments: Vec<_> =
            segments.iter().map(|(marker, data)| segment(*marker.get(&MARKERS), data)).collect();
        let _ = scan(&[vec![0xff, SOI], segments.concat(), vec![0xff, EOI]].concat());
    }

    #[test]
    fn damage_is_harmless_and_what_is_taken_is_plain(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = Recipe::default().file();
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(traits) = scan(&file) && traits.refusal().is_none() {
            prop_assert_eq!((traits.frame, traits.precision), (SOF0, 8));
            prop_assert_eq!(traits.scanned, traits.components);
            prop_assert!(traits.width > 0 && traits.height > 0 && traits.sampling != Sampling::Other);
            prop_assert!(file.ends_with(&[0xff, EOI]));
        }
    }

    #[test]
    fn sizes_and_the_bits_they_need(width in 1..2000_u16, height in 1..2000_u16, data in 0..20_000_usize) {
        let traits = scan(&Recipe { size: (width, height), data, ..Recipe::default() }.file()).unwrap();
        prop_assert_eq!((traits.width, traits.height), (width, height));
        let units = usize::from(width).div_ceil(16) * usize::from(height).div_ceil(16);
        prop_assert_eq!(traits.refusal().is_none(), units * 12 <= data * 8);
    }
}
