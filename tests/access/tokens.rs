//! Tokens of an OpenID Connect issuer: one that runs here, in this test, and serves its discovery document and keys over HTTP.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use convoy::{
    access::key::Key,
    config::{Config, IngressConfig, JwksSource, OidcConfig},
};
use reqwest::Client;
use ring::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use serde_json::{Value, json};

use super::{Keys, asked, entry, guarded, log, metrics, status, support::Server};

const AUDIENCE: &str = "11111111-2222-3333-4444-555555555555";

/// The RSA key of RFC 7515, appendix A.2, in the order n, d, p, q, dp, dq, qi: making one takes more than ring does.
const RSA: [&str; 7] = [
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ",
    "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc",
    "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc",
    "BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0",
    "h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU",
    "IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U",
];

/// A key that signs, and its id.
enum Signer {
    Es256(&'static str, EcdsaKeyPair),
    Rs256(&'static str, RsaKeyPair),
}

impl Signer {
    fn es256(id: &'static str) -> Self {
        let rng = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &rng).unwrap();
        Self::Es256(id, pair)
    }

    fn rs256(id: &'static str) -> Self {
        let [n, d, p, q, dp, dq, qi] = RSA.map(|text| URL_SAFE_NO_PAD.decode(text).unwrap());
        let public_key = PublicKeyComponents { n, e: vec![1, 0, 1] };
        let parts = KeyPairComponents { public_key, d, p, q, dP: dp, dQ: dq, qInv: qi };
        Self::Rs256(id, RsaKeyPair::from_components(&parts).unwrap())
    }

    fn public(&self) -> Value {
        match self {
            Self::Es256(id, pair) => {
                let point = pair.public_key().as_ref();
                let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
                json!({"kty": "EC", "use": "sig", "kid": id, "crv": "P-256", "x": part(&point[1..33]),
                    "y": part(&point[33..])})
            }
            Self::Rs256(id, _) => json!({"kty": "RSA", "use": "sig", "kid": id, "n": RSA[0], "e": "AQAB"}),
        }
    }

    fn sign(&self, body: &Value) -> String {
        let (algorithm, id) = match self {
            Self::Es256(id, _) => ("ES256", id),
            Self::Rs256(id, _) => ("RS256", id),
        };
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap());
        let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": algorithm, "kid": id})), part(body));
        let signature = match self {
            Self::Es256(_, pair) => {
                pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
            }
            Self::Rs256(_, pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// An issuer that serves its documents until it is dropped or told to fail.
struct Issuer {
    address: SocketAddr,
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = Self {
            address: listener.local_addr().unwrap(),
            keys: Arc::new(Mutex::new(Some(set(signers)))),
            asked: Arc::default(),
        };
        let (url, keys, asked) = (issuer.url(), issuer.keys.clone(), issuer.asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &url, keys.lock().unwrap().as_ref(), &asked);
            }
        });
        issuer
    }

    fn url(&self) -> String {
        format!("http://{}/tenant/v2.0", self.address)
    }

    /// Other keys, or none: it is away then.
    fn turn(&self, signers: Option<&[&Signer]>) {
        *self.keys.lock().unwrap() = signers.map(set);
    }

    fn config(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.url(),
            audience: AUDIENCE.to_owned(),
            keys: JwksSource::Discovery,
            refetch: Duration::from_millis(20),
        }
    }

    /// What its tokens say: valid for an hour, with the scope to score.
    fn claims(&self) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({"iss": self.url(), "aud": AUDIENCE, "exp": now + 3600, "nbf": now - 10, "azp": "a-client",
            "roles": ["convoy.score"]})
    }
}

fn set(signers: &[&Signer]) -> Value {
    json!({"keys": signers.iter().map(|signer| signer.public()).collect::<Vec<_>>()})
}

fn serve(mut stream: TcpStream, url: &str, keys: Option<&Value>, asked: &AtomicUsize) {
    let mut head = [0; 4096];
    let length = stream.read(&mut head).unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..length]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer = match (path, keys) {
        ("/tenant/v2.0/.well-known/openid-configuration", Some(_)) => {
            json!({"issuer": url, "jwks_uri": format!("{url}/keys"), "token_endpoint": "https://x"})
        }
        ("/tenant/v2.0/keys", Some(keys)) => {
            asked.fetch_add(1, Ordering::Relaxed);
            keys.clone()
        }
        _ => {
            let _gone =
                stream.write_all(b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return;
        }
    };
    let body = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _gone = stream.write_all((head + &body).as_bytes());
}

fn with_tokens(oidc: OidcConfig) -> Config {
    let config = guarded(None);
    Config { ingress: IngressConfig { oidc: Some(oidc), ..config.ingress.clone() }, ..config }
}

