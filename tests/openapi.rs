//! The OpenAPI document: nothing that can be asked is missing from it, and what it says is what the server does.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use convoy::http::openapi::Document;
use serde_json::Value;
use support::{Server, config};

/// The text of the source file under `folder` that has `line`.
fn source_with(folder: &Path, line: &str) -> Option<String> {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = source_with(&path, line) {
                return Some(found);
            }
        } else if let Some(text) = fs::read_to_string(&path).ok().filter(|text| text.contains(line)) {
            return Some(text);
        }
    }
    None
}

/// The paths in the docstrings of an enum's variants, and how many variants there are.
fn documented_variants(name: &str) -> (Vec<String>, usize) {
    let line = format!("pub enum {name} {{\n");
    let text = source_with(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http"), &line).unwrap();
    let body = text.split_once(&line).unwrap().1.split_once("\n}").unwrap().0;
    let paths = body.lines().filter_map(|line| line.trim().strip_prefix("/// `")?.strip_suffix('`'));
    let variants = body.lines().filter(|line| line.ends_with(',') && !line.contains("///"));
    (paths.map(str::to_owned).collect(), variants.count())
}

#[test]
fn every_route_is_in_the_document() {
    let document: Value = serde_json::from_slice(Document::new().bytes()).unwrap();
    let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let (routes, variants) = documented_variants("Route");
    assert_eq!(routes.len() + ["V2", "Unknown"].len(), variants, "a route without its path: {routes:?}");
    let (endpoints, variants) = documented_variants("Endpoint");
    assert_eq!(endpoints.len(), variants, "an endpoint without its path: {endpoints:?}");
    for path in routes.iter().chain(&endpoints) {
        assert!(described.contains(path), "{path} is not in /openapi.json: describe it in src/http/openapi");
    }
}

#[test]
fn what_the_document_says_is_what_the_server_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let mut admin = config();
    admin.http.admin = true;
    let (server, admin) = (Server::start(&config()), Server::start(&admin));
    let output = Command::new(python)
        .arg(root.join("tests/clients/openapi.py"))
        .args([server.url(""), admin.url(""), "resnet18".to_owned()])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "openapi: ok\n");
}
