//! Runs batches of a network: pictures in, logits or ranked classes out.
//!
//! A session is one batch at a time with memory, a stream and recorded graphs of its own; several sessions on several
//! threads are what lets copies in, kernels and copies out overlap. What classes are called is not known here.

#![allow(unsafe_code, reason = "launches on the GPU and copies, which take addresses")]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream, result};

use super::cudnn::{COUNTERS, Operands};
use super::device::{Argument, Buffer, Pinned};
use super::error::{Context, CudaError};
use super::network::{Kernel, Lowered, Network, Place, unfit};
use super::problem::Problem;
use super::ragged::{self, Batch, Limits};
use super::source;
use super::tune::{self, WORKSPACE};
use crate::geometry::Plan;

/// Most classes that [`Session::classify`] ranks on the GPU.
pub const MAX_TOP: usize = source::MAX_TOP as usize;

/// Bytes of pictures that a batch may bring for each place in it; a picture alone may use those of all places.
const PIXELS: usize = 1 << 20;

/// Bytes of tables, descriptors and work that the resize kernel may have for each place in a batch.
const TABLES: usize = 128 << 10;

/// Steps whose weights are fetched together, while as many before them are computed.
const AHEAD: usize = 6;

/// Shared memory of a block of the resize kernel.
const SHARED: u32 = 48 << 10;

/// Pictures begin at multiples of this: the kernels read whole words.
const ALIGNMENT: usize = 16;

/// One image.
#[derive(Debug, Clone, Copy)]
pub enum Image<'a> {
    /// `[side, side, 3]` bytes.
    Rgb8(&'a [u8]),
    /// `[side, side, 3]`, normalised.
    Normalised(&'a [f32]),
    /// `[height, width, 3]` bytes as `plan` takes them, to be resized on the GPU.
    Picture {
        /// The picture.
        pixels: &'a [u8],
        /// What is done to it.
        plan: &'a Plan,
    },
}

impl Image<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Rgb8(pixels) | Self::Picture { pixels, .. } => pixels.len(),
            Self::Normalised(values) => size_of_val(*values),
        }
    }
}

/// The best classes of one image.
#[derive(Debug, Clone, PartialEq)]
pub enum Ranked {
    /// Classes and their softmax, falling, ties by index.
    Best(Vec<(u32, f32)>),
    /// The first class whose logit is not finite.
    NonFinite(u32),
}

/// How a batch of each size is cut into buckets, and what it costs.
#[derive(Debug, Clone, PartialEq)]
struct Cuts {
    /// Bucket to run first, by images left; index 0 is not used.
    first: Vec<usize>,
    micros: Vec<f32>,
}

impl Cuts {
    /// The cheapest cuts of every batch up to the largest of `buckets` (size, microseconds), rising from 1. A bucket may run
    /// with fewer images than it has room for.
    fn new(buckets: &[(usize, f32)]) -> Self {
        let largest = buckets.last().map_or(0, |bucket| bucket.0);
        let mut cuts = Self { first: vec![0; largest + 1], micros: vec![0.0; largest + 1] };
        for images in 1..=largest {
            let cost = |&(size, micros): &(usize, f32)| micros + cuts.micros[images.saturating_sub(size)];
            let cheapest = buckets.iter().map(|bucket| (bucket.0, cost(bucket)));
            let best = cheapest.min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            (cuts.first[images], cuts.micros[images]) = best.unwrap_or_default();
        }
        cuts
    }
}

/// Runs batches of a network, one at a time.
pub struct Session {
    network: Arc<Network>,
    stream: Arc<CudaStream>,
    /// Fetches weights beside what is computed.
    side: Arc<CudaStream>,
    bell: CudaEvent,
    arena: Vec<Buffer>,
    workspace: Buffer,
    counters: Buffer,
    /// Logits of the bucket that runs, f32.
    logits: Buffer,
    /// Pictures as they come.
    pixels: Buffer,
    staging: Pinned,
    /// What the resize kernel reads beside them.
    tables: Buffer,
    table_staging: Pinned,
    /// Classes, probabilities and faults of a batch.
    ranks: Buffer,
    ranks_out: Pinned,
    logits_out: Pinned,
    graphs: HashMap<usize, CudaGraph>,
    cuts: Cuts,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("network", &self.network).finish_non_exhaustive()
    }
}

