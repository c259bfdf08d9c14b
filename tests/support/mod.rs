//! What the socket tests share: a real server in this process on a free port, models made on the spot, photos drawn
//! on the spot, and the shared fixtures where they are at hand.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    convert::Infallible,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Cursor,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread::JoinHandle,
    time::Duration,
};

use convoy::{
    app::{App, Listeners, Rig},
    config::{
        ClassifierConfig, ClientsConfig, Config, ConnectionsConfig, DeviceConfig, FaqConfig, HealthConfig,
        HttpConfig, IngressConfig, MemoryConfig, PhotosConfig, TraceConfig, TransformName, Transforms,
    },
    faq::{Corpus, TrainOptions, train},
    grpc::proto::{ModelInferRequest, model_infer_request::InferInputTensor},
    http::{Ended, Shutdown},
    image::DecodeOptions,
    vision::{Arch, random::Recipe},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot};

/// The folder of fixtures beside the checkout, when there is one.
pub fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    folder.is_dir().then_some(folder)
}

/// Expanded weights of the shared packs; `make test` makes them.
pub fn shared_weights(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/weights/{name}.safetensors"));
    assert!(file.is_file(), "{} is missing: run `make fixtures`", file.display());
    file
}

/// Every file of a shared folder, sorted by name.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// A checkpoint of random weights, and the folder that goes away with it.
pub fn random_weights(arch: Arch) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join(format!("{arch}.safetensors"));
    Recipe::new(arch).write(&weights).unwrap();
    (folder, weights)
}

struct Models {
    _folder: TempDir,
    classifier: PathBuf,
    faq: PathBuf,
}

const CLASSIFIER: &str = "resnet18.safetensors";
const FAQ: &str = "faq.safetensors";

/// A random ResNet-18 and the project's own FAQ, a copy for each test binary: tests may damage theirs.
fn models() -> &'static Models {
    static MODELS: OnceLock<Models> = OnceLock::new();
    MODELS.get_or_init(|| {
        let made = made_models();
        let folder = tempfile::tempdir().unwrap();
        let copy = |name: &str| {
            let to = folder.path().join(name);
            fs::copy(made.join(name), &to).unwrap();
            to
        };
        Models { classifier: copy(CLASSIFIER), faq: copy(FAQ), _folder: folder }
    })
}

/// The folder of both models, made once for a build of convoy and the FAQ's data: training takes longer than most tests, and
/// there are some forty test binaries.
fn made_models() -> PathBuf {
    let builds = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = builds.join(format!("models-{:016x}", build()));
    if made.is_dir() {
        return made;
    }
    let making = tempfile::tempdir_in(builds).unwrap();
    // A wide last layer, so that different photos get clearly different answers.
    let recipe = Recipe { fc_sd: 1.0, ..Recipe::new(Arch::ResNet18) };
    recipe.write(&making.path().join(CLASSIFIER)).unwrap();
    train(&faq_corpus(), &TrainOptions::default(), |_| {}).save(&making.path().join(FAQ)).unwrap();
    for old in fs::read_dir(builds).unwrap() {
        let (name, path) = old.map(|old| (old.file_name(), old.path())).unwrap();
        let age =
            fs::metadata(&path).and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
        // A younger one may be of a build that is being tested at this moment.
        if name.to_string_lossy().starts_with("models-") && age > Some(Duration::from_secs(24 * 3600)) {
            let _another_was_quicker = fs::remove_dir_all(path);
        }
    }
    let another_was_quicker = fs::rename(making.path(), &made).is_err();
    assert!(!another_was_quicker || made.is_dir(), "{} cannot be made", made.display());
    made
}

/// A number that another build of convoy, or other data, does not have.
fn build() -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut files = vec![PathBuf::from(env!("CARGO_BIN_EXE_convoy"))];
    let data = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/faq")).unwrap();
    files.extend(data.map(|file| file.unwrap().path()));
    files.sort();
    for file in files {
        let found = fs::metadata(&file).unwrap();
        (file, found.len(), found.modified().unwrap()).hash(&mut hasher);
    }
    hasher.finish()
}

/// The project's own FAQ.
pub fn faq_corpus() -> Corpus {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/faq");
    Corpus::read(&data.join("questions.tsv"), &[data.join("duplicates.tsv")], Some(&data.join("answers.tsv")))
        .unwrap()
}

