//! Which of the many kernels that the libraries have for a convolution is the fastest here and right: every candidate is
//! timed as it runs in service, from a graph, and the winner is held against this crate's own plain kernel.
//!
//! Choices are text that can be kept: they mean the same to the same libraries on the same GPU.

#![allow(unsafe_code, reason = "launches on the GPU, which take addresses")]

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream, result};
use parking_lot::Mutex;

use super::cublaslt::{self, Algorithm};
use super::cudnn::{self, COUNTERS, Graph, Operands, Search};
use super::device::{Argument, Buffer, Device};
use super::error::{Context, CudaError};
use super::problem::Problem;
use super::source::{self, SmallConvolution};

/// Bytes that a kernel may use beside its operands.
pub(super) const WORKSPACE: usize = 64 << 20;

/// Algorithms of cuBLASLt that are timed; they cost nothing to build.
const PRODUCTS: usize = 8;

/// Plans of cuDNN's fallback search that are timed: one that works is enough.
const FALLBACK: usize = 1;

/// Launches in a timed graph, and how often it is run.
const LAUNCHES: usize = 10;
const REPEATS: usize = 4;

/// The largest ‖candidate - plain‖ / ‖plain‖ that counts as right. Both sum in f32 and round once to fp16, 2^-11.
const TOLERANCE: f64 = 2e-3;

/// Which kernel computes a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The plan at this place of a search of cuDNN's, by the engine of this number.
    Plan { search: Search, place: usize, engine: i64 },
    /// An algorithm of cuBLASLt's.
    Product(Algorithm),
    /// This crate's own for small batches.
    Small,
    /// This crate's own plain one.
    Plain,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { search: Search::Heuristic, place, engine } => write!(f, "cudnn:a:{place}:{engine}"),
            Self::Plan { search: Search::Fallback, place, engine } => write!(f, "cudnn:f:{place}:{engine}"),
            Self::Product(Algorithm(words)) => {
                f.write_str("cublaslt")?;
                words.iter().try_for_each(|word| write!(f, ":{word:x}"))
            }
            Self::Small => write!(f, "small:{}", checksum(source::SOURCE)),
            Self::Plain => f.write_str("plain"),
        }
    }
}

impl FromStr for Choice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut fields = text.split(':');
        let kind = fields.next().ok_or(())?;
        let rest: Vec<&str> = fields.collect();
        match (kind, rest.as_slice()) {
            ("plain", []) => Ok(Self::Plain),
            // What another version of the kernel was found to be says nothing of this one.
            ("small", [digest]) if *digest == checksum(source::SOURCE) => Ok(Self::Small),
            ("cudnn", [search, place, engine]) => {
                let search = match *search {
                    "a" => Search::Heuristic,
                    "f" => Search::Fallback,
                    _ => return Err(()),
                };
                let (place, engine) = (place.parse().map_err(drop)?, engine.parse().map_err(drop)?);
                Ok(Self::Plan { search, place, engine })
            }
            ("cublaslt", words) => {
                let parse = |word: &&str| u64::from_str_radix(word, 16).map_err(drop);
                let words: Vec<u64> = words.iter().map(parse).collect::<Result<_, _>>()?;
                Ok(Self::Product(Algorithm(words.try_into().map_err(drop)?)))
            }
            _ => Err(()),
        }
    }
}

/// Choices with what each was measured to take, and for which GPU and libraries they hold.
///
/// As text: a line of what they hold for, then one line a convolution, with tabs between a checksum of the rest, its name, the
/// choice, its microseconds and, where a plan of cuDNN's was chosen, that plan. Compiled kernels of cuDNN's are in there: whoever
/// may write the file may run code on the GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choices {
    identity: String,
    found: HashMap<String, Kept>,
}

#[derive(Debug, Clone, PartialEq)]
struct Kept {
    choice: String,
    micros: f32,
    plan: String,
}

