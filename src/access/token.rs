//! Access tokens as OpenID Connect issuers sign them: JWT in compact form (RFC 7515, RFC 7519), verified against the issuer's
//! keys. The algorithm is the key's, never the token's to choose; only RS256 and ES256 exist here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Scope, Scopes, jwks::KeySet};

/// Most bytes of a token; Entra ID's stay below 4 KiB unless they list groups.
const MAX_TOKEN: usize = 16 << 10;

/// How far the issuer's clock and this machine's may be apart.
const LEEWAY: Duration = Duration::from_secs(60);

/// The end of the year 9999 in seconds since 1970: no token needs to be valid longer.
const LAST: f64 = 253_402_300_799.0;

/// What scopes are called in a token: `convoy.score` and so on.
const SCOPE_PREFIX: &str = "convoy.";

/// Most characters of a caller's name that are kept.
const MAX_NAME: usize = 100;

/// Why a token is not valid. No text of the token is in it but the name of whoever it was valid for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64 with the JSON that is due.
    #[error("the token cannot be read")]
    Malformed,
    /// `none`, HS256 and whatever else is not RS256 or ES256, or not what the key is for.
    #[error("the token's algorithm is not the one of the issuer's key")]
    Algorithm,
    /// The issuer has no such key, as far as is known here.
    #[error("the issuer has no key of the token's id")]
    UnknownKey,
    /// Forged or damaged.
    #[error("the token's signature does not fit")]
    Signature,
    /// From elsewhere.
    #[error("the token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Its `exp` has passed.
    #[error("the token has expired")]
    Expired(Arc<str>),
    /// Its `nbf` has not come yet.
    #[error("the token is not valid yet")]
    NotYet,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The application that asks (`azp`, `appid`), else the subject.
    pub name: Arc<str>,
    /// Of `roles` and `scp`.
    pub scopes: Scopes,
    /// When it ends, leeway included.
    pub until: SystemTime,
}

/// Whose tokens are valid.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Their `iss`.
    pub issuer: String,
    /// Their `aud`, or one of it.
    pub audience: String,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; none are.
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Body {
    iss: String,
    aud: OneOrMore,
    exp: f64,
    nbf: Option<f64>,
    azp: Option<String>,
    appid: Option<String>,
    sub: Option<String>,
    roles: Option<OneOrMore>,
    scp: Option<String>,
}

/// A string, or a list of strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

/// Whether a secret has the form of a token rather than of a key.
pub fn looks_like_one(secret: &[u8]) -> bool {
    secret.iter().filter(|byte| **byte == b'.').count() == 2
}