/// A configuration small enough for tests: random ResNet-18, own FAQ, short drains.
pub fn config() -> Config {
    let models = models();
    Config {
        bind: "127.0.0.1:0".parse().unwrap(),
        grpc_bind: None,
        photos: Some(PhotosConfig {
            classifier: ClassifierConfig {
                weights: models.classifier.clone(),
                arch: None,
                labels: None,
                transforms: Transforms { default: TransformName::ResizeCrop, short_side: None },
                engine_threads: 2,
                decode: DecodeOptions {
                    max_pixels: 50_000_000,
                    max_memory: 320 << 20,
                    apply_orientation: true,
                },
            },
            device: DeviceConfig::cpu(),
            max_batch: 4,
            queue: 128,
            decode_threads: 1,
            share_identical: false,
        }),
        faq: Some(FaqConfig { model: models.faq.clone(), embeddings: None, threads: 1, queue: 128 }),
        http: HttpConfig {
            admin: false,
            max_body: 8 << 20,
            max_images: 16,
            deadline: Duration::from_secs(60),
            max_deadline: Duration::from_secs(120),
            read_timeout: Duration::from_secs(10),
            connections: ConnectionsConfig { max: 512, ..ConnectionsConfig::default() },
            lame_duck: Duration::from_millis(100),
            grace: Duration::from_secs(30),
        },
        memory: MemoryConfig::default(),
        clients: ClientsConfig::default(),
        health: HealthConfig::default(),
        trace: TraceConfig::default(),
        ingress: IngressConfig::default(),
    }
}

/// A running server; dropping it cuts it off.
pub struct Server {
    pub address: SocketAddr,
    /// Where it speaks gRPC, if the configuration asks for it.
    pub grpc: Option<SocketAddr>,
    /// Where operators ask, if the configuration asks for it.
    pub ops: Option<SocketAddr>,
    stop: Option<oneshot::Sender<Shutdown>>,
    cut: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<Option<Ended>>>,
}

impl Server {
    /// Builds the models and serves on a free port, on a runtime of its own.
    pub fn start(config: &Config) -> Self {
        Self::start_with(config, &Rig::default())
    }

    /// The same with `rig` around its executors.
    pub fn start_with(config: &Config, rig: &Rig) -> Self {
        let app = App::build_with(config, rig).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (cut, cut_off) = oneshot::channel();
        let (bound, addresses) = std::sync::mpsc::channel();
        let config = config.clone();
        let thread = std::thread::spawn(move || {
            convoy::app::runtime().unwrap().block_on(async move {
                let listeners = Listeners::bind(&config).await.unwrap();
                let address = |listener: &TcpListener| listener.local_addr().unwrap();
                let (grpc, ops) = (listeners.grpc.as_ref().map(address), listeners.ops.as_ref().map(address));
                bound.send((address(&listeners.http), grpc, ops)).unwrap();
                let stopped = async { stopped.await.unwrap_or(Shutdown::Immediate) };
                tokio::select! {
                    ended = app.serve(listeners, stopped) => Some(ended),
                    // Whoever drops it asks nothing of its drain, which would wait for clients whose own thread waits for it.
                    _dropped = cut_off => None,
                }
            })
        });
        let (address, grpc, ops) = addresses.recv().unwrap();
        Self { address, grpc, ops, stop: Some(stop), cut: Some(cut), thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks the server to stop, without waiting.
    pub fn ask_to_stop(&mut self, how: Shutdown) {
        if let Some(stop) = self.stop.take() {
            let _already_gone = stop.send(how);
        }
    }

    /// Waits for the end.
    pub fn join(&mut self) -> Option<Ended> {
        self.thread.take().and_then(|thread| thread.join().unwrap())
    }

    /// Stops it at once and waits for the end.
    pub fn end(mut self) {
        self.ask_to_stop(Shutdown::Immediate);
        self.join();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.cut.take());
        self.join();
    }
}

/// A PNG photo that differs clearly from every other `index`.
pub fn photo(index: u32) -> Vec<u8> {
    let image = ::image::RgbImage::from_fn(256, 240, |x, y| {
        let (fx, fy) =
            (x as f32 * (1.0 + (index % 7) as f32) / 40.0, y as f32 * (1.0 + (index / 7) as f32) / 40.0);
        let wave = |phase: f32| (127.5 + 127.5 * (fx + phase).sin() * (fy - phase).cos()) as u8;
        ::image::Rgb([wave(index as f32), wave(index as f32 * 0.7), wave(2.0 - index as f32)])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A question to the FAQ as gRPC's V2 clients put it: four bytes of length, then the text.
pub fn infer_question(text: &str) -> ModelInferRequest {
    let length = u32::try_from(text.len()).unwrap();
    ModelInferRequest {
        model_name: "faq".to_owned(),
        inputs: vec![InferInputTensor {
            name: "question".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![[&length.to_le_bytes()[..], text.as_bytes()].concat().into()],
        ..ModelInferRequest::default()
    }
}

/// The value of one metric line, by its full name with labels.
pub fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let value = line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).rsplit(' ').next().unwrap();
    value.parse().unwrap()
}
