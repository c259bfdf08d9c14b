//! TLS on a port: the certificate that handshakes present, which may be exchanged while connections are open, and the
//! handshake itself. Versions 1.2 and 1.3 with rustls' own choice of ciphers, all of them with forward secrecy.
//!
//! When files are read is [`super::reload`]'s to say.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use metrics::{Counter, Gauge};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, InconsistentKeys, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use super::lingering::Lingering;
use crate::{config::TlsConfig, metrics::Metrics};

/// The first byte of every connection that begins with a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate in it.
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    /// A certificate in it is damaged.
    #[error("{path} holds a certificate that cannot be read: {problem}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No key in it.
    #[error("{0} holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted)")]
    NoKey(PathBuf),
    /// A key that is damaged, or of a kind that is not supported.
    #[error("{path} holds a private key that cannot be used: {problem}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// They do not belong together.
    #[error("the private key in {key} does not belong to the first certificate in {cert}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// What handshakes present.
#[derive(Clone)]
pub struct Tls {
    files: TlsConfig,
    identity: Arc<Identity>,
    expiry: Gauge,
    failures: Failures,
}

#[derive(Debug, Default)]
struct Identity(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Tls {
    /// Presents nothing until [`Tls::take`] has a certificate.
    pub fn new(files: TlsConfig, metrics: &Metrics) -> Self {
        let failed = |reason| metrics.handshake_failures(reason);
        let failures = Failures {
            timeout: failed("timeout"),
            not_tls: failed("not_tls"),
            closed: failed("closed"),
            refused: failed("refused"),
        };
        Self { files, identity: Arc::default(), expiry: metrics.certificate_expiry(), failures }
    }

    /// Lets the contents of the certificate's file and of the key's take over for handshakes from now on; says until when
    /// the certificate is valid, as Unix time.
    ///
    /// # Errors
    /// They cannot be used; what was presented before still is.
    pub fn take(&self, cert: &[u8], key: &[u8]) -> Result<i64, TlsError> {
        let chain = self.chain(cert)?;
        let unreadable = |problem: String| TlsError::Key { path: self.files.key.clone(), problem };
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(key) => key,
            Err(rustls::pki_types::pem::Error::NoItemsFound) => {
                return Err(TlsError::NoKey(self.files.key.clone()));
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let expiry = self.expiry_of(&chain[0])?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { cert: self.files.cert.clone(), key: self.files.key.clone() }
            }
            error => unreadable(error.to_string()),
        })?;
        self.identity.0.store(Some(Arc::new(certified)));
        self.expiry.set(expiry as f64);
        Ok(expiry)
    }

    /// At least one certificate.
    fn chain(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let path = self.files.cert.clone();
        match chain {
            Ok(chain) if chain.is_empty() => Err(TlsError::NoCertificate(path)),
            Ok(chain) => Ok(chain),
            Err(error) => Err(TlsError::Certificate { path, problem: error.to_string() }),
        }
    }

    fn expiry_of(&self, certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, parsed) = parsed.map_err(|error| TlsError::Certificate {
            path: self.files.cert.clone(),
            problem: error.to_string(),
        })?;
        Ok(parsed.validity().not_after.timestamp())
    }

    /// For a port that speaks `protocols`, by their ALPN names, the preferred one first.
    pub fn acceptor(&self, protocols: &[&str]) -> Acceptor {
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("bug: ring has ciphers for both versions")
            .with_no_client_auth()
            .with_cert_resolver(self.identity.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Acceptor { inner: TlsAcceptor::from(Arc::new(config)), failures: self.failures.clone() }
    }
}

/// Handshakes that came to nothing, by why.
#[derive(Clone)]
struct Failures {
    timeout: Counter,
    not_tls: Counter,
    closed: Counter,
    refused: Counter,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it did not come to an end in time")]
    Timeout,
    #[error("the client does not speak TLS here; it may want https:// in its URL")]
    NotTls,
    #[error("the client hung up: {0}")]
    Closed(io::Error),
    #[error("no agreement: {0}")]
    Refused(io::Error),
}

/// Does the handshakes of one port.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    failures: Failures,
}

impl Acceptor {
    /// Shakes hands within `limit`; `None` where nothing came of it, once the connection is closed.
    pub(super) async fn shake(&self, stream: TcpStream, limit: Duration) -> Option<TlsStream<Lingering>> {
        let shaken = timeout(limit, self.attempt(stream)).await;
        let (failed, stream) = match shaken {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err((failed, stream))) => (failed, Some(stream)),
            Err(_elapsed) => (Failed::Timeout, None),
        };
        let counter = match &failed {
            Failed::Timeout => &self.failures.timeout,
            Failed::NotTls => &self.failures.not_tls,
            Failed::Closed(_) => &self.failures.closed,
            Failed::Refused(_) => &self.failures.refused,
        };
        counter.increment(1);
        tracing::debug!(%failed, "no TLS handshake");
        if let Some(mut stream) = stream {
            let _closed_already = stream.shutdown().await;
        }
        None
    }

    async fn attempt(&self, stream: TcpStream) -> Result<TlsStream<Lingering>, (Failed, Lingering)> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first[0] != HANDSHAKE => return Err((Failed::NotTls, Lingering::new(stream))),
            Ok(1) => {}
            Ok(_) => {
                return Err((Failed::Closed(io::ErrorKind::UnexpectedEof.into()), Lingering::new(stream)));
            }
            Err(error) => return Err((Failed::Closed(error), Lingering::new(stream))),
        }
        let accepted = self.inner.accept(Lingering::new(stream)).into_fallible().await;
        accepted.map_err(|(error, stream)| {
            match error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                true => (Failed::Refused(error), stream),
                false => (Failed::Closed(error), stream),
            }
        })
    }
}
