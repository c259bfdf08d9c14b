//! cuBLASLt: a convolution whose window is one pixel as a product of matrices with addend, bias and activation.
//!
//! In the library's column-major words, with `n` pixels: D `[outputs, n]` = activation(A^T B + bias + C), A `[channels,
//! outputs]` the weights, B `[channels, n]` the activations, C the addend, which may be D itself.

#![allow(unsafe_code, reason = "calls of a C library that takes addresses")]

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::sys::cublasLtMatmulDescAttributes_t as Attribute;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;
use parking_lot::Mutex;

use super::cudnn::Operands;
use super::error::{Context, CudaError};
use super::problem::{Activation, Problem};

/// The library's version, 130000 for 13.0; none where it is not installed.
pub(super) fn version() -> Option<usize> {
    // SAFETY: the first only opens the library; the second takes nothing and returns a number.
    unsafe { sys::is_culib_present().then(|| sys::cublasLtGetVersion()) }
}

/// A handle of the library.
#[derive(Debug)]
pub(super) struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library's documentation allows one handle to be used by several threads at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// A handle in the context that is current.
    pub(super) fn new() -> Result<Arc<Self>, CudaError> {
        result::create_handle().during("opening the library").map(|handle| Arc::new(Self(handle)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(kind: sys::cudaDataType, rows: usize, columns: usize) -> Result<Self, CudaError> {
        let layout = result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64);
        layout.during("describing a matrix").map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn set<T>(&self, attribute: Attribute, value: T) -> Result<(), CudaError> {
        let address = ptr::from_ref(&value).cast::<c_void>();
        // SAFETY: as many bytes as said lie there; the library copies them.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, address, size_of::<T>()) }
            .during("describing a product")
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made below, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// What the library is asked for.
struct Shape {
    operation: Operation,
    a: Layout,
    b: Layout,
    d: Layout,
    /// Whether the bias is read in fp16.
    narrow: bool,
}

// SAFETY: descriptors are memory of the library without ties to a thread; they are only used under the product's lock.
unsafe impl Send for Shape {}

impl Shape {
    fn new(problem: &Problem, narrow: bool) -> Result<Self, CudaError> {
        let (half, float) = (sys::cudaDataType::CUDA_R_16F, sys::cudaDataType::CUDA_R_32F);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = Operation(result::create_matmul_desc(compute, float).during("describing a product")?);
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, 1i32)?;
        let epilogue = match problem.activation {
            Activation::Relu => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
            Activation::Linear | Activation::Relu6 => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        };
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as u32)?;
        let bias = if narrow { half } else { float };
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias as i32)?;
        let pixels = problem.batch * problem.height * problem.width;
        let result = if problem.wide { float } else { half };
        Ok(Self {
            operation,
            a: Layout::new(half, problem.channels, problem.outputs)?,
            b: Layout::new(half, problem.channels, pixels)?,
            d: Layout::new(result, problem.outputs, pixels)?,
            narrow,
        })
    }

    fn algorithms(
        &self,
        handle: &Handle,
        most: usize,
        workspace: usize,
    ) -> Result<Vec<Algorithm>, CudaError> {
        let preference = Preference(result::create_matmul_pref().during("describing a preference")?);
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let address = ptr::from_ref(&workspace).cast();
        // SAFETY: the attribute is a `size_t`.
        unsafe { result::set_matmul_pref_attribute(preference.0, attribute, address, size_of::<usize>()) }
            .during("describing a preference")?;
        let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(most);
        let mut count = 0;
        let Self { operation, a, b, d, .. } = self;
        // SAFETY: all descriptors are alive, and there is room for as many results as are asked for, of which the library
        // writes `count`.
        let status = unsafe {
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                operation.0,
                a.0,
                b.0,
                d.0,
                d.0,
                preference.0,
                most as i32,
                found.as_mut_ptr(),
                &mut count,
            );
            if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
                found.set_len((count.max(0) as usize).min(most));
            }
            status
        };
        status.result().during("asking for algorithms")?;
        let usable = |found: &sys::cublasLtMatmulHeuristicResult_t| {
            found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= workspace
        };
        Ok(found.iter().filter(|found| usable(found)).map(|found| Algorithm(found.algo.data)).collect())
    }
}

/// An algorithm of the library in its own words, which mean the same to the same version on the same GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Algorithm(pub(super) [u64; 8]);

/// One way of computing a problem.
pub(super) struct Product {
    handle: Arc<Handle>,
    shape: Arc<Mutex<Shape>>,
    pub(super) algorithm: Algorithm,
    beta: f32,
    workspace: usize,
}

/// The algorithms that the library proposes for a problem, best first, with at most `workspace` bytes; none for what is no
/// plain product.
pub(super) fn products(
    handle: &Arc<Handle>,
    problem: &Problem,
    most: usize,
    workspace: usize,
) -> Result<Vec<Product>, CudaError> {
    if !problem.is_product() || problem.activation == Activation::Relu6 {
        return Ok(Vec::new());
    }
    let mut shape = Shape::new(problem, false)?;
    let mut algorithms = shape.algorithms(handle, most, workspace).unwrap_or_default();
    if algorithms.is_empty() {
        shape = Shape::new(problem, true)?;
        algorithms = shape.algorithms(handle, most, workspace)?;
    }
    let shape = Arc::new(Mutex::new(shape));
    let beta = if problem.addend { 1.0 } else { 0.0 };
    let product =
        |algorithm| Product { handle: handle.clone(), shape: shape.clone(), algorithm, beta, workspace };
    Ok(algorithms.into_iter().map(product).collect())
}

impl Product {
    /// Puts the product on the stream.
    ///
    /// # Safety
    /// As [`super::cudnn::Plan::enqueue`], with a workspace as large as was given to [`products`].
    pub(super) unsafe fn enqueue(&self, operands: &Operands, stream: &CudaStream) -> Result<(), CudaError> {
        let shape = self.shape.lock();
        let bias = if shape.narrow { operands.narrow_bias } else { operands.bias };
        shape.operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        let algorithm = sys::cublasLtMatmulAlgo_t { data: self.algorithm.0 };
        let c = if self.beta == 0.0 { operands.y } else { operands.addend };
        // SAFETY: the caller's promise on the addresses; handle and descriptors are alive.
        unsafe {
            result::matmul(
                self.handle.0,
                shape.operation.0,
                ptr::from_ref(&1f32).cast(),
                ptr::from_ref(&self.beta).cast(),
                operands.weights as *const c_void,
                shape.a.0,
                operands.x as *const c_void,
                shape.b.0,
                c as *const c_void,
                shape.d.0,
                operands.y as *mut c_void,
                shape.d.0,
                &algorithm,
                operands.workspace as *mut c_void,
                self.workspace,
                stream.cu_stream().cast(),
            )
        }
        .during("a product")
    }
}
