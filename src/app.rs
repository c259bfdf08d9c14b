//! The composition root: the one place that names every concrete type and wires them together.
//!
//! [`App::build`] loads, verifies and warms everything; only then is there something that could be given a port. Who may
//! ask and how is wired in `ingress`, what photos are classified on in `device`.

mod device;
mod ingress;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use kernels::priority::Priority;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::{
    batch::{Before, CostTable, Pool},
    config::{ClassifierConfig, Config, DeviceConfig, FaqConfig, HealthConfig, HttpConfig, PhotosConfig},
    faq::{Answerer, Live, Question},
    grpc::Grpc,
    http::Http,
    image::Decoder,
    memory::{self, Bound, Budget, bound::Allowed},
    metrics::{Metrics, UPKEEP},
    server::{
        self, Connect, Context, Ended, Port, Ports, Shutdown, reload::Reloads, terms::Clients, tls::Tls,
    },
    service::{Photos, Questions, Readiness, Services, Slot, photos::RANDOM_WEIGHTS, slot::Fresh},
    trace::Tracer,
    v2::Statistics,
    vision::{Checkpoint, Classifier, INPUT_SIZE, Labels, ModelInfo, Preprocessing, cpu::CpuOptions},
    weights::manifest::Manifest,
};
use device::Engines;
pub use device::Running;
use ingress::Ingress;

/// Time at start after which each remaining batch size is timed once instead of several times.
const COST_BUDGET: Duration = Duration::from_secs(2);

/// Threads for reading and writing large bodies: each computes, so that many more than there are cores would only take memory
/// for stacks; a model that is being loaded takes one as well.
const BLOCKING_THREADS: usize = 64;

/// How often the server looks at itself, to log what has changed.
const LOOK: Duration = Duration::from_secs(1);

/// How often free memory goes back to the system; see [`kernels::heap`].
const TRIM: Duration = Duration::from_secs(30);

/// How long worker threads may take to end after the last request was answered.
const WORKERS_END: Duration = Duration::from_secs(2);

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
    Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .on_thread_start(brief)
        .build()
}

/// Where a server listens.
pub struct Listeners {
    /// For HTTP.
    pub http: TcpListener,
    /// For gRPC, if it is wanted.
    pub grpc: Option<TcpListener>,
    /// For operators, if it is wanted.
    pub ops: Option<TcpListener>,
}

impl Listeners {
    /// Binds what `config` asks for and logs the addresses.
    ///
    /// # Errors
    /// An address cannot be had.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
        };
        let http = bind(config.bind).await?;
        let bind_some = async |address: Option<SocketAddr>| match address {
            Some(address) => bind(address).await.map(Some),
            None => Ok(None),
        };
        let (grpc, ops) = (bind_some(config.grpc_bind).await?, bind_some(config.ingress.ops_bind).await?);
        tracing::info!(address = %http.local_addr()?, "serving");
        if let Some(listener) = &grpc {
            tracing::info!(address = %listener.local_addr()?, "serving gRPC");
        }
        if let Some(listener) = &ops {
            tracing::info!(address = %listener.local_addr()?, "serving operators");
        }
        Ok(Self { http, grpc, ops })
    }
}

impl From<TcpListener> for Listeners {
    fn from(http: TcpListener) -> Self {
        Self { http, grpc: None, ops: None }
    }
}

/// What stands before each execution of the pools, of every model that is ever loaded. A server has nothing there; tests put
/// their faults in.
#[derive(Clone, Default)]
pub struct Rig {
    /// Before a photo is decoded.
    pub decode: Option<Before<Decoder>>,
    /// Before photos are classified.
    pub classify: Option<Before<Classifier>>,
    /// Before questions are matched.
    pub faq: Option<Before<Answerer>>,
}

/// A loaded and warmed server without a port.
pub struct App {
    context: Context,
    dropped_log_lines: Box<dyn Fn() -> u64 + Send>,
    tls: Option<Tls>,
    reloads: Reloads,
    reload_interval: Duration,
    cors_origins: Vec<String>,
}

