//! Who may ask for what: keys from a file, tokens of an issuer, and how many requests a second each name has.
//!
//! Decisions are apart from machinery: [`keyring`], [`token`] and [`limit`] decide from bytes and the time they are given;
//! [`Access`] holds what is valid now; [`issuer`] fetches an issuer's keys. When files are read, what a refusal looks like on
//! the wire and what is counted is not known here.

pub mod credential;
pub mod issuer;
pub mod jwks;
pub mod key;
pub mod keyring;
pub mod limit;
pub mod token;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use http::HeaderMap;

use issuer::Issuer;
use key::KeyDigest;
use keyring::{Entry, KeyringError};
use limit::Buckets;
use token::TokenError;

pub use keyring::Keyring;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Ask for scores and about models.
    Score,
    /// Load, unload and reload models.
    Admin,
    /// Read metrics.
    Metrics,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Score, Self::Admin, Self::Metrics];

    /// Its name in files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }

    /// The scope of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether `scope` is in it.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u8))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Scope::name).collect();
        f.write_str(&names.join(" "))
    }
}

/// Somebody who has shown who they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    /// The name of the key, or of the token's application or person.
    pub name: Arc<str>,
    /// Share of the server against others with 1.
    pub weight: f64,
    /// How it was shown.
    pub proof: Proof,
}

/// How somebody has shown who they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Proof {
    /// By a key of the file.
    Key(KeyDigest),
    /// By a token of the issuer, which is valid until then.
    Token {
        /// Its end, leeway included.
        until: SystemTime,
    },
}

impl Proof {
    /// Names of the one kind and of the other are different names.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Token { .. } => "token",
        }
    }
}

/// Why somebody may not. The message is for the caller: it does not tell a wrong key from one that was valid once.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Denied {
    /// Neither a key nor a token came along.
    #[error("a key is wanted: send `Authorization: Bearer KEY` or `x-api-key: KEY`")]
    Missing,
    /// Not a key or token that is valid here; why is for the log.
    #[error("{INVALID}")]
    Unknown(Unknown),
    /// It was valid once.
    #[error("{INVALID}")]
    Expired(Arc<str>),
    /// It is valid, for other things.
    #[error("this key or token does not have the scope `{}`, which this needs", scope.name())]
    Forbidden {
        /// Whose it is.
        name: Arc<str>,
        /// What is wanted.
        scope: Scope,
    },
    /// It is valid, and has been used as often as it may for now.
    #[error("this key has used up its requests for now")]
    RateLimited {
        /// Whose it is.
        name: Arc<str>,
        /// When there is a request left again.
        retry_after: Duration,
    },
}

const INVALID: &str = "the key or token is not valid here: it is unknown, expired or revoked";

/// Why a key or token is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No entry has its digest.
    #[error("no such key")]
    Key,
    /// It looks like a token and is no valid one.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What is valid now.
#[derive(Default)]
pub struct Access {
    keys: ArcSwap<Keyring>,
    issuer: Option<Issuer>,
    buckets: Buckets,
}

impl Access {
    /// Takes tokens of `issuer`, if one is given, and no key until [`Access::take_keys`] has some.
    pub fn new(issuer: Option<Issuer>) -> Self {
        Self { issuer, ..Self::default() }
    }

    /// Lets the keys in `file` take over, all at once; how many there are. What names have used of their rates stays used.
    ///
    /// # Errors
    /// The file cannot be used; the keys from before stay valid.
    pub fn take_keys(&self, file: &[u8]) -> Result<usize, KeyringError> {
        let keys = Keyring::parse(file)?;
        let count = keys.entries().len();
        self.buckets.retain(|name| keys.entries().iter().any(|entry| &*entry.name == name));
        self.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// The issuer whose tokens are taken.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Who asks by what `headers` show, if they may do what needs `scope`.
    ///
    /// # Errors
    /// They may not.
    pub fn check(&self, headers: &HeaderMap, scope: Scope, now: Now) -> Result<Caller, Denied> {
        let secret = credential::of(headers).ok_or(Denied::Missing)?;
        if let Some(entry) = self.keys.load().find(&KeyDigest::of(secret)) {
            return self.of_key(entry, scope, now);
        }
        match &self.issuer {
            Some(issuer) if token::looks_like_one(secret) => of_token(issuer, secret, scope, now.wall),
            _ => Err(Denied::Unknown(Unknown::Key)),
        }
    }

    /// Whether `caller`, who was let in before, may go on with one request more of what needs `scope`: keys are revoked and
    /// used up, and keys and tokens expire, while a stream is open.
    ///
    /// # Errors
    /// They may not.
    pub fn again(&self, caller: &Caller, scope: Scope, now: Now) -> Result<(), Denied> {
        match caller.proof {
            Proof::Key(digest) => match self.keys.load().find(&digest) {
                Some(entry) => self.of_key(entry, scope, now).map(drop),
                None => Err(Denied::Unknown(Unknown::Key)),
            },
            Proof::Token { until } if until <= now.wall => Err(Denied::Expired(caller.name.clone())),
            Proof::Token { .. } => Ok(()),
        }
    }

    fn of_key(&self, entry: &Entry, scope: Scope, now: Now) -> Result<Caller, Denied> {
        let name = &entry.name;
        if entry.expires.is_some_and(|expires| expires <= now.wall) {
            return Err(Denied::Expired(name.clone()));
        }
        if !entry.scopes.contains(scope) {
            return Err(Denied::Forbidden { name: name.clone(), scope });
        }
        if let Some(limit) = entry.limit {
            let taken = self.buckets.take(name, limit, now.instant);
            taken.map_err(|retry_after| Denied::RateLimited { name: name.clone(), retry_after })?;
        }
        Ok(Caller { name: name.clone(), weight: entry.weight, proof: Proof::Key(entry.digest) })
    }
}

fn of_token(issuer: &Issuer, token: &[u8], scope: Scope, wall: SystemTime) -> Result<Caller, Denied> {
    let claims = issuer.verify(token, wall).map_err(|error| match error {
        TokenError::Expired(name) => Denied::Expired(name),
        error => Denied::Unknown(error.into()),
    })?;
    match claims.scopes.contains(scope) {
        true => Ok(Caller { name: claims.name, weight: 1.0, proof: Proof::Token { until: claims.until } }),
        false => Err(Denied::Forbidden { name: claims.name, scope }),
    }
}

/// The time on both clocks: rates are measured on one, and expiry is told on the other.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never goes back.
    pub instant: Instant,
    /// What people's clocks show.
    pub wall: SystemTime,
}

