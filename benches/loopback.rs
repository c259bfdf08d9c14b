//! End to end over loopback: an HTTP client, the whole server, and back.
//!
//! The classifier is a ResNet-18 of random weights, so that the server's own cost shows beside the engine's; the FAQ
//! is the project's own.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use support::{Server, config, photo};
use tokio::runtime::Runtime;

async fn fetch(request: RequestBuilder) {
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success(), "{}", response.status());
    response.bytes().await.expect("the whole answer");
}

fn photos(criterion: &mut Criterion) {
    let server = Server::start(&config());
    let (runtime, client) = (Runtime::new().expect("a runtime"), Client::new());
    let photo = photo(1);
    let ask = || client.post(server.url("/classify")).body(photo.clone());
    let mut group = criterion.benchmark_group("loopback/classify");
    group.sample_size(10);
    for clients in [1_u64, 8, 64] {
        group.throughput(Throughput::Elements(clients));
        group.bench_function(BenchmarkId::new("clients", clients), |bencher| {
            bencher.iter(|| {
                runtime.block_on(futures_util::future::join_all((0..clients).map(|_| fetch(ask()))));
            });
        });
    }
    group.finish();
}

fn questions(criterion: &mut Criterion) {
    let server = Server::start(&config());
    let (runtime, client) = (Runtime::new().expect("a runtime"), Client::new());
    let ask =
        || client.post(server.url("/faq")).json(&json!({"question": "how do i sort an array of numbers"}));
    let mut group = criterion.benchmark_group("loopback/faq");
    for clients in [1_u64, 16] {
        group.throughput(Throughput::Elements(clients));
        group.bench_function(BenchmarkId::new("clients", clients), |bencher| {
            bencher.iter(|| {
                runtime.block_on(futures_util::future::join_all((0..clients).map(|_| fetch(ask()))));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, photos, questions);
criterion_main!(benches);