impl Choices {
    /// No choices yet.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads what [`Choices`] writes; lines that are no choice are passed over.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let identity = lines.next().unwrap_or_default().to_owned();
        let line = |line: &str| {
            let (sum, line) = line.split_once('\t')?;
            // Half a line, or one of two files that were written into each other, may be a plan for another convolution.
            if sum != checksum(line) {
                return None;
            }
            let mut fields = line.splitn(4, '\t');
            let (problem, choice, micros) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
            let plan = fields.next().unwrap_or_default().to_owned();
            Some((problem.to_owned(), Kept { choice: choice.to_owned(), micros, plan }))
        };
        Self { identity, found: lines.filter_map(line).collect() }
    }

    fn of(&self, problem: &Problem) -> Option<(Choice, &Kept)> {
        let kept = self.found.get(&problem.to_string())?;
        Some((kept.choice.parse().ok()?, kept))
    }
}

impl fmt::Display for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.identity)?;
        let mut lines: Vec<_> = self.found.iter().collect();
        lines.sort_by(|a, b| a.0.cmp(b.0));
        lines.iter().try_for_each(|(problem, Kept { choice, micros, plan })| {
            let line = format!("{problem}\t{choice}\t{micros:.2}\t{plan}");
            writeln!(f, "{}\t{line}", checksum(&line))
        })
    }
}

/// Tells a text from others, by accident and not by design; another version of Rust may give another one.
fn checksum(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Something that computes a problem.
pub(super) enum Candidate {
    Plan { plan: cudnn::Plan, search: Search, place: usize },
    Product(cublaslt::Product),
    Small(SmallConvolution),
    Plain,
}

impl Candidate {
    pub(super) fn choice(&self) -> Choice {
        match self {
            Self::Plan { plan, search, place } => {
                Choice::Plan { search: *search, place: *place, engine: plan.engine }
            }
            Self::Product(product) => Choice::Product(product.algorithm),
            Self::Small(_) => Choice::Small,
            Self::Plain => Choice::Plain,
        }
    }

    /// Puts the problem on the stream.
    ///
    /// # Safety
    /// Every operand lies in memory of the GPU, is as large as the problem says, aligned to 16 bytes and alive until the
    /// stream has passed this; the workspace has [`WORKSPACE`] bytes.
    pub(super) unsafe fn enqueue(
        &self,
        device: &Device,
        problem: &Problem,
        operands: &Operands,
        stream: &CudaStream,
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise is that of each of these.
        unsafe {
            match self {
                Self::Plan { plan, .. } => plan.enqueue(operands, stream),
                Self::Product(product) => product.enqueue(operands, stream),
                Self::Small(shape) => small(device, problem, shape, operands, stream),
                Self::Plain => plain(device, problem, operands, stream),
            }
        }
    }
}

/// This crate's own convolution.
///
/// # Safety
/// As [`Candidate::enqueue`].
unsafe fn plain(
    device: &Device,
    problem: &Problem,
    operands: &Operands,
    stream: &CudaStream,
) -> Result<(), CudaError> {
    let (low, high) = problem.activation.bounds();
    let int = |value: usize| Argument::Int(value as i32);
    let mut arguments = [
        Argument::Address(operands.x),
        Argument::Address(operands.weights),
        Argument::Address(operands.bias),
        Argument::Address(if problem.addend { operands.addend } else { 0 }),
        Argument::Address(operands.y),
        Argument::Int(i32::from(problem.wide)),
        int(problem.height),
        int(problem.width),
        int(problem.channels),
        int(problem.outputs),
        int(problem.out_height),
        int(problem.out_width),
        int(problem.kernel),
        int(problem.kernel),
        int(problem.stride),
        int(problem.before),
        int(problem.before),
        Argument::Float(low),
        Argument::Float(high),
    ];
    let [batch, height, width, outputs] =
        [problem.batch, problem.out_height, problem.out_width, problem.outputs].map(|size| size as u32);
    let launch = source::convolution(batch, height, width, outputs);
    // SAFETY: the kernel's arguments, and the caller's promise on the addresses.
    unsafe { device.launch("convoy_convolution", launch, stream, &mut arguments) }
}

/// The kernel for small batches, where it computes the problem.
fn small_shape(device: &Device, problem: &Problem) -> Option<SmallConvolution> {
    if problem.wide {
        return None;
    }
    let [batch, height, width, outputs, channels, kernel] = [
        problem.batch,
        problem.out_height,
        problem.out_width,
        problem.outputs,
        problem.channels,
        problem.kernel,
    ]
    .map(|size| size as u32);
    let blocks = device.found().multiprocessors;
    let shape = source::small_convolution(batch, height, width, outputs, channels, kernel, blocks)?;
    (shape.partial_bytes <= WORKSPACE && 4 * shape.counters <= COUNTERS).then_some(shape)
}

/// This crate's own convolution for small batches.
///
/// # Safety
/// As [`Candidate::enqueue`].
unsafe fn small(
    device: &Device,
    problem: &Problem,
    shape: &SmallConvolution,
    operands: &Operands,
    stream: &CudaStream,
) -> Result<(), CudaError> {
    let (low, high) = problem.activation.bounds();
    let int = |value: usize| Argument::Int(value as i32);
    let mut arguments = [
        Argument::Address(operands.x),
        Argument::Address(operands.weights),
        Argument::Address(operands.bias),
        Argument::Address(if problem.addend { operands.addend } else { 0 }),
        Argument::Address(operands.y),
        Argument::Address(operands.workspace),
        Argument::Address(operands.counters),
        int(problem.batch),
        int(problem.height),
        int(problem.width),
        int(problem.channels),
        int(problem.outputs),
        int(problem.out_height),
        int(problem.out_width),
        int(problem.kernel),
        int(problem.stride),
        int(problem.before),
        int(problem.before),
        Argument::Int(shape.splits as i32),
        Argument::Float(low),
        Argument::Float(high),
    ];
    // SAFETY: the kernel's arguments, and the caller's promise on the addresses.
    unsafe { device.launch("convoy_small_convolution", shape.launch, stream, &mut arguments) }
}

/// A problem's kernel and the microseconds it was measured to take.
#[derive(Clone)]
pub(super) struct Tuned {
    pub(super) candidate: Arc<Candidate>,
    pub(super) micros: f32,
    /// How many candidates there were; 0 for a choice that was read.
    pub(super) among: usize,
}

/// Handles of the libraries; several, because plans are built by many threads.
pub(super) struct Libraries {
    device: Arc<Device>,
    cudnn: Vec<Arc<cudnn::Handle>>,
    cublaslt: Option<Arc<cublaslt::Handle>>,
    /// Plans of cuDNN's heuristic that are built and timed for a problem.
    plans: usize,
    /// Known choices are timed again, beside what costs nothing to build.
    again: bool,
}

impl Tuned {
    fn kept(&self) -> Kept {
        let plan = match &*self.candidate {
            // A plan that cannot be written is searched for again at the next start.
            Candidate::Plan { plan, .. } => plan.text().unwrap_or_default(),
            Candidate::Product(_) | Candidate::Small(_) | Candidate::Plain => String::new(),
        };
        let plan = if plan.contains(['\n', '\t']) { String::new() } else { plan };
        Kept { choice: self.candidate.choice().to_string(), micros: self.micros, plan }
    }
}

/// How choosing went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Convolutions that needed a kernel.
    pub problems: usize,
    /// Of these, how many were known from before.
    pub known: usize,
    /// Kernels that were timed.
    pub candidates: usize,
    /// Time that building took.
    pub building: Duration,
    /// Time that trying and timing took.
    pub timing: Duration,
}

