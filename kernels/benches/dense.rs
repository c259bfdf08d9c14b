//! Time of the fully connected layers of a MiniLM-L6 encoder (6 layers of width 384 and 1536) for several counts of tokens, in
//! floats and in 8 bits: `cargo bench -p kernels --bench dense -- [portable] [tokens...]`.
//!
//! Prints, for each instruction set that the CPU has (for plain Rust only if `portable` is said), milliseconds on one thread
//! and the rate in thousands of millions of multiplications a second. All 24 matrices pass by in every run, so that weights
//! come from where they would in the network; the time is the sum of each matrix's least, because one matrix is often
//! multiplied without interruption where a network is not. Runs of the sets take turns.

#![allow(clippy::print_stdout, reason = "a report is what it is for")]

use std::time::{Duration, Instant};

use kernels::{conv, int8};

/// Inputs and outputs of the products of a layer.
const SHAPES: [(usize, usize); 4] = [(384, 1152), (384, 384), (384, 1536), (1536, 384)];

const LAYERS: usize = 6;

/// How long every count of tokens is measured.
const BUDGET: Duration = Duration::from_secs(2);

/// Runs of a set in turn: the first finds the weights of another in the caches.
const REPEATS: usize = 4;

/// The matrices of a network.
struct Network {
    name: String,
    layers: Vec<Layer>,
}

/// Multiplies rows by a matrix.
type Apply = Box<dyn FnMut(&[f32], &mut [f32])>;

struct Layer {
    inputs: usize,
    outputs: usize,
    apply: Apply,
}

fn main() {
    // `cargo bench` adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut tokens: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    if tokens.is_empty() {
        tokens = vec![4, 12, 15, 24, 64, 128, 256];
    }
    let portable = args.iter().any(|arg| arg == "portable");
    let mut networks = networks(portable);
    let names: Vec<String> = networks.iter().map(|network| format!("{:>26}", network.name)).collect();
    println!("{:8}{}", "tokens", names.concat());
    let weights: usize = SHAPES.iter().map(|(inputs, outputs)| inputs * outputs * LAYERS).sum();
    for tokens in tokens {
        let most = SHAPES.iter().map(|(inputs, _)| *inputs).max().unwrap_or(0);
        let rows: Vec<f32> = (0..tokens * most).map(|n| (n % 251) as f32 / 125.0 - 1.0).collect();
        let mut least = vec![[f64::INFINITY; SHAPES.len() * LAYERS]; networks.len()];
        let mut out = Vec::new();
        let started = Instant::now();
        while started.elapsed() < BUDGET {
            for (network, least) in networks.iter_mut().zip(&mut least) {
                let matrices = network.layers.len();
                for at in (0..REPEATS * matrices).map(|turn| turn % matrices) {
                    let (layer, least) = (&mut network.layers[at], &mut least[at]);
                    out.resize(tokens * layer.outputs, 0.0);
                    let started = Instant::now();
                    (layer.apply)(&rows[..tokens * layer.inputs], &mut out);
                    *least = least.min(started.elapsed().as_secs_f64());
                }
            }
        }
        let least = least.iter().map(|matrices| matrices.iter().sum::<f64>());
        let column =
            |s: f64| format!("{:10.3} ms {:7.1} GMAC/s", s * 1e3, (tokens * weights) as f64 / s / 1e9);
        println!("{tokens:8}{}", least.map(column).collect::<String>());
    }
}

fn networks(portable: bool) -> Vec<Network> {
    let float = |isa: conv::Isa| {
        let layer = |weight: &[f32], bias: &[f32], inputs| {
            let dense = conv::Dense::pack(weight, bias, inputs).expect("lengths agree").with(isa);
            let outputs = dense.outputs();
            Layer { inputs, outputs, apply: Box::new(move |rows, out| dense.apply(rows, out)) }
        };
        Network { name: format!("f32 {}", isa.name()), layers: layers(layer) }
    };
    let whole = |isa: int8::Isa| {
        let layer = |weight: &[f32], bias: &[f32], inputs| {
            let dense = int8::Dense::pack(weight, bias, inputs).expect("lengths agree").with(isa);
            let (outputs, mut space) = (dense.outputs(), int8::Rows::default());
            Layer { inputs, outputs, apply: Box::new(move |rows, out| dense.apply(rows, &mut space, out)) }
        };
        Network { name: format!("int8 {}", isa.name()), layers: layers(layer) }
    };
    let floats = conv::Isa::available().filter(|&isa| portable || isa != conv::Isa::PORTABLE).map(float);
    let wholes = int8::Isa::available().filter(|&isa| portable || isa != int8::Isa::PORTABLE).map(whole);
    floats.chain(wholes).collect()
}

fn layers(layer: impl Fn(&[f32], &[f32], usize) -> Layer) -> Vec<Layer> {
    let shapes = (0..LAYERS).flat_map(|_| SHAPES);
    let made = shapes.map(|(inputs, outputs)| {
        let weight: Vec<f32> = (0..inputs * outputs).map(|n| (n % 17) as f32 / 100.0 - 0.08).collect();
        layer(&weight, &vec![0.1; outputs], inputs)
    });
    made.collect()
}
