//! One GPU: its libraries, its context, the kernels of this crate compiled for it, memory and launches.
//!
//! Knows nothing of networks. Addresses are plain numbers: whoever launches something answers for what it reads and writes.

#![allow(unsafe_code, reason = "calls of the driver, which takes addresses")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaStream, result};
use cudarc::nvrtc::{self, Ptx};

use super::error::{Context, CudaError};
use super::source::{self, Launch};

/// The CUDA version that the driver must speak: that of the bindings.
const DRIVER: i32 = 13_000;

/// What was found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the driver calls the GPU.
    pub name: String,
    /// Major and minor compute capability.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: usize,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// CUDA version that the driver speaks, 13000 for 13.0.
    pub driver: i32,
    /// cuDNN's version, 91900 for 9.19.0; none where it is not installed.
    pub cudnn: Option<usize>,
    /// cuBLASLt's version; none where it is not installed.
    pub cublaslt: Option<usize>,
    /// Whether the kernels of this crate were compiled for it beforehand, and not by NVRTC just now.
    pub beforehand: bool,
}

/// A GPU that is ready to compute.
pub struct Device {
    context: Arc<CudaContext>,
    functions: HashMap<&'static str, CudaFunction>,
    found: Found,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("found", &self.found).finish_non_exhaustive()
    }
}

impl Device {
    /// Opens the first GPU and loads the kernels, compiled beforehand or now.
    ///
    /// # Errors
    /// A library is missing, there is no GPU, it or its driver is too old, or the driver refuses it.
    pub fn open() -> Result<Arc<Self>, CudaError> {
        // SAFETY: only whether the library can be opened and has the first symbol; nothing is called.
        if !unsafe { sys::is_culib_present() } {
            let hint = "it comes with NVIDIA's driver, in a container with the NVIDIA container toolkit";
            return Err(CudaError::NoLibrary { library: "libcuda.so.1", hint });
        }
        let count = CudaContext::device_count().map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => CudaError::NoGpu,
            _ => Err::<(), _>(error).during("counting GPUs").expect_err("bug: an error is one"),
        })?;
        if count == 0 {
            return Err(CudaError::NoGpu);
        }
        let mut driver = 0;
        // SAFETY: the function writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().during("asking for the driver's version")?;
        // The bindings panic where a function is missing.
        if driver < DRIVER {
            return Err(CudaError::OldDriver { version: driver });
        }
        let context = CudaContext::new(0).during("opening the GPU")?;
        // SAFETY: this module orders its own work by streams and events and shares no `CudaSlice` between streams.
        unsafe { context.disable_event_tracking() };
        let name = context.name().during("asking for the GPU's name")?;
        let (major, minor) = context.compute_capability().during("asking for the GPU's capability")?;
        if (major, minor) < (7, 5) {
            return Err(CudaError::TooOld { name, major, minor });
        }
        let memory = context.total_mem().during("asking for the GPU's memory")?;
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(count).during("asking for the GPU's multiprocessors")?;
        // A GPU that came after this binary finds nothing for itself in what was compiled beforehand.
        let loaded =
            source::FATBIN.and_then(|image| context.load_module(Ptx::from_binary(image.to_vec())).ok());
        let beforehand = loaded.is_some();
        let module = match loaded {
            Some(module) => module,
            None => {
                let image = compile(&format!("sm_{major}{minor}"))?;
                context.load_module(Ptx::from_binary(image)).during("loading the kernels")?
            }
        };
        let found = Found {
            name,
            capability: (major, minor),
            memory,
            multiprocessors: multiprocessors.max(1) as u32,
            driver,
            cudnn: super::cudnn::version(),
            cublaslt: super::cublaslt::version(),
            beforehand,
        };
        let load = |&name: &&'static str| Ok((name, module.load_function(name).during("finding a kernel")?));
        let functions = source::KERNELS.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { context, functions, found }))
    }

    /// What the GPU and its libraries are.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Makes the context current on the calling thread, which every call of a library needs.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().during("binding the context")
    }

    pub(super) fn stream(&self) -> Result<Arc<CudaStream>, CudaError> {
        self.context.new_stream().during("making a stream")
    }

    /// An event that tells time.
    pub(super) fn timer(&self) -> Result<CudaEvent, CudaError> {
        self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).during("making an event")
    }

    /// An event on which a thread sleeps until it has happened.
    pub(super) fn bell(&self) -> Result<CudaEvent, CudaError> {
        self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)).during("making an event")
    }

    /// `bytes` of memory on the GPU, not initialised.
    pub(super) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CudaError> {
        self.bind()?;
        // SAFETY: the allocation is owned by the buffer and freed with it.
        let address =
            unsafe { result::malloc_sync(bytes.max(256)) }.during("allocating memory of the GPU")?;
        Ok(Buffer { address, device: self.clone() })
    }

    /// `bytes` zeros on the GPU.
    pub(super) fn zeros(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CudaError> {
        let buffer = self.alloc(bytes)?;
        // SAFETY: the buffer has as many bytes.
        unsafe { result::memset_d8_sync(buffer.address, 0, bytes) }.during("clearing memory of the GPU")?;
        settle()?;
        Ok(buffer)
    }

    /// Memory on the GPU with `data` in it.
    pub(super) fn upload<T: Copy>(self: &Arc<Self>, data: &[T]) -> Result<Buffer, CudaError> {
        let buffer = self.alloc(size_of_val(data))?;
        // SAFETY: the buffer is as long as the data.
        unsafe { result::memcpy_htod_sync(buffer.address, data) }.during("copying to the GPU")?;
        settle()?;
        Ok(buffer)
    }

    /// `bytes` of memory of this machine that the GPU copies from and to by itself, zeroed.
    pub(super) fn pinned(self: &Arc<Self>, bytes: usize) -> Result<Pinned, CudaError> {
        self.bind()?;
        // SAFETY: the allocation is owned and freed by `Pinned`; zeroed below, before anybody reads it.
        let address = unsafe { result::malloc_host(bytes.max(1), 0) }.during("pinning memory")?.cast::<u8>();
        // SAFETY: as many bytes were just allocated.
        unsafe { address.write_bytes(0, bytes) };
        Ok(Pinned { address, bytes, device: self.clone() })
    }

    /// Puts a kernel on the stream.
    ///
    /// # Safety
    /// The arguments must be those of the kernel in `source`, and the memory behind every address must be as large as
    /// it reads and writes, and live until the stream has passed the launch.
    pub(super) unsafe fn launch(
        &self,
        kernel: &'static str,
        launch: Launch,
        stream: &CudaStream,
        arguments: &mut [Argument],
    ) -> Result<(), CudaError> {
        let Launch { grid: (x, y), threads, shared_bytes } = launch;
        let mut addresses: Vec<*mut c_void> = arguments.iter_mut().map(Argument::address).collect();
        let function = self.functions[kernel].cu_function();
        // SAFETY: the caller's promise; the arguments' addresses are read before the call returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, 1),
                (threads, 1, 1),
                shared_bytes,
                stream.cu_stream(),
                &mut addresses,
            )
        }
        .during(kernel)
    }
}

