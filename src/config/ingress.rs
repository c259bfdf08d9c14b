//! Flags of who may ask and how: certificates, keys, tokens, other origins, the port for operators.
//!
//! What the files hold is checked where they are read; here only that they are there, and what the flags say of each other.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use http::{Uri, uri::Scheme};

use super::Checks;

/// Between two looks at an issuer, at the least: anybody can make up the id of a key.
const REFETCH: Duration = Duration::from_secs(60);

/// Flags of who may ask and how.
#[derive(Debug, Clone, Args)]
pub struct IngressArgs {
    /// Certificate chain in PEM, the server's own first; both ports then speak TLS only. Read again when it changes.
    #[arg(long, env = "CONVOY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate in PEM.
    #[arg(long, env = "CONVOY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Keys that callers must give, as `convoy keys new` writes them; read again when it changes. Everybody may ask when
    /// neither this nor --oidc-issuer is given.
    #[arg(long, env = "CONVOY_KEYS", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Issuer whose access tokens are taken as well, such as `https://login.microsoftonline.com/TENANT/v2.0`.
    #[arg(long, env = "CONVOY_OIDC_ISSUER", value_name = "URL")]
    pub oidc_issuer: Option<String>,
    /// Audience that those tokens must be for.
    #[arg(long, env = "CONVOY_OIDC_AUDIENCE", value_name = "AUDIENCE")]
    pub oidc_audience: Option<String>,
    /// The issuer's keys, as a file or a URL; found by its discovery document when not given.
    #[arg(long, env = "CONVOY_OIDC_JWKS", value_name = "FILE|URL")]
    pub oidc_jwks: Option<String>,
    /// Origin whose pages may ask from a browser, such as `https://app.example.com`, or `*`; may be repeated.
    #[arg(long = "cors-origin", env = "CONVOY_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    pub cors_origins: Vec<String>,
    /// Address and port for GET /livez, /readyz and /metrics without TLS or keys; never expose it. Off when not given.
    #[arg(long, env = "CONVOY_OPS_BIND", value_name = "ADDRESS")]
    pub ops_bind: Option<SocketAddr>,
    /// Milliseconds between looks at the certificate and the keys.
    #[arg(long, env = "CONVOY_RELOAD_INTERVAL_MS", default_value_t = 5_000)]
    pub reload_interval_ms: u64,
}

/// Who may ask and how.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// What TLS is spoken with, if it is.
    pub tls: Option<TlsConfig>,
    /// The file of keys, if there is one.
    pub keys: Option<PathBuf>,
    /// Whose tokens are taken, if anybody's.
    pub oidc: Option<OidcConfig>,
    /// Origins whose pages may ask; `*` is any.
    pub cors_origins: Vec<String>,
    /// Where operators ask, if anywhere.
    pub ops_bind: Option<SocketAddr>,
    /// Between looks at files that may change.
    pub reload_interval: Duration,
}

impl Default for IngressConfig {
    /// Everybody may ask, in the clear.
    fn default() -> Self {
        Self {
            tls: None,
            keys: None,
            oidc: None,
            cors_origins: Vec::new(),
            ops_bind: None,
            reload_interval: Duration::from_secs(5),
        }
    }
}

impl IngressConfig {
    /// Whether callers must show who they are.
    pub fn guarded(&self) -> bool {
        self.keys.is_some() || self.oidc.is_some()
    }
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Whose tokens are taken.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// What their `iss` must be.
    pub issuer: String,
    /// What their `aud` must be or hold.
    pub audience: String,
    /// Where the keys are.
    pub keys: JwksSource,
    /// Between two looks at the issuer, at the least, however many tokens name keys that are not known.
    pub refetch: Duration,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// Where the issuer's discovery document says.
    Discovery,
    /// At a URL.
    Url(String),
    /// In a file, which is read again when it changes.
    File(PathBuf),
}

impl IngressArgs {
    pub(super) fn check(&self, checks: &mut Checks) -> IngressConfig {
        checks.range("--reload-interval-ms", self.reload_interval_ms, 1, 3_600_000);
        if let Some(keys) = &self.keys {
            checks.file("--keys", keys);
        }
        IngressConfig {
            tls: self.tls(checks),
            keys: self.keys.clone(),
            oidc: self.oidc(checks),
            cors_origins: self.origins(checks),
            ops_bind: self.ops_bind,
            reload_interval: Duration::from_millis(self.reload_interval_ms),
        }
    }

