//! The real binary under 1,000 hostile clients at once: its memory stays below the bound that it computed at start, and an
//! honest client gets right answers all the while.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use convoy::grpc::proto::{ModelInferRequest, ModelInferResponse, model_infer_request::InferInputTensor};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    support::{config, metric, photo},
    wire::{JSON, black_png, head},
};

const MIB: usize = 1 << 20;

/// The largest body, and what the server is told of it.
const BODY: usize = 8 * MIB;

const CLIENTS: usize = 1000;

/// How long they go on at least, and until the honest client has had so many right answers of each kind.
const ATTACK: Duration = Duration::from_secs(15);
const RIGHT: u32 = 3;

/// What these clients' connections hold: all but a few speak HTTP/1, whose part of the bound is a fraction of HTTP/2's.
const CONNECTION: u64 = 256 << 10;

struct Process {
    child: Child,
    address: SocketAddr,
    grpc: SocketAddr,
    /// What it says that it may come to.
    bound: u64,
}

impl Process {
    fn start() -> Self {
        let settings = config();
        let mut child = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args(["serve", "--bind", "127.0.0.1:0", "--grpc-bind", "127.0.0.1:0", "--lame-duck-ms", "0"])
            .args(["--max-body-mib", "8", "--body-memory-mib", "64", "--max-pixels", "4000000"])
            .args(["--max-decode-mib", "64", "--decode-threads", "1", "--max-connections", "1200"])
            .args([
                "--queue",
                "64",
                "--faq-queue",
                "64",
                "--client-header",
                "x-client",
                "--body-stall-ms",
                "2000",
            ])
            .arg("--weights")
            .arg(settings.photos.unwrap().classifier.weights)
            .arg("--faq-model")
            .arg(settings.faq.unwrap().model)
            .env("CONVOY_LOG", "info")
            .env("CONVOY_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut line = |message: &str| -> Value {
            let line = log.by_ref().map(Result::unwrap).find(|line| line.contains(message));
            serde_json::from_str(&line.expect("the log ended")).unwrap()
        };
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // Whatever is wrong with its log, it is killed.
        let mut process = Self { child, address: nowhere, grpc: nowhere, bound: 0 };
        let said = line("memory at worst");
        println!("{}", said["message"]);
        process.bound = said["bytes"].as_u64().unwrap();
        let mut address = |message| line(message)["address"].as_str().unwrap().parse().unwrap();
        (process.address, process.grpc) = (address("\"serving\""), address("serving gRPC"));
        std::thread::spawn(move || log.for_each(drop));
        process
    }

