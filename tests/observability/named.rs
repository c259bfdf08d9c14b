//! Rules, dashboard and scalers against the metrics of a server that has answered a photo and a question and refused.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use convoy::{config::Config, grpc::proto};
use reqwest::Client;
use serde_json::json;
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::support::{Server, config, photo};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a script of `tests/monitoring` prints when it is content, or what it complains of.
fn python(script: &str, arguments: &[PathBuf]) -> Result<String, String> {
    let python = root().join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let ran = Command::new(python).arg(root().join("tests/monitoring").join(script)).args(arguments).output();
    let ran = ran.unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    if ran.status.success() { Ok(said) } else { Err(said) }
}

/// `/metrics` of a server that has done a little of everything.
async fn metrics() -> String {
    let mut settings = Config { grpc_bind: Some("127.0.0.1:0".parse().unwrap()), ..config() };
    // The largest of the overlays, by which a query asks what a batch costs.
    settings.photos.as_mut().unwrap().max_batch = 64;
    let server = Server::start(&settings);
    let client = Client::new();
    let classify = || client.post(server.url("/classify")).body(photo(1));
    let input = json!({"input": "how to sort an array"});
    let infer = server.url("/v2/models/faq/infer");
    let words =
        json!({"inputs": [{"name": "question", "shape": [1], "datatype": "BYTES", "data": ["sort"]}]});
    for (request, status) in [
        (classify(), 200),
        (client.post(server.url("/faq")).json(&json!({"question": "how to sort an array"})), 200),
        (client.post(server.url("/score")).json(&input), 200),
        (client.post(infer).json(&words), 200),
        // The work alone takes longer: refused before it is read.
        (classify().header("x-convoy-deadline-ms", "1"), 504),
        (client.get(server.url("/readyz")), 200),
        (client.get(server.url("/livez")), 200),
        (client.get(server.url("/v2/health/live")), 200),
        (client.get(server.url("/v2/health/ready")), 200),
        (client.get(server.url("/v2/models/faq/ready")), 200),
        (client.get(server.url("/metrics")), 200),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    call(&server).await;
    client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

/// An empty request of ModelInfer; that it is refused is answer enough.
async fn call(server: &Server) {
    let url = format!("http://{}", server.grpc.unwrap());
    let mut grpc = Grpc::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap());
    grpc.ready().await.unwrap();
    let codec: ProstCodec<proto::ModelInferRequest, proto::ModelInferResponse> = ProstCodec::default();
    let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
    let refused = grpc.unary(tonic::Request::new(proto::ModelInferRequest::default()), path, codec).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn every_metric_that_is_asked_for_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics.txt");
    std::fs::write(&file, metrics().await).unwrap();
    let said = python("named.py", std::slice::from_ref(&file)).unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("queries: ok"), "{said}");

    // The checker itself: a rule with a metric, a label, a value that are not there, and one that cannot be read.
    for (query, complaint) in [
        ("rate(convoy_job_total[5m]) > 0", "no metric convoy_job_total"),
        (r#"convoy_jobs_total{queues="faq"} > 0"#, "convoy_jobs_total has no label queues"),
        (r#"convoy_jobs_total{queue="fax"} > 0"#, r#"no convoy_jobs_total with queue="fax""#),
        (r#"sum by (quue) (convoy_jobs_total) > 0"#, "convoy_jobs_total has no label quue"),
        (r#"convoy_jobs_total{outcome=~"ok|offended"} > 0"#, "offended"),
        ("sum(convoy_jobs_total", "cannot be read"),
    ] {
        let rules = folder.path().join("rules.yaml");
        let rule = json!({"kind": "PrometheusRule", "spec": {"groups": [{"rules": [{"alert": "A", "expr": query}]}]}});
        std::fs::write(&rules, rule.to_string()).unwrap();
        let said = python("named.py", &[file.clone(), rules]).expect_err(query);
        assert!(said.contains(complaint), "{query}: {said}");
    }
}

#[test]
fn rules_fire_when_they_should_and_have_a_runbook() {
    let tool = root().join(".cache/promtool");
    assert!(tool.is_file(), "{} is missing: `make promtool` fetches it", tool.display());
    let said = python("rules.py", &[tool]).unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("alerts: ok"), "{said}");
}