// SAFETY: graphs are used through exclusive references only; everything else the driver lets any thread use.
unsafe impl Send for Session {}

impl Session {
    /// Lays out memory and records a graph for each bucket.
    ///
    /// # Errors
    /// The GPU fails or has too little memory.
    pub fn new(network: Arc<Network>) -> Result<Self, CudaError> {
        let device = network.device.clone();
        let most = network.max_batch();
        let (side, classes) = (network.side, network.classes);
        let pixels =
            most * PIXELS.max((12 * side * side).next_multiple_of(ALIGNMENT)) + ragged::SOURCE_PADDING;
        let arena = network.slots.iter().map(|elements| device.alloc(2 * elements * most));
        let mut session = Self {
            stream: device.stream()?,
            side: device.stream()?,
            bell: device.bell()?,
            arena: arena.collect::<Result<_, _>>()?,
            workspace: device.alloc(WORKSPACE)?,
            counters: device.zeros(COUNTERS)?,
            logits: device.alloc(4 * classes * most)?,
            pixels: device.alloc(pixels)?,
            staging: device.pinned(pixels)?,
            tables: device.alloc(TABLES * most)?,
            table_staging: device.pinned(TABLES * most)?,
            ranks: device.alloc(4 * (2 * MAX_TOP + 1) * most)?,
            ranks_out: device.pinned(4 * (2 * MAX_TOP + 1) * most)?,
            logits_out: device.pinned(4 * classes * most)?,
            graphs: HashMap::new(),
            cuts: Cuts { first: Vec::new(), micros: Vec::new() },
            network,
        };
        let mut timed = Vec::new();
        for bucket in session.network.buckets.clone() {
            // Once without a graph: what a kernel loads lazily must not happen while a graph is recorded.
            session.enqueue(bucket)?;
            session.stream.synchronize().during("trying the network")?;
            let graph = tune::record(&session.stream, || session.enqueue(bucket))?;
            graph.upload().during("uploading a graph")?;
            session.graphs.insert(bucket, graph);
            session.replay(bucket, 2)?;
            timed.push((bucket, session.replay(bucket, 5)?));
        }
        session.cuts = Cuts::new(&timed);
        Ok(session)
    }