impl Libraries {
    /// # Errors
    /// cuDNN is missing or a library refuses the GPU.
    pub(super) fn open(
        device: &Arc<Device>,
        threads: usize,
        plans: usize,
        again: bool,
    ) -> Result<Self, CudaError> {
        if device.found().cudnn.is_none() {
            let hint = "install cuDNN 9 (libcudnn9-cuda-13, or pip's nvidia-cudnn-cu13) and put its folder into LD_LIBRARY_PATH";
            return Err(CudaError::NoLibrary { library: "libcudnn.so.9", hint });
        }
        device.bind()?;
        let cudnn = (0..threads.max(1)).map(|_| cudnn::Handle::new()).collect::<Result<_, _>>()?;
        let cublaslt = match device.found().cublaslt {
            Some(_) => Some(cublaslt::Handle::new()?),
            None => None,
        };
        Ok(Self { device: device.clone(), cudnn, cublaslt, plans: plans.max(1), again })
    }

    fn identity(&self) -> String {
        let found = self.device.found();
        let version = |version: Option<usize>| version.map_or("none".into(), |version| version.to_string());
        format!(
            "convoy-choices-2 {} sm_{}{} driver {} cudnn {} cublaslt {}",
            found.name,
            found.capability.0,
            found.capability.1,
            found.driver,
            version(found.cudnn),
            version(found.cublaslt)
        )
    }

