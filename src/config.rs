//! Flags and environment variables of `convoy serve` and of what `convoy classify` shares with it, and the validated
//! configuration made of them.
//!
//! Two steps: [`ServeArgs`] is typed text as the user wrote it; [`ServeArgs::resolve`] checks everything and names all
//! problems at once. This is the only module that reads the environment.

mod connections;
mod device;
mod fetch;
mod health;
mod ingress;
mod memory;
mod own;
mod trace;

use std::{collections::HashMap, fmt, net::SocketAddr, path::PathBuf, thread, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use kernels::Transform;

pub use connections::{ConnectionArgs, ConnectionsConfig};
pub use device::{DeviceArgs, DeviceConfig, DeviceName};
pub use fetch::FetchArgs;
pub use health::{HealthArgs, HealthConfig};
pub use ingress::{IngressArgs, IngressConfig, JwksSource, OidcConfig, TlsConfig};
pub use memory::{MemoryArgs, MemoryConfig};
pub use own::OwnServerArgs;
pub use trace::{CollectorConfig, TraceArgs, TraceConfig};

use crate::{
    image::DecodeOptions,
    vision::{Arch, Preprocessing},
};

/// Most photos at once on a processor, where nothing else is asked.
const CPU_BATCH: usize = 8;

/// What one process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Image classification.
    Photos,
    /// FAQ matching.
    Faq,
}

/// How log lines are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How a photo becomes the model's square input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum TransformName {
    /// The model's own: short side to `--short-side`, then a centre crop.
    ResizeCrop,
    /// Straight to the square (bicubic), aspect ignored: what the reference tutorials do.
    Stretch,
}

/// Flags of `convoy serve`; each can also be set by the environment variable shown.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "CONVOY_BIND", default_value = "0.0.0.0:8080")]
    pub bind: SocketAddr,
    /// Address and port to speak the V2 protocol over gRPC on; port 0 takes a free one. Off when not given.
    #[arg(long, env = "CONVOY_GRPC_BIND", value_name = "ADDRESS")]
    pub grpc_bind: Option<SocketAddr>,
    /// What to serve.
    #[arg(long, env = "CONVOY_SERVICES", value_delimiter = ',', default_value = "photos,faq")]
    pub services: Vec<Service>,

    /// What photos are shown to.
    #[command(flatten)]
    pub classifier: ClassifierArgs,
    /// What photos are classified on.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Most photos executed at once; 8 on a processor and 64 on a GPU when not given.
    #[arg(long, env = "CONVOY_MAX_BATCH")]
    pub max_batch: Option<usize>,
    /// Photos admitted and not yet answered; more are refused with 429.
    #[arg(long, env = "CONVOY_QUEUE", default_value_t = 256)]
    pub queue: usize,
    /// Threads that decode and resize photos; 0 takes half the cores.
    #[arg(long, env = "CONVOY_DECODE_THREADS", default_value_t = 0)]
    pub decode_threads: usize,
    /// Whether identical photos in flight share one execution.
    #[arg(long, env = "CONVOY_SHARE_IDENTICAL", default_value_t = true, action = ArgAction::Set)]
    pub share_identical: bool,
    /// Most photos in one request.
    #[arg(long, env = "CONVOY_MAX_IMAGES", default_value_t = 64)]
    pub max_images: usize,

    /// Answer POST /admin/... and let models be loaded and unloaded: whoever reaches the port may then do it. With --keys
    /// or --oidc-issuer, callers with the scope `admin` may without this flag, and nobody else.
    #[arg(long, env = "CONVOY_ADMIN")]
    pub admin: bool,

    /// FAQ model, as `convoy faq train` writes it.
    #[arg(long, env = "CONVOY_FAQ_MODEL", default_value = "weights/faq.safetensors")]
    pub faq_model: PathBuf,
    /// Folder of the embedding model that the FAQ model was trained with, where it was trained with one.
    #[arg(long, env = "CONVOY_FAQ_EMBEDDINGS", value_name = "FOLDER")]
    pub faq_embeddings: Option<PathBuf>,
    /// Threads that answer questions; 0 takes half the cores.
    #[arg(long, env = "CONVOY_FAQ_THREADS", default_value_t = 0)]
    pub faq_threads: usize,
    /// Questions admitted and not yet answered; more are refused with 429.
    #[arg(long, env = "CONVOY_FAQ_QUEUE", default_value_t = 1024)]
    pub faq_queue: usize,

    /// Most bytes of a request body or gRPC message, in MiB.
    #[arg(long, env = "CONVOY_MAX_BODY_MIB", default_value_t = 32)]
    pub max_body_mib: usize,
    /// How much memory requests and answers may hold.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Milliseconds from a request's head to its answer, where the request does not say; what would be late is refused.
    #[arg(long, env = "CONVOY_DEADLINE_MS", default_value_t = 30_000)]
    pub deadline_ms: u64,
    /// Most milliseconds a request may ask for.
    #[arg(long, env = "CONVOY_MAX_DEADLINE_MS", default_value_t = 300_000)]
    pub max_deadline_ms: u64,
    /// Header that names the client, set by the proxy in front; clients share the server fairly. Addresses count when it
    /// is not given.
    #[arg(long, env = "CONVOY_CLIENT_HEADER")]
    pub client_header: Option<String>,
    /// Share of a client against others with 1, as NAME=WEIGHT; may be repeated.
    #[arg(
        long = "client-weight",
        env = "CONVOY_CLIENT_WEIGHTS",
        value_delimiter = ',',
        value_name = "NAME=WEIGHT"
    )]
    pub client_weights: Vec<String>,
    /// Milliseconds a client may take to the first byte of its first request, from a request's first byte to the end of its
    /// head, and again for its body.
    #[arg(long, env = "CONVOY_READ_TIMEOUT_MS", default_value_t = 15_000)]
    pub read_timeout_ms: u64,
    /// How many connections there may be, and how long each may keep the server waiting.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Milliseconds to go on serving after SIGTERM while load balancers notice that /readyz fails.
    #[arg(long, env = "CONVOY_LAME_DUCK_MS", default_value_t = 3_000)]
    pub lame_duck_ms: u64,
    /// Milliseconds for requests in hand to finish after that.
    #[arg(long, env = "CONVOY_GRACE_MS", default_value_t = 25_000)]
    pub grace_ms: u64,

    /// When a server that does not get on says so.
    #[command(flatten)]
    pub health: HealthArgs,
    /// Whether and where requests' traces are sent.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// Who may ask and how.
    #[command(flatten)]
    pub ingress: IngressArgs,
}

