//! The keys of an OpenID Connect issuer: kept here, fetched on a thread of their own, again every so often and when a token
//! names a key that is not known. While the issuer is away the keys from before stay valid.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use metrics::Counter;
use serde::Deserialize;

use super::{
    jwks::{JwksError, KeySet, MAX_SET},
    token::{self, Claims, Expected, TokenError},
};
use crate::config::{JwksSource, OidcConfig};

/// Between two looks at an issuer that has given its keys.
const REFRESH: Duration = Duration::from_secs(600);

/// Between two looks while there are no keys at all.
const WITHOUT_KEYS: Duration = Duration::from_secs(5);

/// For one look, from the first name to resolve to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or none that counts.
    #[error("{url} cannot be read: {source}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// Another document than that of an issuer.
    #[error("{url} is not a discovery document: {source}")]
    Document {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The document is somebody else's (Discovery 1.0, section 4.3).
    #[error("{url} tells of another issuer; give --oidc-issuer exactly as the tokens' `iss` has it")]
    OtherIssuer {
        /// What was asked for.
        url: String,
    },
    /// Keys over a network without TLS.
    #[error("{url} names keys that are not at an https:// URL")]
    Insecure {
        /// What was asked for.
        url: String,
    },
    /// What came is no set of keys.
    #[error("the keys at {url} cannot be used: {source}")]
    Keys {
        /// What was asked for.
        url: String,
        /// What is wrong with them.
        source: JwksError,
    },
}

/// An issuer whose tokens are taken.
pub struct Issuer {
    expected: Expected,
    keys: Arc<ArcSwap<KeySet>>,
    /// Asks the fetching thread to look again; it ends when this is gone. `None` where keys come from a file.
    look: Option<Sender<()>>,
}

impl Issuer {
    /// Whose keys come from a file, by [`Issuer::take_keys`], or over the network, from now on. `failures` counts looks that
    /// brought no keys.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(config: &OidcConfig, failures: Counter) -> std::io::Result<Self> {
        let keys: Arc<ArcSwap<KeySet>> = Arc::default();
        let expected = Expected { issuer: config.issuer.clone(), audience: config.audience.clone() };
        let look = match &config.keys {
            JwksSource::File(_) => None,
            JwksSource::Discovery | JwksSource::Url(_) => {
                let (look, asked) = bounded(1);
                let fetching = Fetching { agent: agent(), config: config.clone(), failures };
                let keys = keys.clone();
                thread::Builder::new()
                    .name("issuer".to_owned())
                    .spawn(move || fetching.run(&keys, &asked))?;
                Some(look)
            }
        };
        Ok(Self { expected, keys, look })
    }

    /// Lets the keys of a file take over; how many there are.
    ///
    /// # Errors
    /// It holds none; those from before stay valid.
    pub fn take_keys(&self, file: &[u8]) -> Result<usize, JwksError> {
        let keys = KeySet::parse(file)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// What a token says, if it is valid. One that names a key that is not known has it looked for, and is valid once it is
    /// there.
    ///
    /// # Errors
    /// It is not valid.
    pub fn verify(&self, token: &[u8], now: SystemTime) -> Result<Claims, TokenError> {
        let verified = token::verify(token, &self.keys.load(), &self.expected, now);
        if let (Err(TokenError::UnknownKey), Some(look)) = (&verified, &self.look) {
            let _asked_already = look.try_send(());
        }
        verified
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .max_redirects(0)
        .user_agent(concat!("convoy/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

/// What the fetching thread needs.
struct Fetching {
    agent: ureq::Agent,
    config: OidcConfig,
    failures: Counter,
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Fetching {
    fn run(&self, keys: &ArcSwap<KeySet>, asked: &Receiver<()>) {
        loop {
            let started = Instant::now();
            self.refresh(keys);
            let least = self.config.refetch;
            let (least, most) = match keys.load().is_empty() {
                true => (least.min(WITHOUT_KEYS), WITHOUT_KEYS),
                false => (least, REFRESH),
            };
            // Requests to look again wait in the channel meanwhile, where there is room for one.
            if wait(asked, most).is_break() {
                return;
            }
            if let Some(rest) = least.checked_sub(started.elapsed()) {
                thread::sleep(rest);
            }
        }
    }

    fn refresh(&self, keys: &ArcSwap<KeySet>) {
        match self.fetch() {
            Ok(fetched) => {
                if fetched.len() != keys.load().len() {
                    tracing::info!(
                        issuer = self.config.issuer,
                        keys = fetched.len(),
                        "the issuer's keys are here"
                    );
                }
                keys.store(Arc::new(fetched));
            }
            Err(error) => {
                self.failures.increment(1);
                tracing::warn!(
                    issuer = self.config.issuer,
                    keys = keys.load().len(),
                    %error,
                    "no new keys of the issuer; those from before stay valid"
                );
            }
        }
    }

    fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = match &self.config.keys {
            JwksSource::Url(url) => url.clone(),
            JwksSource::Discovery | JwksSource::File(_) => self.discover()?,
        };
        let bytes = self.get(&url)?;
        KeySet::parse(&bytes).map_err(|source| FetchError::Keys { url, source })
    }

    fn discover(&self) -> Result<String, FetchError> {
        let url = format!("{}{DISCOVERY}", self.config.issuer.trim_end_matches('/'));
        let bytes = self.get(&url)?;
        let found: Discovered = match serde_json::from_slice(&bytes) {
            Ok(found) => found,
            Err(source) => return Err(FetchError::Document { url, source }),
        };
        if found.issuer != self.config.issuer {
            return Err(FetchError::OtherIssuer { url });
        }
        // The configuration has seen to it that only an issuer on this machine goes without TLS.
        if !found.jwks_uri.starts_with("https://") && self.config.issuer.starts_with("https://") {
            return Err(FetchError::Insecure { url });
        }
        Ok(found.jwks_uri)
    }

    fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let unreachable = |source| FetchError::Unreachable { url: url.to_owned(), source: Box::new(source) };
        let mut answer = self.agent.get(url).call().map_err(unreachable)?;
        answer.body_mut().with_config().limit(MAX_SET as u64).read_to_vec().map_err(unreachable)
    }
}

/// Waits until somebody asks or `most` has passed; break when nobody can ask any more.
fn wait(asked: &Receiver<()>, most: Duration) -> std::ops::ControlFlow<()> {
    match asked.recv_timeout(most) {
        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => std::ops::ControlFlow::Break(()),
        _ => std::ops::ControlFlow::Continue(()),
    }
}
