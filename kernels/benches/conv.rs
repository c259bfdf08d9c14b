//! Time of every distinct convolution of a network on this machine: `cargo bench -p kernels --bench conv --
//! [resnet152|efficientnet-lite0] [portable] [batch] [threads] [repeats] [row]`. Weights are many enough not to stay in the
//! caches, as they would not in the network.
//!
//! Prints, for each instruction set that the CPU has (for plain Rust only if `portable` is said), the least of the repeats
//! in milliseconds of processor time and the rate in GFLOP/s of one processor, counting the multiplications and additions of
//! the plain sum whatever the method. Repeats of the sets take turns.

#![allow(clippy::print_stdout, reason = "a report is what it is for")]

use kernels::conv::{
    Activation, Executor, ExecutorOptions, Head, Isa, Map, Method, Op, Panels, Place, Step, Window,
};

/// A convolution.
#[derive(Debug, Clone, Copy)]
struct Layer {
    side: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The network's first.
    Stem,
    Plain,
    /// With a shortcut added.
    Added,
    Depthwise,
}

use Kind::{Added, Depthwise, Plain, Stem};

/// How often in the network, input side, inputs, outputs, kernel, stride.
const RESNET_152: [(usize, usize, usize, usize, usize, usize, Kind); 24] = [
    (1, 224, 3, 64, 7, 2, Stem),
    (1, 56, 64, 64, 1, 1, Plain),
    (3, 56, 64, 64, 3, 1, Plain),
    (1, 56, 64, 256, 1, 1, Plain),
    (3, 56, 64, 256, 1, 1, Added),
    (2, 56, 256, 64, 1, 1, Plain),
    (1, 56, 256, 128, 1, 1, Plain),
    (1, 56, 128, 128, 3, 2, Plain),
    (1, 56, 256, 512, 1, 2, Plain),
    (8, 28, 128, 512, 1, 1, Added),
    (7, 28, 512, 128, 1, 1, Plain),
    (7, 28, 128, 128, 3, 1, Plain),
    (1, 28, 512, 256, 1, 1, Plain),
    (1, 28, 256, 256, 3, 2, Plain),
    (1, 28, 512, 1024, 1, 2, Plain),
    (36, 14, 256, 1024, 1, 1, Added),
    (35, 14, 1024, 256, 1, 1, Plain),
    (35, 14, 256, 256, 3, 1, Plain),
    (1, 14, 1024, 512, 1, 1, Plain),
    (1, 14, 512, 512, 3, 2, Plain),
    (1, 14, 1024, 2048, 1, 2, Plain),
    (3, 7, 512, 2048, 1, 1, Added),
    (2, 7, 2048, 512, 1, 1, Plain),
    (2, 7, 512, 512, 3, 1, Plain),
];

const LITE_0: [(usize, usize, usize, usize, usize, usize, Kind); 31] = [
    (1, 224, 3, 32, 3, 2, Stem),
    (1, 112, 32, 32, 3, 1, Depthwise),
    (1, 112, 32, 16, 1, 1, Plain),
    (1, 112, 16, 96, 1, 1, Plain),
    (1, 112, 96, 96, 3, 2, Depthwise),
    (1, 56, 96, 24, 1, 1, Plain),
    (2, 56, 24, 144, 1, 1, Plain),
    (1, 56, 144, 144, 3, 1, Depthwise),
    (1, 56, 144, 24, 1, 1, Added),
    (1, 56, 144, 144, 5, 2, Depthwise),
    (1, 28, 144, 40, 1, 1, Plain),
    (2, 28, 40, 240, 1, 1, Plain),
    (1, 28, 240, 240, 5, 1, Depthwise),
    (1, 28, 240, 40, 1, 1, Added),
    (1, 28, 240, 240, 3, 2, Depthwise),
    (1, 14, 240, 80, 1, 1, Plain),
    (3, 14, 80, 480, 1, 1, Plain),
    (2, 14, 480, 480, 3, 1, Depthwise),
    (2, 14, 480, 80, 1, 1, Added),
    (1, 14, 480, 480, 5, 1, Depthwise),
    (1, 14, 480, 112, 1, 1, Plain),
    (3, 14, 112, 672, 1, 1, Plain),
    (2, 14, 672, 672, 5, 1, Depthwise),
    (2, 14, 672, 112, 1, 1, Added),
    (1, 14, 672, 672, 5, 2, Depthwise),
    (1, 7, 672, 192, 1, 1, Plain),
    (4, 7, 192, 1152, 1, 1, Plain),
    (3, 7, 1152, 1152, 5, 1, Depthwise),
    (3, 7, 1152, 192, 1, 1, Added),
    (1, 7, 1152, 320, 1, 1, Plain),
    (1, 7, 320, 1280, 1, 1, Plain),
];

/// Bytes of weights that a layer's copies have together.
const COLD: usize = 64 << 20;