/// Which classifier photos are shown to, and how they are prepared for it.
#[derive(Debug, Clone, Args)]
pub struct ClassifierArgs {
    /// Classifier weights: a safetensors file with the tensor names of the model's publisher.
    #[arg(long, env = "CONVOY_WEIGHTS", default_value = "weights/resnet152.safetensors")]
    pub weights: PathBuf,
    /// Architecture the weights must have; found from the file when not given.
    #[arg(long, env = "CONVOY_ARCH")]
    pub arch: Option<Arch>,
    /// Labels, one a line, as many as the model has classes; ImageNet-1k when not given and there are 1000.
    #[arg(long, env = "CONVOY_LABELS")]
    pub labels: Option<PathBuf>,
    /// Default transform of photos; a request may name the other with `?transform=`.
    #[arg(long, env = "CONVOY_TRANSFORM", value_enum, default_value = "resize-crop")]
    pub transform: TransformName,
    /// Short side in pixels before the crop of `resize-crop`, the model's own when not given; 232 for torchvision's V2
    /// weights.
    #[arg(long, env = "CONVOY_SHORT_SIDE")]
    pub short_side: Option<u32>,
    /// Threads of the vision engine; 0 takes every core.
    #[arg(long, env = "CONVOY_ENGINE_THREADS", default_value_t = 0)]
    pub engine_threads: usize,
    /// Most pixels of one photo, checked before its pixels are allocated.
    #[arg(long, env = "CONVOY_MAX_PIXELS", default_value_t = 50_000_000)]
    pub max_pixels: u64,
    /// Most working memory for decoding one photo, in MiB, checked on its header.
    // A JPEG of 50 million pixels takes 150 MB from a camera and 300 MB as a progressive one with half the colours; what
    // takes more, such as a progressive one of four inks, has to be smaller.
    #[arg(long, env = "CONVOY_MAX_DECODE_MIB", default_value_t = 320)]
    pub max_decode_mib: u64,
    /// Leave photos as stored instead of turning them upright by their EXIF orientation.
    #[arg(long, env = "CONVOY_IGNORE_ORIENTATION")]
    pub ignore_orientation: bool,
}

