//! convoy's side of `compare.py`: `compare WEIGHTS BATCH THREADS`, one JSON line when warm, then for every line with a
//! number so many forward passes and a line with the time they took. Pixels in, logits out.

#![allow(clippy::print_stdout, reason = "a protocol on standard output is what it is for")]

use std::io::{self, BufRead};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use convoy::image::Prepared;
use convoy::vision::cpu::{CpuEngine, CpuOptions};
use convoy::vision::{Checkpoint, Engine, INPUT_SIZE, Picture};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [weights, batch, threads] = args.as_slice() else {
        // `cargo bench` of everything comes by here without arguments.
        println!("usage: compare WEIGHTS BATCH THREADS");
        return Ok(());
    };
    let (max_batch, threads) = (batch.parse()?, threads.parse()?);
    let started = Instant::now();
    let mut checkpoint = Checkpoint::open(Path::new(weights), None)?;
    let mut engine = CpuEngine::new(&mut checkpoint, CpuOptions { max_batch, threads })?;
    let load = started.elapsed().as_secs_f64();
    let images: Vec<Picture> = (0..max_batch).map(image).collect();
    let images: Vec<&Picture> = images.iter().collect();
    let logits = engine.forward(&images)?;
    engine.forward(&images)?;
    let version = format!("{} load {load:.2} s", env!("CARGO_PKG_VERSION"));
    println!("{}", serde_json::json!({ "version": version, "logits": logits }));
    for line in io::stdin().lock().lines() {
        let passes: usize = line?.trim().parse()?;
        let (started, cpu) = (Instant::now(), cpu_seconds()?);
        for _ in 0..passes {
            engine.forward(&images)?;
        }
        let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        println!("{}", serde_json::json!({ "wall": wall, "cpu": cpu }));
    }
    Ok(())
}

/// The bytes that `network.py` makes.
fn image(index: usize) -> Picture {
    let bytes = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;
    let value = |at: usize| ((at as u64 * 2_654_435_761) >> 13) as u8;
    Prepared { pixels: (index * bytes..(index + 1) * bytes).map(value).collect(), size: INPUT_SIZE }.into()
}

/// Time that all threads of this process have run.
fn cpu_seconds() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let run = text.split_whitespace().next().context("an empty schedstat")?;
        nanoseconds += run.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}
