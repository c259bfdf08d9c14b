//! cuDNN's graph API: a convolution with addend, bias and activation as one operation graph, and the plans that the
//! library has for it.
//!
//! Which plan is the fastest is `tune`'s business.

#![allow(unsafe_code, reason = "calls of a C library that takes addresses")]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::cudnn::sys;
use cudarc::cudnn::sys::cudnnBackendAttributeName_t as Name;
use cudarc::cudnn::sys::cudnnBackendAttributeType_t as Type;
use cudarc::cudnn::sys::cudnnBackendDescriptorType_t as Kind;
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUdeviceptr;
use parking_lot::Mutex;

use super::error::CudaError;
use super::problem::{Activation, Problem};

/// Names of the tensors in a variant pack.
const X: i64 = 1;
const W: i64 = 2;
const BIAS: i64 = 3;
const ADDEND: i64 = 4;
const Y: i64 = 5;

/// The library's version, 91900 for 9.19.0; none where it is not installed, or older than the bindings, which panic where a
/// function is missing.
pub(super) fn version() -> Option<usize> {
    // SAFETY: the first only opens the library; the second takes nothing and returns a number.
    let version = unsafe { sys::is_culib_present().then(|| sys::cudnnGetVersion()) };
    version.filter(|&version| version >= 90_000)
}

fn check(status: sys::cudnnStatus_t, call: &'static str) -> Result<(), CudaError> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut message = [0 as c_char; 512];
    // SAFETY: the buffer has the length given; the function ends what it writes with a zero, as the last byte is here.
    let message = unsafe {
        sys::cudnnGetLastErrorString(message.as_mut_ptr(), message.len() - 1);
        CStr::from_ptr(message.as_ptr()).to_string_lossy().into_owned()
    };
    Err(CudaError::Cudnn { call, text: format!("{status:?} {message}").trim().to_owned() })
}

/// A handle of the library; plans run on the one they were made with.
#[derive(Debug)]
pub(super) struct Handle(Mutex<Raw>);

#[derive(Debug)]
struct Raw(sys::cudnnHandle_t);

// SAFETY: a handle may move between threads as long as one uses it at a time, which the lock around it sees to.
unsafe impl Send for Raw {}

impl Handle {
    /// A handle in the context that is current.
    pub(super) fn new() -> Result<Arc<Self>, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: the function writes one handle.
        check(unsafe { sys::cudnnCreate(&mut handle) }, "opening the library")?;
        Ok(Arc::new(Self(Mutex::new(Raw(handle)))))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { sys::cudnnDestroy(self.0) };
    }
}

/// An object of the graph API.
#[derive(Debug)]
struct Descriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: a descriptor is memory of the library without ties to a thread; here it is only used under its handle's lock.
unsafe impl Send for Descriptor {}
// SAFETY: a finished descriptor is only read.
unsafe impl Sync for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl Descriptor {
    fn new(kind: Kind) -> Result<Self, CudaError> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: the function writes one descriptor.
        check(unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut descriptor) }, "making a descriptor")?;
        Ok(Self(descriptor))
    }

    /// Sets an attribute to `values`, whose type is the one that `kind` stands for.
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> Result<(), CudaError> {
        let address = values.as_ptr().cast::<c_void>();
        // SAFETY: as many values as said lie there; the library copies them.
        let status =
            unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, values.len() as i64, address) };
        check(status, "setting an attribute")
    }

    fn long(&self, name: Name, value: i64) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_INT64, &[value])
    }

    fn descriptors(&self, name: Name, values: &[&Self]) -> Result<(), CudaError> {
        let raw: Vec<_> = values.iter().map(|value| value.0).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)
    }

    fn finish(self, call: &'static str) -> Result<Self, CudaError> {
        // SAFETY: a live descriptor.
        check(unsafe { sys::cudnnBackendFinalize(self.0) }, call)?;
        Ok(self)
    }

    /// One number of 64 bits.
    fn get_long(&self, name: Name) -> Result<i64, CudaError> {
        let (mut count, mut value) = (0, 0i64);
        // SAFETY: room for the one value that is asked for.
        let status = unsafe {
            let value = ptr::from_mut(&mut value).cast();
            sys::cudnnBackendGetAttribute(self.0, name, Type::CUDNN_TYPE_INT64, 1, &mut count, value)
        };
        check(status, "reading an attribute").map(|()| value)
    }
}

