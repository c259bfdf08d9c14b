//! An issuer's tokens, and a certificate.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const ISSUER: &str = "https://issuer.example/tenant/v2.0";
pub const AUDIENCE: &str = "11111111-2222-3333-4444-555555555555";

/// Signs what it is asked to; the server has its key from a file.
pub struct Issuer {
    _folder: TempDir,
    pub file: PathBuf,
    pair: EcdsaKeyPair,
}

impl Issuer {
    pub fn new() -> Self {
        let rng = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &rng).unwrap();
        let point = pair.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kty": "EC", "use": "sig", "kid": "k", "crv": "P-256", "x": part(&point[1..33]),
            "y": part(&point[33..])});
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwks.json");
        fs::write(&file, json!({"keys": [key]}).to_string()).unwrap();
        Self { _folder: folder, file, pair }
    }

    /// A token of `owner` with `roles` that ends in so many seconds.
    pub fn token(&self, owner: &str, roles: &[&str], ends_in: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        self.sign(
            &json!({"iss": ISSUER, "aud": AUDIENCE, "exp": now + ends_in, "azp": owner, "roles": roles}),
        )
    }

    pub fn sign(&self, body: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "k"})), part(body));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// A folder with `tls.crt` and `tls.key`.
pub struct Certificate(TempDir);

impl Certificate {
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

pub fn certificate() -> Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let folder = Certificate(tempfile::tempdir().unwrap());
    fs::write(folder.path("tls.crt"), made.pem()).unwrap();
    fs::write(folder.path("tls.key"), key.serialize_pem()).unwrap();
    folder
}
