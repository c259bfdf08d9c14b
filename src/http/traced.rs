//! What a request was and became, in the words of OpenTelemetry's conventions for HTTP servers:
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>. Nothing of a client's making gets into a span.

use hyper::{Method, StatusCode};

use super::{openapi, routes::Route};
use crate::trace::{Attribute, Outcome, Value};

/// A request to `route`, answered with `status` unless its client left first.
pub(super) fn outcome(route: Route, method: &Method, status: Option<StatusCode>) -> Outcome {
    let method = known(method);
    let path = openapi::paths(route).first().copied();
    let name = path.map_or(method.into(), |path| format!("{method} {path}").into());
    let mut attributes: Vec<Attribute> = vec![("http.request.method", Value::Text(method.into()))];
    if let Some(path) = path {
        attributes.push(("http.route", Value::Text(path.into())));
    }
    // A path without parameters is the route itself.
    if let Some(path) = path.filter(|path| !path.contains('{')) {
        attributes.push(("url.path", Value::Text(path.into())));
    }
    if let Some(status) = status {
        attributes.push(("http.response.status_code", Value::Number(status.as_u16().into())));
    }
    let failed = status.is_some_and(|status| route.fails(status));
    let error = status.filter(|_| failed).map(|status| status.as_str().to_owned().into());
    if let Some(error) = error.or(status.is_none().then_some("client_gone".into())) {
        attributes.push(("error.type", Value::Text(error)));
    }
    Outcome { name, attributes, failed }
}

/// The method if it is one that everybody knows, as the conventions want it: others are the client's invention.
fn known(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
    known.into_iter().find(|known| method.as_str() == *known).unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::v2::Endpoint;

    fn value(outcome: &Outcome, name: &str) -> Option<Value> {
        outcome.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn routes_are_named_by_their_template_and_never_by_what_a_client_sent() {
        let infer = outcome(Route::V2(Endpoint::Infer), &Method::POST, Some(StatusCode::OK));
        assert_eq!(infer.name, "POST /v2/models/{model}/infer");
        assert_eq!(value(&infer, "url.path"), None);
        let odd = Method::from_bytes(b"SECRET").unwrap();
        let unknown = outcome(Route::Unknown, &odd, Some(StatusCode::NOT_FOUND));
        assert_eq!(unknown.name, "_OTHER");
        assert_eq!(value(&unknown, "http.route"), None);
        assert!(!unknown.failed, "404 is the client's");
    }

    #[test]
    fn the_server_is_to_blame_for_5xx_but_not_for_saying_that_it_is_not_ready() {
        let late = outcome(Route::Classify, &Method::POST, Some(StatusCode::GATEWAY_TIMEOUT));
        assert!(late.failed);
        assert_eq!(value(&late, "error.type"), Some(Value::Text("504".into())));
        let not_ready = outcome(Route::Readyz, &Method::GET, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert!(!not_ready.failed && value(&not_ready, "error.type").is_none());
        let gone = outcome(Route::Faq, &Method::POST, None);
        assert!(!gone.failed && value(&gone, "http.response.status_code").is_none());
        assert_eq!(value(&gone, "error.type"), Some(Value::Text("client_gone".into())));
    }
}