/// Which of the library's searches a configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Search {
    /// What its heuristics put first.
    Heuristic,
    /// What works wherever anything does.
    Fallback,
}

impl Search {
    /// How its configurations are asked for.
    fn mode(self) -> sys::cudnnBackendHeurMode_t {
        match self {
            Self::Heuristic => sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A,
            Self::Fallback => sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_FALLBACK,
        }
    }
}

/// A convolution as an operation graph for a search.
pub(super) struct Graph {
    handle: Arc<Handle>,
    graph: Descriptor,
    search: Search,
    addend: bool,
}

/// A tensor in NHWC.
fn tensor(
    id: i64,
    kind: sys::cudnnDataType_t,
    dims: [i64; 4],
    virtually: bool,
) -> Result<Descriptor, CudaError> {
    let [_, c, h, w] = dims;
    let strides = [h * w * c, 1, w * c, c];
    let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[kind])?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Type::CUDNN_TYPE_INT64, &dims)?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_STRIDES, Type::CUDNN_TYPE_INT64, &strides)?;
    tensor.long(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, id)?;
    tensor.long(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16)?;
    if virtually {
        tensor.set(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Type::CUDNN_TYPE_BOOLEAN, &[true])?;
    }
    tensor.finish("a tensor")
}

/// `y = mode(x, b)`, in f32.
fn pointwise(
    mode: sys::cudnnPointwiseMode_t,
    clip: Option<f64>,
    x: &Descriptor,
    b: Option<&Descriptor>,
    y: &Descriptor,
) -> Result<Descriptor, CudaError> {
    let what = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
    what.set(Name::CUDNN_ATTR_POINTWISE_MODE, Type::CUDNN_TYPE_POINTWISE_MODE, &[mode])?;
    let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    what.set(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, Type::CUDNN_TYPE_DATA_TYPE, &[float])?;
    if let Some(clip) = clip {
        what.set(Name::CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, Type::CUDNN_TYPE_DOUBLE, &[clip])?;
    }
    let what = what.finish("a pointwise mode")?;
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[&what])?;
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[x])?;
    if let Some(b) = b {
        operation.descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[b])?;
    }
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])?;
    operation.finish("a pointwise operation")
}

fn convolution(
    problem: &Problem,
    x: &Descriptor,
    w: &Descriptor,
    y: &Descriptor,
) -> Result<Descriptor, CudaError> {
    let (stride, before, after) = (problem.stride as i64, problem.before as i64, problem.after as i64);
    let movement = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    movement.set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[float])?;
    let correlation = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    movement.set(
        Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
        Type::CUDNN_TYPE_CONVOLUTION_MODE,
        &[correlation],
    )?;
    movement.long(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2)?;
    let pair = |name, value: i64| movement.set(name, Type::CUDNN_TYPE_INT64, &[value; 2]);
    pair(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, 1)?;
    pair(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, stride)?;
    pair(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, before)?;
    pair(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, after)?;
    let movement = movement.finish("a convolution")?;
    let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?;
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, &[&movement])?;
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, &[x])?;
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, &[w])?;
    operation.descriptors(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[y])?;
    operation.set(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, Type::CUDNN_TYPE_FLOAT, &[1f32])?;
    operation.set(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, Type::CUDNN_TYPE_FLOAT, &[0f32])?;
    operation.finish("a convolution's operation")
}

