//! What of the engine's own throughput reaches clients: full batches straight into the engine, and 16 clients that post
//! JPEGs over loopback, in turn. `cargo bench --bench throughput -- [ARCH] [ENGINE_THREADS/DECODE_THREADS]...`
//!
//! Prints medians over interleaved rounds. Clients run in this process and share the processors with the server.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::Cursor,
    path::Path,
    time::{Duration, Instant},
};

use convoy::{
    image::Prepared,
    vision::{Arch, Checkpoint, CpuEngine, Engine, INPUT_SIZE, Picture, cpu::CpuOptions, random::Stream},
};
use futures_util::future::join_all;
use reqwest::Client;
use support::{Server, config, random_weights};
use tokio::runtime::Runtime;

const CLIENTS: usize = 16;
const BATCH: usize = 8;
const ROUNDS: usize = 7;
/// Photos that each client posts in a round, one after the other.
const PHOTOS: usize = 8;
/// Batches in a row that the engine computes in a round.
const BATCHES: usize = 6;

/// Threads of the engine, and threads that decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Threads {
    engine: usize,
    decode: usize,
}

fn jpeg() -> Vec<u8> {
    let photo = image::RgbImage::from_fn(500, 375, |x, y| {
        let wave =
            |period: f32| (127.5 + 100.0 * ((x as f32 / period).sin() * (y as f32 / 31.0).cos())) as u8;
        image::Rgb([wave(17.0), wave(29.0), wave(43.0)])
    });
    let mut bytes = Cursor::new(Vec::new());
    photo.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("memory to write to");
    bytes.into_inner()
}

fn server(weights: &Path, threads: Threads) -> Server {
    let mut settings = config();
    let photos = settings.photos.as_mut().expect("photos are served");
    photos.classifier.weights = weights.to_owned();
    photos.max_batch = BATCH;
    (photos.classifier.engine_threads, photos.decode_threads) = (threads.engine, threads.decode);
    Server::start(&settings)
}

/// Photos a second of the engine alone.
fn alone(engine: &mut CpuEngine, images: &[&Picture]) -> f64 {
    let started = Instant::now();
    for _ in 0..BATCHES {
        let logits = engine.forward(images).expect("a forward pass");
        assert!(logits.len() == engine.classes() * images.len() && logits.iter().all(|v| v.is_finite()));
    }
    (BATCHES * images.len()) as f64 / started.elapsed().as_secs_f64()
}

/// Photos a second that clients are answered, from when every one of them has had an answer until the first one leaves.
fn served(runtime: &Runtime, client: &Client, url: &str, photo: &[u8]) -> f64 {
    let started = Instant::now();
    let one = async || {
        let mut answered = Vec::with_capacity(PHOTOS);
        for _ in 0..PHOTOS {
            let response = client.post(url).body(photo.to_vec()).send().await.expect("an answer");
            assert!(response.status().is_success(), "{}", response.status());
            response.bytes().await.expect("the whole answer");
            answered.push(started.elapsed());
        }
        answered
    };
    let clients: Vec<Vec<Duration>> = runtime.block_on(join_all((0..CLIENTS).map(|_| one())));
    let mut answered: Vec<Duration> = clients.into_iter().flatten().collect();
    answered.sort();
    let (first, last) = (CLIENTS - 1, answered.len() - CLIENTS - 1);
    (last - first) as f64 / (answered[last] - answered[first]).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(weights: &Path, threads: Threads) {
    let mut checkpoint = Checkpoint::open(weights, None).expect("the file");
    let options = CpuOptions { max_batch: BATCH, threads: threads.engine };
    let mut engine = CpuEngine::new(&mut checkpoint, options).expect("the engine");
    let image = |index: usize| {
        let bytes = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;
        let values = Stream::new(&format!("image.{index}"), 0, bytes).uniform(0.0, 256.0);
        Picture::from(Prepared { pixels: values.into_iter().map(|v| v as u8).collect(), size: INPUT_SIZE })
    };
    let images: Vec<Picture> = (0..BATCH).map(image).collect();
    let images: Vec<&Picture> = images.iter().collect();
    let server = server(weights, threads);
    let (runtime, client, photo) = (Runtime::new().expect("a runtime"), Client::new(), jpeg());
    let url = server.url("/classify");
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let (own, http) = (alone(&mut engine, &images), served(&runtime, &client, &url, &photo));
        for (rates, value) in rates.iter_mut().zip([own, http, http / own]) {
            rates.push(value);
        }
    }
    let [own, http, ratio] = rates.map(median);
    let Threads { engine, decode } = threads;
    println!("{engine:>6} {decode:>6} {own:>12.2} {http:>12.2} {:>7.1} %", ratio * 100.0);
}

fn main() {
    // `cargo bench` adds `--bench`; `cargo test --benches` only wants to see that it runs.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|argument| argument == "--test") {
        return;
    }
    let arch = args.iter().find_map(|argument| argument.parse().ok()).unwrap_or(Arch::ResNet50);
    let pair = |argument: &String| {
        let (engine, decode) = argument.split_once('/')?;
        Some(Threads { engine: engine.parse().ok()?, decode: decode.parse().ok()? })
    };
    let mut threads: Vec<Threads> = args.iter().filter_map(pair).collect();
    if threads.is_empty() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        threads.push(Threads { engine: cores, decode: cores.div_ceil(2) });
    }
    let (_folder, weights) = random_weights(arch);
    let bytes = fs::metadata(&weights).expect("just written").len();
    println!(
        "{arch}, {:.1} MB, {CLIENTS} clients, batches of {BATCH}, medians of {ROUNDS} rounds",
        bytes as f64 / 1e6
    );
    println!("engine decode   engine/s        HTTP/s    ratio");
    for threads in threads {
        measure(&weights, threads);
    }
}
