//! What photos are classified on: `--device`, on machines with a GPU and on machines without.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::process::{Command, Output};

use convoy::app::OpenClassifier;
use convoy::batch::Executor as _;
use convoy::config::{DeviceConfig, DeviceName};
use convoy::vision::Classifier;
use kernels::cuda::{CudaError, Device};

use support::config;

/// Why no GPU can be used here; none where one can.
fn no_gpu() -> Option<CudaError> {
    Device::open().err()
}

fn serve(device: &str) -> Output {
    let weights = config().photos.unwrap().classifier.weights;
    // A port that cannot be had ends a server that would otherwise start.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Command::new(env!("CARGO_BIN_EXE_convoy"))
        .args(["serve", "--services", "photos", "--device", device, "--weights", weights.to_str().unwrap()])
        .args(["--bind", &taken.local_addr().unwrap().to_string()])
        .env("CONVOY_LOG_FORMAT", "json")
        .output()
        .unwrap()
}

#[test]
fn a_gpu_that_must_be_used_and_is_not_there_ends_the_start_and_is_named() {
    let Some(error) = no_gpu() else { return };
    let Output { status, stderr, .. } = serve("cuda");
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success());
    for part in [&error.to_string(), "--device cuda", "--device cpu"] {
        assert!(stderr.contains(part), "{part} missing from {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn without_a_gpu_auto_takes_the_processor_and_says_why() {
    let Some(error) = no_gpu() else { return };
    let stderr = String::from_utf8(serve("auto").stderr).unwrap();
    let ready = stderr.lines().find(|line| line.contains("classifier ready"));
    assert!(ready.is_some_and(|line| line.contains("\"device\":\"cpu\"")), "{stderr}");
    let told = stderr.lines().find(|line| line.contains("photos are classified on the processor"));
    assert!(told.is_some_and(|line| line.contains(&error.to_string())), "{stderr}");
    // Whoever asks for the processor is told nothing of GPUs.
    let stderr = String::from_utf8(serve("cpu").stderr).unwrap();
    assert!(stderr.contains("classifier ready") && !stderr.contains("GPU"), "{stderr}");
}

#[test]
fn a_gpu_answers_as_the_processor_does() {
    if no_gpu().is_some() {
        return;
    }
    let photos = config().photos.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kernel_cache = folder.path().join("kernels");
    let gpu = DeviceConfig { name: DeviceName::Cuda, sessions: 2, max_batch: 4, kernel_cache };
    let answers = |device: &DeviceConfig| {
        let mut opened = OpenClassifier::open(&photos.classifier, device, 4).unwrap();
        let last = opened.classifiers.last_mut().unwrap();
        last.run(&Classifier::grey(7)).unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let (expected, first, again) = (answers(&DeviceConfig::cpu()), answers(&gpu), answers(&gpu));
    assert_eq!(first, again, "kernels that were kept are the same kernels");
    for (expected, found) in expected.iter().zip(&first) {
        assert_eq!(expected[0].class, found[0].class);
        assert!((expected[0].probability - found[0].probability).abs() < 1e-2);
    }
}
