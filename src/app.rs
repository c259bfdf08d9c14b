//! The composition root: the one place that names every concrete type and wires them together.
//!
//! [`App::build`] loads, verifies and warms everything; only then is there something that could be given a port.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kernels::priority::Priority;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::{
    batch::{CostTable, Workers, scheduler},
    config::{Config, FaqConfig, PhotosConfig},
    faq::{Answerer, Live, Question},
    http::{
        self, Context, Ended, Shutdown, routes::RANDOM_WEIGHTS, terms::Clients, v2::statistics::Statistics,
    },
    image::Decoder,
    metrics::{Metrics, UPKEEP},
    service::{Photos, Questions, Readiness},
    vision::{Checkpoint, Classifier, CpuEngine, INPUT_SIZE, Labels, cpu::CpuOptions},
    weights::manifest::Manifest,
};

/// Time at start after which each remaining batch size is timed once instead of several times.
const COST_BUDGET: Duration = Duration::from_secs(2);

/// The threads that serve connections, one a core.
///
/// # Errors
/// The system refuses a thread.
pub fn runtime() -> std::io::Result<Runtime> {
    let brief = || {
        if let Err(error) = Priority::Brief.enter() {
            tracing::warn!(%error, "no priority for a connection thread: questions may wait for photos");
        }
    };
    Builder::new_multi_thread().enable_all().on_thread_start(brief).build()
}

/// A loaded and warmed server without a port.
pub struct App {
    context: Context,
    workers: Vec<Workers>,
}

impl App {
    /// Loads the models, runs a warm-up batch and starts the worker threads.
    ///
    /// # Errors
    /// Whatever cannot be loaded, with the file named.
    pub fn build(config: &Config) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let mut workers = Vec::new();
        let photos =
            config.photos.as_ref().map(|photos| build_photos(photos, &metrics, &mut workers)).transpose()?;
        let questions =
            config.faq.as_ref().map(|faq| build_faq(faq, &metrics, &mut workers)).transpose()?.map(Arc::new);
        describe(&metrics, photos.as_ref(), questions.as_deref());
        let pools = workers.iter().map(|pool| (pool.name(), pool.liveness())).collect();
        let readiness = Readiness::new(pools);
        let context = Context {
            photos,
            questions,
            readiness,
            metrics,
            limits: config.http,
            clients: Clients::new(config.clients.clone()),
            statistics: Statistics::default(),
        };
        Ok(Self { context, workers })
    }

    /// The FAQ side, where it is served; to reload its model. Weak, because its workers end with the last who could ask.
    pub fn questions(&self) -> Option<Weak<Questions>> {
        self.context.questions.as_ref().map(Arc::downgrade)
    }

    /// Serves `listener` until `shutdown`, drains, and waits for the worker threads.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = Shutdown>) -> Ended {
        let metrics = self.context.metrics.clone();
        let upkeep = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                metrics.upkeep();
            }
        });
        let ended = http::serve(listener, Arc::new(self.context), shutdown).await;
        upkeep.abort();
        if ended == Ended::Drained {
            self.workers.into_iter().for_each(Workers::join);
        }
        ended
    }
}

fn build_photos(
    config: &PhotosConfig,
    metrics: &Metrics,
    workers: &mut Vec<Workers>,
) -> anyhow::Result<Photos> {
    let started = Instant::now();
    let mut checkpoint = Checkpoint::open(&config.weights, config.arch)?;
    let model = checkpoint.info();
    let labels = Labels::load(config.labels.as_deref(), &config.weights, model.classes)?;
    let manifest = Manifest::embedded();
    let known =
        manifest.of_file(&config.weights).filter(|known| known.arch() == Ok(model.arch) && !model.random);
    let own = model.arch.preprocessing();
    let preprocessing = known.map_or(own, |known| known.preprocessing(own));
    let hint = known.and_then(|known| known.hint());
    let options = CpuOptions { max_batch: config.max_batch, threads: config.engine_threads };
    let mut engine = CpuEngine::new(&mut checkpoint, options)?;
    let instructions = engine.executor().instructions();
    let loaded = started.elapsed();
    let mut classifier = Classifier::new(Box::new(engine), config.max_batch);
    classifier.warm_up().context("the warm-up batch failed")?;
    tracing::info!(
        model = model.name,
        weights = %config.weights.display(),
        classes = model.classes,
        transform = %config.transforms.pick(None, preprocessing),
        load_ms = loaded.as_millis() as u64,
        warm_up_ms = (started.elapsed() - loaded).as_millis() as u64,
        max_batch = config.max_batch,
        engine_threads = config.engine_threads,
        instructions,
        "classifier ready"
    );
    if model.random {
        tracing::warn!(weights = %config.weights.display(), "{RANDOM_WEIGHTS}; give real ones with --weights");
    }
    if let Some(hint) = hint {
        tracing::info!("{hint}");
    }
    let costs = CostTable::measure(&mut classifier, Classifier::grey, COST_BUDGET)
        .context("a batch failed while its cost was measured")?;
    tracing::info!(queue = "classify", "a batch takes {}", describe_costs(&costs));
    let (classifier, engine) =
        scheduler::start("classify", vec![classifier], config.queue, costs, metrics.queue("classify"))?;
    let decoders = (0..config.decode_threads).map(|_| Decoder::new(config.decode, INPUT_SIZE)).collect();
    let (decoder, decode_pool) = scheduler::start(
        "decode",
        decoders,
        config.queue,
        CostTable::unmeasured(1),
        metrics.queue("decode"),
    )?;
    workers.extend([engine, decode_pool]);
    Ok(Photos {
        decoder,
        classifier,
        model,
        labels,
        preprocessing,
        transforms: config.transforms,
        hint,
        inflight: config.share_identical.then(Arc::default),
        shared: metrics.shared_photos.clone(),
    })
}

fn build_faq(config: &FaqConfig, metrics: &Metrics, workers: &mut Vec<Workers>) -> anyhow::Result<Questions> {
    let live = Arc::new(Live::open(&config.model, config.embeddings.as_deref())?);
    let model = live.load().model().clone();
    tracing::info!(
        model = %config.model.display(),
        questions = model.questions().len(),
        threads = config.threads,
        "FAQ ready"
    );
    let mut answerers: Vec<_> = (0..config.threads).map(|_| Answerer::new(live.clone())).collect();
    let sample = |count| {
        let texts = model.questions().iter().cycle().take(count);
        texts.map(|original| Question { text: original.text.to_string(), top: None }).collect()
    };
    let Ok(costs) = CostTable::measure(&mut answerers[0], sample, COST_BUDGET);
    tracing::info!(queue = "faq", "a batch takes {}", describe_costs(&costs));
    let (queue, pool) = scheduler::start("faq", answerers, config.queue, costs, metrics.queue("faq"))?;
    workers.push(pool);
    Ok(Questions::new(queue, live))
}

/// A cost table for people: what a batch of each measured size takes.
fn describe_costs(costs: &CostTable) -> String {
    let row = |(size, seconds): (usize, f64)| format!("{size}: {:.2} ms", seconds * 1e3);
    costs.rows().map(row).collect::<Vec<_>>().join(", ")
}

fn describe(metrics: &Metrics, photos: Option<&Photos>, questions: Option<&Questions>) {
    let photos = photos.map_or_else(|| "off".to_owned(), |photos| photos.model.name.clone());
    let faq = questions.map_or_else(
        || "off".to_owned(),
        |questions| questions.loaded().model().questions().len().to_string(),
    );
    metrics.info(&[
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("photos", photos),
        ("faq_questions", faq),
    ]);
}