/// Flags that every subcommand understands.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How log lines look.
    #[arg(long, env = "CONVOY_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Which log lines are written; `info,access=info` adds a line for every request. Of the libraries inside only errors
    /// are written, because their lines may show what clients sent.
    #[arg(long, env = "CONVOY_LOG", default_value = "info,access=off", global = true)]
    pub log: String,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub bind: SocketAddr,
    /// Where to speak gRPC, if anywhere.
    pub grpc_bind: Option<SocketAddr>,
    /// The classifier, when photos are served.
    pub photos: Option<PhotosConfig>,
    /// The FAQ, when questions are served.
    pub faq: Option<FaqConfig>,
    /// Bounds of what connections may ask for.
    pub http: HttpConfig,
    /// Bounds of what requests and answers may hold.
    pub memory: MemoryConfig,
    /// How clients are told apart.
    pub clients: ClientsConfig,
    /// When a server that does not get on says so.
    pub health: HealthConfig,
    /// What becomes of traces.
    pub trace: TraceConfig,
    /// Who may ask and how.
    pub ingress: IngressConfig,
}

/// How clients are told apart, so that they share fairly.
#[derive(Debug, Clone, Default)]
pub struct ClientsConfig {
    /// The header that names a client; its address when `None` or where the header is missing.
    pub header: Option<String>,
    /// Shares by name, positive; 1 for everybody else.
    pub weights: HashMap<Vec<u8>, f64>,
}

/// The classifier and how photos are prepared for it.
#[derive(Debug, Clone)]
pub struct ClassifierConfig {
    /// Weights file.
    pub weights: PathBuf,
    /// Architecture demanded of it.
    pub arch: Option<Arch>,
    /// Labels file.
    pub labels: Option<PathBuf>,
    /// Transforms to choose from.
    pub transforms: Transforms,
    /// Threads of the engine.
    pub engine_threads: usize,
    /// Decoding limits.
    pub decode: DecodeOptions,
}

/// Configuration of the photo side.
#[derive(Debug, Clone)]
pub struct PhotosConfig {
    /// What classifies.
    pub classifier: ClassifierConfig,
    /// What it runs on.
    pub device: DeviceConfig,
    /// Most photos executed at once on a processor.
    pub max_batch: usize,
    /// Seats in the queue.
    pub queue: usize,
    /// Decoding threads.
    pub decode_threads: usize,
    /// Whether identical photos in flight share one execution.
    pub share_identical: bool,
}

/// The transforms a server offers.
#[derive(Debug, Clone, Copy)]
pub struct Transforms {
    /// Which one is used when a request names none.
    pub default: TransformName,
    /// Short side of `resize-crop`, in pixels; the model's own when `None`.
    pub short_side: Option<u32>,
}

impl Transforms {
    /// The pixel transform for what a request asked, or the default, on a model that was trained for `own`.
    pub fn pick(self, asked: Option<TransformName>, own: Preprocessing) -> Transform {
        match asked.unwrap_or(self.default) {
            TransformName::ResizeCrop => own.resize_crop(self.short_side),
            TransformName::Stretch => Transform::STRETCH,
        }
    }
}

/// Configuration of the FAQ side.
#[derive(Debug, Clone)]
pub struct FaqConfig {
    /// Model file.
    pub model: PathBuf,
    /// Folder of its embedding model.
    pub embeddings: Option<PathBuf>,
    /// Answering threads.
    pub threads: usize,
    /// Seats in the queue.
    pub queue: usize,
}

