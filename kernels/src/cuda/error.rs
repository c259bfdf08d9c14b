//! What goes wrong with a GPU and its libraries, in words that name the thing and the next step.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;

/// Why a GPU cannot be used, or what failed on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// A library cannot be opened.
    #[error("{library} cannot be opened; {hint}")]
    NoLibrary {
        /// File name that was looked for.
        library: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The driver is there and knows no GPU.
    #[error(
        "the NVIDIA driver knows no GPU; on Kubernetes ask for nvidia.com/gpu, with docker for --gpus all"
    )]
    NoGpu,
    /// The GPU is too old for the kernels.
    #[error("{name} has compute capability {major}.{minor}; 7.5 (Turing) or newer is needed")]
    TooOld {
        /// What the driver calls it.
        name: String,
        /// Major compute capability.
        major: i32,
        /// Minor compute capability.
        minor: i32,
    },
    /// The driver is older than the bindings.
    #[error(
        "the NVIDIA driver speaks CUDA {}.{}; 13.0 is needed: install driver 580 or newer", version / 1000, version % 1000 / 10
    )]
    OldDriver {
        /// 12040 for CUDA 12.4.
        version: i32,
    },
    /// The driver refused or failed a call.
    #[error("{call}: {text}")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// The driver's name of the error and what it says of it.
        text: String,
        /// The context is lost: every later call fails, too, and only a new process has a GPU again.
        sticky: bool,
        /// Memory of the GPU is what was missing.
        out_of_memory: bool,
    },
    /// cuDNN refused or failed a call.
    #[error("cuDNN, {call}: {text}")]
    Cudnn {
        /// What was being done.
        call: &'static str,
        /// The library's status and last message.
        text: String,
    },
    /// cuBLASLt refused or failed a call.
    #[error("cuBLASLt, {call}: {text}")]
    Cublaslt {
        /// What was being done.
        call: &'static str,
        /// The library's status.
        text: String,
    },
    /// The kernels could not be compiled for this GPU.
    #[error("NVRTC could not compile the kernels for {target}: {log}")]
    Compile {
        /// The target, `sm_90`.
        target: String,
        /// The compiler's log.
        log: String,
    },
    /// Nothing computes a convolution as it should.
    #[error("no kernel computes {problem} right")]
    NoKernel {
        /// Shape of the convolution.
        problem: String,
    },
    /// A network that cannot be laid out for the GPU.
    #[error("the network does not fit the GPU engine: {reason}")]
    Network {
        /// Why.
        reason: String,
    },
}

impl CudaError {
    /// Nothing can be done on this GPU any more without a new process.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Driver { sticky: true, .. })
    }

    /// The GPU has too little memory left.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Driver { out_of_memory: true, .. })
    }
}

/// Adds what was being done to what a library reports.
pub(super) trait Context<T> {
    fn during(self, call: &'static str) -> Result<T, CudaError>;
}

impl<T> Context<T> for Result<T, DriverError> {
    fn during(self, call: &'static str) -> Result<T, CudaError> {
        use cudarc::driver::sys::CUresult as R;
        self.map_err(|error| {
            let text = |found: Result<&std::ffi::CStr, DriverError>| {
                found.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
            };
            CudaError::Driver {
                call,
                text: format!("{} ({})", text(error.error_string()), text(error.error_name())),
                // The errors after which the driver's documentation wants the process to end.
                sticky: matches!(
                    error.0,
                    R::CUDA_ERROR_ILLEGAL_ADDRESS
                        | R::CUDA_ERROR_LAUNCH_FAILED
                        | R::CUDA_ERROR_LAUNCH_TIMEOUT
                        | R::CUDA_ERROR_ASSERT
                        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
                        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
                        | R::CUDA_ERROR_MISALIGNED_ADDRESS
                        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
                        | R::CUDA_ERROR_INVALID_PC
                        | R::CUDA_ERROR_ECC_UNCORRECTABLE
                        | R::CUDA_ERROR_DEVICE_UNAVAILABLE
                        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
                        | R::CUDA_ERROR_DEINITIALIZED
                        | R::CUDA_ERROR_UNKNOWN
                ),
                out_of_memory: error.0 == R::CUDA_ERROR_OUT_OF_MEMORY,
            }
        })
    }
}

impl<T> Context<T> for Result<T, CublasError> {
    fn during(self, call: &'static str) -> Result<T, CudaError> {
        self.map_err(|error| CudaError::Cublaslt { call, text: format!("{:?}", error.0) })
    }
}