impl App {
    /// Loads the models, runs a warm-up batch and starts the worker threads.
    ///
    /// # Errors
    /// Whatever cannot be loaded, with the file named.
    pub fn build(config: &Config) -> anyhow::Result<Self> {
        Self::build_with(config, &Rig::default())
    }

    /// The same with `rig` around the executors.
    ///
    /// # Errors
    /// Whatever cannot be loaded, with the file named.
    pub fn build_with(config: &Config, rig: &Rig) -> anyhow::Result<Self> {
        let health = config.health;
        let metrics = Arc::new(Metrics::new());
        let before = memory::process::resident().map_or(0, |(now, _)| now);
        let tracer = Tracer::start(&config.trace, metrics.traces()).context("no thread to send traces")?;
        let Ingress { gate, tls, reloads } = Ingress::open(config, &metrics)?;
        let photos = config.photos.clone().map(|config| {
            let surroundings = Surroundings { metrics: metrics.clone(), health, rig: rig.clone() };
            Slot::open(Box::new(move |present| build_photos(&config, &surroundings, present))).map(Arc::new)
        });
        let with_photos = memory::process::resident().map_or(0, |(now, _)| now);
        let questions = config.faq.clone().map(|config| {
            let surroundings = Surroundings { metrics: metrics.clone(), health, rig: rig.clone() };
            Slot::open(Box::new(move |present| build_faq(&config, &surroundings, present))).map(Arc::new)
        });
        let (photos, questions) = (photos.transpose()?, questions.transpose()?);
        if let (Some(photos), Some(questions)) = (&photos, &questions) {
            let name = questions.name();
            ensure!(
                photos.name() != name,
                "the weights of photos are called like the FAQ's model, `{name}`, so that one of the two could not be asked \
                 for by its name: rename their file"
            );
        }
        describe(&metrics, photos.as_deref(), questions.as_deref());
        let pools = photos.iter().map(|slot| slot.pools()).chain(questions.iter().map(|slot| slot.pools()));
        let readiness = Readiness::new(pools.collect(), health.dead_after);
        let bound = bound(config, (before, with_photos), photos.as_deref(), questions.as_deref());
        tell(&bound, &metrics);
        let budget = Budget::new(config.memory.bodies, metrics.memory());
        let context = Context {
            services: Services { photos, questions, readiness },
            metrics,
            // With the gate shut, whoever has the scope may, and nobody else gets as far as being asked.
            limits: HttpConfig { admin: config.http.admin || gate.is_some(), ..config.http },
            memory: config.memory,
            budget,
            clients: Clients::new(config.clients.clone()),
            tracer,
            statistics: Statistics::default(),
            gate,
        };
        Ok(Self {
            context,
            dropped_log_lines: Box::new(|| 0),
            tls,
            reloads,
            reload_interval: config.ingress.reload_interval,
            cors_origins: config.ingress.cors_origins.clone(),
        })
    }

    /// Counts log lines that were lost, as `dropped` tells of them.
    #[must_use]
    pub fn counting_lost_log_lines(self, dropped: impl Fn() -> u64 + Send + 'static) -> Self {
        Self { dropped_log_lines: Box::new(dropped), ..self }
    }

    /// Where the FAQ is served, if it is; to reload its model.
    pub fn questions(&self) -> Option<Arc<Slot<Questions>>> {
        self.context.services.questions.clone()
    }

