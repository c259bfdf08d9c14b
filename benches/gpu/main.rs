//! What the CUDA engine does on the GPU of this machine: whether it is right, how fast its layers and the whole network
//! are, and what preparing pictures costs. One part a call, each writes JSON.
//!
//! `benches/gpu/run.sh` calls every part and puts the figures beside PyTorch's.

#![allow(missing_docs, clippy::print_stdout, reason = "a program that prints figures")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use convoy::image::{DecodeOptions, Prepared, Transform};
use convoy::vision::cpu::CpuOptions;
use convoy::vision::cuda::PREFETCHED;
use convoy::vision::random::{Recipe, Stream};
use convoy::vision::{
    Arch, Checkpoint, CpuEngine, CudaEngine, CudaModel, CudaOptions, Engine, INPUT_SIZE, Picture,
};
use kernels::Plan;
use kernels::cuda::nvjpeg::{Backend, Library, scan};
use kernels::cuda::{Device, Image, Jpegs};
use safetensors::SafeTensors;
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Logits against the CPU engine's, and against a reference where one is given.
    Check,
    /// Each kind of layer: microseconds, the chosen kernel, the roofline.
    Layers,
    /// Images a second and milliseconds a batch.
    Speed,
    /// Pictures of other sizes to the network's input, on the GPU.
    Preprocess,
    /// JPEGs of the folder PHOTOS, by the GPU's engine and by the processor.
    Decode,
    /// All of these in one process, so that kernels are chosen once; each part's JSON goes beside --json.
    All,
    /// Writes a seeded checkpoint of ResNet-152, for machines that have no weights.
    Random,
}

#[derive(Parser)]
struct Arguments {
    part: Part,
    /// Checkpoint, as `convoy weights random` writes it.
    #[arg(long)]
    weights: PathBuf,
    /// Where the figures go.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Pictures `images` [n, 224, 224, 3] f32 and their `logits` [n, classes] f32, as pytorch.py --dump writes them.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// The typical features in 1/4096, a JSON list, that a seeded checkpoint's logits are centred on: without them every
    /// picture has nearly the same logits.
    #[arg(long)]
    center: Option<PathBuf>,
    /// A few pictures and one bucket, for tools that slow everything down.
    #[arg(long)]
    small: bool,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,64,128")]
    batches: Vec<usize>,
    /// Sessions that run side by side, tried one number after another.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    sessions: Vec<usize>,
    /// File in which chosen kernels are kept.
    #[arg(long)]
    choices: Option<PathBuf>,
    /// Plans of cuDNN's that are tried for each convolution.
    #[arg(long, default_value_t = 4)]
    plans: usize,
    /// Time known choices again, beside what costs nothing to build.
    #[arg(long)]
    again: bool,
    /// Images up to which weights are fetched ahead.
    #[arg(long, default_value_t = PREFETCHED)]
    prefetched: usize,
    /// Tensor rate and memory rate that the roofline is drawn with, in units of 10^12.
    #[arg(long, default_value_t = 800.0)]
    tera_flops: f64,
    #[arg(long, default_value_t = 3.0)]
    tera_bytes: f64,
}