    fn tls(&self, checks: &mut Checks) -> Option<TlsConfig> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                checks.file("--tls-cert", cert);
                checks.file("--tls-key", key);
                Some(TlsConfig { cert: cert.clone(), key: key.clone() })
            }
            (cert, _) => {
                let (given, missing) = match cert {
                    Some(_) => ("--tls-cert", "--tls-key"),
                    None => ("--tls-key", "--tls-cert"),
                };
                checks.problems.push(format!("{given} needs {missing} beside it"));
                None
            }
        }
    }

    fn oidc(&self, checks: &mut Checks) -> Option<OidcConfig> {
        let (issuer, audience) = match (&self.oidc_issuer, &self.oidc_audience) {
            (None, None) => {
                if self.oidc_jwks.is_some() {
                    checks.problems.push("--oidc-jwks needs --oidc-issuer and --oidc-audience".to_owned());
                }
                return None;
            }
            (Some(issuer), Some(audience)) => (issuer.clone(), audience.clone()),
            (issuer, _) => {
                let missing = if issuer.is_some() { "--oidc-audience" } else { "--oidc-issuer" };
                checks.problems.push(format!("tokens are checked against both: {missing} is missing"));
                return None;
            }
        };
        checks.secure("--oidc-issuer", &issuer);
        let keys = match &self.oidc_jwks {
            None => JwksSource::Discovery,
            Some(url) if url.contains("://") => {
                checks.secure("--oidc-jwks", url);
                JwksSource::Url(url.clone())
            }
            Some(path) => {
                checks.file("--oidc-jwks", path.as_ref());
                JwksSource::File(path.into())
            }
        };
        Some(OidcConfig { issuer, audience, keys, refetch: REFETCH })
    }

    fn origins(&self, checks: &mut Checks) -> Vec<String> {
        for origin in self.cors_origins.iter().filter(|origin| !is_origin(origin)) {
            checks.problems.push(format!(
                "--cors-origin {origin}: an origin is a scheme and a host, perhaps a port, as in https://app.example.com; \
                 or * for any"
            ));
        }
        self.cors_origins.clone()
    }
}

/// What browsers send as `Origin`: no path, not even `/`, in lower case.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (scheme, authority) = (uri.scheme_str(), uri.authority().map(|authority| authority.as_str()));
    let rebuilt = scheme.zip(authority).map(|(scheme, authority)| format!("{scheme}://{authority}"));
    text == "*" || rebuilt.is_some_and(|origin| origin == text && origin == origin.to_ascii_lowercase())
}

impl Checks {
    /// Keys that come over the network come over TLS, or from this machine.
    fn secure(&mut self, flag: &str, url: &str) {
        let uri = url.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let loopback = |uri: &Uri| {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        };
        let good = uri.is_some_and(|uri| {
            uri.scheme() == Some(&Scheme::HTTPS) || (uri.scheme() == Some(&Scheme::HTTP) && loopback(&uri))
        });
        if !good {
            self.problems.push(format!("{flag} {url}: it must be an https:// URL"));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: IngressArgs,
    }

    fn problems(line: &[&str]) -> Vec<String> {
        let mut checks = Checks::default();
        Line::parse_from([&["serve"], line].concat()).args.check(&mut checks);
        checks.problems
    }

    #[test]
    fn halves_of_pairs_are_named() {
        for (line, part) in [
            (&["--tls-cert", file!()][..], "--tls-cert needs --tls-key"),
            (&["--tls-key", file!()], "--tls-key needs --tls-cert"),
            (&["--tls-cert", "/nowhere/c", "--tls-key", file!()], "--tls-cert /nowhere/c"),
            (&["--keys", "/nowhere/k"], "--keys /nowhere/k"),
            (&["--oidc-issuer", "https://a.example"], "--oidc-audience is missing"),
            (&["--oidc-audience", "a"], "--oidc-issuer is missing"),
            (&["--oidc-jwks", "k"], "--oidc-jwks needs"),
            (&["--oidc-issuer", "http://a.example", "--oidc-audience", "a"], "https://"),
        ] {
            let problems = problems(line);
            assert!(problems.len() == 1 && problems[0].contains(part), "{line:?}: {problems:?}");
        }
        let loopback = ["--oidc-issuer", "http://127.0.0.1:9/", "--oidc-audience", "a"];
        assert_eq!(problems(&loopback), [""; 0]);
        assert_eq!(problems(&["--tls-cert", file!(), "--tls-key", file!()]), [""; 0]);
    }

    #[test]
    fn an_origin_is_what_browsers_send() {
        for origin in ["*", "https://app.example.com", "http://localhost:3000", "http://[::1]:8080"] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in
            ["", "app.example.com", "https://app.example.com/", "https://a/b", "https://App.example", "null"]
        {
            assert!(!is_origin(other), "{other}");
        }
    }
}
