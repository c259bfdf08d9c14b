//! The kernels' source, one text for a compiler at run time or beforehand, and the shapes to launch them in. Owns no
//! arithmetic: what a kernel computes stands in `kernels/*.cu`.
//!
//! The text needs no header and no option but the architecture, and so do the files one after another, `common.cuh`
//! first. Contraction of multiplication and addition may be on: where bits matter the source says how to round. Fast-math
//! must be off.
//!
//! Pointers are device addresses, 16-byte aligned unless said otherwise; `half` is the bits of an IEEE binary16. Every
//! kernel with `batch` but `convoy_small_convolution` has a picture a block of `grid.y`, so a batch is at most 65535. Parameters, in order:
//!
//! | kernel | parameters | [`Launch`] |
//! |---|---|---|
//! | `convoy_pack_rgb8` | `u8 *pixels, half *out, int side, int block, float *norm` | [`pack_rgb8`] |
//! | `convoy_pack_f32` | `float *pixels, half *out, int side, int block` | [`pack_f32`] |
//! | `convoy_resize` | `u8 *pixels, Descriptor *pictures, int *tables, u32 *work, half *out, int side, int block, float *norm` | [`Batch::launch`](super::ragged::Batch::launch) |
//! | `convoy_max_pool` | `half *in, half *out, int height, int width, int channels, int out_height, int out_width, int kernel, int stride, int pad, int quads` | [`max_pool`] |
//! | `convoy_average_pool` | `half *in, half *out, int pixels, int channels` | [`average_pool`] |
//! | `convoy_depthwise` | `half *in, half *weight, float *bias, half *out, int height, int width, int channels, int out_height, int out_width, int kernel, int stride, int pad_top, int pad_left, float low, float high` | [`depthwise`] |
//! | `convoy_convolution` | `half *in, half *weight, float *bias, half *addend, void *out, int out_is_f32, int height, int width, int channels, int filters, int out_height, int out_width, int kernel_height, int kernel_width, int stride, int pad_top, int pad_left, float low, float high` | [`convolution`] |
//! | `convoy_small_convolution` | `half *in, half *weight, float *bias, half *addend, half *out, float *partials, u32 *counters, int batch, int height, int width, int channels, int filters, int out_height, int out_width, int kernel, int stride, int pad_top, int pad_left, int splits, float low, float high` | [`small_convolution`] |
//! | `convoy_fill` | `half *out, u64 count, u32 seed, float scale` | [`fill`] |
//! | `convoy_differ` | `void *a, void *b, int a_is_f32, int b_is_f32, u64 count, double *sums` | [`differ`] |
//! | `convoy_prefetch` | `u8 *from, u64 bytes` | [`prefetch`] |
//! | `convoy_top` | `float *logits, u32 *class_out, float *probability_out, int *bad, int classes, int k` | [`top`] |
//!
//! Activations and weights are NHWC and KRSC; pools and the depthwise convolution want channels in multiples of eight.
//! `block` is the side of an input cell in pixels, 2 or 4 (`pack.cu`).
//! `norm` is six floats: mean of red, green, blue, then standard deviation. `low` and `high` clamp and may be infinite.

/// The whole source (`build.rs` has the order of the files). It is CUDA C++ for the device and C (gnu11) for the host, where
/// `name_host` stands for a kernel.
pub const SOURCE: &str = include_str!(concat!(env!("OUT_DIR"), "/convoy.cu"));

/// The source as machine code for sm_75, 80, 86, 89 and 90, if NVIDIA's compiler was there when this crate was built.
pub const FATBIN: Option<&[u8]> = {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/convoy.fatbin"));
    if bytes.is_empty() { None } else { Some(bytes) }
};

/// Every kernel's name.
pub const KERNELS: [&str; 12] = [
    "convoy_pack_rgb8",
    "convoy_pack_f32",
    "convoy_resize",
    "convoy_max_pool",
    "convoy_average_pool",
    "convoy_depthwise",
    "convoy_convolution",
    "convoy_small_convolution",
    "convoy_fill",
    "convoy_differ",
    "convoy_top",
    "convoy_prefetch",
];

/// Halves of a cell of `block` by `block` pixels of the network's input.
#[must_use]
pub const fn cell_channels(block: usize) -> usize {
    if block == 2 { 16 } else { 3 * block * block }
}

/// The most classes that `convoy_top` is asked for.
pub const MAX_TOP: u32 = 32;

/// Class of a place that `convoy_top` gives nobody.
pub const NO_CLASS: u32 = u32::MAX;

/// Dynamic shared memory of the table of normalised values.
pub(super) const NORMAL_BYTES: u32 = 3 * 256 * 2;

/// Grid, block and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x and y; one along z.
    pub grid: (u32, u32),
    /// Threads of a block, along x.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

impl Launch {
    /// A thread for each of `tasks` of each of `batch` pictures.
    fn each(tasks: u64, batch: u32, threads: u32) -> Self {
        // More blocks than a grid holds is more than a GPU's memory holds of outputs; the launch refuses it.
        let blocks = u32::try_from(tasks.div_ceil(u64::from(threads))).unwrap_or(u32::MAX);
        Self { grid: (blocks, batch), threads, shared_bytes: 0 }
    }

    /// Blocks that go through `count` elements together.
    fn stride(count: u64, shared_bytes: u32) -> Self {
        Self { grid: (count.div_ceil(256).clamp(1, 1024) as u32, 1), threads: 256, shared_bytes }
    }
}