/// The operations of a problem, in order, with every intermediate value in f32 and nowhere in memory.
fn operations(problem: &Problem) -> Result<Vec<Descriptor>, CudaError> {
    use sys::cudnnPointwiseMode_t::{CUDNN_POINTWISE_ADD as ADD, CUDNN_POINTWISE_RELU_FWD as RELU};
    let (half, float) = (sys::cudnnDataType_t::CUDNN_DATA_HALF, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
    let long = |values: [usize; 4]| values.map(|value| value as i64);
    let Problem { batch, height, width, channels, outputs, kernel, .. } = *problem;
    let result = long([batch, outputs, problem.out_height, problem.out_width]);
    let x = tensor(X, half, long([batch, channels, height, width]), false)?;
    let w = tensor(W, half, long([outputs, channels, kernel, kernel]), false)?;
    let bias = tensor(BIAS, float, long([1, outputs, 1, 1]), false)?;
    let y = tensor(Y, if problem.wide { float } else { half }, result, false)?;
    let mut ids = 100..;
    let mut between = || tensor(ids.next().unwrap_or(i64::MAX), float, result, true);
    let mut value = between()?;
    let mut operations = vec![convolution(problem, &x, &w, &value)?];
    if problem.addend {
        let (addend, sum) = (tensor(ADDEND, half, result, false)?, between()?);
        operations.push(pointwise(ADD, None, &value, Some(&addend), &sum)?);
        value = sum;
    }
    let clip = match problem.activation {
        Activation::Linear => {
            operations.push(pointwise(ADD, None, &value, Some(&bias), &y)?);
            return Ok(operations);
        }
        Activation::Relu => None,
        Activation::Relu6 => Some(6.0),
    };
    let sum = between()?;
    operations.push(pointwise(ADD, None, &value, Some(&bias), &sum)?);
    operations.push(pointwise(RELU, clip, &sum, None, &y)?);
    Ok(operations)
}

impl Graph {
    /// # Errors
    /// The library cannot express the problem.
    pub(super) fn new(handle: &Arc<Handle>, problem: &Problem, search: Search) -> Result<Self, CudaError> {
        let operations = operations(problem)?;
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        let all: Vec<&Descriptor> = operations.iter().collect();
        graph.descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &all)?;
        let raw = handle.0.lock();
        graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Type::CUDNN_TYPE_HANDLE, &[raw.0])?;
        let graph = graph.finish("an operation graph")?;
        Ok(Self { handle: handle.clone(), graph, search, addend: problem.addend })
    }

    /// The configurations that the search yields, best first, at most `most`.
    fn configurations(&self, most: usize) -> Result<Vec<Descriptor>, CudaError> {
        let mode = self.search.mode();
        let heuristic = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        heuristic.descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&self.graph])?;
        heuristic.set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &[mode])?;
        let heuristic = heuristic.finish("a heuristic")?;
        let results = |wanted: i64, raw: *mut c_void| {
            let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR);
            let mut count = 0;
            // SAFETY: `raw` has room for as many descriptors as are wanted, or is null with none wanted.
            let status =
                unsafe { sys::cudnnBackendGetAttribute(heuristic.0, name, kind, wanted, &mut count, raw) };
            check(status, "asking a heuristic").map(|()| count)
        };
        let count = results(0, ptr::null_mut())?.clamp(0, most as i64);
        let make = |_| Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
        let mut configurations: Vec<Descriptor> = (0..count).map(make).collect::<Result<_, _>>()?;
        if count > 0 {
            let mut raw: Vec<_> = configurations.iter().map(|configuration| configuration.0).collect();
            let found = results(count, raw.as_mut_ptr().cast())?;
            configurations.truncate(found.clamp(0, count) as usize);
        }
        Ok(configurations)
    }

    /// The plans that this GPU can run with at most `workspace` bytes beside its operands, of the search's best `most`
    /// configurations, each with its place among them.
    pub(super) fn plans(&self, most: usize, workspace: usize) -> Result<Vec<(usize, Plan)>, CudaError> {
        let configurations = self.configurations(most)?.into_iter().enumerate();
        // A configuration that cannot be made into a plan is the library's way of saying that it does not fit.
        let plans =
            configurations.filter_map(|(at, configuration)| Some((at, self.plan(configuration).ok()?)));
        Ok(plans.filter(|(_, plan)| plan.workspace <= workspace).collect())
    }

    fn plan(&self, configuration: Descriptor) -> Result<Plan, CudaError> {
        let engine = engine(&configuration)?;
        let raw = self.handle.0.lock();
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[raw.0])?;
        plan.descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&configuration])?;
        let plan = plan.finish("a plan")?;
        let workspace = plan.get_long(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?.max(0) as usize;
        drop(raw);
        Ok(Plan { plan, handle: self.handle.clone(), engine, workspace, addend: self.addend })
    }
}

