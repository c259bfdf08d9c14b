//! Pictures of many sizes laid out for one launch of the resize kernel: descriptors, the tables of their plans and what
//! each block does. Plain data, no device; copying it and the pixels there is the caller's, and so is every picture that
//! [`Batch`] refuses.

use super::source::{Launch, NORMAL_BYTES};
use crate::geometry::{Axis, Order, Plan};

/// Bytes that must be readable behind the last picture's pixels: the kernel reads whole words. Their values do not count.
pub const SOURCE_PADDING: usize = 16;

/// Descriptors are told apart by 16 bits of a block's work.
pub const MAX_PICTURES: usize = 1 << 16;

/// The most shared memory that leaves room for several blocks on a multiprocessor; a tile takes more only for want of
/// a smaller one.
const ROOMY_BYTES: u32 = 24 << 10;

/// The most output lines of a tile, and the least that a tile is cut to for the sake of more blocks. The fewer the lines,
/// the more source lines two tiles both read.
const LINES: (u32, u32) = (16, 4);

/// Why a batch cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaggedError {
    /// The network's input has an odd side, or a plan another side.
    #[error("picture {index} is planned for a side of {actual}, not {side}, which must be even")]
    Side {
        /// Which picture.
        index: usize,
        /// The batch's side in pixels.
        side: u32,
        /// The plan's side in pixels.
        actual: u32,
    },
    /// More than [`MAX_PICTURES`].
    #[error("{count} pictures in a batch of at most {MAX_PICTURES}")]
    Count {
        /// Pictures given.
        count: usize,
    },
    /// The tables would be larger than allowed.
    #[error("the tables of the batch take more than {limit} bytes")]
    Tables {
        /// [`Limits::table_bytes`].
        limit: usize,
    },
}

/// What a batch may take, and how far it is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Dynamic shared memory of a block in bytes; beyond 48 KiB the kernel has to be told (a function attribute).
    pub shared_bytes: u32,
    /// The tables in bytes.
    pub table_bytes: usize,
    /// Blocks that keep the device busy: tiles are made smaller while there are fewer.
    pub blocks: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { shared_bytes: 48 << 10, table_bytes: 64 << 20, blocks: 256 }
    }
}

/// A picture to resize.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// What happens to it.
    pub plan: &'a Plan,
    /// Byte of its first pixel in the device's buffer: RGB8, `plan.width() * 3` bytes a row, no gaps.
    pub source: u64,
    /// Which picture of the network's input it becomes.
    pub slot: u32,
}

/// A picture as the kernel reads it (`Picture` in `resize.cu`). Spans and weights are indices into [`Batch::tables`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Byte of the first pixel.
    pub source: u64,
    /// Bytes of a source row.
    pub pitch: u32,
    /// 1 where rows come first, else 0.
    pub vertical: u32,
    /// Output lines of a tile along the second pass's axis; even.
    pub lines: u32,
    /// Which picture of the output.
    pub slot: u32,
    /// First pass: pairs of first source index and length, one an output.
    pub first_spans: u32,
    /// First pass: `[side, taps]`; a multiple of four.
    pub first_weights: u32,
    /// First pass: a multiple of four.
    pub first_taps: u32,
    /// Second pass: as of the first.
    pub second_spans: u32,
    /// Second pass: as of the first.
    pub second_weights: u32,
    /// Second pass: as of the first.
    pub second_taps: u32,
}

impl Descriptor {
    /// As the device gets it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.source.to_ne_bytes());
        let rest = [
            self.pitch,
            self.vertical,
            self.lines,
            self.slot,
            self.first_spans,
            self.first_weights,
            self.first_taps,
            self.second_spans,
            self.second_weights,
            self.second_taps,
        ];
        for (to, field) in bytes[8..].chunks_exact_mut(4).zip(rest) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

/// Everything but pixels that one launch of `convoy_resize` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// One a picture that is not refused, in order.
    pub descriptors: Vec<Descriptor>,
    /// Spans and weights of all plans; the device wants them 16-byte aligned.
    pub tables: Vec<i32>,
    /// What each block does: descriptor `<< 16 |` tile.
    pub work: Vec<u32>,
    /// Indices of the pictures whose smallest tile takes more shared memory than allowed. Nobody writes their slots.
    pub refused: Vec<usize>,
    shared_bytes: u32,
}

