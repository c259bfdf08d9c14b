//! The pages for people: who gets them, under which policy, and what a real browser makes of them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{fs, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use convoy::{
    access::key::Key,
    config::{Config, IngressConfig},
};
use reqwest::{Client, Method, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use support::{Server, config};

/// What a browser sends when somebody types an address.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

async fn root(server: &Server, method: Method, headers: &[(header::HeaderName, &str)]) -> Response {
    let request = Client::new().request(method, server.url("/"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, *value)).send().await.unwrap()
}

fn text<'a>(response: &'a Response, name: &header::HeaderName) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

/// What stands between the only pair of these tags.
fn inside<'a>(page: &'a str, tag: &str) -> &'a str {
    assert_eq!(page.matches(&format!("<{tag}>")).count(), 1, "{tag}");
    page.split_once(&format!("<{tag}>")).unwrap().1.split_once(&format!("</{tag}>")).unwrap().0
}

#[tokio::test]
async fn browsers_get_a_page_that_fetches_nothing_and_programs_the_word() {
    let server = Server::start(&config());
    for accept in ["*/*", "application/json", "text/html;q=0.1, */*", "text/plain"] {
        let response = root(&server, Method::GET, &[(header::ACCEPT, accept)]).await;
        assert_eq!(text(&response, &header::VARY), "accept");
        assert_eq!(response.text().await.unwrap(), "Healthy", "{accept}");
    }
    let response = root(&server, Method::GET, &[(header::ACCEPT, BROWSER)]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(&response, &header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(text(&response, &header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    assert_eq!(text(&response, &header::VARY), "accept");
    let policy = text(&response, &header::CONTENT_SECURITY_POLICY).to_owned();
    let page = response.text().await.unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for tag in ["style", "script"] {
        let hash = STANDARD.encode(Sha256::digest(inside(&page, tag)));
        assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}'")), "{tag}: {hash} is not in {policy}");
    }
    for fetched in
        [" src=\"http", " src=\"/", "rel=\"stylesheet\"", "@import", "url(", " style=\"", " onclick="]
    {
        assert!(!page.contains(fetched), "{fetched}");
    }
}

#[tokio::test]
async fn a_page_that_the_browser_has_is_not_sent_again() {
    let server = Server::start(&config());
    let accept = (header::ACCEPT, BROWSER);
    let response = root(&server, Method::GET, std::slice::from_ref(&accept)).await;
    let tag = text(&response, &header::ETAG).to_owned();
    assert_eq!(text(&response, &header::CACHE_CONTROL), "no-cache");
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let asked = [accept.clone(), (header::IF_NONE_MATCH, known.as_str())];
        let response = root(&server, Method::GET, &asked).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
        assert_eq!(text(&response, &header::ETAG), tag);
        assert!(response.bytes().await.unwrap().is_empty());
    }
    let other = [accept.clone(), (header::IF_NONE_MATCH, "\"other\"")];
    assert_eq!(root(&server, Method::GET, &other).await.status(), StatusCode::OK);
    let head = root(&server, Method::HEAD, &[accept]).await;
    assert_eq!((head.status(), text(&head, &header::ETAG)), (StatusCode::OK, tag.as_str()));
    assert!(head.bytes().await.unwrap().is_empty());
}

/// Runs a script of tests/browser.
fn drive(script: &str, arguments: &[String], said: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let mut command = Command::new(python);
    command.arg(root.join("tests/browser").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(arguments);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, format!("{said}\n"));
}

#[test]
fn a_person_at_a_browser_sees_labels_matches_and_what_went_wrong() {
    let (mut admin, mut only_faq, mut small) = (config(), config(), config());
    admin.http.admin = true;
    only_faq.photos = None;
    small.photos.as_mut().unwrap().queue = 1;
    // Somebody who never sends a body holds the seat.
    small.memory.seat_wait = Duration::from_secs(60);
    small.memory.stall = Duration::from_secs(60);
    let servers = [admin, only_faq, small].map(|config| Server::start(&config));
    drive("home.py", &servers.each_ref().map(|server| server.url("")), "page: ok");
}

#[test]
fn the_interface_can_be_read_and_tried_in_a_browser() {
    let server = Server::start(&config());
    drive("docs.py", &[server.url("")], "docs: ok");
}

#[test]
fn a_key_can_be_entered_where_one_is_wanted() {
    let (folder, key) = (tempfile::tempdir().unwrap(), Key::random());
    let file = folder.path().join("keys.toml");
    let entry = "[[key]]\nname = \"page\"\nscopes = [\"score\", \"metrics\"]\nsha256 = ";
    fs::write(&file, format!("{entry}\"{}\"\n", key.digest().hex())).unwrap();
    let ingress = IngressConfig { keys: Some(file), ..IngressConfig::default() };
    let server = Server::start(&Config { photos: None, ingress, ..config() });
    drive("keys.py", &[server.url(""), key.secret().to_owned()], "keys: ok");
}