    /// The certificate and the keys; to look at their files at once.
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// Serves `listeners` until `shutdown`, drains, and waits for the worker threads.
    ///
    /// Boxed, so that the server is compiled in this crate and not once more in each one that awaits it.
    pub fn serve(
        self,
        listeners: impl Into<Listeners>,
        shutdown: impl Future<Output = Shutdown> + 'static,
    ) -> LocalBoxFuture<'static, Ended> {
        self.serve_boxed(listeners.into(), shutdown.boxed_local())
    }

    fn serve_boxed(
        self,
        listeners: Listeners,
        shutdown: LocalBoxFuture<'static, Shutdown>,
    ) -> LocalBoxFuture<'static, Ended> {
        Box::pin(async move {
            let context = Arc::new(self.context);
            let (metrics, tracer) = (context.metrics.clone(), context.tracer.clone());
            let (photos, questions) = (context.services.photos.clone(), context.services.questions.clone());
            let upkeep = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(UPKEEP);
                loop {
                    ticks.tick().await;
                    metrics.upkeep();
                }
            });
            let trim = tokio::spawn(async {
                let mut ticks = tokio::time::interval(TRIM);
                loop {
                    ticks.tick().await;
                    // Not on a thread that serves connections: it may take as long as there are gaps in the heap.
                    let _unless_it_panicked = tokio::task::spawn_blocking(kernels::heap::trim).await;
                }
            });
            let look = tokio::spawn(look(context.clone(), self.dropped_log_lines));
            let watch = tokio::spawn(self.reloads.watch(self.reload_interval));
            let ports = ports(listeners, &context, self.tls.as_ref(), self.cors_origins);
            let ended = server::serve(ports, context, shutdown).await;
            [upkeep, trim, look, watch].iter().for_each(tokio::task::JoinHandle::abort);
            tracer.flush().await;
            if ended == Ended::Drained {
                if let Some(slot) = photos {
                    slot.close(WORKERS_END).await;
                }
                if let Some(slot) = questions {
                    slot.close(WORKERS_END).await;
                }
            }
            ended
        })
    }
}

/// Logs it when the server stops wanting traffic for another reason than that it was told to stop, and when it wants it
/// again; keeps count of lost log lines.
async fn look(context: Arc<Context>, dropped: Box<dyn Fn() -> u64 + Send>) {
    let (mut ticks, mut sound) = (tokio::time::interval(LOOK), true);
    while !context.services.readiness.draining() {
        ticks.tick().await;
        context.metrics.log_lines_dropped.absolute(dropped());
        match context.services.readiness.check() {
            Err(reason) if sound => tracing::error!(reason, "not ready"),
            Ok(()) if !sound => tracing::info!("ready again"),
            _ => continue,
        }
        sound = !sound;
    }
}

/// What is spoken on each port.
fn ports(listeners: Listeners, context: &Arc<Context>, tls: Option<&Tls>, origins: Vec<String>) -> Ports {
    let port = |listener, protocol: Arc<dyn Connect>, names: &[&str]| {
        let tls = tls.filter(|_| !names.is_empty()).map(|tls| tls.acceptor(names));
        Port { listener, protocol, tls }
    };
    let Listeners { http, grpc, ops } = listeners;
    let http = port(http, Arc::new(Http::new(context.clone(), origins)), &["h2", "http/1.1"]);
    let grpc = grpc.map(|listener| port(listener, Arc::new(Grpc::new(context.clone())), &["h2"]));
    let ops = ops.map(|listener| port(listener, Arc::new(Http::ops(context.clone())), &[]));
    Ports { public: [http].into_iter().chain(grpc).collect(), ops }
}

/// A classifier and everything that its weights file tells of it.
pub struct OpenClassifier {
    /// Not warmed up yet; one or several that share the weights and may run side by side.
    pub classifiers: Vec<Classifier>,
    /// Most images of a batch.
    pub max_batch: usize,
    /// What the model is.
    pub model: ModelInfo,
    /// The label of each class.
    pub labels: Labels,
    /// Resize and normalisation that the weights were trained for.
    pub preprocessing: Preprocessing,
    /// What the operator should know of the model, such as how to get a better one.
    pub hint: Option<&'static str>,
    /// What it runs on.
    pub device: Running,
}