fn main() {
    // `cargo bench` adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let numbers: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let number = |at: usize, default: usize| numbers.get(at).copied().unwrap_or(default);
    let (batch, threads, repeats) = (number(0, 1), number(1, 1), number(2, 5));
    let lite = args.iter().any(|arg| arg == "efficientnet-lite0");
    let layers: &[_] = if lite { &LITE_0 } else { &RESNET_152 };
    let portable = args.iter().any(|arg| arg == "portable");
    let isas: Vec<Isa> = Isa::available().filter(|&isa| portable || isa != Isa::PORTABLE).collect();
    let names: Vec<String> = isas.iter().map(|isa| format!("{:>25}", isa.name())).collect();
    println!("{:50}{}", format!("batch {batch}, threads {threads}, least of {repeats}"), names.concat());
    let (mut total, mut all_flops) = (vec![0.0; isas.len()], 0.0);
    for (row, &(count, side, inputs, outputs, kernel, stride, kind)) in layers.iter().enumerate() {
        if numbers.get(3).is_some_and(|&only| only != row) {
            continue;
        }
        let layer = Layer { side, inputs, outputs, kernel, stride, kind };
        let seconds = measure(&layer, batch, threads, repeats, &isas);
        let flops = 2.0 * (batch * layer.weights() * (side / stride).pow(2)) as f64;
        all_flops += flops * count as f64;
        total.iter_mut().zip(&seconds).for_each(|(total, seconds)| *total += seconds * count as f64);
        let kernel_name = layer.step().kernel();
        let shape =
            format!("{row:2} {count:3} x {side:3} {inputs:4} -> {outputs:4} {kernel}x{kernel}/{stride}");
        println!("{:50}{}", format!("{shape} {kernel_name}"), columns(&seconds, flops));
    }
    println!("{:50}{}", "all convolutions", columns(&total, all_flops));
}

/// Milliseconds and GFLOP/s.
fn columns(seconds: &[f64], flops: f64) -> String {
    seconds.iter().map(|s| format!("{:9.3} ms {:6.1} GF/s", s * 1e3, flops / s / 1e9)).collect()
}

/// Least processor time of a batch with each instruction set, in seconds.
fn measure(layer: &Layer, batch: usize, threads: usize, repeats: usize, isas: &[Isa]) -> Vec<f64> {
    let copies = (COLD / 4 / layer.weights()).clamp(1, 40);
    let executor = |&isa: &Isa| {
        let steps = (0..copies).map(|_| layer.step()).collect();
        let options = ExecutorOptions { max_batch: batch, threads, isa, head: Head::default() };
        let mut executor = Executor::new(steps, options).expect("threads");
        executor.run(batch);
        executor
    };
    let mut executors: Vec<Executor> = isas.iter().map(executor).collect();
    let mut least = vec![f64::INFINITY; isas.len()];
    for _ in 0..repeats {
        for (executor, least) in executors.iter_mut().zip(&mut least) {
            *least = least.min(time(executor, batch) / copies as f64);
        }
    }
    least
}

/// Processor seconds of one run, all threads together: what else the machine does counts little. The scheduler's clock
/// ticks every few milliseconds, so that it takes many runs to read it.
fn time(executor: &mut Executor, batch: usize) -> f64 {
    let started = cpu_seconds();
    let mut runs = 0.0;
    loop {
        executor.run(batch);
        runs += 1.0;
        let seconds = cpu_seconds() - started;
        if seconds > 0.1 {
            return seconds / runs;
        }
    }
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

impl Layer {
    fn weights(&self) -> usize {
        let depth = if self.kind == Depthwise { 1 } else { self.inputs };
        self.outputs * depth * self.kernel * self.kernel
    }

    fn step(&self) -> Step {
        let (side, kernel) = (self.side, self.kernel);
        let window = Window { kernel, stride: self.stride, pad: kernel / 2 };
        let target = Map::new(side / self.stride, side / self.stride, self.outputs);
        let target = Place { slot: 1, map: target };
        let source = match self.kind {
            Stem => Map::input(side, side, self.inputs, kernel / 2),
            _ => Map::new(side, side, self.inputs),
        };
        let weight: Vec<f32> = (0..self.weights()).map(|n| (n % 17) as f32 / 100.0 - 0.08).collect();
        let bias = vec![0.1; self.outputs];
        let op = match self.kind {
            Depthwise => {
                let weights = Panels::pack_depthwise(&weight, &bias, kernel).expect("shape");
                Op::Depthwise { weights, window, activation: Activation::Relu6 }
            }
            kind => {
                let panels = Panels::pack(&weight, &bias, self.inputs, kernel).expect("shape");
                let addend = (kind == Added).then_some(target);
                let (activation, method) = (Activation::Relu, Method::Fastest);
                Op::Conv { panels, window, activation, addend, method }
            }
        };
        Step::new(op, Place { slot: 0, map: source }, target).expect("shape")
    }
}
