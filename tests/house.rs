//! The import directions that `src/lib.rs` promises, read off the sources.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{fs, path::Path};

/// Every source file under `dir`, without its `#[cfg(test)]` tail.
fn sources(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            found.push((path.display().to_string(), code));
        }
    }
    found
}

/// Lines of code (comments left out) in `files` that contain one of `words`.
fn offences(files: &[(String, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    found
}

fn under(module: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let wanted = [format!("src/{module}/"), format!("src/{module}.rs")];
    let files: Vec<_> = sources(&root)
        .into_iter()
        .filter(|(path, _)| wanted.iter().any(|end| path.contains(end.as_str())))
        .collect();
    assert!(!files.is_empty(), "no module {module}");
    files
}

#[test]
fn batch_moves_jobs_and_knows_nothing_of_what_they_are() {
    let words = [
        "hyper",
        "candle",
        "serde",
        "image",
        "crate::http",
        "crate::faq",
        "crate::vision",
        "crate::service",
        "crate::v2",
    ];
    assert_eq!(offences(&under("batch"), &words), [""; 0]);
}

#[test]
fn nothing_but_the_root_and_the_command_line_depends_on_a_transport() {
    let words = ["crate::http", "crate::grpc", "hyper", "StatusCode", "tonic", "prost"];
    for module in [
        "access", "batch", "config", "error", "faq", "image", "memory", "metrics", "service", "v2", "vision",
        "weights",
    ] {
        assert_eq!(offences(&under(module), &words), [""; 0]);
    }
    assert_eq!(offences(&under("server"), &["crate::http", "crate::grpc", "StatusCode", "tonic"]), [""; 0]);
}

#[test]
fn the_transports_do_not_know_each_other() {
    assert_eq!(offences(&under("http"), &["crate::grpc", "tonic", "prost"]), [""; 0]);
    assert_eq!(offences(&under("grpc"), &["crate::http", "StatusCode", "serde"]), [""; 0]);
}

#[test]
fn the_v2_protocol_stands_between_services_and_transports() {
    assert_eq!(offences(&under("v2"), &["crate::server", "serde_json"]), [""; 0]);
    assert_eq!(offences(&under("service"), &["crate::server", "crate::v2"]), [""; 0]);
}

#[test]
fn memory_is_counted_without_knowing_whose_bytes_they_are() {
    let words = ["access", "faq", "image", "server", "service", "v2", "vision"];
    let words = words.map(|module| format!("crate::{module}"));
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    assert_eq!(offences(&under("memory"), &words), [""; 0]);
    for module in ["batch", "faq", "image", "vision"] {
        assert_eq!(offences(&under(module), &["crate::memory"]), [""; 0]);
    }
}

#[test]
fn traces_know_what_a_request_took_and_not_what_it_was() {
    let words = [
        "crate::http",
        "crate::grpc",
        "crate::server",
        "crate::v2",
        "crate::batch",
        "crate::vision",
        "crate::faq",
        "hyper",
    ];
    assert_eq!(offences(&under("trace"), &words), [""; 0]);
    for module in ["batch", "faq", "image", "metrics", "service", "v2", "vision", "weights"] {
        assert_eq!(offences(&under(module), &["crate::trace"]), [""; 0]);
    }
}

#[test]
fn who_may_ask_is_decided_apart_from_what_is_asked_and_how() {
    let words = [
        "batch", "faq", "grpc", "http", "image", "load", "metrics", "server", "service", "v2", "vision",
        "weights",
    ]
    .map(|module| format!("crate::{module}"));
    let words: Vec<_> = words.iter().map(String::as_str).chain(["std::fs", "tokio"]).collect();
    assert_eq!(offences(&under("access"), &words), [""; 0]);
    for module in ["batch", "faq", "image", "service", "v2", "vision", "weights", "load", "metrics"] {
        assert_eq!(offences(&under(module), &["crate::access"]), [""; 0]);
    }
}

#[test]
fn only_config_reads_the_environment() {
    for module in [
        "access", "app", "batch", "cli", "error", "faq", "grpc", "http", "image", "load", "memory",
        "metrics", "server", "service", "trace", "v2", "vision", "weights",
    ] {
        assert_eq!(offences(&under(module), &["env::var", "env = \"", "option_env!"]), [""; 0]);
    }
}

#[test]
fn only_the_root_builds_executors() {
    for module in ["batch", "cli", "config", "grpc", "http", "server", "service", "v2"] {
        let words =
            ["Classifier::new", "Answerer::new", "Decoder::new", "CandleEngine::new", "CpuEngine::new"];
        assert_eq!(offences(&under(module), &words), [""; 0]);
    }
}

#[test]
fn the_models_do_not_know_each_other() {
    assert_eq!(offences(&under("vision"), &["crate::faq", "crate::service"]), [""; 0]);
    assert_eq!(offences(&under("faq"), &["crate::vision", "crate::image", "crate::service"]), [""; 0]);
    assert_eq!(offences(&under("image"), &["crate::vision", "crate::faq", "crate::service"]), [""; 0]);
}

#[test]
fn the_load_generator_knows_nothing_of_what_it_loads() {
    let words = [
        "batch", "config", "faq", "grpc", "http", "image", "metrics", "server", "service", "v2", "vision",
        "weights",
    ]
    .map(|module| format!("crate::{module}"));
    let words: Vec<_> = words.iter().map(String::as_str).chain(["kernels", "candle"]).collect();
    assert_eq!(offences(&under("load"), &words), [""; 0]);
    for module in [
        "access", "app", "batch", "config", "error", "faq", "grpc", "http", "image", "metrics", "server",
        "service", "v2", "vision", "weights",
    ] {
        assert_eq!(offences(&under(module), &["crate::load"]), [""; 0]);
    }
}
