//! Lines of the real binary's log.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, Command, Stdio},
};

use reqwest::Client;
use serde_json::{Value, json};

use crate::{
    collector::{Collector, hex},
    support::config,
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// Serves questions on a free port.
    fn start(format: &str, more: &[(&str, &str)]) -> Self {
        let faq = config().faq.unwrap().model;
        let mut child = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args([
                "serve",
                "--services",
                "faq",
                "--bind",
                "127.0.0.1:0",
                "--lame-duck-ms",
                "0",
                "--faq-model",
            ])
            .arg(faq)
            .env("CONVOY_LOG", "info,access=info")
            .env("CONVOY_LOG_FORMAT", format)
            .envs(more.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// The next line that holds `part`.
    fn line(&mut self, part: &str) -> String {
        self.log.by_ref().map(Result::unwrap).find(|line| line.contains(part)).expect("the log ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().unwrap();
    }
}

async fn ask(address: &str, question: &str) {
    let request = Client::new().post(format!("http://{address}/faq")).header("traceparent", PARENT);
    let answer = request.json(&json!({"question": question})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_are_flat_and_join_their_traces_by_id() {
    let mut collector = Collector::start().await;
    let url = collector.url();
    // The standard's own variables, as a platform sets them.
    let mut process = Process::start(
        "json",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_SERVICE_NAME", "questions"),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=convoy-1,k8s.namespace.name=shop"),
        ],
    );
    let serving: Value = serde_json::from_str(&process.line(r#""message":"serving""#)).unwrap();
    ask(serving["address"].as_str().unwrap(), "a SECRET question").await;
    let line = process.line(r#""target":"access""#);
    let event: Value = serde_json::from_str(&line).unwrap();
    let fields = event.as_object().unwrap();
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    assert_eq!(names, ["level", "ms", "route", "span_id", "status", "target", "timestamp", "trace_id"]);
    assert!(fields.values().all(|value| !value.is_object()), "{line}");
    assert_eq!(
        (&event["trace_id"], &event["status"], &event["level"]),
        (&json!(TRACE), &json!(200), &json!("INFO"))
    );
    let time = event["timestamp"].as_str().unwrap();
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "RFC 3339");

    let received = collector.next().await;
    assert_eq!(event["span_id"], hex(&received.spans[0].span_id));
    assert_eq!(hex(&received.spans[0].trace_id), TRACE);
    let told = format!("{:?}", received.resource);
    assert!(["questions", "convoy-1", "shop"].iter().all(|part| told.contains(part)), "{told}");
    assert!(!line.contains("SECRET") && !format!("{:?}", received.spans).contains("SECRET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn text_lines_carry_the_trace_too_with_nobody_to_send_it_to() {
    let mut process = Process::start("text", &[]);
    let serving = process.line("serving");
    let address = serving.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    ask(address, "how to sort an array").await;
    let line = process.line("access");
    assert!(line.contains(&format!("trace_id={TRACE}")) && line.contains("span_id="), "{line}");
}

#[test]
fn a_trace_that_cannot_be_sent_as_asked_is_a_bad_configuration() {
    let ran = Command::new(env!("CARGO_BIN_EXE_convoy"))
        .args(["serve", "--services", "faq", "--otlp-endpoint", "collector:4318", "--faq-model", file!()])
        .env("OTEL_EXPORTER_OTLP_HEADERS", "SECRET")
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(64), "{said}");
    assert!(
        said.contains("--otlp-endpoint collector:4318") && said.contains("--otlp-header number 1"),
        "{said}"
    );
    assert!(!said.contains("SECRET"), "{said}");
}