    /// Everything that may compute the problem.
    fn candidates(&self, problem: &Problem, cudnn: &Arc<cudnn::Handle>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let most = if problem.is_product() {
            // cuBLASLt has these, too, and costs nothing to build.
            self.plans.div_ceil(2)
        } else if problem.batch == 1 {
            // Long sums with few blocks: much depends on how a kernel is cut.
            3 * self.plans
        } else {
            self.plans
        };
        let mut search = |search, most| {
            let graph = Graph::new(cudnn, problem, search);
            let plans = graph.and_then(|graph| graph.plans(most, WORKSPACE)).unwrap_or_default();
            let found = plans.len();
            candidates.extend(plans.into_iter().map(|(place, plan)| Candidate::Plan { plan, search, place }));
            found
        };
        if search(Search::Heuristic, most) == 0 {
            search(Search::Fallback, FALLBACK);
        }
        if let Some(handle) = &self.cublaslt {
            let products = cublaslt::products(handle, problem, PRODUCTS, WORKSPACE).unwrap_or_default();
            candidates.extend(products.into_iter().map(Candidate::Product));
        }
        candidates.extend(small_shape(&self.device, problem).map(Candidate::Small));
        candidates.push(Candidate::Plain);
        candidates
    }

    /// The candidate of an earlier choice, if the libraries still have it.
    fn chosen(&self, problem: &Problem, known: &Choices, cudnn: &Arc<cudnn::Handle>) -> Option<Tuned> {
        let (choice, kept) = known.of(problem)?;
        let candidate = match choice {
            Choice::Plan { search, place, engine } => {
                let plan = cudnn::Plan::read(cudnn, &kept.plan, engine, problem.addend, WORKSPACE).ok()?;
                Candidate::Plan { plan, search, place }
            }
            Choice::Product(algorithm) => {
                let handle = self.cublaslt.as_ref()?;
                let products = cublaslt::products(handle, problem, PRODUCTS, WORKSPACE).ok()?;
                Candidate::Product(products.into_iter().find(|product| product.algorithm == algorithm)?)
            }
            Choice::Small => Candidate::Small(small_shape(&self.device, problem)?),
            // What nothing else could compute then may be computed by something else now.
            Choice::Plain => return None,
        };
        Some(Tuned { candidate: Arc::new(candidate), micros: kept.micros, among: 0 })
    }

    /// What becomes of a known choice.
    fn beside(&self, problem: &Problem, known: Tuned) -> Built {
        let Some(shape) = small_shape(&self.device, problem).filter(|_| self.again) else {
            return Built::Known(known);
        };
        match Arc::try_unwrap(known.candidate) {
            Ok(candidate) => Built::Open(vec![candidate, Candidate::Small(shape), Candidate::Plain]),
            Err(candidate) => Built::Known(Tuned { candidate, ..known }),
        }
    }

    /// A kernel for each problem: the one chosen before where `known` has one for this GPU and these libraries, the fastest
    /// right one otherwise. Returns the choices to keep.
    ///
    /// # Errors
    /// The GPU fails, or nothing computes a problem right.
    pub(super) fn tune(
        &self,
        problems: &[Problem],
        known: &Choices,
    ) -> Result<(HashMap<Problem, Tuned>, Choices, Tuning), CudaError> {
        let identity = self.identity();
        let known = if known.identity == identity { known.clone() } else { Choices::none() };
        let began = Instant::now();
        let built = self.build(problems, &known);
        let mut tuning = Tuning { problems: problems.len(), building: began.elapsed(), ..Tuning::default() };
        let began = Instant::now();
        let mut bench = None;
        let mut tuned = HashMap::new();
        // Those of other batch sizes and networks stay.
        let mut choices = Choices { identity, ..known };
        for (problem, built) in problems.iter().zip(built) {
            let chosen = match built {
                Built::Known(tuned) => {
                    tuning.known += 1;
                    tuned
                }
                Built::Open(candidates) => {
                    tuning.candidates += candidates.len() - 1;
                    if bench.is_none() {
                        bench = Some(Bench::new(&self.device, problems)?);
                    }
                    let bench = bench.as_ref().expect("bug: it was just made");
                    bench.fastest(problem, candidates)?
                }
            };
            if !matches!(*chosen.candidate, Candidate::Plain) {
                choices.found.insert(problem.to_string(), chosen.kept());
            }
            tuned.insert(*problem, chosen);
        }
        tuning.timing = began.elapsed();
        Ok((tuned, choices, tuning))
    }

