//! Which device a network is put on: what was asked for, what the machine has, and what the log says of it.

use std::sync::Arc;

use anyhow::Context as _;
use kernels::cuda::{CudaError, Device};

use crate::{
    config::{DeviceConfig, DeviceName},
    vision::{
        CpuEngine, CudaModel, CudaOptions, Engine,
        cpu::CpuOptions,
        cuda::{PREFETCHED, buckets},
        fold::TensorSource,
    },
};

/// Plans of cuDNN's that are built and timed for each convolution: the heuristic's first few hold the fastest, and each
/// takes a seventh of a second to build.
const PLANS: usize = 4;

/// Engines of one network.
pub(super) struct Engines {
    /// One or several that share the weights.
    pub(super) engines: Vec<Box<dyn Engine>>,
    /// Most images of a batch.
    pub(super) max_batch: usize,
    /// What they run on.
    pub(super) device: Running,
}

/// What a network runs on, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// `cpu` or `cuda`.
    pub name: &'static str,
    /// Which one and how.
    pub detail: String,
}

/// Puts the network of `weights` on the device that was asked for.
///
/// # Errors
/// The weights cannot be used, or a GPU must be used and cannot.
pub(super) fn open(
    weights: &mut impl TensorSource,
    config: &DeviceConfig,
    cpu: CpuOptions,
) -> anyhow::Result<Engines> {
    match config.name {
        DeviceName::Cpu => on_cpu(weights, cpu),
        DeviceName::Cuda => Device::open()
            .map_err(anyhow::Error::from)
            .and_then(|device| on_gpu(device, weights, config))
            .context("--device cuda: no GPU can be used; --device cpu or auto starts without one"),
        DeviceName::Auto => {
            let reason = match Device::open() {
                Ok(device) => match on_gpu(device, weights, config) {
                    Ok(engines) => return Ok(engines),
                    Err(error) => error,
                },
                Err(error @ (CudaError::NoLibrary { library: "libcuda.so.1", .. } | CudaError::NoGpu)) => {
                    tracing::info!(%error, "no GPU: photos are classified on the processor");
                    return on_cpu(weights, cpu);
                }
                Err(error) => error.into(),
            };
            tracing::warn!(
                reason = format!("{reason:#}"),
                "there is a GPU that cannot be used: photos are classified on the processor"
            );
            on_cpu(weights, cpu)
        }
    }
}

fn on_cpu(weights: &mut impl TensorSource, options: CpuOptions) -> anyhow::Result<Engines> {
    let mut engine = CpuEngine::new(weights, options)?;
    let detail = format!("{}, {} threads", engine.executor().instructions(), options.threads);
    let device = Running { name: "cpu", detail };
    Ok(Engines { engines: vec![Box::new(engine)], max_batch: options.max_batch, device })
}

fn on_gpu(
    device: Arc<Device>,
    weights: &mut impl TensorSource,
    config: &DeviceConfig,
) -> anyhow::Result<Engines> {
    let found = device.found().clone();
    let version = |version: Option<usize>| version.map_or("none".to_owned(), |version| version.to_string());
    tracing::info!(
        gpu = found.name,
        capability = format!("{}.{}", found.capability.0, found.capability.1),
        memory_mib = found.memory >> 20,
        cuda = found.driver,
        cudnn = version(found.cudnn),
        cublaslt = version(found.cublaslt),
        kernels = if found.beforehand { "compiled beforehand" } else { "compiled by NVRTC" },
        "a GPU: photos are classified on it"
    );
    let options = CudaOptions {
        buckets: buckets(config.max_batch),
        sessions: config.sessions,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        plans: PLANS,
        again: false,
        prefetched: PREFETCHED,
        choices: Some(config.kernel_cache.clone()),
    };
    let model = CudaModel::new(device, weights, &options)?;
    model.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let (tuning, max_batch) = (model.tuning(), model.max_batch());
    tracing::info!(
        convolutions = tuning.problems,
        known = tuning.known,
        timed = tuning.candidates,
        build_ms = tuning.building.as_millis() as u64,
        timing_ms = tuning.timing.as_millis() as u64,
        kept_in = %config.kernel_cache.display(),
        "kernels chosen"
    );
    let detail = format!("{}, {} sessions", found.name, model.engines.len());
    let boxed = |engine| -> Box<dyn Engine> { Box::new(engine) };
    let engines = model.engines.into_iter().map(boxed).collect();
    Ok(Engines { engines, max_batch, device: Running { name: "cuda", detail } })
}