/// Waits until what was put on the default stream is done: clearing does not wait for it, copies need not, and the streams of
/// this module do not order themselves after it.
fn settle() -> Result<(), CudaError> {
    // SAFETY: null is the default stream of the context that is current.
    unsafe { result::stream::synchronize(std::ptr::null_mut()) }.during("waiting for the default stream")
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    Address(CUdeviceptr),
    Int(i32),
    Unsigned(u32),
    Long(u64),
    Float(f32),
}

impl Argument {
    fn address(&mut self) -> *mut c_void {
        match self {
            Self::Address(value) | Self::Long(value) => std::ptr::from_mut(value).cast(),
            Self::Int(value) => std::ptr::from_mut(value).cast(),
            Self::Unsigned(value) => std::ptr::from_mut(value).cast(),
            Self::Float(value) => std::ptr::from_mut(value).cast(),
        }
    }
}

/// Memory of the GPU.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) address: CUdeviceptr,
    device: Arc<Device>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A context that is lost has freed it already; nobody is left to be told.
        if self.device.bind().is_ok() {
            // SAFETY: allocated by `alloc`, freed once; cuMemFree waits for work that uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Memory of this machine that the GPU reads and writes by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    address: *mut u8,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// What lies in it. The caller has waited for every copy into it.
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated with this length and zeroed; copies of the GPU are waited for by the session that owns it.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }

    pub(super) fn address(&self) -> *mut u8 {
        self.address
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: allocated by `pinned`, freed once.
            let _ = unsafe { result::free_host(self.address.cast()) };
        }
    }
}

/// The kernels as machine code for `target`, `sm_90`.
///
/// # Errors
/// NVRTC is missing or does not take the source.
pub fn compile(target: &str) -> Result<Vec<u8>, CudaError> {
    // SAFETY: only whether the library can be opened.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        let hint = "install NVRTC 13 (cuda-nvrtc-13-0, or pip's nvidia-cuda-nvrtc) and put its folder into LD_LIBRARY_PATH";
        return Err(CudaError::NoLibrary { library: "libnvrtc.so.13", hint });
    }
    let failed = |log: String| CudaError::Compile { target: target.into(), log };
    let text = CString::new(source::SOURCE).map_err(|_| failed("a zero in the source".into()))?;
    let program = nvrtc::result::create_program(&text, Some(c"convoy.cu"))
        .map_err(|error| failed(format!("{error}")))?;
    let options = [format!("--gpu-architecture={target}"), "--std=c++17".into()];
    // SAFETY: the program was just created and is destroyed once, below.
    let compiled = unsafe { nvrtc::result::compile_program(program, &options) };
    let image = match compiled {
        Ok(()) => cubin(program).map_err(|error| failed(format!("{error}"))),
        Err(error) => {
            // SAFETY: the program is alive.
            let log = unsafe { nvrtc::result::get_program_log(program) }.unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect();
            Err(failed(format!("{error}: {}", String::from_utf8_lossy(&log).trim())))
        }
    };
    // SAFETY: created above, destroyed once.
    let _ = unsafe { nvrtc::result::destroy_program(program) };
    image
}

fn cubin(program: nvrtc::sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::result::NvrtcError> {
    let mut size = 0;
    // SAFETY: a compiled program; the function writes one number.
    unsafe { nvrtc::sys::nvrtcGetCUBINSize(program, &mut size) }.result()?;
    let mut image = vec![0u8; size];
    // SAFETY: the buffer has the size asked for.
    unsafe { nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()) }.result()?;
    Ok(image)
}