fn main() -> Result<(), Failure> {
    // `cargo bench` runs every benchmark without arguments; this one needs a GPU and weights.
    let arguments: Vec<String> = std::env::args().filter(|argument| argument != "--bench").collect();
    if arguments.len() == 1 {
        println!("gpu: needs a GPU and weights; see benches/gpu/run.sh");
        return Ok(());
    }
    let arguments = Arguments::parse_from(arguments);
    if arguments.part == Part::Random {
        let read =
            |file: &PathBuf| -> Result<_, Failure> { Ok(serde_json::from_slice(&std::fs::read(file)?)?) };
        let center = arguments.center.as_ref().map(read).transpose()?;
        return Ok(Recipe { center, ..Recipe::new(Arch::ResNet152) }.write(&arguments.weights)?);
    }
    let started = Instant::now();
    let device = Device::open()?;
    println!("{:?}, opened in {:.1} s", device.found(), started.elapsed().as_secs_f64());
    let found = json!({
        "gpu": device.found().name,
        "versions": {
            "driver": device.found().driver,
            "cudnn": device.found().cudnn,
            "cublaslt": device.found().cublaslt,
            "convoy": env!("CARGO_PKG_VERSION"),
        },
    });
    let parts = match arguments.part {
        Part::All => vec![Part::Check, Part::Speed, Part::Layers, Part::Preprocess, Part::Decode],
        part => vec![part],
    };
    let mut model = match parts.as_slice() {
        [Part::Decode] => None,
        parts => Some(model(&arguments, device.clone(), parts)?),
    };
    let mut wrong = false;
    for part in &parts {
        let figures = match (part, model.as_mut()) {
            (Part::Check, Some(model)) => check(&arguments, model),
            (Part::Layers, Some(model)) => layers(&arguments, model),
            (Part::Speed, Some(model)) => speed(&arguments, model),
            (Part::Preprocess, Some(model)) => preprocess(model),
            (Part::Decode, _) => decode(&device),
            _ => continue,
        };
        let figures = match figures {
            Ok(figures) => figures,
            Err(error) if parts.len() > 1 => {
                println!("failed: {error}");
                wrong = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        wrong |= figures["right"] == json!(false);
        let mut all = found.clone();
        if let (Value::Object(all), Value::Object(figures)) = (&mut all, figures) {
            all.extend(figures);
        }
        if let Some(file) = &arguments.json {
            let name = part.to_possible_value().map(|value| format!("{}.json", value.get_name()));
            let file =
                if parts.len() > 1 { file.with_file_name(name.unwrap_or_default()) } else { file.clone() };
            std::fs::write(file, serde_json::to_string_pretty(&all)?)?;
        }
    }
    if wrong { Err("something is wrong: see above".into()) } else { Ok(()) }
}

fn model(arguments: &Arguments, device: Arc<Device>, parts: &[Part]) -> Result<CudaModel, Failure> {
    let started = Instant::now();
    let mut buckets = if arguments.small { vec![1, 2] } else { arguments.batches.clone() };
    buckets.push(1);
    buckets.sort_unstable();
    buckets.dedup();
    let sessions = match parts.contains(&Part::Speed) {
        true => arguments.sessions.iter().copied().max().unwrap_or(1),
        false => 1,
    };
    let options = CudaOptions {
        buckets: buckets.clone(),
        sessions,
        threads: std::thread::available_parallelism()?.get(),
        plans: arguments.plans,
        again: arguments.again,
        prefetched: arguments.prefetched,
        choices: arguments.choices.clone(),
    };
    let mut checkpoint = Checkpoint::open(&arguments.weights, None)?;
    let model = CudaModel::new(device, &mut checkpoint, &options).map_err(whole)?;
    println!(
        "ready in {:.1} s: batches of {buckets:?}, {sessions} sessions",
        started.elapsed().as_secs_f64()
    );
    println!("{:?}", model.tuning());
    model.notes.iter().for_each(|note| println!("note: {note}"));
    Ok(model)
}

/// An error with everything that caused it.
fn whole(error: impl Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text.into()
}

/// Bytes of noise over a gradient of its own in each picture.
fn picture(index: usize) -> Picture {
    let side = INPUT_SIZE as usize;
    let noise = Stream::new(&format!("image.{index}"), 0, 3 * side * side).uniform(-40.0, 40.0);
    let slope = Stream::new(&format!("slope.{index}"), 0, 6).uniform(-1.0, 1.0);
    let byte = |(at, noise): (usize, f32)| {
        let (y, x, colour) = (at / 3 / side, at / 3 % side, at % 3);
        let across = |position: usize| position as f32 / side as f32 - 0.5;
        let light = slope[colour] * across(y) + slope[3 + colour] * across(x);
        (128.0 + 160.0 * light + noise).clamp(0.0, 255.0) as u8
    };
    let pixels = noise.into_iter().enumerate().map(byte).collect();
    Prepared { pixels, size: INPUT_SIZE }.into()
}

/// How far logits `[images, classes]` are from others.
struct Agreement {
    /// ‖a - b‖ / ‖b‖.
    error: f64,
    /// The same with each side's mean over the images taken away: what tells images apart.
    between: f64,
    /// Share of images with the same greatest logit.
    top1: f64,
}

impl Agreement {
    fn of(a: &[f32], b: &[f32], classes: usize) -> Self {
        let images = a.len() / classes;
        let centred = |logits: &[f32]| -> Vec<f64> {
            let mean = |class: usize| {
                let column = logits.chunks_exact(classes).map(|row| f64::from(row[class]));
                column.sum::<f64>() / images as f64
            };
            let means: Vec<f64> = (0..classes).map(mean).collect();
            logits.iter().enumerate().map(|(at, &logit)| f64::from(logit) - means[at % classes]).collect()
        };
        let apart = |a: &[f64], b: &[f64]| {
            let error: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
            (error / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
        };
        let wide = |logits: &[f32]| -> Vec<f64> { logits.iter().map(|&logit| f64::from(logit)).collect() };
        let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
        let same = a.chunks_exact(classes).zip(b.chunks_exact(classes)).filter(|(a, b)| best(a) == best(b));
        Self {
            error: apart(&wide(a), &wide(b)),
            between: apart(&centred(a), &centred(b)),
            top1: same.count() as f64 / images.max(1) as f64,
        }
    }

    fn json(&self, images: usize) -> Value {
        json!({
            "relative_error": self.error, "relative_error_between_images": self.between,
            "top1_agreement": self.top1, "images": images,
        })
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "relative error {:.2e}, between images {:.2e}, top-1 {}",
            self.error, self.between, self.top1
        )
    }
}

fn check(arguments: &Arguments, model: &mut CudaModel) -> Result<Value, Failure> {
    let count = if arguments.small { 3 } else { 41 };
    let pictures: Vec<Picture> = (0..count).map(picture).collect();
    let pictures: Vec<&Picture> = pictures.iter().collect();
    let mut checkpoint = Checkpoint::open(&arguments.weights, None)?;
    let options = CpuOptions { max_batch: 8, threads: std::thread::available_parallelism()?.get() };
    let expected = CpuEngine::new(&mut checkpoint, options)?.forward(&pictures)?;
    let engine = &mut model.engines[0];
    let classes = engine.classes();
    let logits = engine.forward(&pictures).map_err(whole)?;
    let agreement = Agreement::of(&logits, &expected, classes);
    println!("{count} pictures against the CPU engine: {agreement}");
    let again = engine.forward(&pictures).map_err(whole)?;
    println!("the same again, bit for bit: {}", again == logits);
    let ranked = engine.classify(&pictures, &vec![5; count]).map_err(whole)?;
    let ranks = ranked.iter().zip(logits.chunks_exact(classes)).filter(|(ranked, row)| {
        let Ok(ranked) = ranked else { return false };
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        ranked.len() == 5
            && ranked.iter().zip(order).all(|(place, class)| {
                let expected = f64::from(row[class]).exp() / sum;
                place.class as usize == class && (f64::from(place.probability) - expected).abs() < 1e-5
            })
    });
    let ranks = ranks.count();
    println!("rankings that are those of the logits: {ranks} of {count}");
    let resized = resizes(engine, arguments.small)?;
    println!(
        "pictures resized on the GPU with the logits of those resized on the CPU, bit for bit: {resized}"
    );
    let mut figures = agreement.json(count);
    figures["resized_alike"] = json!(resized);
    figures["repeatable"] = json!(again == logits);
    figures["rankings_right"] = json!(ranks);
    if let Some(file) = &arguments.reference {
        let bytes = std::fs::read(file)?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let floats = |name: &str| -> Result<Vec<f32>, Failure> {
            let data = tensors.tensor(name)?;
            Ok(data.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
        };
        let (images, expected) = (floats("images")?, floats("logits")?);
        let each = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;
        let pictures: Vec<Picture> =
            images.chunks_exact(each).map(|image| Picture::Normalised(image.into())).collect();
        let pictures: Vec<&Picture> = pictures.iter().collect();
        let logits = engine.forward(&pictures).map_err(whole)?;
        let agreement = Agreement::of(&logits, &expected, classes);
        println!("{} pictures against PyTorch in f32: {agreement}", pictures.len());
        figures["pytorch"] = agreement.json(pictures.len());
    }
    figures["right"] = json!(agreement.error < 5e-3 && ranks == count && resized);
    Ok(figures)
}

/// A picture of another size than the network's, noise over a gradient.
fn photo(index: usize, width: u32, height: u32) -> Vec<u8> {
    let noise = Stream::new(&format!("photo.{index}"), 0, 3 * (width * height) as usize).uniform(0.0, 60.0);
    let across = |at: usize| (at / 3 % width as usize * 190 / width as usize) as f32;
    noise.into_iter().enumerate().map(|(at, noise)| (noise + across(at)) as u8).collect()
}

/// Whether pictures that the GPU resizes get the logits, to the last bit, of those that the CPU resizes.
fn resizes(engine: &mut CudaEngine, small: bool) -> Result<bool, Failure> {
    let mut sizes = vec![(640, 480), (500, 375), (375, 500), (224, 224), (100, 60), (90, 900)];
    if !small {
        sizes.push((1200, 900));
    }
    let photos: Vec<(Vec<u8>, u32, u32)> =
        sizes.iter().enumerate().map(|(at, &(w, h))| (photo(at, w, h), w, h)).collect();
    let plan = |&(_, w, h): &(Vec<u8>, u32, u32)| Plan::new(w, h, Transform::RESIZE_CROP, INPUT_SIZE);
    let plans: Vec<Plan> = photos.iter().map(plan).collect::<Result<_, _>>()?;
    let squares: Vec<Vec<u8>> =
        photos.iter().zip(&plans).map(|(photo, plan)| plan.execute(&photo.0)).collect::<Result<_, _>>()?;
    let raw: Vec<Image<'_>> =
        photos.iter().zip(&plans).map(|(photo, plan)| Image::Picture { pixels: &photo.0, plan }).collect();
    let ready: Vec<Image<'_>> = squares.iter().map(|square| Image::Rgb8(square)).collect();
    let session = engine.session();
    Ok(session.logits(&raw)? == session.logits(&ready)?)
}

fn preprocess(model: &mut CudaModel) -> Result<Value, Failure> {
    let most = model.max_batch();
    let session = model.engines[0].session();
    let mut lines = Vec::new();
    for (width, height) in [(500, 375), (640, 480), (1280, 960)] {
        let plan = Plan::new(width, height, Transform::RESIZE_CROP, INPUT_SIZE)?;
        for batch in [1, 8, 32, 64].into_iter().filter(|&batch| batch <= most) {
            let photos: Vec<Vec<u8>> = (0..batch.min(8)).map(|at| photo(at, width, height)).collect();
            let pictures: Vec<(&[u8], &Plan)> =
                (0..batch).map(|at| (photos[at % photos.len()].as_slice(), &plan)).collect();
            let Ok(micros) = session.time_resize(&pictures, 50) else { continue };
            let each = f64::from(micros) / batch as f64;
            println!("resize, crop, normalise {width}x{height}, batch {batch}: {each:.3} us a picture");
            lines.push(json!({
                "what": format!("{width}x{height}, batch {batch}"), "us_per_image": each,
            }));
        }
        let (photo, began, count) = (photo(0, width, height), Instant::now(), 50);
        (0..count).try_for_each(|_| plan.execute(&photo).map(drop))?;
        let micros = began.elapsed().as_secs_f64() * 1e6 / f64::from(count);
        println!("the same on one core: {micros:.0} us a picture");
        lines.push(json!({ "what": format!("{width}x{height}, one core"), "us_per_image": micros }));
    }
    Ok(json!({ "preprocess": lines }))
}

/// Pictures a second of `decode`, called with the pictures' numbers on as many threads, for a second.
fn rate(threads: usize, decode: impl Fn(usize) + Sync) -> f64 {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while began.elapsed().as_secs_f64() < 1.0 {
                    decode(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    next.into_inner() as f64 / began.elapsed().as_secs_f64()
}

fn decode(device: &Arc<Device>) -> Result<Value, Failure> {
    let folder = std::env::var("PHOTOS").map_err(|_| "PHOTOS names no folder of JPEGs")?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let jpegs: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let options = DecodeOptions { max_pixels: 50_000_000, max_memory: 1 << 30, apply_orientation: true };
    let mut lines = Vec::new();
    let mut line = |what: String, rate: f64| {
        println!("{what}: {rate:.0} JPEGs/s");
        lines.push(json!({ "what": what, "images_per_s": rate }));
    };
    let cores = std::thread::available_parallelism()?.get();
    for threads in [1, cores] {
        let rate = rate(threads, |at| {
            convoy::image::decode(&jpegs[at % jpegs.len()], &options).expect("a JPEG");
        });
        line(format!("CPU, {threads} threads"), rate);
    }
    for threads in [1, cores] {
        let rate = rate(threads, |at| {
            let jpeg = &jpegs[at % jpegs.len()];
            convoy::image::prepare(jpeg, &options, Transform::RESIZE_CROP, INPUT_SIZE).expect("a JPEG");
        });
        line(format!("CPU, decoded and resized, {threads} threads"), rate);
    }
    let library = match Library::open() {
        Ok(library) => library,
        Err(error) => {
            println!("{error}");
            return Ok(json!({ "decode": lines, "nvjpeg": error.to_string() }));
        }
    };
    let able = jpegs.iter().filter(|jpeg| scan(jpeg).is_ok_and(|traits| traits.refusal().is_none())).count();
    println!("nvJPEG {:?}; {able} of {} JPEGs are the engine's", library.version(), jpegs.len());
    let mut apart = None;
    for backend in [Backend::Hardware, Backend::Cuda] {
        for (batch, decoders) in [(16, 1), (64, 1), (64, 2), (128, 1)] {
            let measured = nvjpeg(device, &library, backend, &jpegs, (batch, decoders));
            match measured {
                Ok((rate, distance)) => {
                    apart = apart.or(Some(distance));
                    line(format!("nvJPEG {backend:?}, batch {batch}, {decoders} decoders"), rate);
                }
                Err(error) => println!("nvJPEG {backend:?}, batch {batch}, {decoders} decoders: {error}"),
            }
        }
    }
    println!("mean distance of nvJPEG's bytes from the CPU decoder's: {apart:?}");
    Ok(json!({ "decode": lines, "nvjpeg": format!("{:?}", library.version()), "mean_distance": apart }))
}

/// JPEGs a second of as many decoders side by side, and how far the first picture's bytes are from the CPU's, on average.
fn nvjpeg(
    device: &Arc<Device>,
    library: &Library,
    backend: Backend,
    jpegs: &[Vec<u8>],
    (batch, decoders): (usize, usize),
) -> Result<(f64, f64), Failure> {
    let make = |_| Jpegs::new(device, library, backend, batch, batch << 20);
    let mut all: Vec<Jpegs> = (0..decoders).map(make).collect::<Result<_, _>>()?;
    let batch: Vec<&[u8]> = (0..batch).map(|at| jpegs[at % jpegs.len()].as_slice()).collect();
    let decoded = all[0].decode(&batch)?;
    let options = DecodeOptions { max_pixels: 50_000_000, max_memory: 1 << 30, apply_orientation: false };
    let expected = convoy::image::decode(batch[0], &options)?.pixels;
    let found = all[0].pixels(decoded[0])?;
    let apart: f64 = found.iter().zip(&expected).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum();
    let began = Instant::now();
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let run = |jpegs| {
            let batch = &batch;
            scope.spawn(move || {
                let jpegs: &mut Jpegs = jpegs;
                let mut count = 0;
                while began.elapsed().as_secs_f64() < 1.0 {
                    jpegs.decode(batch).expect("a batch that was decoded before");
                    count += batch.len();
                }
                count
            })
        };
        let threads: Vec<_> = all.iter_mut().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let rate = counts.iter().sum::<usize>() as f64 / began.elapsed().as_secs_f64();
    Ok((rate, apart / expected.len().max(1) as f64))
}

fn layers(arguments: &Arguments, model: &CudaModel) -> Result<Value, Failure> {
    let mut lines = Vec::new();
    let mut sums: Vec<(usize, f64, f64)> = Vec::new();
    println!("{:<44} {:>5} {:>9} {:>9} {:>6}  kernel", "layer", "count", "us", "roofline", "share");
    for layer in model.layers().iter().filter(|layer| arguments.batches.contains(&layer.problem.batch)) {
        let problem = &layer.problem;
        let compute = problem.flops() as f64 / arguments.tera_flops / 1e6;
        let moving = problem.bytes() as f64 / arguments.tera_bytes / 1e6;
        let (micros, roofline) = (f64::from(layer.micros), compute.max(moving));
        println!(
            "{:<44} {:>5} {micros:>9.2} {roofline:>9.2} {:>5.0}%  {} of {}",
            problem.to_string(),
            layer.count,
            100.0 * roofline / micros,
            layer.kernel,
            layer.among
        );
        let count = layer.count as f64;
        match sums.iter_mut().find(|sum| sum.0 == problem.batch) {
            Some(sum) => (sum.1, sum.2) = (sum.1 + count * micros, sum.2 + count * roofline),
            None => sums.push((problem.batch, count * micros, count * roofline)),
        }
        lines.push(json!({
            "name": problem.to_string(), "batch": problem.batch, "count": layer.count, "us": micros,
            "roofline_us": roofline, "kernel": layer.kernel, "candidates": layer.among,
        }));
    }
    for (batch, micros, roofline) in &sums {
        let rate = *batch as f64 * 1e6 / micros;
        println!(
            "batch {batch}: convolutions {micros:.0} us ({rate:.0} images/s), roofline {roofline:.0} us"
        );
    }
    Ok(json!({ "layers": lines }))
}

fn speed(arguments: &Arguments, model: &mut CudaModel) -> Result<Value, Failure> {
    let mut lines = Vec::new();
    for &batch in &arguments.batches {
        for &sessions in &arguments.sessions {
            let (rate, milliseconds) = replays(&mut model.engines[..sessions], batch)?;
            println!(
                "batch {batch:>3}, {sessions} sessions: {rate:>8.0} images/s, {milliseconds:.3} ms a batch"
            );
            lines.push(json!({
                "batch": batch, "sessions": sessions, "images_per_s": rate, "ms": milliseconds,
                "what": "kernels, pictures on the GPU",
            }));
        }
        let pictures: Vec<Picture> = (0..batch).map(picture).collect();
        let pictures: Vec<&Picture> = pictures.iter().collect();
        for &sessions in &arguments.sessions {
            let (rate, median) = calls(&mut model.engines[..sessions], &pictures)?;
            println!(
                "batch {batch:>3}, {sessions} sessions: {rate:>8.0} images/s, {median:.3} ms, bytes in, classes out"
            );
            lines.push(json!({
                "batch": batch, "sessions": sessions, "images_per_s": rate, "ms": median,
                "what": "pictures in memory to classes",
            }));
        }
    }
    Ok(json!({ "speed": lines }))
}

/// Images a second of graphs that run back to back on every engine's stream, the median of five, and milliseconds a batch.
fn replays(engines: &mut [CudaEngine], batch: usize) -> Result<(f64, f64), Failure> {
    let once = f64::from(engines[0].session().replay(batch, 3)?);
    let count = ((150_000.0 / once) as usize).clamp(5, 400);
    let mut rates = Vec::new();
    for _ in 0..5 {
        let barrier = Barrier::new(engines.len());
        let began = Instant::now();
        std::thread::scope(|scope| {
            let run = |engine| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let engine: &mut CudaEngine = engine;
                    barrier.wait();
                    engine.session().replay(batch, count).map(drop)
                })
            };
            let threads: Vec<_> = engines.iter_mut().map(run).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a thread"))
        })?;
        rates.push((engines.len() * batch * count) as f64 / began.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    Ok((median, 1000.0 * batch as f64 * engines.len() as f64 / median))
}

/// Images a second of whole calls on every engine at once, and the median milliseconds of one.
fn calls(engines: &mut [CudaEngine], pictures: &[&Picture]) -> Result<(f64, f64), Failure> {
    let top = vec![5; pictures.len()];
    let sessions = engines.len();
    let began = Instant::now();
    let times: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let run = |engine| {
            let top = &top;
            scope.spawn(move || {
                let engine: &mut CudaEngine = engine;
                let mut times = Vec::new();
                let began = Instant::now();
                while began.elapsed().as_secs_f64() < 0.7 {
                    let start = Instant::now();
                    engine.classify(pictures, top).expect("a forward pass");
                    times.push(start.elapsed().as_secs_f64() * 1000.0);
                }
                times
            })
        };
        let threads: Vec<_> = engines.iter_mut().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    println!("    ({} calls on {sessions} sessions)", times.len());
    Ok((times.len() as f64 * pictures.len() as f64 / seconds, times[times.len() / 2]))
}