/// What a token says, if one of `keys` has signed it for `expected`, and `now` is its time.
///
/// # Errors
/// Why it is not valid.
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    expected: &Expected,
    now: SystemTime,
) -> Result<Claims, TokenError> {
    let token = std::str::from_utf8(token).ok().filter(|token| token.len() <= MAX_TOKEN);
    let (signed, signature) = token.and_then(|token| token.rsplit_once('.')).ok_or(TokenError::Malformed)?;
    let (head, body) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let head: Head = json(head)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
    if head.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    keys.verify(head.kid.as_deref(), &head.alg, signed.as_bytes(), &signature)?;
    json::<Body>(body)?.claims(expected, now)
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

impl Body {
    fn claims(self, expected: &Expected, now: SystemTime) -> Result<Claims, TokenError> {
        if self.iss != expected.issuer {
            return Err(TokenError::Issuer);
        }
        if !self.aud.all().contains(&expected.audience) {
            return Err(TokenError::Audience);
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = LEEWAY.as_secs_f64();
        let (name, end) = (self.name(), self.exp + leeway);
        if now >= end {
            return Err(TokenError::Expired(name));
        }
        if self.nbf.is_some_and(|nbf| nbf > now + leeway) {
            return Err(TokenError::NotYet);
        }
        let until = UNIX_EPOCH + Duration::from_secs_f64(end.clamp(0.0, LAST));
        Ok(Claims { name, scopes: self.scopes(), until })
    }

    /// It goes into logs, so only what is visible ASCII stays, and not too much of it.
    fn name(&self) -> Arc<str> {
        let name = [&self.azp, &self.appid, &self.sub].into_iter().flatten().next();
        let kept = name.map_or("", String::as_str).chars().filter(char::is_ascii_graphic).take(MAX_NAME);
        kept.collect::<String>().into()
    }

    fn scopes(&self) -> Scopes {
        let roles = self.roles.as_ref().map_or(&[][..], OneOrMore::all).iter().map(String::as_str);
        let delegated = self.scp.as_deref().unwrap_or_default().split(' ');
        roles.chain(delegated).filter_map(|name| Scope::of(name.strip_prefix(SCOPE_PREFIX)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::{Value, json};

    use super::*;

    /// An issuer of one key, `k`.
    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let rng = SystemRandom::new();
            let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &rng).unwrap())
        }

        fn keys(&self) -> KeySet {
            let point = self.0.public_key().as_ref();
            let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": part(&point[1..33]),
                "y": part(&point[33..])});
            KeySet::parse(&serde_json::to_vec(&json!({"keys": [{"kty": "oct", "k": "AA"}, key]})).unwrap())
                .unwrap()
        }

        fn sign(&self, head: &Value, body: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap());
            let signed = format!("{}.{}", part(head), part(body));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn head() -> Value {
        json!({"typ": "JWT", "alg": "ES256", "kid": "k"})
    }

    fn body() -> Value {
        json!({"iss": "https://issuer", "aud": "convoy", "exp": 1000, "nbf": 500, "azp": "app 1", "sub": "s",
            "roles": ["convoy.score", "other.admin", "convoy.nothing"], "scp": "openid convoy.metrics"})
    }

    fn checked(token: &str, keys: &KeySet, at: u64) -> Result<Claims, TokenError> {
        let expected = Expected { issuer: "https://issuer".to_owned(), audience: "convoy".to_owned() };
        assert!(looks_like_one(token.as_bytes()));
        verify(token.as_bytes(), keys, &expected, UNIX_EPOCH + Duration::from_secs(at))
    }

    #[test]
    fn a_valid_token_has_a_name_and_the_scopes_that_are_convoys() {
        let signer = Signer::new();
        let claims = checked(&signer.sign(&head(), &body()), &signer.keys(), 700).unwrap();
        assert_eq!(&*claims.name, "app1", "what is not visible ASCII is left out");
        assert_eq!(claims.scopes, [Scope::Score, Scope::Metrics].into_iter().collect());
        assert_eq!(claims.until, UNIX_EPOCH + Duration::from_secs(1060));
        let endless = json!({"exp": 1e300, "aud": "convoy", "iss": "https://issuer"});
        let endless = checked(&signer.sign(&head(), &endless), &signer.keys(), 700).unwrap();
        assert_eq!(endless.until, UNIX_EPOCH + Duration::from_secs(253_402_300_799));
        let mut many = body();
        many["aud"] = json!(["else", "convoy"]);
        let mut no_id = head();
        no_id.as_object_mut().unwrap().remove("kid");
        assert!(checked(&signer.sign(&no_id, &many), &signer.keys(), 700).is_ok());
    }

    #[test]
    fn every_claim_is_checked() {
        let signer = Signer::new();
        let with = |name: &str, value: Value| {
            let mut changed = body();
            changed[name] = value;
            signer.sign(&head(), &changed)
        };
        let check = |token: &str, at| checked(token, &signer.keys(), at).unwrap_err();
        let plain = signer.sign(&head(), &body());
        assert_eq!(check(&plain, 1061), TokenError::Expired("app1".into()));
        assert!(
            checked(&plain, &signer.keys(), 1059).is_ok() && checked(&plain, &signer.keys(), 441).is_ok()
        );
        assert_eq!(check(&plain, 439), TokenError::NotYet);
        assert_eq!(check(&with("iss", json!("https://other")), 700), TokenError::Issuer);
        assert_eq!(check(&with("aud", json!("other")), 700), TokenError::Audience);
        assert_eq!(check(&with("exp", json!("soon")), 700), TokenError::Malformed);
        assert_eq!(check(&with("exp", Value::Null), 700), TokenError::Malformed);
    }

    #[test]
    fn the_algorithm_is_the_keys_and_the_signature_must_fit() {
        let (signer, other) = (Signer::new(), Signer::new());
        let with = |name: &str, value: Value| {
            let mut changed = head();
            changed[name] = value;
            signer.sign(&changed, &body())
        };
        let check = |token: &str| checked(token, &signer.keys(), 700).unwrap_err();
        for algorithm in ["none", "None", "HS256", "ES384", ""] {
            assert_eq!(check(&with("alg", json!(algorithm))), TokenError::Algorithm, "{algorithm}");
        }
        assert_eq!(check(&with("alg", json!("RS256"))), TokenError::Algorithm);
        assert_eq!(check(&with("kid", json!("other"))), TokenError::UnknownKey);
        assert_eq!(check(&with("crit", json!(["exp"]))), TokenError::Malformed);
        assert_eq!(check(&other.sign(&head(), &body())), TokenError::Signature);
        let token = signer.sign(&head(), &body());
        let (signed, _) = token.rsplit_once('.').unwrap();
        assert_eq!(check(&format!("{signed}.")), TokenError::Signature);
        assert_eq!(check(&format!("{signed}.!")), TokenError::Malformed);
        assert_eq!(check("a.b.c"), TokenError::Malformed);
        assert_eq!(check(&format!("{signed}.{}", "A".repeat(MAX_TOKEN))), TokenError::Malformed);
    }
}
