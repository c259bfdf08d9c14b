//! Whole connections to a running server, byte for byte: HTTP/1 and HTTP/2 on one port, gRPC on the other, questions behind
//! both. Whatever comes, each answer is one that the server means to give.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown as Half, TcpStream},
    sync::OnceLock,
    time::Duration,
};

use convoy::{
    app::{App, Listeners},
    config::{
        ClientsConfig, Config, ConnectionsConfig, FaqConfig, HealthConfig, HttpConfig, IngressConfig,
        MemoryConfig, TraceConfig,
    },
    server::Shutdown,
};

/// The most that is read of answers: `/metrics` and `/openapi.json` are the longest.
const MAX_ANSWER: u64 = 16 << 20;

/// The first byte picks the port, the rest is what a client sends before it closes its side.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = super::form(data) else { return };
    let [http, grpc] = *ports();
    let mut stream = connect(if form % 2 == 0 { http } else { grpc });
    // A server that has seen enough may close before all is sent.
    let _refused = stream.write_all(rest).and_then(|()| stream.shutdown(Half::Write));
    let mut answer = Vec::new();
    match (&stream).take(MAX_ANSWER).read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "no end of the answer: {error}"),
    }
    if form % 2 == 0 && answer.starts_with(b"HTTP/1.1 ") {
        let status = answer.get(9..12).unwrap_or_default();
        assert_ne!(status, b"500", "{}", String::from_utf8_lossy(&answer));
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// The ports of the server of this process.
fn ports() -> &'static [u16; 2] {
    static PORTS: OnceLock<[u16; 2]> = OnceLock::new();
    PORTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("faq.safetensors");
        super::faq_model::model().save(&model).unwrap();
        let config = config(model);
        let app = App::build(&config).unwrap();
        let (bound, ports) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _folder = folder;
            convoy::app::runtime().unwrap().block_on(async move {
                let listeners = Listeners::bind(&config).await.unwrap();
                let grpc = listeners.grpc.as_ref().unwrap().local_addr().unwrap().port();
                bound.send([listeners.http.local_addr().unwrap().port(), grpc]).unwrap();
                app.serve(listeners, std::future::pending::<Shutdown>()).await
            })
        });
        ports.recv().unwrap()
    })
}

fn config(model: std::path::PathBuf) -> Config {
    Config {
        bind: "127.0.0.1:0".parse().unwrap(),
        grpc_bind: Some("127.0.0.1:0".parse().unwrap()),
        photos: None,
        faq: Some(FaqConfig { model, embeddings: None, threads: 1, queue: 64 }),
        http: HttpConfig {
            admin: false,
            max_body: 1 << 20,
            max_images: 16,
            deadline: Duration::from_secs(2),
            max_deadline: Duration::from_secs(4),
            read_timeout: Duration::from_secs(1),
            connections: ConnectionsConfig { max: 64, ..ConnectionsConfig::default() },
            lame_duck: Duration::ZERO,
            grace: Duration::ZERO,
        },
        memory: MemoryConfig::default(),
        clients: ClientsConfig::default(),
        health: HealthConfig::default(),
        trace: TraceConfig::default(),
        ingress: IngressConfig::default(),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{more}\r\n");
    let two = get("/livez", "") + &post("/faq", r#"{"question": "copy an object", "top": 1}"#);
    let chunked = "POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"inp\r\n9\r\nut\": \"x\"}\r\n0\r\n\r\n";
    let infer = r#"{"inputs":[{"name":"question","shape":[1],"datatype":"BYTES","data":["sort"]}]}"#;
    let texts = [
        post("/faq", r#"{"question": "copy an object", "top": 1}"#),
        post("/score", r#"{"input": "copy an object"}"#),
        post("/v2/models/faq/infer", infer),
        post("/v2/repository/index", "{\"ready\": true}"),
        post("/v2/repository/models/faq/load", ""),
        two,
        chunked.to_owned(),
        get("/", "accept: text/html\r\n"),
        get("/v2/models/faq/stats", "accept-encoding: gzip\r\nx-convoy-deadline-ms: 5\r\n"),
        get("/classify?top=3", "expect: 100-continue\r\ncontent-length: 5\r\n"),
        "OPTIONS /faq HTTP/1.1\r\norigin: b\r\naccess-control-request-method: POST\r\n\r\n".to_owned(),
    ];
    let mut seeds: Vec<_> = texts.iter().map(|text| super::formed(0, text)).collect();
    seeds.extend([super::formed(0, http2()), super::formed(1, http2())]);
    seeds
}

/// The preface, empty settings, and the head of `GET /livez` on stream 1 in HPACK's literals.
fn http2() -> Vec<u8> {
    let mut head = vec![0x82, 0x86, 0x04, 6];
    head.extend(b"/livez");
    head.extend([0x41, 1, b'a']);
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 5, 1, &head)].concat()
}
