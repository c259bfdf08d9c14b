//! Time of the CPU engine's forward pass by network and batch size, pixels in, logits out.
//!
//! `cargo bench --bench forward -- resnet152` runs one network.

#![allow(missing_docs, reason = "criterion's macros write undocumented items")]

use convoy::image::Prepared;
use convoy::vision::cpu::CpuOptions;
use convoy::vision::random::{Recipe, Stream};
use convoy::vision::{Arch, CpuEngine, Engine, INPUT_SIZE, Picture};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BATCHES: [usize; 3] = [1, 4, 8];
const OPTIONS: CpuOptions = CpuOptions { max_batch: 8, threads: 2 };

fn image(index: usize) -> Picture {
    let bytes = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;
    let values = Stream::new(&format!("image.{index}"), 0, bytes).uniform(0.0, 256.0);
    Prepared { pixels: values.into_iter().map(|v| v as u8).collect(), size: INPUT_SIZE }.into()
}

fn forward(c: &mut Criterion) {
    for arch in Arch::ALL {
        let mut engine = CpuEngine::new(&mut Recipe::new(arch), OPTIONS).expect("threads");
        let mut group = c.benchmark_group(arch.name());
        group.sample_size(10);
        for batch in BATCHES {
            let images: Vec<Picture> = (0..batch).map(image).collect();
            let images: Vec<&Picture> = images.iter().collect();
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::from_parameter(batch), |b| {
                b.iter(|| {
                    let logits = engine.forward(&images).expect("a forward pass");
                    assert!(logits.len() == batch * 1000 && logits.iter().all(|v| v.is_finite()));
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
