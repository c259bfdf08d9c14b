//! A rolling restart and a killed process behind a real load balancer, with the manifests' times: `tests/rollout/rollout.py`
//! in short. By hand, with more rounds and with nginx, it prints the tables of `k8s/rollout.md`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{path::Path, process::Command};

use support::config;

/// Two pods, replaced once and killed once, behind four kinds of balancer at once.
const SHORT: &str =
    "--pods 2 --photos 1 --rounds 1 --kills 1 --steady 1 --min-ready 0 http http-again tcp grpc";

#[test]
fn a_rolling_restart_loses_no_request_and_a_killed_process_only_those_in_its_hands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let config = config();
    let (photos, faq) = (config.photos.unwrap(), config.faq.unwrap());
    let output = Command::new(python)
        .arg(root.join("tests/rollout/rollout.py"))
        .args(["--binary", env!("CARGO_BIN_EXE_convoy"), "--weights"])
        .arg(photos.classifier.weights)
        .arg("--faq-model")
        .arg(faq.model)
        .args(SHORT.split(' '))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.matches(" | rollout | ").count(), 4, "{out}");
}
