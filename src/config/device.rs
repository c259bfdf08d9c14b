//! Flags of what photos are classified on.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Checks;

/// Most photos at once on a GPU, where nothing else is asked: above 32 the rate hardly rises, and two such batches of a
/// ResNet-152 take less than ten milliseconds on an H100.
const GPU_BATCH: usize = 64;

/// What photos are classified on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// A GPU where one can be used, else the processor; the log says which and why.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, or no start.
    Cuda,
}

/// Flags of what photos are classified on.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// What photos are classified on.
    #[arg(long, env = "CONVOY_DEVICE", value_enum, default_value = "auto")]
    pub device: DeviceName,
    /// Batches that a GPU works on at once, so that the copies of one overlap with the kernels of another.
    #[arg(long, env = "CONVOY_CUDA_SESSIONS", value_name = "COUNT", default_value_t = 3)]
    pub cuda_sessions: usize,
    /// File in which a GPU's chosen kernels are kept, because choosing takes a minute or two; the weights' name with
    /// `.kernels` behind it when not given.
    #[arg(long, env = "CONVOY_KERNEL_CACHE", value_name = "FILE")]
    pub kernel_cache: Option<PathBuf>,
}

/// What photos are classified on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Which.
    pub name: DeviceName,
    /// Batches that a GPU works on at once.
    pub sessions: usize,
    /// Most photos at once on a GPU.
    pub max_batch: usize,
    /// File in which a GPU's chosen kernels are kept.
    pub kernel_cache: PathBuf,
}

impl DeviceConfig {
    /// The processor, whatever else there is.
    pub fn cpu() -> Self {
        Self { name: DeviceName::Cpu, sessions: 1, max_batch: 1, kernel_cache: PathBuf::new() }
    }
}

impl DeviceArgs {
    pub(super) fn check(
        &self,
        weights: &Path,
        max_batch: Option<usize>,
        checks: &mut Checks,
    ) -> DeviceConfig {
        checks.range("--cuda-sessions", self.cuda_sessions as u64, 1, 16);
        let beside = || {
            let mut name = weights.as_os_str().to_owned();
            name.push(".kernels");
            PathBuf::from(name)
        };
        DeviceConfig {
            name: self.device,
            sessions: self.cuda_sessions,
            max_batch: max_batch.unwrap_or(GPU_BATCH),
            kernel_cache: self.kernel_cache.clone().unwrap_or_else(beside),
        }
    }
}
