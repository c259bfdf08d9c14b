//! Keys and tokens, good and bad ones, in a file as the server reads it.

use std::{fs, path::PathBuf};

use convoy::access::key::Key;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    canary::Canaries,
    tokens::{ISSUER, Issuer},
};

/// Keys and tokens, good and bad ones.
pub struct Keys {
    _folder: TempDir,
    pub file: PathBuf,
    pub good: String,
    pub operators: String,
    pub others: String,
    /// What is refused, or let in only once.
    pub bad: Vec<(&'static str, String)>,
}

impl Keys {
    pub fn make(canaries: &mut Canaries, issuer: &Issuer) -> Self {
        let entry = |name: &str, more: &str| {
            let key = Key::random();
            let text = format!("[[key]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", key.digest().hex());
            (key.secret().to_owned(), text)
        };
        let (good, web) = entry("web", "");
        let (others, other) = entry("others", "");
        let (operators, ops) = entry("ops", "scopes = [\"admin\"]");
        let (expired, old) = entry("old", "expires = 2026-01-01T00:00:00Z");
        let (rated, trial) = entry("trial", "rate = 0.001");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        fs::write(&file, [web, other, ops, old, trial].concat()).unwrap();

        let owner = format!("{}\n2026 ERROR forged\u{1b}[2J{}", canaries.at("token owner"), "x".repeat(300));
        let audience = canaries.at("secret audience");
        let unsigned = format!("{}.{}.", canaries.at("secret head"), canaries.at("secret body"));
        let bad = vec![
            ("expired key", expired),
            ("key over its rate", rated),
            ("key without the scope", operators.clone()),
            ("unknown key", canaries.at("secret unknown key")),
            (
                "two keys",
                format!("{} {}", canaries.at("secret one of two"), canaries.at("secret two of two")),
            ),
            ("expired token", issuer.token(&owner, &["convoy.score"], -3600)),
            ("token without the scope", issuer.token(&owner, &["convoy.nothing"], 3600)),
            ("token for others", issuer.sign(&json!({"iss": ISSUER, "aud": audience, "exp": 4e9}))),
            ("token that nobody signed", unsigned),
            ("token that is damaged", issuer.token("a", &["convoy.score"], 3600).replace("ey", "eY")),
        ];
        let secrets = bad.iter().map(|(_, secret)| secret).chain([&good, &others, &operators]);
        for part in secrets.flat_map(|secret| secret.split('.').filter(|part| part.len() > 40)) {
            // The first part of every token of this issuer is the same and says nothing.
            if !part.starts_with("eyJhbGciOiJFUzI1NiI") {
                canaries.add("secret key or token", part.as_bytes());
            }
        }
        Self { _folder: folder, file, good, operators, others, bad }
    }
}
