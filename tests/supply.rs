//! What convoy is built from: licences, copies, sources and build scripts of dependencies by cargo-deny, direct
//! dependencies and unsafe code against the pages that give reasons for them.
//!
//! Advisories are not checked here: their database has to be fetched (`make supply`).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program of the tests' own environment.
fn tool(name: &str) -> PathBuf {
    let file = root().join(".venv/bin").join(name);
    assert!(file.is_file(), "{} is missing: `make test` makes it", file.display());
    file
}

/// The graph of what is built on this machine's platform, in a file; needs no network.
fn graph(folder: &TempDir) -> PathBuf {
    let told = Command::new(env!("CARGO")).arg("-vV").output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let host = told.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let ran = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let file = folder.path().join("graph.json");
    fs::write(&file, ran.stdout).unwrap();
    file
}

fn deny(rules: &Path, graph: &Path) -> Output {
    Command::new(tool("cargo-deny"))
        .args(["--color", "never", "--log-level", "warn", "--metadata-path"])
        .arg(graph)
        .arg("--config")
        .arg(rules)
        .args(["check", "licenses", "bans", "sources"])
        .current_dir(root())
        .output()
        .unwrap()
}

#[test]
fn dependencies_are_what_was_agreed_to() {
    let folder = tempfile::tempdir().unwrap();
    let (rules, graph) = (root().join("docs/supply/deny.toml"), graph(&folder));
    let ran = deny(&rules, &graph);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    // An exception that nothing needs any more has to go.
    assert!(!said.contains("warning["), "{said}");

    // The check itself: without what the rules allow for one licence, one copy and one build script.
    let text = fs::read_to_string(&rules).unwrap();
    for (part, without, complaint) in [
        ("\"IJG\",", "", "mozjpeg"),
        ("crate = \"base64@0.22\"", "crate = \"base64@0.1\"", "base64"),
        ("\"ring\",", "", "ring"),
        (
            "allow-registry = [\"https://github.com/",
            "allow-registry = [\"https://elsewhere.example/",
            "source-not-allowed",
        ),
    ] {
        assert!(text.contains(part), "{part}");
        let stricter = folder.path().join("deny.toml");
        fs::write(&stricter, text.replacen(part, without, 1)).unwrap();
        let ran = deny(&stricter, &graph);
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success() && said.contains(complaint), "{part}: {said}");
    }
}

#[test]
fn every_dependency_and_every_file_with_unsafe_code_has_its_reasons() {
    let script = root().join("tests/supply/inventory.py");
    let ran = Command::new(tool("python")).arg(script).arg("--check").current_dir(root()).output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_bill_of_materials_names_what_is_inside() {
    let folder = tempfile::tempdir().unwrap();
    let script = root().join("tests/supply/bill.py");
    let ran =
        Command::new(tool("python")).arg(script).arg(folder.path()).current_dir(root()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let bill = fs::read(folder.path().join("convoy.cdx.json")).unwrap();
    let bill: Value = serde_json::from_slice(&bill).unwrap();
    let named = |name: &str| bill["components"].as_array().unwrap().iter().find(|one| one["name"] == name);
    let hyper = named("hyper").unwrap();
    assert_eq!(hyper["licenses"][0]["expression"], "MIT");
    assert_eq!(hyper["hashes"][0]["content"].as_str().unwrap().len(), 64);
    for (part, inside) in
        [("kernels", true), ("zstd-sys", true), ("proptest", false), ("prettyplease", false)]
    {
        assert_eq!(named(part).is_some(), inside, "{part}");
    }
    let licences = fs::read_to_string(folder.path().join("THIRD-PARTY.txt")).unwrap();
    assert!(licences.contains("Independent JPEG Group") && licences.contains("Facebook"), "C libraries too");
}

#[test]
fn unsafe_code_is_in_kernels_alone() {
    let mut waiting: Vec<_> = ["src", "tests", "benches"].map(|folder| root().join(folder)).into();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                // In two parts, so that this file is not found.
                assert!(!text.contains(concat!("allow(unsafe", "_code")), "{}", path.display());
            }
        }
    }
}