impl Batch {
    /// Lays out `pictures` for a network input of `side` x `side` pixels. Equal plans share their tables.
    ///
    /// # Errors
    /// When a side does not fit, or `pictures` or their tables are too many. A picture that does not fit in shared memory
    /// is no error: see [`Batch::refused`].
    pub fn new(side: u32, pictures: &[Picture<'_>], limits: Limits) -> Result<Self, RaggedError> {
        if pictures.len() > MAX_PICTURES {
            return Err(RaggedError::Count { count: pictures.len() });
        }
        let most = most_lines(side, pictures.len() as u64, limits.blocks);
        let mut batch = Self {
            descriptors: Vec::with_capacity(pictures.len()),
            tables: Vec::new(),
            work: Vec::new(),
            refused: Vec::new(),
            shared_bytes: NORMAL_BYTES,
        };
        // The first picture of every plan, with its descriptor if it has one.
        let mut known: Vec<(&Plan, Option<Descriptor>, u32)> = Vec::new();
        for (index, picture) in pictures.iter().enumerate() {
            let plan = picture.plan;
            if plan.size() != side || !side.is_multiple_of(2) {
                return Err(RaggedError::Side { index, side, actual: plan.size() });
            }
            let seen = known.iter().find(|(other, ..)| std::ptr::eq(*other, plan) || *other == plan);
            let (descriptor, shared_bytes) = match seen {
                Some(&(_, descriptor, shared_bytes)) => (descriptor, shared_bytes),
                None => {
                    let tile = tile(plan, most, limits.shared_bytes);
                    let shared_bytes = tile.map_or(0, |(_, bytes)| bytes);
                    let descriptor = match tile {
                        Some((lines, _)) => Some(batch.describe(plan, lines, limits.table_bytes)?),
                        None => None,
                    };
                    known.push((plan, descriptor, shared_bytes));
                    (descriptor, shared_bytes)
                }
            };
            let Some(descriptor) = descriptor else {
                batch.refused.push(index);
                continue;
            };
            let high = (batch.descriptors.len() as u32) << 16;
            batch.work.extend((0..side.div_ceil(descriptor.lines)).map(|tile| high | tile));
            batch.descriptors.push(Descriptor { source: picture.source, slot: picture.slot, ..descriptor });
            batch.shared_bytes = batch.shared_bytes.max(shared_bytes);
        }
        Ok(batch)
    }

    /// How to launch `convoy_resize`; None when every picture is refused.
    #[must_use]
    pub fn launch(&self) -> Option<Launch> {
        let blocks = self.work.len() as u32;
        (blocks > 0).then_some(Launch { grid: (blocks, 1), threads: 256, shared_bytes: self.shared_bytes })
    }

    /// Writes a plan's tables; source and slot are left zero.
    fn describe(&mut self, plan: &Plan, lines: u32, limit: usize) -> Result<Descriptor, RaggedError> {
        let [first, second] = passes(plan);
        let size = |axis: &Axis| axis.spans().len().next_multiple_of(2) * 2 + axis.weights().len();
        let bytes = (self.tables.len() + size(first) + size(second)).saturating_mul(size_of::<i32>());
        if bytes > limit.min(i32::MAX as usize) {
            return Err(RaggedError::Tables { limit });
        }
        let (first_spans, first_weights) = self.write(first);
        let (second_spans, second_weights) = self.write(second);
        Ok(Descriptor {
            source: 0,
            pitch: plan.width() * 3,
            vertical: u32::from(plan.order() == Order::VerticalFirst),
            lines,
            slot: 0,
            first_spans,
            first_weights,
            first_taps: first.taps() as u32,
            second_spans,
            second_weights,
            second_taps: second.taps() as u32,
        })
    }

    /// Where spans and weights begin: multiples of four.
    fn write(&mut self, axis: &Axis) -> (u32, u32) {
        let spans = self.tables.len();
        self.tables.extend(axis.spans().iter().flat_map(|span| [span.first as i32, span.len as i32]));
        self.tables.resize(self.tables.len().next_multiple_of(4), 0);
        let weights = self.tables.len();
        self.tables.extend_from_slice(axis.weights());
        (spans as u32, weights as u32)
    }
}

/// Whether the kernel can resize by `plan` in blocks of at most `shared_bytes` of shared memory.
#[must_use]
pub fn fits(plan: &Plan, shared_bytes: u32) -> bool {
    plan.size().is_multiple_of(2) && tile(plan, LINES.0, shared_bytes).is_some()
}

/// The first pass's axis, then the second's.
fn passes(plan: &Plan) -> [&Axis; 2] {
    match plan.order() {
        Order::HorizontalFirst => [plan.columns(), plan.rows()],
        Order::VerticalFirst => [plan.rows(), plan.columns()],
    }
}

/// How many lines a tile may have so that the batch still has so many blocks.
fn most_lines(side: u32, pictures: u64, blocks: u32) -> u32 {
    let mut lines = LINES.0;
    while lines > LINES.1 && pictures * u64::from(side.div_ceil(lines)) < u64::from(blocks) {
        lines /= 2;
    }
    lines
}

/// Lines of a tile and the shared memory that its block takes: as many as are roomy, else as many as fit at all, and
/// tiles of about one size.
fn tile(plan: &Plan, most: u32, shared_bytes: u32) -> Option<(u32, u32)> {
    let fitting = |limit: u32| {
        let mut lines = (1..=most / 2).rev().map(|half| half * 2);
        lines.find(|&lines| tile_bytes(plan, lines) <= u64::from(limit))
    };
    let lines = fitting(ROOMY_BYTES.min(shared_bytes)).or_else(|| fitting(shared_bytes))?;
    let even = plan.size().div_ceil(plan.size().div_ceil(lines)).next_multiple_of(2).min(lines);
    // Tiles of fewer lines begin elsewhere: one may read a source line more.
    [even, lines].into_iter().find_map(|lines| {
        let bytes = tile_bytes(plan, lines);
        (bytes <= u64::from(shared_bytes)).then_some((lines, bytes as u32))
    })
}

/// Shared memory of the largest tile: the table of normalised values, then a line of bytes for every source line that the
/// tile's outputs read.
fn tile_bytes(plan: &Plan, lines: u32) -> u64 {
    let [_, second] = passes(plan);
    let needed = second
        .spans()
        .chunks(lines as usize)
        .map(|tile| tile[tile.len() - 1].end() - tile[0].first)
        .max()
        .unwrap_or(0);
    u64::from(NORMAL_BYTES) + u64::from(needed) * u64::from(pitch_words(plan.size())) * 4
}

/// Words of a line in shared memory (`middle_pitch` in `resize.cu`).
fn pitch_words(side: u32) -> u32 {
    (side.div_ceil(4) * 3) | 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::transform::{Filter, Transform};

    fn plan(width: u32, height: u32, transform: Transform) -> Plan {
        Plan::new(width, height, transform, 224).unwrap()
    }

    fn lay_out(plans: &[&Plan], limits: Limits) -> Result<Batch, RaggedError> {
        let pictures: Vec<_> =
            plans.iter().zip(0..).map(|(plan, slot)| Picture { plan, source: 0, slot }).collect();
        Batch::new(224, &pictures, limits)
    }

    #[test]
    fn equal_plans_share_their_tables() {
        let (a, b) = (plan(640, 480, Transform::RESIZE_CROP), plan(640, 480, Transform::RESIZE_CROP));
        let c = plan(640, 481, Transform::RESIZE_CROP);
        let batch = lay_out(&[&a, &c, &b, &a], Limits::default()).unwrap();
        let [first, other, second, third] = batch.descriptors[..] else { panic!("four descriptors") };
        assert_eq!([second, third], [2, 3].map(|slot| Descriptor { slot, ..first }));
        assert_ne!(first.first_spans, other.first_spans);
        assert_eq!(
            batch.tables.len(),
            lay_out(&[&a], Limits::default()).unwrap().tables.len()
                + lay_out(&[&c], Limits::default()).unwrap().tables.len()
        );
    }

    #[test]
    fn few_pictures_are_cut_smaller() {
        let plan = plan(640, 480, Transform::RESIZE_CROP);
        let one = lay_out(&[&plan], Limits::default()).unwrap();
        assert_eq!((one.descriptors[0].lines, one.work.len()), (4, 56));
        let many = lay_out(&[&plan; 32], Limits::default()).unwrap();
        assert_eq!((many.descriptors[31].lines, many.work.len()), (16, 32 * 14));
        assert_eq!(many.work[14..16], [1 << 16, 1 << 16 | 1]);
        assert!(many.launch().unwrap().shared_bytes <= ROOMY_BYTES);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_the_rest_done() {
        let stretch = Transform::Stretch { filter: Filter::Bicubic };
        let (small, large) = (plan(300, 300, stretch), plan(9000, 9000, stretch));
        assert!(fits(&small, 48 << 10) && !fits(&large, 96 << 10));
        let batch = lay_out(&[&large, &small, &large], Limits::default()).unwrap();
        assert_eq!((batch.refused.as_slice(), batch.descriptors.len()), ([0, 2].as_slice(), 1));
        assert_eq!(batch.descriptors[0].slot, 1);
        assert_eq!(lay_out(&[&large], Limits::default()).unwrap().launch(), None);
    }

    #[test]
    fn more_shared_memory_takes_larger_pictures() {
        let large = plan(8000, 7000, Transform::RESIZE_CROP);
        assert!(!fits(&large, 48 << 10) && fits(&large, 96 << 10));
        let limits = Limits { shared_bytes: 96 << 10, ..Limits::default() };
        let shared_bytes = lay_out(&[&large], limits).unwrap().launch().unwrap().shared_bytes;
        assert!((48 << 10..=96 << 10).contains(&shared_bytes), "{shared_bytes}");
    }

    #[test]
    fn limits_are_kept() {
        let plan = plan(640, 480, Transform::RESIZE_CROP);
        let limits = Limits { table_bytes: 1000, ..Limits::default() };
        assert_eq!(lay_out(&[&plan], limits), Err(RaggedError::Tables { limit: 1000 }));
        let picture = Picture { plan: &plan, source: 0, slot: 0 };
        let error = RaggedError::Side { index: 0, side: 226, actual: 224 };
        assert_eq!(Batch::new(226, &[picture], Limits::default()), Err(error));
        let count = MAX_PICTURES + 1;
        let error = RaggedError::Count { count };
        assert_eq!(Batch::new(224, &vec![picture; count], Limits::default()), Err(error));
    }
}
