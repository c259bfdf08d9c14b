//! Flags of `convoy serve`, as an environment or a manifest may hand them over.

use clap::Parser;
use convoy::config::ServeArgs;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

/// One argument a line.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let arguments = std::iter::once("serve").chain(text.split('\n'));
    let Ok(line) = Line::try_parse_from(arguments) else { return };
    let config = match line.serve.resolve() {
        Ok(config) => config,
        Err(error) => return assert!(!error.problems.is_empty()),
    };
    let http = config.http;
    assert!(http.deadline <= http.max_deadline && http.max_body > 0 && http.connections.max > 0);
    assert!(config.clients.weights.values().all(|weight| *weight > 0.0));
    assert!(config.photos.is_none_or(|photos| photos.queue >= http.max_images && photos.decode_threads > 0));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let file = super::repository("Cargo.toml");
    let file = file.display();
    let lines = [
        format!(
            "--services\nfaq\n--faq-model\n{file}\n--deadline-ms\n5\n--client-header\nx-a\n--client-weight\na=2"
        ),
        format!(
            "--services=faq\n--faq-model={file}\n--oidc-issuer=https://a.example\n--oidc-audience=b\n--cors-origin=https://c"
        ),
        format!(
            "--services=photos\n--weights={file}\n--arch=resnet18\n--max-pixels=5\n--ops-bind=127.0.0.1:0"
        ),
        format!(
            "--services=faq\n--faq-model={file}\n--otlp-endpoint=http://x:4318\n--otlp-header=a=b\n--trace-sample=0.5\n--trace-attribute=k=v"
        ),
        "--max-images=99999999999\n--trace-sample=2\n--tls-cert=x".to_owned(),
    ];
    lines.map(String::into_bytes).into()
}