/// Bounds of what connections may ask for.
#[derive(Debug, Clone, Copy)]
pub struct HttpConfig {
    /// Whether admin endpoints answer.
    pub admin: bool,
    /// Most bytes of a body.
    pub max_body: usize,
    /// Most photos in one request.
    pub max_images: usize,
    /// From a request's head to its answer, where the request does not say.
    pub deadline: Duration,
    /// The most a request may ask for.
    pub max_deadline: Duration,
    /// For a head to arrive, and again for a body.
    pub read_timeout: Duration,
    /// How many connections there may be, and how long each may keep the server waiting.
    pub connections: ConnectionsConfig,
    /// From SIGTERM to the closing of the port.
    pub lame_duck: Duration,
    /// From then to the end of the process.
    pub grace: Duration,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// One line each: the flag, its value, what it may be.
    pub problems: Vec<String>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl ServeArgs {
    /// Checks everything and fills in what depends on the machine.
    ///
    /// # Errors
    /// Every problem found, not only the first.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let mut checks = Checks::default();
        let served = |service| self.services.contains(&service);
        let photos = served(Service::Photos).then(|| self.photos(&mut checks));
        let faq = served(Service::Faq).then(|| self.faq(&mut checks));
        let http = self.http(&mut checks);
        let memory = self.memory.check(self.max_body_mib, &mut checks);
        let clients = self.clients(&mut checks);
        let health = self.health.check(&mut checks);
        let trace = self.trace.check(&mut checks);
        let ingress = self.ingress.check(&mut checks);
        if checks.problems.is_empty() {
            let Self { bind, grpc_bind, .. } = self;
            Ok(Config { bind, grpc_bind, photos, faq, http, memory, clients, health, trace, ingress })
        } else {
            Err(ConfigError { problems: checks.problems })
        }
    }

    fn photos(&self, checks: &mut Checks) -> PhotosConfig {
        let classifier = self.classifier.check(checks);
        if let Some(max_batch) = self.max_batch {
            checks.range("--max-batch", max_batch as u64, 1, 1024);
        }
        let device = self.device.check(&classifier.weights, self.max_batch, checks);
        checks.range("--queue", self.queue as u64, self.max_images as u64, 1 << 20);
        checks.range("--decode-threads", self.decode_threads as u64, 0, 1024);
        PhotosConfig {
            classifier,
            device,
            max_batch: self.max_batch.unwrap_or(CPU_BATCH),
            queue: self.queue,
            decode_threads: or_share(self.decode_threads, 2),
            share_identical: self.share_identical,
        }
    }

    fn faq(&self, checks: &mut Checks) -> FaqConfig {
        checks.file("--faq-model", &self.faq_model);
        checks.range("--faq-threads", self.faq_threads as u64, 0, 1024);
        checks.range("--faq-queue", self.faq_queue as u64, 1, 1 << 20);
        FaqConfig {
            model: self.faq_model.clone(),
            embeddings: self.faq_embeddings.clone(),
            threads: or_share(self.faq_threads, 2),
            queue: self.faq_queue,
        }
    }

    fn clients(&self, checks: &mut Checks) -> ClientsConfig {
        let token =
            |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if let Some(header) = self.client_header.as_ref().filter(|name| !token(name)) {
            checks.problems.push(format!("--client-header {header}: not the name of a header"));
        }
        let mut weights = HashMap::new();
        for text in &self.client_weights {
            let pair =
                text.rsplit_once('=').and_then(|(name, weight)| Some((name, weight.parse::<f64>().ok()?)));
            match pair.filter(|(_, weight)| (0.001..=1000.0).contains(weight)) {
                Some((name, weight)) => drop(weights.insert(name.as_bytes().to_vec(), weight)),
                None => checks.problems.push(format!(
                    "--client-weight {text}: it must be NAME=WEIGHT with a weight between 0.001 and 1000"
                )),
            }
        }
        if !weights.is_empty() && self.client_header.is_none() {
            checks.problems.push("--client-weight needs --client-header, which names the clients".to_owned());
        }
        ClientsConfig { header: self.client_header.clone(), weights }
    }

    fn http(&self, checks: &mut Checks) -> HttpConfig {
        checks.range("--max-body-mib", self.max_body_mib as u64, 1, 1024);
        checks.range("--max-images", self.max_images as u64, 1, 1 << 16);
        checks.range("--max-deadline-ms", self.max_deadline_ms, 1, 3_600_000);
        checks.range("--deadline-ms", self.deadline_ms, 1, self.max_deadline_ms);
        checks.range("--read-timeout-ms", self.read_timeout_ms, 1, 3_600_000);
        checks.range("--lame-duck-ms", self.lame_duck_ms, 0, 3_600_000);
        checks.range("--grace-ms", self.grace_ms, 0, 3_600_000);
        HttpConfig {
            admin: self.admin,
            max_body: self.max_body_mib << 20,
            max_images: self.max_images,
            deadline: Duration::from_millis(self.deadline_ms),
            max_deadline: Duration::from_millis(self.max_deadline_ms),
            read_timeout: Duration::from_millis(self.read_timeout_ms),
            connections: self.connections.check(checks),
            lame_duck: Duration::from_millis(self.lame_duck_ms),
            grace: Duration::from_millis(self.grace_ms),
        }
    }
}