impl Now {
    /// Of this machine.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, HeaderValue};

    use super::*;
    use key::Key;

    fn with(secret: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {secret}")).unwrap())])
    }

    fn entry(name: &str, key: &Key, more: &str) -> String {
        format!("[[key]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", key.digest().hex())
    }

    #[test]
    fn a_key_is_valid_for_its_scopes_until_it_expires_or_is_taken_out() {
        let (web, old) = (Key::random(), Key::random());
        let access = Access::default();
        let expires = "expires = 2026-01-01T00:00:00Z";
        let file = entry("web", &web, "") + &entry("old", &old, expires);
        assert_eq!(access.take_keys(file.as_bytes()), Ok(2));
        let now = Now::read();
        let check = |secret: &str, scope| access.check(&with(secret), scope, now);
        assert_eq!(check(web.secret(), Scope::Score).unwrap().name, "web".into());
        assert_eq!(
            check(web.secret(), Scope::Admin),
            Err(Denied::Forbidden { name: "web".into(), scope: Scope::Admin })
        );
        assert_eq!(check(old.secret(), Scope::Score), Err(Denied::Expired("old".into())));
        assert_eq!(check("cvy_wrong", Scope::Score), Err(Denied::Unknown(Unknown::Key)));
        assert_eq!(access.check(&HeaderMap::new(), Scope::Score, now), Err(Denied::Missing));
        assert!(access.take_keys(b"[[key]]\n").is_err());
        assert!(check(web.secret(), Scope::Score).is_ok(), "a broken file changes nothing");
        assert_eq!(access.take_keys(b"key = []"), Ok(0));
        assert_eq!(check(web.secret(), Scope::Score), Err(Denied::Unknown(Unknown::Key)));
    }

    #[test]
    fn a_rate_is_the_names_and_outlives_a_reload() {
        let (old, new, other) = (Key::random(), Key::random(), Key::random());
        let access = Access::default();
        let rated = "rate = 1\nburst = 2";
        let file =
            entry("web", &old, rated) + &entry("web", &new, rated) + &entry("batch", &other, "rate = 1");
        access.take_keys(file.as_bytes()).unwrap();
        let now = Now::read();
        let check = |key: &Key, now| access.check(&with(key.secret()), Scope::Score, now);
        assert!(check(&old, now).is_ok() && check(&new, now).is_ok());
        access.take_keys(file.as_bytes()).unwrap();
        let refused = check(&old, now).unwrap_err();
        let wanted = Denied::RateLimited { name: "web".into(), retry_after: Duration::from_secs(1) };
        assert_eq!(refused, wanted);
        assert!(check(&other, now).is_ok(), "another key is not touched");
        let later = Now { instant: now.instant + Duration::from_secs(1), ..now };
        assert!(check(&new, later).is_ok() && check(&new, later).is_err());
        let later = Now { instant: later.instant + Duration::from_secs(2), ..now };
        let caller = check(&new, later).unwrap();
        let again = || access.again(&caller, Scope::Score, later);
        assert!(
            again().is_ok() && matches!(again(), Err(Denied::RateLimited { .. })),
            "each request of a stream counts"
        );
        access.take_keys(entry("web", &old, rated).as_bytes()).unwrap();
        assert_eq!(again(), Err(Denied::Unknown(Unknown::Key)), "a stream does not outlive its key");
        let token = Caller { proof: Proof::Token { until: now.wall }, ..caller.clone() };
        assert_eq!(access.again(&token, Scope::Score, now), Err(Denied::Expired("web".into())));
    }
}