    /// `VmHWM` or `VmRSS`, in bytes.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_matches([':', ' ', '\t']).strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// What hostile clients send, made once.
struct Arsenal {
    address: SocketAddr,
    grpc: SocketAddr,
    /// Bytes that are no picture.
    noise: Bytes,
    /// 12 MB of pixels as 16-bit RGBA, from some KB.
    bomb: Bytes,
    /// Base64 of noise in JSON, with an escape in each.
    base64: Bytes,
    /// As many keys as fit.
    keys: Bytes,
    /// As many numbers as fit.
    numbers: Bytes,
    /// Arrays in arrays.
    nested: Bytes,
    /// The largest tensor of normalised photos, with the length of its JSON.
    floats: (Bytes, usize),
    /// Spaces that inflate to the largest body.
    gzip: Bytes,
    zstd: Bytes,
    /// The same photo 64 times.
    many: Bytes,
    /// 4,096 questions.
    questions: Bytes,
    stopped: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Arsenal {
    fn new(process: &Process) -> Self {
        let noise: Vec<u8> = (0..BODY).map(|at| ((at * at) >> 7) as u8).collect();
        let text = STANDARD.encode(&noise[..BODY * 3 / 4 / 8 - 4096]);
        let texts: Vec<String> = (0..8).map(|at| format!(r#""{at}": "\n{text}""#)).collect();
        let filled = |begin: &str, item: &str, end: &str| {
            let count = (BODY - begin.len() - end.len()) / item.len();
            Bytes::from(format!("{begin}{}{end}", item.repeat(count)))
        };
        let keys: Vec<_> = (0..BODY / 12).map(|at| format!(r#""{at}":"""#)).collect();
        let photos = (BODY - 1000) / 602_112;
        let tensor = json!({"inputs": [{"name": "input", "shape": [photos, 3, 224, 224], "datatype": "FP32",
            "parameters": {"binary_data_size": photos * 602_112}}]})
        .to_string();
        let floats = [tensor.as_bytes(), &vec![0; photos * 602_112]].concat();
        let spaces = vec![b' '; BODY];
        let mut gzip = Vec::new();
        let mut encoder = flate2::read::GzEncoder::new(&spaces[..], flate2::Compression::best());
        std::io::Read::read_to_end(&mut encoder, &mut gzip).unwrap();
        let file = STANDARD.encode(photo(3));
        let many: Vec<String> = (0..64).map(|at| format!(r#""{at}": "{file}""#)).collect();
        let questions = json!({"inputs": [{"name": "question", "shape": [4096], "datatype": "BYTES",
            "data": vec!["how to sort an array"; 4096]}]});
        Self {
            address: process.address,
            grpc: process.grpc,
            bomb: black_png(2000, 2000, true).into(),
            base64: format!(r#"{{"input": {{{}}}}}"#, texts.join(",")).into(),
            keys: format!(r#"{{"input": {{{}}}}}"#, keys.join(",")).into(),
            numbers: filled(
                r#"{"inputs": [{"name": "input", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": ["#,
                "1,",
                "1]}]}",
            ),
            nested: filled(r#"{"inputs": "#, "[", ""),
            floats: (floats.into(), tensor.len()),
            zstd: zstd::encode_all(&spaces[..], 19).unwrap().into(),
            gzip: gzip.into(),
            many: format!(r#"{{"input": {{{}}}}}"#, many.join(",")).into(),
            questions: questions.to_string().into(),
            noise: noise.into(),
            stopped: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Sends a head and a body, and reads what comes back.
    async fn send(&self, client: usize, path: &str, more: &str, body: &[u8]) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let head = head(
            path,
            body.len(),
            &format!("{more}x-client: hostile {}\r\nconnection: close\r\n", client % 100),
        );
        stream.write_all(head.as_bytes()).await?;
        let _refused_meanwhile = stream.write_all(body).await;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await?;
        let refused = begin.ends_with(b"429") || begin.ends_with(b"503");
        if refused { &self.refused } else { &self.answered }.fetch_add(1, Ordering::Relaxed);
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }

    /// Announces the largest body and sends it little by little, all but its end.
    async fn trickle(&self, client: usize, part: usize) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let more = format!("x-client: hostile {}\r\n", client % 100);
        stream.write_all(head("/classify", BODY, &more).as_bytes()).await?;
        for part in self.noise[..BODY - 1].chunks(part).take_while(|_| self.goes_on()) {
            stream.write_all(part).await?;
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    /// Asks for a large answer and does not read it.
    async fn deaf(&self, client: usize) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let more = format!("{JSON}x-client: hostile {}\r\n", client % 100);
        stream.write_all(head("/v2/models/faq/infer", self.questions.len(), &more).as_bytes()).await?;
        stream.write_all(&self.questions).await?;
        while self.goes_on() {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Many large bodies over one HTTP/2 connection.
    async fn streams(&self, client: usize) {
        let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        let ask = || async {
            let post = http2.post(format!("http://{}/classify", self.address));
            let name = format!("hostile {}", client % 100);
            let _whatever = post.header("x-client", name).body(self.noise.clone()).send().await;
        };
        futures_util::future::join_all((0..50).map(|_| ask())).await;
    }

    /// The largest message over gRPC.
    async fn message(&self) {
        let url = format!("http://{}", self.grpc);
        let Ok(channel) = Endpoint::from_shared(url).unwrap().connect().await else { return };
        let mut grpc = Grpc::new(channel);
        if grpc.ready().await.is_err() {
            return;
        }
        let input = InferInputTensor {
            name: "image".into(),
            datatype: "BYTES".into(),
            shape: vec![1],
            ..Default::default()
        };
        let request = ModelInferRequest {
            model_name: "resnet18".into(),
            inputs: vec![input],
            raw_input_contents: vec![self.noise.slice(..BODY - 1000)],
            ..Default::default()
        };
        let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
        let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
        let _whatever = grpc.unary(Request::new(request), path, codec).await;
    }

    async fn attack(self: Arc<Self>, client: usize) {
        while self.goes_on() {
            let done = async {
                let v2 = "/v2/models/resnet18/infer";
                let _whatever = match client % 20 {
                    0..4 => self.trickle(client, 256 << 10).await,
                    4 => self.trickle(client, 100).await,
                    5..9 => self.send(client, "/classify", "", &self.noise).await,
                    9 => self.send(client, "/score", JSON, &self.base64).await,
                    10 => self.send(client, "/score", JSON, &self.keys).await,
                    11 => self.send(client, v2, JSON, &self.numbers).await,
                    12 => self.send(client, v2, JSON, &self.nested).await,
                    13 => {
                        let more = format!("inference-header-content-length: {}\r\n", self.floats.1);
                        self.send(client, v2, &more, &self.floats.0).await
                    }
                    14 if client % 40 == 14 => {
                        self.send(client, v2, "content-encoding: gzip\r\n", &self.gzip).await
                    }
                    14 => self.send(client, v2, "content-encoding: zstd\r\n", &self.zstd).await,
                    15 if client % 100 == 15 => self.send(client, "/classify", "", &self.bomb).await,
                    15 => self.send(client, "/classify", "", &self.noise).await,
                    16 if client % 100 == 16 => self.send(client, "/score", JSON, &self.many).await,
                    16 => self.send(client, "/faq", JSON, &self.base64).await,
                    17 => self.deaf(client).await,
                    18 if client % 100 == 18 => {
                        self.streams(client).await;
                        Ok(())
                    }
                    18 => self.trickle(client, 1 << 20).await,
                    _ => {
                        self.message().await;
                        Ok(())
                    }
                };
            };
            let _long_enough = timeout(Duration::from_secs(5), done).await;
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Asks for the same photo and question for the time of the attack, which ends with it; how many were right. A refusal is an
/// answer, a wrong label is none.
async fn honest(address: SocketAddr, arsenal: &Arsenal, labels: &Value, matched: &Value) -> (u32, u32) {
    let client = reqwest::Client::new();
    let (mut photos, mut questions) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < ATTACK || photos.min(questions) < RIGHT {
        assert!(began.elapsed() < 8 * ATTACK, "only {photos} photos and {questions} questions were answered");
        let ask =
            client.post(format!("http://{address}/classify")).header("x-client", "honest").body(photo(1));
        if let Some(said) = answered(ask).await {
            assert_eq!(&classes(&said), labels);
            photos += 1;
        }
        let question = json!({"question": "how to sort an array"});
        let ask = client.post(format!("http://{address}/faq")).header("x-client", "honest").json(&question);
        if let Some(said) = answered(ask).await {
            assert_eq!(&said["matches"], matched);
            questions += 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
    arsenal.stopped.store(true, Ordering::Relaxed);
    (photos, questions)
}

/// The answer; `None` where there was no room or no time.
async fn answered(ask: reqwest::RequestBuilder) -> Option<Value> {
    let answer = ask.timeout(Duration::from_secs(60)).send().await.unwrap();
    match answer.status().as_u16() {
        200 => Some(answer.json().await.unwrap()),
        429 | 503 | 504 => None,
        other => panic!("{other}: {}", answer.text().await.unwrap()),
    }
}

fn classes(said: &Value) -> Value {
    said["predictions"].as_array().unwrap().iter().map(|predicted| predicted["class"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_clients_do_not_take_more_than_the_bound() {
    let process = Process::start();
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", process.address);
    let labels = classes(&answered(client.post(url("/classify")).body(photo(1))).await.unwrap());
    let question = json!({"question": "how to sort an array"});
    let matched = answered(client.post(url("/faq")).json(&question)).await.unwrap()["matches"].clone();
    let before = process.memory("VmRSS");

    let arsenal = Arc::new(Arsenal::new(&process));
    let mut hostile = JoinSet::new();
    for at in 0..CLIENTS {
        hostile.spawn(arsenal.clone().attack(at));
    }
    let (photos, questions) = honest(process.address, &arsenal, &labels, &matched).await;
    hostile.join_all().await;
    let peak = process.memory("VmHWM");

    let started = Instant::now();
    let text = loop {
        let text = client.get(url("/metrics")).send().await.unwrap().text().await.unwrap();
        if metric(&text, "convoy_body_memory_bytes") == 0.0 {
            break text;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "what was dropped came back: {text}");
        sleep(Duration::from_millis(50)).await;
    };
    let part = |part: &str| metric(&text, &format!(r#"convoy_memory_bound_bytes{{part="{part}"}}"#)) as u64;
    let parts = ["loaded", "bodies", "decoding", "queues"].map(part);
    let sharp = parts.iter().sum::<u64>() + CLIENTS as u64 * CONNECTION;
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "before {} MiB, peak {} MiB, after {} MiB, sharp bound {} MiB, bound {} MiB; hostile requests answered {}, refused {}; \
         honest ones right {photos} photos, {questions} questions",
        mib(before),
        mib(peak),
        mib(process.memory("VmRSS")),
        mib(sharp),
        mib(process.bound),
        arsenal.answered.load(Ordering::Relaxed),
        arsenal.refused.load(Ordering::Relaxed),
    );
    assert!(peak <= process.bound, "{peak} bytes, above the bound of {}", process.bound);
    assert!(peak <= sharp, "{peak} bytes, above the {sharp} that these clients can come to");
    assert!(arsenal.refused.load(Ordering::Relaxed) > 0, "nobody was refused: this was no attack");
}
