//! Flags of traces. Their environment variables are OpenTelemetry's own, so that what a platform sets for all its
//! processes works here too: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>. Only the share is convoy's,
//! because the standard's sampler names say more than there is to choose.

use clap::Args;
use percent_encoding::percent_decode_str;

use super::Checks;

/// The service's name where nobody gives it another.
const SERVICE: &str = "convoy";

/// Flags about traces.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Send traces to this collector, OTLP over HTTP, for example http://localhost:4318. Off when not given.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Header of every message to the collector, such as a key, as NAME=VALUE, percent-encoded; may be repeated.
    #[arg(
        long = "otlp-header",
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "NAME=VALUE"
    )]
    pub otlp_headers: Vec<String>,
    /// Share of traces begun here that are recorded, from 0 to 1. Where the caller's `traceparent` says whether it records,
    /// that counts.
    #[arg(long, env = "CONVOY_TRACE_SAMPLE", value_name = "SHARE", default_value_t = 0.01)]
    pub trace_sample: f64,
    /// The service's name in traces.
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME", default_value = SERVICE)]
    pub trace_service: String,
    /// What else traces say of this process, as KEY=VALUE, percent-encoded; may be repeated.
    #[arg(
        long = "trace-attribute",
        env = "OTEL_RESOURCE_ATTRIBUTES",
        value_delimiter = ',',
        value_name = "KEY=VALUE"
    )]
    pub trace_attributes: Vec<String>,
}

/// Configuration of traces.
#[derive(Debug, Clone, Default)]
pub struct TraceConfig {
    /// Who gets them, if anybody.
    pub collector: Option<CollectorConfig>,
    /// Share of traces begun here that are recorded.
    pub sample: f64,
}

/// Who gets traces.
#[derive(Clone)]
pub struct CollectorConfig {
    /// Where they are posted to.
    pub url: String,
    /// Headers that go with them; may hold a key.
    pub headers: Vec<(String, String)>,
    /// What they say of this process.
    pub resource: Vec<(String, String)>,
}

impl std::fmt::Debug for CollectorConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("CollectorConfig")
            .field("url", &self.url)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

impl TraceArgs {
    pub(super) fn check(&self, checks: &mut Checks) -> TraceConfig {
        if !(0.0..=1.0).contains(&self.trace_sample) {
            let problem = format!("--trace-sample is {}; it must lie between 0 and 1", self.trace_sample);
            checks.problems.push(problem);
        }
        // The standard has empty variables count as unset.
        let endpoint = self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        let collector = endpoint.map(|endpoint| CollectorConfig {
            url: url(endpoint, checks),
            headers: self.headers(checks),
            resource: self.resource(checks),
        });
        TraceConfig { collector, sample: self.trace_sample }
    }

    /// The value of a header never gets into a message.
    fn headers(&self, checks: &mut Checks) -> Vec<(String, String)> {
        let given = self.otlp_headers.iter().filter(|text| !text.is_empty()).enumerate();
        let read = given.filter_map(|(index, text)| {
            let pair = pair(text).filter(|(name, value)| {
                http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                    && http::HeaderValue::from_str(value).is_ok()
            });
            if pair.is_none() {
                checks.problems.push(format!("--otlp-header number {}: it must be NAME=VALUE", index + 1));
            }
            pair
        });
        read.collect()
    }

    fn resource(&self, checks: &mut Checks) -> Vec<(String, String)> {
        let named = Some(&self.trace_service).filter(|name| !name.is_empty() && *name != SERVICE);
        let mut resource = vec![
            ("service.name".to_owned(), named.map_or(SERVICE, String::as_str).to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        for text in self.trace_attributes.iter().filter(|text| !text.is_empty()) {
            match pair(text) {
                // The standard: the service's own variable goes before the general one.
                Some((key, _)) if key == "service.name" && named.is_some() => {}
                Some((key, value)) => {
                    resource.retain(|(known, _)| *known != key);
                    resource.push((key, value));
                }
                None => checks.problems.push(format!("--trace-attribute {text}: it must be KEY=VALUE")),
            }
        }
        resource
    }
}

/// A collector's address for traces: the base and `v1/traces`, as the standard has it.
fn url(endpoint: &str, checks: &mut Checks) -> String {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let parsed = url.parse::<http::Uri>().ok();
    let usable = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if endpoint.contains('@') {
        // The address gets into the log, and what stands before the @ with it.
        let problem = "--otlp-endpoint: it must hold no user name or password; --otlp-header takes a key";
        checks.problems.push(problem.to_owned());
    } else if !usable {
        let problem = format!("--otlp-endpoint {endpoint}: it must be a URL like http://collector:4318");
        checks.problems.push(problem);
    }
    url
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    let key = key.trim();
    (!key.is_empty()).then(|| (key.to_owned(), value.into_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TraceArgs,
    }

    fn check(line: &[&str]) -> (TraceConfig, Vec<String>) {
        let mut checks = Checks::default();
        let config = Line::parse_from([&["serve"], line].concat()).args.check(&mut checks);
        (config, checks.problems)
    }

    #[test]
    fn without_a_collector_nothing_is_sent() {
        let (config, problems) = check(&[]);
        assert!(config.collector.is_none() && problems.is_empty());
        assert!(check(&["--otlp-endpoint", ""]).0.collector.is_none(), "empty counts as unset");
    }

    #[test]
    fn a_collector_is_found_by_its_base_and_told_who_speaks() {
        let line = [
            "--otlp-endpoint=http://collector:4318/",
            "--otlp-header=authorization=Bearer%20abc,x-tenant=7",
            "--trace-service=photos",
            "--trace-attribute=k8s.pod.name=convoy-1,service.version=9,service.name=other",
        ];
        let (config, problems) = check(&line);
        let collector = config.collector.unwrap();
        assert_eq!((collector.url.as_str(), problems.len()), ("http://collector:4318/v1/traces", 0));
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(collector.headers, owned(&[("authorization", "Bearer abc"), ("x-tenant", "7")]));
        let told = [("service.name", "photos"), ("k8s.pod.name", "convoy-1"), ("service.version", "9")];
        assert_eq!(collector.resource, owned(&told));
        assert!(!format!("{collector:?}").contains("abc"), "keys stay out of logs");
    }

    #[test]
    fn every_problem_is_named_and_no_key_with_it() {
        let line = [
            "--otlp-endpoint=collector:4318",
            "--otlp-header=SECRET",
            "--trace-attribute=pod",
            "--trace-sample=1.5",
        ];
        let (_, problems) = check(&line);
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(!problems.concat().contains("SECRET"), "{problems:?}");
        let (_, problems) = check(&["--otlp-endpoint=http://me:SECRET@collector:4318"]);
        assert!(problems.len() == 1 && !problems[0].contains("SECRET"), "{problems:?}");
    }
}
