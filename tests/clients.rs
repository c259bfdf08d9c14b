//! Real clients, written like the notebooks of the services this server replaces, against a real server.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{path::Path, process::Command};

use support::{Server, config};

#[test]
fn the_notebooks_clients_get_the_exact_shapes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let server = Server::start(&config());
    let output = Command::new(python)
        .arg(root.join("tests/clients/notebook.py"))
        .arg(server.url(""))
        .arg(root.join("weights/faq/questions.tsv"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "requests: ok\naiohttp: ok\n");
}