impl ClassifierArgs {
    /// Checks everything and fills in what depends on the machine.
    ///
    /// # Errors
    /// Every problem found, not only the first.
    pub fn resolve(self) -> Result<ClassifierConfig, ConfigError> {
        let mut checks = Checks::default();
        let config = self.check(&mut checks);
        if checks.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: checks.problems }) }
    }

    fn check(&self, checks: &mut Checks) -> ClassifierConfig {
        checks.file("--weights", &self.weights);
        if let Some(labels) = &self.labels {
            checks.file("--labels", labels);
        }
        if let Some(short_side) = self.short_side {
            checks.range("--short-side", u64::from(short_side), 224, 4096);
        }
        checks.range("--engine-threads", self.engine_threads as u64, 0, 1024);
        checks.range("--max-pixels", self.max_pixels, 1, 1 << 32);
        checks.range("--max-decode-mib", self.max_decode_mib, 32, 1 << 20);
        ClassifierConfig {
            weights: self.weights.clone(),
            arch: self.arch,
            labels: self.labels.clone(),
            transforms: Transforms { default: self.transform, short_side: self.short_side },
            engine_threads: or_share(self.engine_threads, 1),
            decode: DecodeOptions {
                max_pixels: self.max_pixels,
                max_memory: self.max_decode_mib << 20,
                apply_orientation: !self.ignore_orientation,
            },
        }
    }
}

/// `asked` threads, or one `part`-th of the cores when 0 was asked.
fn or_share(asked: usize, part: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if asked == 0 { (cores / part).max(1) } else { asked }
}

#[derive(Default)]
struct Checks {
    problems: Vec<String>,
}

impl Checks {
    fn range(&mut self, flag: &str, value: u64, low: u64, high: u64) {
        if !(low..=high).contains(&value) {
            self.problems.push(format!("{flag} is {value}; it must lie between {low} and {high}"));
        }
    }

    fn file(&mut self, flag: &str, path: &std::path::Path) {
        if !path.is_file() {
            self.problems.push(format!("{flag} {}: there is no such file", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn parse(line: &[&str]) -> ServeArgs {
        Line::parse_from([&["serve"], line].concat()).args
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let args = parse(&["--weights", "/nowhere/w", "--faq-model", "/nowhere/f", "--max-batch", "0"]);
        let problems = args.resolve().unwrap_err().problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("--weights /nowhere/w"), "{problems:?}");
    }

    #[test]
    fn a_service_that_is_off_is_not_checked() {
        let args = parse(&["--services", "faq", "--weights", "/nowhere/w", "--faq-model", file!()]);
        let config = args.resolve();
        assert!(config.is_ok_and(|config| config.photos.is_none() && config.faq.is_some()));
    }

    #[test]
    fn the_crop_is_the_models_and_its_short_side_a_setting() {
        let transforms = parse(&[]).photos(&mut Checks::default()).classifier.transforms;
        assert_eq!(transforms.pick(None, Preprocessing::TORCHVISION), Transform::RESIZE_CROP);
        let lite = Transform::ResizeCrop { short_side: 256, filter: kernels::Filter::Bicubic };
        assert_eq!(transforms.pick(None, Preprocessing::LITE), lite);
        let transforms = parse(&["--short-side", "232"]).photos(&mut Checks::default()).classifier.transforms;
        let crop = Transform::ResizeCrop { short_side: 232, filter: kernels::Filter::Bilinear };
        assert_eq!(transforms.pick(None, Preprocessing::TORCHVISION), crop);
        let stretch = Some(TransformName::Stretch);
        assert_eq!(transforms.pick(stretch, Preprocessing::LITE), Transform::STRETCH);
    }
}