    /// Builds candidates on as many threads as there are handles: compiling plans is what takes time.
    fn build(&self, problems: &[Problem], known: &Choices) -> Vec<Built> {
        let next = AtomicUsize::new(0);
        let built: Vec<Mutex<Option<Built>>> = problems.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for handle in &self.cudnn {
                scope.spawn(|| {
                    if self.device.bind().is_err() {
                        return;
                    }
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(problem) = problems.get(at) else { return };
                        let before =
                            self.chosen(problem, known, handle).map(|known| self.beside(problem, known));
                        let done = before.unwrap_or_else(|| Built::Open(self.candidates(problem, handle)));
                        *built[at].lock() = Some(done);
                    }
                });
            }
        });
        built
            .into_iter()
            .map(|built| built.into_inner().unwrap_or(Built::Open(vec![Candidate::Plain])))
            .collect()
    }
}

enum Built {
    Known(Tuned),
    Open(Vec<Candidate>),
}

/// Memory and a stream to time candidates with, filled with noise.
struct Bench {
    device: Arc<Device>,
    stream: Arc<CudaStream>,
    x: Buffer,
    weights: Buffer,
    bias: Buffer,
    narrow_bias: Buffer,
    addend: Buffer,
    y: Buffer,
    right: Buffer,
    sums: Buffer,
    workspace: Buffer,
    counters: Buffer,
}

impl Bench {
    fn new(device: &Arc<Device>, problems: &[Problem]) -> Result<Self, CudaError> {
        let most = |size: fn(&Problem) -> usize| problems.iter().map(size).max().unwrap_or(0);
        let (inputs, weights) = (most(Problem::inputs), most(Problem::weights));
        let (results, outputs) = (most(Problem::results), most(|problem| problem.outputs));
        let wide = |problem: &Problem| if problem.wide { problem.results() * 4 } else { 0 };
        let bytes = (2 * results).max(problems.iter().map(wide).max().unwrap_or(0));
        let noise: Vec<f32> = (0..outputs).map(|at| ((at * 37 % 101) as f32 - 50.0) / 100.0).collect();
        let narrow: Vec<u16> = noise.iter().map(|&value| half::f16::from_f32(value).to_bits()).collect();
        let bench = Self {
            device: device.clone(),
            stream: device.stream()?,
            x: device.alloc(2 * inputs)?,
            weights: device.alloc(2 * weights)?,
            bias: device.upload(&noise)?,
            narrow_bias: device.upload(&narrow)?,
            addend: device.alloc(2 * results)?,
            y: device.alloc(bytes)?,
            right: device.alloc(bytes)?,
            sums: device.alloc(16)?,
            workspace: device.alloc(WORKSPACE)?,
            counters: device.zeros(COUNTERS)?,
        };
        for (buffer, elements, seed) in [
            (&bench.x, inputs, 1u32),
            (&bench.weights, weights, 2),
            (&bench.addend, results, 3),
            (&bench.y, results, 4),
        ] {
            let mut arguments = [
                Argument::Address(buffer.address),
                Argument::Long(elements as u64),
                Argument::Unsigned(seed),
                Argument::Float(1.0),
            ];
            let launch = source::fill(elements as u64);
            // SAFETY: the kernel's arguments; the buffer has as many elements.
            unsafe { device.launch("convoy_fill", launch, &bench.stream, &mut arguments) }?;
        }
        Ok(bench)
    }

    /// The addend is added in place, as in service.
    fn operands(&self, y: &Buffer) -> Operands {
        Operands {
            x: self.x.address,
            weights: self.weights.address,
            bias: self.bias.address,
            narrow_bias: self.narrow_bias.address,
            addend: y.address,
            y: y.address,
            workspace: self.workspace.address,
            counters: self.counters.address,
        }
    }