    /// The network it runs.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    fn slot(&self, place: Place) -> CUdeviceptr {
        self.arena[place.slot].address
    }

    /// Puts the steps over a bucket's images on the stream, from slot 0 to the logits.
    fn enqueue(&self, batch: usize) -> Result<(), CudaError> {
        let network = &*self.network;
        let weight = |at: usize| network.weights.address + at as u64;
        let int = |value: usize| Argument::Int(value as i32);
        let (last, images) = (network.steps.len() - 1, batch as u32);
        // Kept until the work is on the streams.
        let mut forks = Vec::new();
        for (at, step) in network.steps.iter().enumerate() {
            if batch <= network.prefetched && at % AHEAD == 0 {
                let fetched = if at == 0 { AHEAD..2 * AHEAD } else { at + AHEAD..at + 2 * AHEAD };
                forks.push(self.prefetch(fetched)?);
            }
            let Lowered { kernel, input, addend, output } = step;
            let (x, y) =
                (self.slot(*input), if at == last { self.logits.address } else { self.slot(*output) });
            let [height, width, channels] =
                [output.height, output.width, output.channels].map(|size| size as u32);
            match *kernel {
                Kernel::Conv { problem, weight: weights, bias, narrow_bias } => {
                    let problem = Problem { batch, ..problem };
                    let operands = Operands {
                        x,
                        weights: weight(weights),
                        bias: weight(bias),
                        narrow_bias: weight(narrow_bias),
                        addend: addend.map_or(0, |addend| self.slot(addend)),
                        y,
                        workspace: self.workspace.address,
                        counters: self.counters.address,
                    };
                    let candidate = &network.tuned[&problem].candidate;
                    // SAFETY: slots hold the largest bucket, weights were laid out for this problem.
                    unsafe { candidate.enqueue(&network.device, &problem, &operands, &self.stream) }?;
                }
                Kernel::Depthwise { weight: weights, bias, window, activation } => {
                    let (low, high) = activation.bounds();
                    let mut arguments = [
                        Argument::Address(x),
                        Argument::Address(weight(weights)),
                        Argument::Address(weight(bias)),
                        Argument::Address(y),
                        int(input.height),
                        int(input.width),
                        int(input.channels),
                        int(output.height),
                        int(output.width),
                        int(window.kernel),
                        int(window.stride),
                        int(window.pad),
                        int(window.pad),
                        Argument::Float(low),
                        Argument::Float(high),
                    ];
                    let (kernel, stride) = (window.kernel as u32, window.stride as u32);
                    let launch = source::depthwise(images, height, width, channels, kernel, stride);
                    let launch =
                        launch.ok_or_else(|| unfit("a depthwise window that there is no kernel for"))?;
                    // SAFETY: the kernel's arguments; slots hold the largest bucket.
                    unsafe {
                        network.device.launch("convoy_depthwise", launch, &self.stream, &mut arguments)
                    }?;
                }
                Kernel::MaxPool { window, quads } => {
                    let mut arguments = [
                        Argument::Address(x),
                        Argument::Address(y),
                        int(input.height),
                        int(input.width),
                        int(input.channels),
                        int(output.height),
                        int(output.width),
                        int(window.kernel),
                        int(window.stride),
                        int(window.pad),
                        Argument::Int(i32::from(quads)),
                    ];
                    let launch = source::max_pool(images, height, width, channels);
                    // SAFETY: as above.
                    unsafe {
                        network.device.launch("convoy_max_pool", launch, &self.stream, &mut arguments)
                    }?;
                }
                Kernel::AveragePool => {
                    let mut arguments = [
                        Argument::Address(x),
                        Argument::Address(y),
                        int(input.height * input.width),
                        int(input.channels),
                    ];
                    let launch = source::average_pool(images, channels);
                    // SAFETY: as above.
                    unsafe {
                        network.device.launch("convoy_average_pool", launch, &self.stream, &mut arguments)
                    }?;
                }
            }
        }
        if !forks.is_empty() {
            let join = network.device.bell()?;
            join.record(&self.side).during("fetching weights")?;
            self.stream.wait(&join).during("fetching weights")?;
        }
        Ok(())
    }

    /// Fetches the weights of some steps beside what comes next on the stream.
    fn prefetch(&self, steps: Range<usize>) -> Result<CudaEvent, CudaError> {
        let network = &*self.network;
        let fork = network.device.bell()?;
        fork.record(&self.stream).during("fetching weights")?;
        self.side.wait(&fork).during("fetching weights")?;
        let Range { start, end } = network.weights_of(steps);
        if start < end {
            let bytes = (end - start) as u64;
            let from = Argument::Address(network.weights.address + start as u64);
            let mut arguments = [from, Argument::Long(bytes)];
            let launch = source::prefetch(bytes);
            // SAFETY: the range lies in the weights.
            unsafe { network.device.launch("convoy_prefetch", launch, &self.side, &mut arguments) }?;
        }
        Ok(fork)
    }

    /// Microseconds of one forward pass over a bucket, the mean of `count` on this session's stream.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// There is no such bucket.
    pub fn replay(&mut self, bucket: usize, count: usize) -> Result<f32, CudaError> {
        let (start, end) = (self.network.device.timer()?, self.network.device.timer()?);
        start.record(&self.stream).during("timing the network")?;
        for _ in 0..count {
            self.graphs[&bucket].launch().during("timing the network")?;
        }
        end.record(&self.stream).during("timing the network")?;
        Ok(start.elapsed_ms(&end).during("timing the network")? * 1000.0 / count.max(1) as f32)
    }

    /// The images' logits, `[batch, classes]`.
    ///
    /// # Errors
    /// The GPU fails, or an image has another number of elements than it should.
    pub fn logits(&mut self, images: &[Image<'_>]) -> Result<Vec<f32>, CudaError> {
        let classes = self.network.classes;
        let mut all = Vec::with_capacity(images.len() * classes);
        let mut done = 0;
        while done < images.len() {
            let here = self.run(&images[done..], 0)?;
            let floats = self.logits_out.as_slice().as_chunks::<4>().0.iter();
            all.extend(floats.take(here * classes).map(|&bytes| f32::from_ne_bytes(bytes)));
            done += here;
        }
        Ok(all)
    }

    /// The `top` best classes of each image, at most [`MAX_TOP`]; only those come back from the GPU.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn classify(&mut self, images: &[Image<'_>], top: usize) -> Result<Vec<Ranked>, CudaError> {
        let top = top.clamp(1, MAX_TOP);
        let mut all = Vec::with_capacity(images.len());
        while all.len() < images.len() {
            let here = self.run(&images[all.len()..], top)?;
            let (classes, probabilities, faults) = self.ranking(top);
            let words = self.ranks_out.as_slice().as_chunks::<4>().0;
            for image in 0..here {
                let fault = i32::from_ne_bytes(words[faults / 4 + image]);
                all.push(match u32::try_from(fault) {
                    Ok(class) => Ranked::NonFinite(class),
                    Err(_none) => {
                        let row = image * top..(image + 1) * top;
                        let class = |at: usize| u32::from_ne_bytes(words[classes / 4 + at]);
                        let value = |at: usize| f32::from_ne_bytes(words[probabilities / 4 + at]);
                        let row = row.map(|at| (class(at), value(at)));
                        Ranked::Best(row.take_while(|&(class, _)| class != source::NO_CLASS).collect())
                    }
                });
            }
        }
        Ok(all)
    }

    /// Where classes, probabilities and faults begin in `ranks`, in bytes.
    fn ranking(&self, top: usize) -> (usize, usize, usize) {
        let row = 4 * top * self.network.max_batch();
        (0, row, 2 * row)
    }

    /// Runs as many of the images as go together and returns how many; with `top` 0 the logits come back, otherwise the
    /// ranking.
    fn run(&mut self, images: &[Image<'_>], top: usize) -> Result<usize, CudaError> {
        self.network.device.bind()?;
        let offsets = self.stage(images)?;
        let images = &images[..offsets.len()];
        let (classes, raw) = (self.network.classes, self.stream.cu_stream());
        let (first, second, third) = self.ranking(top);
        let mut done = 0;
        while done < images.len() {
            let bucket = self.cuts.first[images.len() - done];
            let here = bucket.min(images.len() - done);
            self.prepare(images, &offsets, done..done + here)?;
            self.graphs[&bucket].launch().during("running the network")?;
            if top == 0 {
                let to = self.logits_out.address().wrapping_add(4 * classes * done);
                // SAFETY: room for the largest bucket's logits; read only after the bell.
                let to = unsafe { std::slice::from_raw_parts_mut(to, 4 * classes * here) };
                // SAFETY: as above; the GPU's buffer holds a bucket's logits.
                unsafe { result::memcpy_dtoh_async(to, self.logits.address, raw) }
                    .during("copying logits")?;
            } else {
                let at = |start: usize, each: usize| {
                    Argument::Address(self.ranks.address + (start + each * done) as u64)
                };
                let mut arguments = [
                    Argument::Address(self.logits.address),
                    at(first, 4 * top),
                    at(second, 4 * top),
                    at(third, 4),
                    Argument::Int(classes as i32),
                    Argument::Int(top as i32),
                ];
                let launch = source::top(here as u32);
                // SAFETY: the kernel's arguments; the ranking has room for the largest bucket and `MAX_TOP`.
                unsafe { self.network.device.launch("convoy_top", launch, &self.stream, &mut arguments) }?;
            }
            done += here;
        }
        if top > 0 {
            let length = third + 4 * self.network.max_batch();
            // SAFETY: both have room for as many bytes; read only after the bell.
            let to = unsafe { std::slice::from_raw_parts_mut(self.ranks_out.address(), length) };
            // SAFETY: as above.
            unsafe { result::memcpy_dtoh_async(to, self.ranks.address, raw) }.during("copying ranks")?;
        }
        self.bell.record(&self.stream).during("running the network")?;
        self.bell.synchronize().during("running the network")?;
        Ok(done)
    }

    /// Copies as many pictures as go together to the GPU; where each begins there.
    fn stage(&mut self, images: &[Image<'_>]) -> Result<Vec<usize>, CudaError> {
        let numbers = 3 * self.network.side * self.network.side;
        let room = self.staging.as_slice().len() - ragged::SOURCE_PADDING;
        let (mut offsets, mut end) = (Vec::new(), 0);
        for image in images.iter().take(self.network.max_batch()) {
            let expected = match image {
                Image::Rgb8(_) => numbers,
                Image::Normalised(_) => 4 * numbers,
                Image::Picture { plan, .. } => 3 * plan.width() as usize * plan.height() as usize,
            };
            let bytes = image.bytes();
            if bytes != expected || bytes > room {
                let reason =
                    format!("a picture has {bytes} bytes instead of {expected}, or more than {room}");
                return Err(CudaError::Network { reason });
            }
            if end + bytes > room {
                break;
            }
            let place = &mut self.staging.as_mut_slice()[end..end + bytes];
            match image {
                Image::Rgb8(pixels) | Image::Picture { pixels, .. } => place.copy_from_slice(pixels),
                Image::Normalised(values) => {
                    let places = place.as_chunks_mut::<4>().0.iter_mut();
                    places.zip(*values).for_each(|(place, value)| *place = value.to_ne_bytes());
                }
            }
            offsets.push(end);
            end = (end + bytes).next_multiple_of(ALIGNMENT);
        }
        let staged = &self.staging.as_slice()[..end];
        // SAFETY: both have room for as many bytes; the staging memory is pinned and not written before the bell.
        unsafe { result::memcpy_htod_async(self.pixels.address, staged, self.stream.cu_stream()) }
            .during("copying pictures")?;
        Ok(offsets)
    }

    /// Where the network's input of the image in a batch's `place` begins.
    fn input(&self, place: usize) -> CUdeviceptr {
        let Network { side, cells, .. } = &*self.network;
        let across = side / cells.block;
        self.arena[0].address + (2 * place * across * across * cells.channels()) as u64
    }

    /// Brings the pictures of `range` into slot 0, from its first place on: each run of one kind by one launch, all that are
    /// to be resized by one.
    fn prepare(
        &mut self,
        images: &[Image<'_>],
        offsets: &[usize],
        range: Range<usize>,
    ) -> Result<(), CudaError> {
        let mut ragged = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let kind = std::mem::discriminant(&images[at]);
            let alike =
                images[at..range.end].iter().take_while(|image| std::mem::discriminant(*image) == kind);
            let count = alike.count();
            match &images[at] {
                Image::Picture { .. } => ragged.extend(at..at + count),
                // Both sizes are multiples of the alignment for the sides there are, so that a run lies closely.
                image => self.pack(image, offsets[at], at - range.start, count)?,
            }
            at += count;
        }
        if ragged.is_empty() {
            return Ok(());
        }
        let picture = |&at: &usize| match &images[at] {
            Image::Picture { plan, .. } => {
                let (source, slot) = (offsets[at] as u64, (at - range.start) as u32);
                Some(ragged::Picture { plan, source, slot })
            }
            Image::Rgb8(_) | Image::Normalised(_) => None,
        };
        let pictures: Vec<ragged::Picture<'_>> = ragged.iter().filter_map(picture).collect();
        let launch = self.lay_out(&pictures)?;
        self.resize(launch)
    }

    /// Normalises `count` pictures of one kind, which lie closely.
    fn pack(&self, kind: &Image<'_>, offset: usize, place: usize, count: usize) -> Result<(), CudaError> {
        let network = &*self.network;
        let from = Argument::Address(self.pixels.address + offset as u64);
        let to = Argument::Address(self.input(place));
        let [side, block] = [network.side, network.cells.block].map(|size| Argument::Int(size as i32));
        let norm = Argument::Address(network.norm.address);
        let (images, pixels) = (count as u32, network.side as u32);
        // SAFETY: the kernels' arguments; both buffers hold the largest bucket.
        unsafe {
            if matches!(kind, Image::Normalised(_)) {
                let launch = source::pack_f32(images, pixels);
                network.device.launch("convoy_pack_f32", launch, &self.stream, &mut [from, to, side, block])
            } else {
                let launch = source::pack_rgb8(images, pixels);
                let mut arguments = [from, to, side, block, norm];
                network.device.launch("convoy_pack_rgb8", launch, &self.stream, &mut arguments)
            }
        }
    }

    /// Copies to the GPU what the resize kernel reads beside the pixels.
    fn lay_out(&mut self, pictures: &[ragged::Picture<'_>]) -> Result<Resize, CudaError> {
        let limits = Limits {
            shared_bytes: SHARED,
            table_bytes: TABLES * self.network.max_batch() / 2,
            ..Limits::default()
        };
        let batch = Batch::new(self.network.side as u32, pictures, limits)
            .map_err(|error| unfit(error.to_string()))?;
        let Some(launch) = batch.launch().filter(|_| batch.refused.is_empty()) else {
            return Err(unfit("a picture is too large to be resized on the GPU"));
        };
        let mut bytes: Vec<u8> = batch.descriptors.iter().flat_map(ragged::Descriptor::to_bytes).collect();
        let tables = bytes.len().next_multiple_of(ALIGNMENT);
        bytes.resize(tables, 0);
        bytes.extend(batch.tables.iter().flat_map(|value| value.to_ne_bytes()));
        let work = bytes.len().next_multiple_of(ALIGNMENT);
        bytes.resize(work, 0);
        bytes.extend(batch.work.iter().flat_map(|value| value.to_ne_bytes()));
        // A batch in several buckets is laid out several times: the copy of the one before must be over.
        self.stream.synchronize().during("copying tables")?;
        let staging = self.table_staging.as_mut_slice();
        let Some(place) = staging.get_mut(..bytes.len()) else {
            return Err(unfit(format!("tables of {} bytes", bytes.len())));
        };
        place.copy_from_slice(&bytes);
        let staged = &self.table_staging.as_slice()[..bytes.len()];
        // SAFETY: both have room for as many bytes; the staging memory is not written before the stream has passed.
        unsafe { result::memcpy_htod_async(self.tables.address, staged, self.stream.cu_stream()) }
            .during("copying tables")?;
        Ok(Resize { launch, tables, work })
    }

    fn resize(&self, Resize { launch, tables, work }: Resize) -> Result<(), CudaError> {
        let network = &*self.network;
        let mut arguments = [
            Argument::Address(self.pixels.address),
            Argument::Address(self.tables.address),
            Argument::Address(self.tables.address + tables as u64),
            Argument::Address(self.tables.address + work as u64),
            Argument::Address(self.input(0)),
            Argument::Int(network.side as i32),
            Argument::Int(network.cells.block as i32),
            Argument::Address(network.norm.address),
        ];
        // SAFETY: the kernel's arguments, laid out by `lay_out` for pictures that `stage` copied.
        unsafe { network.device.launch("convoy_resize", launch, &self.stream, &mut arguments) }
    }

    /// Microseconds of bringing the pictures into the network's input once they are on the GPU, the mean of `count` launches
    /// for all of them.
    ///
    /// # Errors
    /// As [`Session::logits`]; there are more pictures than go together, or one that the GPU does not resize.
    pub fn time_resize(&mut self, pictures: &[(&[u8], &Plan)], count: usize) -> Result<f32, CudaError> {
        let images: Vec<Image<'_>> =
            pictures.iter().map(|&(pixels, plan)| Image::Picture { pixels, plan }).collect();
        self.network.device.bind()?;
        let offsets = self.stage(&images)?;
        if offsets.len() < images.len() {
            return Err(unfit("too many pictures to go together"));
        }
        let picture = |(at, &(_, plan)): (usize, &(&[u8], _))| ragged::Picture {
            plan,
            source: offsets[at] as u64,
            slot: at as u32,
        };
        let laid: Vec<ragged::Picture<'_>> = pictures.iter().enumerate().map(picture).collect();
        let launch = self.lay_out(&laid)?;
        let (start, end) = (self.network.device.timer()?, self.network.device.timer()?);
        self.resize(launch)?;
        start.record(&self.stream).during("timing the resize")?;
        (0..count).try_for_each(|_| self.resize(launch))?;
        end.record(&self.stream).during("timing the resize")?;
        Ok(start.elapsed_ms(&end).during("timing the resize")? * 1000.0 / count.max(1) as f32)
    }
}

/// A launch of the resize kernel: where tables and work begin behind the descriptors, in bytes.
#[derive(Debug, Clone, Copy)]
struct Resize {
    launch: source::Launch,
    tables: usize,
    work: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_where_it_is_cheapest() {
        let cuts = Cuts::new(&[(1, 10.0), (8, 20.0), (32, 50.0), (64, 100.0)]);
        assert_eq!((cuts.first[1], cuts.first[2], cuts.first[3]), (1, 1, 8));
        assert_eq!((cuts.first[40], cuts.micros[40]), (8, 70.0));
        assert_eq!((cuts.first[64], cuts.micros[64]), (32, 100.0));
        assert_eq!((cuts.first[60], cuts.micros[60]), (32, 100.0));
    }
}