impl Plan {
    /// The plan as text, compiled kernels included, where the library can write it.
    pub(super) fn text(&self) -> Result<String, CudaError> {
        let (name, kind) = (Name::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, Type::CUDNN_TYPE_CHAR);
        let read = |wanted: i64, to: *mut c_void| {
            let mut count = 0;
            // SAFETY: `to` has room for as many bytes as are wanted, or is null with none wanted.
            let status =
                unsafe { sys::cudnnBackendGetAttribute(self.plan.0, name, kind, wanted, &mut count, to) };
            check(status, "writing a plan").map(|()| count.max(0) as usize)
        };
        let mut text = vec![0u8; read(0, ptr::null_mut())?];
        let length = read(text.len() as i64, text.as_mut_ptr().cast())?;
        text.truncate(length);
        while text.last() == Some(&0) {
            text.pop();
        }
        let unreadable = |_| CudaError::Cudnn { call: "writing a plan", text: "it is no text".into() };
        String::from_utf8(text).map_err(unreadable)
    }

    /// The plan that [`Plan::text`] wrote, for the same problem, GPU and library.
    pub(super) fn read(
        handle: &Arc<Handle>,
        text: &str,
        engine: i64,
        addend: bool,
        workspace: usize,
    ) -> Result<Self, CudaError> {
        let raw = handle.0.lock();
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[raw.0])?;
        plan.set(
            Name::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
            Type::CUDNN_TYPE_CHAR,
            text.as_bytes(),
        )?;
        let plan = plan.finish("reading a plan")?;
        let needs = plan.get_long(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?.max(0) as usize;
        drop(raw);
        if needs > workspace {
            return Err(CudaError::Cudnn { call: "reading a plan", text: format!("it needs {needs} bytes") });
        }
        Ok(Self { plan, handle: handle.clone(), engine, workspace: needs, addend })
    }
}

/// The number of a configuration's engine.
fn engine(configuration: &Descriptor) -> Result<i64, CudaError> {
    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINECFG_ENGINE, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR);
    let (mut count, mut raw) = (0, engine.0);
    // SAFETY: room for the one descriptor that is asked for; the library fills the one that is given.
    let status = unsafe {
        let raw = ptr::from_mut(&mut raw).cast();
        sys::cudnnBackendGetAttribute(configuration.0, name, kind, 1, &mut count, raw)
    };
    check(status, "reading a configuration")?;
    engine.get_long(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)
}

/// One way of computing a problem.
#[derive(Debug)]
pub(super) struct Plan {
    plan: Descriptor,
    handle: Arc<Handle>,
    /// Number of the library's engine.
    pub(super) engine: i64,
    /// Bytes it needs beside its operands.
    pub(super) workspace: usize,
    addend: bool,
}

/// Bytes of the counters by which blocks of one kernel tell who is last.
pub(super) const COUNTERS: usize = 64 << 10;

/// Where the operands of a convolution lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub(super) x: CUdeviceptr,
    pub(super) weights: CUdeviceptr,
    /// In f32.
    pub(super) bias: CUdeviceptr,
    /// In fp16.
    pub(super) narrow_bias: CUdeviceptr,
    /// Nowhere when the problem has none.
    pub(super) addend: CUdeviceptr,
    pub(super) y: CUdeviceptr,
    pub(super) workspace: CUdeviceptr,
    /// [`COUNTERS`] bytes that are zero whenever nothing runs.
    pub(super) counters: CUdeviceptr,
}

impl Plan {
    /// Puts the convolution on the stream.
    ///
    /// # Safety
    /// Every operand lies in memory of the GPU and is as large as the problem says, the workspace as large as the plan
    /// says, all aligned to 16 bytes and alive until the stream has passed this.
    pub(super) unsafe fn enqueue(&self, operands: &Operands, stream: &CudaStream) -> Result<(), CudaError> {
        let Operands { x, weights, bias, addend, y, workspace, .. } = *operands;
        let mut ids = vec![X, W, BIAS, Y];
        let mut addresses = vec![x, weights, bias, y];
        if self.addend {
            ids.push(ADDEND);
            addresses.push(addend);
        }
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &ids)?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Type::CUDNN_TYPE_VOID_PTR, &addresses)?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Type::CUDNN_TYPE_VOID_PTR, &[workspace])?;
        let pack = pack.finish("a variant pack")?;
        let raw = self.handle.0.lock();
        // SAFETY: a live handle and a live stream of the same context.
        check(unsafe { sys::cudnnSetStream(raw.0, stream.cu_stream().cast()) }, "choosing a stream")?;
        // SAFETY: the caller's promise on the addresses; plan, pack and handle are alive and finished.
        check(unsafe { sys::cudnnBackendExecute(raw.0, self.plan.0, pack.0) }, "running a plan")
    }
}