/// Asks with `token` until the answer has this status: the server has been to the issuer.
async fn until(server: &Server, token: &str, wanted: u16) {
    let end = Instant::now() + Duration::from_secs(20);
    while status(asked(server).bearer_auth(token)).await != wanted {
        assert!(Instant::now() < end, "not {wanted} in 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn tokens_of_the_issuer_are_taken_and_no_others() {
    let log = log();
    let (ec, rsa, forger) = (Signer::es256("ec"), Signer::rs256("rsa"), Signer::es256("ec"));
    let issuer = Issuer::start(&[&ec, &rsa]);
    let server = Server::start(&with_tokens(issuer.config()));
    let claims = issuer.claims();
    let good = rsa.sign(&claims);
    until(&server, &good, 200).await;
    let ask = async |token: &str| status(asked(&server).bearer_auth(token)).await;
    assert_eq!(ask(&ec.sign(&claims)).await, 200);
    assert_eq!(status(asked(&server)).await, 401);
    let with = |name: &str, value: Value| {
        let mut changed = claims.clone();
        changed[name] = value;
        rsa.sign(&changed)
    };
    let now = claims["nbf"].as_u64().unwrap();
    for token in [
        with("aud", json!("another")),
        with("iss", json!("https://login.example/other")),
        with("exp", json!(now - 3600)),
        with("nbf", json!(now + 3600)),
        forger.sign(&claims),
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), good.split('.').nth(1).unwrap()),
        good.replace("ey", "eY"),
    ] {
        assert_eq!(ask(&token).await, 401, "{token}");
    }
    assert_eq!(ask(&with("roles", json!(["convoy.admin"]))).await, 403);
    assert_eq!(ask(&with("roles", json!([]))).await, 403);
    let mut delegated = claims.clone();
    delegated["roles"] = Value::Null;
    delegated["scp"] = json!("openid convoy.score");
    assert_eq!(ask(&rsa.sign(&delegated)).await, 200);
    let admin = Client::new().post(server.url("/admin/faq/reload"));
    assert_eq!(status(admin.bearer_auth(with("roles", json!(["convoy.admin"])))).await, 200);
    let metrics = metrics(&server).await;
    assert!(metrics.contains(r#"convoy_access_total{outcome="expired"} 1"#), "{metrics}");
    server.end();
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    for part in good.split('.').skip(1) {
        assert!(!log.contains(part) && !metrics.contains(part), "a token in logs or metrics");
    }
}

#[tokio::test]
async fn the_issuers_keys_change_and_stay_while_it_is_away() {
    let (first, second, third) = (Signer::es256("first"), Signer::es256("second"), Signer::es256("third"));
    let issuer = Issuer::start(&[&first]);
    let server = Server::start(&with_tokens(issuer.config()));
    let token = |signer: &Signer| signer.sign(&issuer.claims());
    until(&server, &token(&first), 200).await;
    issuer.turn(Some(&[&first, &second]));
    until(&server, &token(&second), 200).await;
    assert_eq!(status(asked(&server).bearer_auth(token(&first))).await, 200);
    issuer.turn(None);
    let failures = async || {
        let text = metrics(&server).await;
        super::metric(&text, "convoy_reload_failures_total{what=\"issuer\"}")
    };
    while failures().await == 0.0 {
        assert_eq!(status(asked(&server).bearer_auth(token(&third))).await, 401);
    }
    assert_eq!(status(asked(&server).bearer_auth(token(&first))).await, 200, "what was known stays known");
    issuer.turn(Some(&[&third]));
    until(&server, &token(&third), 200).await;
    until(&server, &token(&first), 401).await;
}

#[tokio::test]
async fn unknown_keys_make_no_storm_at_the_issuer() {
    let (known, unknown) = (Signer::es256("known"), Signer::es256("unknown"));
    let issuer = Issuer::start(&[&known]);
    let server =
        Server::start(&with_tokens(OidcConfig { refetch: Duration::from_secs(3600), ..issuer.config() }));
    until(&server, &known.sign(&issuer.claims()), 200).await;
    let token = unknown.sign(&issuer.claims());
    for _ in 0..50 {
        assert_eq!(status(asked(&server).bearer_auth(&token)).await, 401);
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_issuers_keys_may_lie_in_a_file_and_keys_of_ones_own_go_with_them() {
    let (first, second) = (Signer::rs256("first"), Signer::es256("second"));
    let issuer = Issuer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    fs::write(&file, set(&[&first]).to_string()).unwrap();
    let key = Key::random();
    let keys = Keys::new(&[entry("web", &key, "")]);
    let mut settings = with_tokens(OidcConfig { keys: JwksSource::File(file.clone()), ..issuer.config() });
    settings.ingress.keys = Some(keys.path.clone());
    let server = Server::start(&settings);
    let token = |signer: &Signer| signer.sign(&issuer.claims());
    assert_eq!(status(asked(&server).bearer_auth(token(&first))).await, 200);
    assert_eq!(status(asked(&server).bearer_auth(key.secret())).await, 200);
    assert_eq!(status(asked(&server).bearer_auth(token(&second))).await, 401);
    fs::write(&file, set(&[&second]).to_string()).unwrap();
    until(&server, &token(&second), 200).await;
    assert_eq!(status(asked(&server).bearer_auth(token(&first))).await, 401);
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 0, "nobody is asked where there is a file");
}