fn cells(side: u32) -> u64 {
    u64::from(side / 2).pow(2)
}

/// `convoy_pack_rgb8` for pictures `[batch, side, side, 3]`.
#[must_use]
pub fn pack_rgb8(batch: u32, side: u32) -> Launch {
    Launch { shared_bytes: NORMAL_BYTES, ..Launch::each(cells(side), batch, 256) }
}

/// `convoy_pack_f32` for pictures `[batch, side, side, 3]`.
#[must_use]
pub fn pack_f32(batch: u32, side: u32) -> Launch {
    Launch::each(cells(side), batch, 256)
}

/// `convoy_max_pool` to `[batch, out_height, out_width, channels]`.
#[must_use]
pub fn max_pool(batch: u32, out_height: u32, out_width: u32, channels: u32) -> Launch {
    Launch::each(u64::from(out_height) * u64::from(out_width) * u64::from(channels / 8), batch, 256)
}

/// `convoy_average_pool` to `[batch, channels]`.
#[must_use]
pub fn average_pool(batch: u32, channels: u32) -> Launch {
    let blocks = (channels / 8).div_ceil(32);
    Launch { grid: (blocks, batch), threads: 256, shared_bytes: 8 * 256 * 4 }
}

/// `convoy_depthwise` to `[batch, out_height, out_width, channels]`. None for what it cannot: a kernel other than 3 or 5, a
/// stride other than 1 or 2, channels that are no multiple of eight.
#[must_use]
pub fn depthwise(
    batch: u32,
    out_height: u32,
    out_width: u32,
    channels: u32,
    kernel: u32,
    stride: u32,
) -> Option<Launch> {
    let along = match (kernel, stride) {
        (3, 1 | 2) | (5, 1) => 4,
        (5, 2) => 2,
        _ => return None,
    };
    let runs = u64::from(out_width.div_ceil(along));
    let tasks = u64::from(out_height) * runs * u64::from(channels / 8);
    channels.is_multiple_of(8).then(|| Launch::each(tasks, batch, 256))
}

/// `convoy_convolution` to `[batch, out_height, out_width, filters]`.
#[must_use]
pub fn convolution(batch: u32, out_height: u32, out_width: u32, filters: u32) -> Launch {
    Launch::each(u64::from(out_height) * u64::from(out_width) * u64::from(filters), batch, 256)
}

/// How `convoy_small_convolution` is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallConvolution {
    /// Tiles of outputs along x, splits of their sums along y.
    pub launch: Launch,
    /// The kernel's `splits`.
    pub splits: u32,
    /// Bytes of `partials`; none if nothing is split, and the pointer may be null.
    pub partial_bytes: usize,
    /// Entries of `counters`, which are zero before the first launch; likewise.
    pub counters: usize,
}

/// `convoy_small_convolution` to `[batch, out_height, out_width, filters]` by windows of `kernel` by `kernel`. None where
/// channels are no multiple of 32, filters none of eight or `kernel` is beyond eight, and where there is work for more than `blocks` blocks, which
/// keep the device busy, without it.
#[must_use]
pub fn small_convolution(
    batch: u32,
    out_height: u32,
    out_width: u32,
    filters: u32,
    channels: u32,
    kernel: u32,
    blocks: u32,
) -> Option<SmallConvolution> {
    // As in small.cu.
    const TILE: (u32, u32) = (64, 32);
    const SHARED_BYTES: u32 = 4 * TILE.0 * 40 * 4 + 16;
    // A warp each of the four that share a block's sums.
    const STEPS: u32 = 4;
    const MOST_SPLITS: u32 = 32;
    if !channels.is_multiple_of(32) || !filters.is_multiple_of(8) || kernel > 8 {
        return None;
    }
    let pixels = u64::from(batch) * u64::from(out_height) * u64::from(out_width);
    let tiles = pixels.div_ceil(TILE.0.into()).checked_mul(filters.div_ceil(TILE.1).into())?;
    let tiles = u32::try_from(tiles).ok().filter(|tiles| (1..=blocks).contains(tiles))?;
    let steps = kernel * kernel * (channels / 32);
    let splits = (blocks / tiles).min(steps / STEPS).clamp(1, MOST_SPLITS);
    let (partial_bytes, counters) =
        if splits > 1 { ((tiles * splits * TILE.0 * TILE.1 * 4) as usize, tiles as usize) } else { (0, 0) };
    let launch = Launch { grid: (tiles, splits), threads: 256, shared_bytes: SHARED_BYTES };
    Some(SmallConvolution { launch, splits, partial_bytes, counters })
}

/// `convoy_fill` of `count` halves.
#[must_use]
pub fn fill(count: u64) -> Launch {
    Launch::stride(count, 0)
}

/// `convoy_differ` over `count` elements. Its two sums must be zero before.
#[must_use]
pub fn differ(count: u64) -> Launch {
    Launch::stride(count, 2 * 256 * 8)
}

/// `convoy_prefetch` of `bytes` bytes: few blocks, because others compute meanwhile.
#[must_use]
pub fn prefetch(bytes: u64) -> Launch {
    Launch { grid: (bytes.div_ceil(128 * 256).clamp(1, 32) as u32, 1), threads: 256, shared_bytes: 0 }
}

/// `convoy_top` of `batch` rows of logits.
#[must_use]
pub fn top(batch: u32) -> Launch {
    Launch { grid: (1, batch), threads: 256, shared_bytes: 2 * 256 * 4 + 16 }
}