impl OpenClassifier {
    /// Reads the weights, checks them and builds an engine, on a processor for batches of up to `max_batch`.
    ///
    /// # Errors
    /// Whatever cannot be loaded, with the file named; a GPU that must be used and cannot.
    pub fn open(config: &ClassifierConfig, device: &DeviceConfig, max_batch: usize) -> anyhow::Result<Self> {
        let weights = config.weights.as_path();
        let mut checkpoint = Checkpoint::open(weights, config.arch)?;
        let model = checkpoint.info();
        let labels = Labels::load(config.labels.as_deref(), weights, model.classes)?;
        let manifest = Manifest::embedded();
        let known = manifest.of_file(weights).filter(|known| known.arch() == Ok(model.arch) && !model.random);
        let own = model.arch.preprocessing();
        let preprocessing = known.map_or(own, |known| known.preprocessing(own));
        let hint = known.and_then(|known| known.hint());
        let cpu = CpuOptions { max_batch, threads: config.engine_threads };
        let Engines { engines, max_batch, device } = device::open(&mut checkpoint, device, cpu)?;
        let classifiers = engines.into_iter().map(|engine| Classifier::new(engine, max_batch)).collect();
        Ok(Self { classifiers, max_batch, model, labels, preprocessing, hint, device })
    }
}

/// What every model is put into, however often it is loaded.
struct Surroundings {
    metrics: Arc<Metrics>,
    health: HealthConfig,
    rig: Rig,
}

/// Loads a classifier; one like that which serves now, on the same device, is taken to cost as much.
fn build_photos(
    config: &PhotosConfig,
    Surroundings { metrics, health, rig }: &Surroundings,
    present: Option<&Arc<Photos>>,
) -> anyhow::Result<Fresh<Photos>> {
    let started = Instant::now();
    let PhotosConfig { classifier: chosen, device, max_batch, .. } = config;
    let opened = OpenClassifier::open(chosen, device, *max_batch)?;
    let OpenClassifier { mut classifiers, max_batch, model, labels, preprocessing, hint, device } = opened;
    let loaded = started.elapsed();
    for classifier in &mut classifiers {
        classifier.warm_up().context("the warm-up batch failed")?;
    }
    tracing::info!(
        model = model.name,
        weights = %chosen.weights.display(),
        classes = model.classes,
        transform = %chosen.transforms.pick(None, preprocessing),
        load_ms = loaded.as_millis() as u64,
        warm_up_ms = (started.elapsed() - loaded).as_millis() as u64,
        max_batch,
        device = device.name,
        engine = device.detail,
        "classifier ready"
    );
    if model.random {
        tracing::warn!(weights = %chosen.weights.display(), "{RANDOM_WEIGHTS}; give real ones with --weights");
    }
    if let Some(hint) = hint {
        tracing::info!("{hint}");
    }
    let device = format!("{}, {}", device.name, device.detail);
    let alike = present.filter(|present| present.model.arch == model.arch && present.device == device);
    let known =
        alike.map(|present| present.classifier.costs()).filter(|costs| costs.max_batch() == max_batch);
    let costs = match known {
        Some(costs) => costs,
        None => CostTable::measure(&mut classifiers[0], Classifier::grey, COST_BUDGET)
            .context("a batch failed while its cost was measured")?,
    };
    tracing::info!(queue = "classify", "a batch takes {}", describe_costs(&costs));
    let engine = Pool {
        name: "classify",
        executors: classifiers,
        capacity: config.queue,
        costs,
        metrics: metrics.queue("classify"),
        stuck_after: health.stuck_after,
        before: rig.classify.clone(),
    };
    let decoders = Pool {
        name: "decode",
        executors: (0..config.decode_threads).map(|_| Decoder::new(chosen.decode, INPUT_SIZE)).collect(),
        capacity: config.queue,
        costs: CostTable::unmeasured(1),
        metrics: metrics.queue("decode"),
        stuck_after: health.stuck_after,
        before: rig.decode.clone(),
    };
    let ((classifier, engine), (decoder, decode_pool)) = (engine.start()?, decoders.start()?);
    let photos = Photos {
        decoder,
        classifier,
        model,
        device,
        labels,
        preprocessing,
        transforms: chosen.transforms,
        hint,
        inflight: config.share_identical.then(Arc::default),
        shared: metrics.shared_photos.clone(),
    };
    Ok(Fresh { served: Arc::new(photos), workers: vec![engine, decode_pool] })
}

