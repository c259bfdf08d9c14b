//! `GET /openapi.json`: what can be asked of this server, in OpenAPI 3.1, put together from the types that are read and
//! written on the wire. `operations` says what each route takes and answers, `schemas` turns types to JSON Schema, `v2` has
//! the types of answers that the V2 protocol builds freely.
//!
//! The schemas are schemars': what it makes of serde's attributes is JSON Schema 2020-12, the very dialect of OpenAPI 3.1,
//! and handlers here are no framework's, so that there is nothing to annotate but the types.

mod operations;
mod schemas;
mod v2;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::reply::{self, Reply};
pub(super) use operations::paths;
use schemas::Schemas;

const ABOUT: &str = "What is in this photo, and which FAQ is this question, in real time. Every answer carries \
                     `Server-Timing`; errors have a stable `code`.";

/// The document, written once.
pub struct Document(Bytes);

impl Document {
    /// Puts the document together.
    pub fn new() -> Self {
        let text = serde_json::to_vec(&document()).expect("bug: a value of JSON is JSON");
        Self(text.into())
    }

    /// Its JSON.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `GET /openapi.json`.
    pub(super) fn answer(&self) -> Reply {
        reply::with_type(StatusCode::OK, "application/json", self.0.clone())
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for (path, method, operation) in operations::all(&mut schemas) {
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "convoy", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "Scoring", "description": "Photos and questions."},
            {"name": "Operation", "description": "Identity, health, metrics, administration."},
            {"name": "V2", "description": "The Open Inference Protocol over REST."},
        ],
        "paths": paths,
        "components": {"schemas": schemas.definitions(), "parameters": operations::parameters(),
            "securitySchemes": operations::security()},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::routes::Route;

    /// Every reference in `value`.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} is not there");
        }
        for kind in ["schemas", "parameters"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                let reference = format!("#/components/{kind}/{name}");
                assert!(found.contains(reference.as_str()), "nothing refers to {reference}");
            }
        }
    }

    #[test]
    fn what_needs_a_scope_says_so_and_can_be_asked_without_keys_too() {
        let document = document();
        for (path, item) in document["paths"].as_object().unwrap() {
            let route = Route::of(&path.replace("{model}", "m").replace("{version}", "1"));
            for operation in item.as_object().unwrap().values() {
                let scope = route
                    .scope()
                    .map(|scope| json!([{}, {"bearer": [scope.name()]}, {"api-key": [scope.name()]}]));
                assert_eq!(operation.get("security"), scope.as_ref(), "{path}");
                for status in ["401", "403"] {
                    assert_eq!(
                        operation["responses"].get(status).is_some(),
                        scope.is_some(),
                        "{path} {status}"
                    );
                }
            }
        }
        assert!(document["components"]["securitySchemes"]["bearer"].is_object());
    }

    #[test]
    fn every_documented_path_is_a_route_that_takes_the_method() {
        for (path, item) in document()["paths"].as_object().unwrap() {
            let route = Route::of(&path.replace("{model}", "m").replace("{version}", "1"));
            assert_ne!(route, Route::Unknown, "{path}");
            for method in item.as_object().unwrap().keys() {
                let method = method.to_uppercase().parse().unwrap();
                assert!(route.allows(&method), "{method} {path}");
            }
        }
    }
}