    /// The fastest candidate that computes what the plain kernel does.
    fn fastest(&self, problem: &Problem, candidates: Vec<Candidate>) -> Result<Tuned, CudaError> {
        let among = candidates.len();
        let mut timed: Vec<(f32, Candidate)> = Vec::with_capacity(among);
        let alone = among == 1;
        for candidate in candidates {
            // The plain kernel is orders of magnitude slower: it is timed only where there is nothing else.
            let plain = matches!(candidate, Candidate::Plain);
            let micros = if plain && !alone { Ok(f32::MAX) } else { self.time(problem, &candidate) };
            match micros {
                Ok(micros) => timed.push((micros, candidate)),
                Err(error) if error.is_sticky() || error.is_out_of_memory() => return Err(error),
                Err(_refused) => {}
            }
        }
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.prepare(problem, &self.right)?;
        // SAFETY: the bench's buffers are as large as the largest problem.
        unsafe { plain(&self.device, problem, &self.operands(&self.right), &self.stream) }?;
        for (micros, candidate) in timed {
            if self.error(problem, &candidate)? <= TOLERANCE {
                return Ok(Tuned { candidate: Arc::new(candidate), micros, among });
            }
        }
        Err(CudaError::NoKernel { problem: problem.to_string() })
    }

    /// Microseconds of one launch among others.
    fn time(&self, problem: &Problem, candidate: &Candidate) -> Result<f32, CudaError> {
        let operands = self.operands(&self.y);
        let enqueue = || {
            // SAFETY: the bench's buffers are as large as the largest problem.
            unsafe { candidate.enqueue(&self.device, problem, &operands, &self.stream) }
        };
        // What a kernel loads lazily must not happen while a graph is recorded.
        enqueue()?;
        self.stream.synchronize().during("trying a kernel")?;
        let graph = record(&self.stream, || (0..LAUNCHES).try_for_each(|_| enqueue()))?;
        let (start, end) = (self.device.timer()?, self.device.timer()?);
        let mut best = f32::MAX;
        for _ in 0..REPEATS {
            start.record(&self.stream).during("timing a kernel")?;
            graph.launch().during("timing a kernel")?;
            end.record(&self.stream).during("timing a kernel")?;
            best = best.min(start.elapsed_ms(&end).during("timing a kernel")?);
        }
        Ok(best * 1000.0 / LAUNCHES as f32)
    }

    /// Where the result will go: the addend, or NaNs, so that what is not written shows.
    fn prepare(&self, problem: &Problem, y: &Buffer) -> Result<(), CudaError> {
        let bytes = problem.results() * if problem.wide { 4 } else { 2 };
        let stream = self.stream.cu_stream();
        // SAFETY: both buffers have as many bytes.
        unsafe {
            if problem.addend {
                result::memcpy_dtod_async(y.address, self.addend.address, bytes, stream)
            } else {
                result::memset_d8_async(y.address, 0xFF, bytes, stream)
            }
        }
        .during("checking a kernel")
    }

    /// ‖candidate - plain‖ / ‖plain‖; infinite for what is no number.
    fn error(&self, problem: &Problem, candidate: &Candidate) -> Result<f64, CudaError> {
        let results = problem.results();
        self.prepare(problem, &self.y)?;
        // SAFETY: the bench's buffers are as large as the largest problem, and there are two sums.
        unsafe {
            result::memset_d8_async(self.sums.address, 0, 16, self.stream.cu_stream())
                .during("checking a kernel")?;
            candidate.enqueue(&self.device, problem, &self.operands(&self.y), &self.stream)?;
            let mut arguments = [
                Argument::Address(self.y.address),
                Argument::Address(self.right.address),
                Argument::Int(i32::from(problem.wide)),
                Argument::Int(i32::from(problem.wide)),
                Argument::Long(results as u64),
                Argument::Address(self.sums.address),
            ];
            let launch = source::differ(results as u64);
            self.device.launch("convoy_differ", launch, &self.stream, &mut arguments)?;
        }
        self.stream.synchronize().during("checking a kernel")?;
        let mut sums = [0f64; 2];
        // SAFETY: the buffer has two doubles.
        unsafe { result::memcpy_dtoh_sync(&mut sums, self.sums.address) }.during("checking a kernel")?;
        let error = (sums[0] / sums[1].max(f64::MIN_POSITIVE)).sqrt();
        Ok(if error.is_finite() { error } else { f64::INFINITY })
    }
}