/// Loads the FAQ; where it is served already, its workers go on with the new model.
fn build_faq(
    config: &FaqConfig,
    Surroundings { metrics, health, rig }: &Surroundings,
    present: Option<&Arc<Questions>>,
) -> anyhow::Result<Fresh<Questions>> {
    if let Some(present) = present {
        present.reload()?;
        return Ok(Fresh { served: present.clone(), workers: Vec::new() });
    }
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
    let pool = Pool {
        name: "faq",
        executors: answerers,
        capacity: config.queue,
        costs,
        metrics: metrics.queue("faq"),
        stuck_after: health.stuck_after,
        before: rig.faq.clone(),
    };
    let (queue, pool) = pool.start()?;
    Ok(Fresh { served: Arc::new(Questions::new(queue, live)), workers: vec![pool] })
}

/// What a server with this configuration comes to at worst, models loaded; it had `before` bytes in use without them, and
/// `with_photos` without the FAQ.
fn bound(
    config: &Config,
    (before, with_photos): (u64, u64),
    photos: Option<&Slot<Photos>>,
    questions: Option<&Slot<Questions>>,
) -> Bound {
    let (loaded, peak) = memory::process::resident().unwrap_or((0, 0));
    // The FAQ can always be read again, and is there twice meanwhile; a classifier only where somebody may say so.
    let replacing = match config.http.admin || config.ingress.guarded() {
        true => peak.saturating_sub(before),
        false => 2 * loaded.saturating_sub(with_photos),
    };
    // Strangers reach no port for operators.
    let ports = 1 + u64::from(config.grpc_bind.is_some());
    let wide = |count: usize| count as u64;
    let photos = photos.and(config.photos.as_ref());
    let originals =
        questions.and_then(Slot::get).map_or(0, |questions| questions.loaded().model().questions().len());
    Bound::of(&Allowed {
        loaded,
        replacing,
        bodies: wide(config.memory.bodies),
        decoders: photos.map_or(0, |photos| wide(photos.decode_threads)),
        decoding: photos.map_or(0, |photos| photos.classifier.decode.max_memory),
        photos: photos.map_or(0, |photos| wide(photos.queue)),
        picture: 3 * u64::from(INPUT_SIZE) * u64::from(INPUT_SIZE) * size_of::<f32>() as u64,
        questions: config.faq.as_ref().map_or(0, |faq| wide(faq.queue)),
        originals: wide(originals),
        connections: ports * wide(config.http.connections.max),
        connection: server::CONNECTION_BYTES,
    })
}

/// Says how much memory it may come to, and what to do where that is more than there is.
fn tell(bound: &Bound, metrics: &Metrics) {
    metrics.memory_bound(bound.parts());
    tracing::info!(bytes = bound.total(), "memory at worst {bound}");
    if let Some(limit) = memory::process::limit().filter(|limit| *limit < bound.total()) {
        tracing::warn!(
            limit,
            bytes = bound.total(),
            "memory at worst is above the container's limit: lower --max-connections, --body-memory-mib, \
             --max-decode-mib, --decode-threads or --queue, or raise the limit"
        );
    }
}

/// A cost table for people: what a batch of each measured size takes.
fn describe_costs(costs: &CostTable) -> String {
    let row = |(size, seconds): (usize, f64)| format!("{size}: {:.2} ms", seconds * 1e3);
    costs.rows().map(row).collect::<Vec<_>>().join(", ")
}

fn describe(metrics: &Metrics, photos: Option<&Slot<Photos>>, questions: Option<&Slot<Questions>>) {
    let off = || "off".to_owned();
    let photos = photos.and_then(Slot::get).map_or_else(off, |photos| photos.model.name.clone());
    let count = |questions: Arc<Questions>| questions.loaded().model().questions().len().to_string();
    let faq = questions.and_then(Slot::get).map_or_else(off, count);
    metrics.info(&[
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("photos", photos),
        ("faq_questions", faq),
    ]);
}
