//! The manifests of k8s/: rendered by the real kubectl, held to every schema, to the policy of tests/k8s and to this
//! binary's settings; the provisioning scripts held to shellcheck.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::{Server, config};

/// A file that `make test` makes.
fn made(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(path.exists(), "{} is missing: `make test` makes it", path.display());
    path
}

/// What a command prints when it is content.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    format!("{out}{err}")
}

#[test]
fn every_overlay_and_component_is_as_kubernetes_and_this_binary_want_it() {
    let server = Server::start(&config());
    let said = run(Command::new(made(".venv/bin/python"))
        .args([made("tests/k8s/check.py"), made("k8s")])
        .args(["--convoy", env!("CARGO_BIN_EXE_convoy"), "--server", &server.url("")])
        .arg("--kubectl")
        .arg(made(".cache/kubectl")));
    assert!(said.trim_end().ends_with(" 0 problems"), "{said}");
}

#[test]
fn a_broken_manifest_is_found() {
    let server = Server::start(&config());
    let said = run(Command::new(made(".venv/bin/python"))
        .args(["-m", "unittest", "discover", "--start-directory"])
        .arg(made("tests/k8s"))
        .env("KUBECTL", made(".cache/kubectl"))
        .env("SERVER", server.url(""))
        .env("CONVOY", env!("CARGO_BIN_EXE_convoy")));
    assert!(said.contains("\nOK"), "{said}");
}

#[test]
fn the_scripts_are_free_of_what_shellcheck_knows() {
    let scripts: Vec<_> = fs::read_dir(made("k8s/azure"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sh"))
        .collect();
    assert!(scripts.len() >= 4, "{scripts:?}");
    run(Command::new(made(".venv/bin/shellcheck")).arg("--external-sources").args(scripts));
}