/// Records what `work` puts on the stream as a graph.
pub(super) fn record(
    stream: &Arc<CudaStream>,
    work: impl FnOnce() -> Result<(), CudaError>,
) -> Result<CudaGraph, CudaError> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).during("recording a graph")?;
    let worked = work();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    worked?;
    graph.during("recording a graph")?.ok_or(CudaError::Driver {
        call: "recording a graph",
        text: "it is empty".into(),
        sticky: false,
        out_of_memory: false,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::cuda::Activation;

    fn problem(batch: usize) -> Problem {
        Problem {
            batch,
            height: 14,
            width: 14,
            channels: 256,
            out_height: 14,
            out_width: 14,
            outputs: 1024,
            kernel: 1,
            stride: 1,
            before: 0,
            after: 0,
            activation: Activation::Relu,
            addend: true,
            wide: false,
        }
    }

    #[test]
    fn choices_are_read_as_they_are_written() {
        let choices = [
            Choice::Plan { search: Search::Heuristic, place: 3, engine: 57 },
            Choice::Plan { search: Search::Fallback, place: 0, engine: 4 },
            Choice::Product(Algorithm([1, 0, u64::MAX, 4, 5, 6, 7, 0xabc])),
            Choice::Small,
            Choice::Plain,
        ];
        let mut kept = Choices { identity: "a GPU, versions".into(), found: HashMap::new() };
        for (at, choice) in choices.into_iter().enumerate() {
            assert_eq!(choice.to_string().parse(), Ok(choice));
            let plan = if at == 0 { "{\"plan\": \"text\"}".into() } else { String::new() };
            let line = Kept { choice: choice.to_string(), micros: 12.25 + at as f32, plan };
            kept.found.insert(problem(at + 1).to_string(), line);
        }
        let read = Choices::parse(&kept.to_string());
        assert_eq!(read, kept);
        assert_eq!(read.of(&problem(4)).map(|(choice, _)| choice), Some(Choice::Small));
        assert_eq!(read.of(&problem(9)), None);
    }

    #[test]
    fn what_is_no_choice_is_passed_over() {
        let lines = ["conv\tcudnn:a:1\t3.0\t", "conv\tplain\tnever\t", "other\tplain\t2.00\t", "\u{0}\t\t\t"];
        let mut text = "identity\n\n".to_owned();
        lines.iter().for_each(|line| text.push_str(&format!("{}\t{line}\n", checksum(line))));
        assert_eq!(Choices::parse(&text).found.len(), 2);
        let (damaged, cut) = (text.replace("a:1", "a:2"), text.trim_end().trim_end_matches('\t'));
        assert_eq!((Choices::parse(&damaged).found.len(), Choices::parse(cut).found.len()), (1, 2));
        for text in [
            "",
            "cudnn:a:1",
            "cudnn:x:1:2",
            "cublaslt:1:2",
            "plain:1",
            "cublaslt:1:2:3:4:5:6:7:g",
            "small",
            "small:0",
        ] {
            assert_eq!(text.parse::<Choice>(), Err(()), "{text}");
        }
        assert_eq!(Choices::parse(""), Choices::none());
    }

    #[test]
    fn problems_that_differ_have_names_that_differ() {
        let base = problem(2);
        let others = [
            Problem { batch: 3, ..base },
            Problem { height: 15, ..base },
            Problem { outputs: 8, ..base },
            Problem { kernel: 3, ..base },
            Problem { stride: 2, ..base },
            Problem { before: 1, ..base },
            Problem { after: 1, ..base },
            Problem { activation: Activation::Linear, ..base },
            Problem { activation: Activation::Relu6, ..base },
            Problem { addend: false, ..base },
            Problem { wide: true, ..base },
        ];
        let mut names: Vec<String> = others.iter().chain([&base]).map(Problem::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len() + 1);
        assert_eq!(base.to_string(), "2x14x14x256-1x1/1+0+0-1024-add-relu");
        assert_eq!(base.flops(), 2 * 2 * 196 * 1024 * 256);
        assert_eq!(base.bytes(), 2 * (2 * 196 * (256 + 2 * 1024) + 1024 * 256));
    }
}
