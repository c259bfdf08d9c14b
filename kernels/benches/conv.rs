//! Time of every distinct convolution of a ResNet-152 on this machine: `cargo bench -p kernels --bench conv -- [batch]
//! [threads] [repeats] [row]`. Weights are many enough not to stay in the caches, as they would not in the network.
//!
//! Prints the least of the repeats in milliseconds of processor time and the rate in GFLOP/s of one processor, counting the multiplications and additions
//! of the plain sum whatever the method.

#![allow(clippy::print_stdout, reason = "a report is what it is for")]

use kernels::conv::{
    Activation, Executor, ExecutorOptions, Head, Map, Method, Op, Panels, Place, Step, Window,
};

/// How often in the network, input side, inputs, outputs, kernel, stride, and whether a shortcut is added.
const LAYERS: [(usize, usize, usize, usize, usize, usize, bool); 24] = [
    (1, 224, 3, 64, 7, 2, false),
    (1, 56, 64, 64, 1, 1, false),
    (3, 56, 64, 64, 3, 1, false),
    (1, 56, 64, 256, 1, 1, false),
    (3, 56, 64, 256, 1, 1, true),
    (2, 56, 256, 64, 1, 1, false),
    (1, 56, 256, 128, 1, 1, false),
    (1, 56, 128, 128, 3, 2, false),
    (1, 56, 256, 512, 1, 2, false),
    (8, 28, 128, 512, 1, 1, true),
    (7, 28, 512, 128, 1, 1, false),
    (7, 28, 128, 128, 3, 1, false),
    (1, 28, 512, 256, 1, 1, false),
    (1, 28, 256, 256, 3, 2, false),
    (1, 28, 512, 1024, 1, 2, false),
    (36, 14, 256, 1024, 1, 1, true),
    (35, 14, 1024, 256, 1, 1, false),
    (35, 14, 256, 256, 3, 1, false),
    (1, 14, 1024, 512, 1, 1, false),
    (1, 14, 512, 512, 3, 2, false),
    (1, 14, 1024, 2048, 1, 2, false),
    (3, 7, 512, 2048, 1, 1, true),
    (2, 7, 2048, 512, 1, 1, false),
    (2, 7, 512, 512, 3, 1, false),
];

/// Bytes of weights that a layer's copies have together.
const COLD: usize = 64 << 20;

fn main() {
    // `cargo bench` adds `--bench`.
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let number = |at: usize, default: usize| numbers.get(at).copied().unwrap_or(default);
    let (batch, threads, repeats) = (number(0, 1), number(1, 1), number(2, 5));
    println!("batch {batch}, threads {threads}, least of {repeats}");
    let mut total = (0.0, 0.0);
    for (row, layer) in LAYERS.into_iter().enumerate() {
        if numbers.get(3).is_some_and(|&only| only != row) {
            continue;
        }
        let (count, side, inputs, outputs, kernel, stride, shortcut) = layer;
        let window = Window { kernel, stride, pad: kernel / 2 };
        let target = Map::new(side / stride, side / stride, outputs);
        let source = match kernel {
            7 => Map::input(side, side, inputs, 3),
            _ => Map::new(side, side, inputs),
        };
        let weights = outputs * inputs * kernel * kernel;
        let copies = (COLD / 4 / weights).clamp(1, 40);
        let steps: Vec<Step> = (0..copies).map(|_| step(source, target, window, shortcut)).collect();
        let kernel = steps[0].kernel();
        let options = ExecutorOptions { max_batch: batch, threads, portable: false, head: Head::default() };
        let mut executor = Executor::new(steps, options).expect("threads");
        executor.run(batch);
        let mut times: Vec<f64> = (0..repeats).map(|_| time(&mut executor, batch) / copies as f64).collect();
        times.sort_by(f64::total_cmp);
        let seconds = times[0];
        let flops = 2.0 * (batch * target.pixels() * weights) as f64;
        total = (total.0 + seconds * count as f64, total.1 + flops * count as f64);
        println!(
            "{count:3} x {side:3} {inputs:4} -> {outputs:4} {kernel}x{kernel}/{stride} {kernel:9} {:8.3} ms {:6.1} GFLOP/s",
            seconds * 1e3,
            flops / seconds / 1e9
        );
    }
    let (seconds, flops) = total;
    println!(
        "all convolutions {:.1} ms, {:.1} GFLOP/s, {:.2} images/s",
        seconds * 1e3,
        flops / seconds / 1e9,
        batch as f64 / seconds
    );
}

/// Processor seconds of one run, all threads together: what else the machine does counts little.
fn time(executor: &mut Executor, batch: usize) -> f64 {
    let started = cpu_seconds();
    executor.run(batch);
    cpu_seconds() - started
}

/// Processor time of this process, from the scheduler's statistics.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let run = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.expect("procfs").path().join("schedstat")).expect("procfs");
        text.split_whitespace().next().and_then(|first| first.parse::<f64>().ok()).expect("nanoseconds")
    };
    tasks.map(run).sum::<f64>() / 1e9
}

fn step(source: Map, target: Map, window: Window, shortcut: bool) -> Step {
    let weights = target.channels() * source.channels() * window.kernel * window.kernel;
    let weight: Vec<f32> = (0..weights).map(|n| (n % 17) as f32 / 100.0 - 0.08).collect();
    let bias = vec![0.1; target.channels()];
    let panels = Panels::pack(&weight, &bias, source.channels(), window.kernel).expect("shape");
    let target = Place { slot: 1, map: target };
    let addend = shortcut.then_some(target);
    let op = Op::Conv { panels, window, activation: Activation::Relu, addend, method: Method::Fastest };
    Step::new(op, Place { slot: 0, map: source }, target).expect("shape")
}
