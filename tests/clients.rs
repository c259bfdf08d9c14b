//! Real clients, written like the notebooks of the services this server replaces, against a real server.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{path::Path, process::Command};

use support::{Server, config, photo};

/// What a client in `tests/clients` prints when it is content with the server.
fn drive(script: &str, arguments: &[String]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let script = root.join("tests/clients").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[test]
fn the_notebooks_clients_get_the_exact_shapes() {
    let server = Server::start(&config());
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/faq/questions.tsv").to_owned();
    let said = drive("notebook.py", &[server.url(""), questions]);
    assert_eq!(said, "requests: ok\naiohttp: ok\n");
}

#[test]
fn kserves_own_client_works_unmodified() {
    let server = Server::start(&config());
    let said = drive("kserve_client.py", &[server.address.to_string(), "resnet18".to_owned()]);
    assert_eq!(said, "kserve: ok\n");
}

/// `curl --data-binary @photo.png`, as its manual says: curl calls the body a form.
#[test]
fn curl_sends_a_photo() {
    let server = Server::start(&config());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("photo.png");
    std::fs::write(&file, photo(1)).unwrap();
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--data-binary", &format!("@{}", file.display())])
        .arg(server.url("/classify?top=1"))
        .output()
        .expect("curl is installed");
    assert!(curl.status.success(), "{}", String::from_utf8_lossy(&curl.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&curl.stdout).unwrap();
    assert!(answer["predictions"][0]["label"].is_string(), "{answer}");
}
