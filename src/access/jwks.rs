//! An issuer's public keys as JSON (RFC 7517): RSA for RS256, P-256 for ES256 (RFC 7518). Others are passed over.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use super::token::TokenError;

/// Most bytes of a set; Entra ID's has about 20 KiB, certificates included.
pub const MAX_SET: usize = 256 << 10;

/// Most keys of a set.
const MAX_KEYS: usize = 100;

/// Why a set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Over [`MAX_SET`].
    #[error("the set of keys is larger than {MAX_SET} bytes")]
    TooLarge,
    /// Not the JSON that is due.
    #[error("this is not a set of keys in JSON (JWKS): {0}")]
    Malformed(#[source] serde_json::Error),
    /// Nothing that could have signed a token.
    #[error("the set holds no key for RS256 or ES256")]
    Empty,
}

/// Keys that verify signatures.
#[derive(Debug, Default)]
pub struct KeySet(Vec<PublicKey>);

#[derive(Debug)]
struct PublicKey {
    id: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256 { point: Vec<u8> },
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// It is none, or holds nothing of use.
    pub fn parse(json: &[u8]) -> Result<Self, JwksError> {
        if json.len() > MAX_SET {
            return Err(JwksError::TooLarge);
        }
        let set: Set = serde_json::from_slice(json).map_err(JwksError::Malformed)?;
        let keys: Vec<_> = set.keys.into_iter().filter_map(Jwk::public_key).take(MAX_KEYS).collect();
        if keys.is_empty() { Err(JwksError::Empty) } else { Ok(Self(keys)) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the key `id` has signed `message`. A token without an id is tried on the only key of its algorithm.
    ///
    /// # Errors
    /// No such key, not its algorithm, or another signature.
    pub fn verify(
        &self,
        id: Option<&str>,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenError> {
        if !["RS256", "ES256"].contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        let key = match id {
            Some(id) => self.0.iter().find(|key| key.id.as_deref() == Some(id)),
            None => {
                let mut fitting = self.0.iter().filter(|key| key.material.algorithm() == algorithm);
                fitting.next().filter(|_| fitting.next().is_none())
            }
        };
        key.ok_or(TokenError::UnknownKey)?.material.verify(algorithm, message, signature)
    }
}

impl Material {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RS256",
            Self::P256 { .. } => "ES256",
        }
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        if algorithm != self.algorithm() {
            return Err(TokenError::Algorithm);
        }
        let verified = match self {
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Self::P256 { point } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
        };
        verified.map_err(|_| TokenError::Signature)
    }
}

impl Jwk {
    fn public_key(self) -> Option<PublicKey> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: number(self.n)?, e: number(self.e)? },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(self.x)?, bytes(self.y)?);
                let fits = x.len() == 32 && y.len() == 32;
                // An uncompressed point (SEC 1, section 2.3.3).
                fits.then(|| Material::P256 { point: [&[4][..], &x, &y].concat() })?
            }
            _ => return None,
        };
        let meant = self.alg.as_deref().is_none_or(|alg| alg == material.algorithm());
        meant.then_some(PublicKey { id: self.kid, material })
    }
}

fn bytes(text: Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok()
}

/// A number in big-endian bytes; zeros in front, which some issuers write, are left out.
fn number(text: Option<String>) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[start..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendices A.2 and A.3: the same message, signed by a key of either kind.
    const MESSAGE: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    /// With a zero in front of `n`, as some issuers write it.
    const RSA: &str = r#"{"kty": "RSA", "kid": "rsa", "e": "AQAB", "n": "AKH4Fgri48m0Zc6NLWViYzYrkn2-KeHwJHf8FiXMkKE244vZNJfFtupj3XcR5nx0KflWsPuKjwia3EtpiTzBMz9T7dAZuHeEJS_skU_khXdpWUvqQoDTLA9Vv2KUTxMDlrxum99uvdK9o2eO7KDGaPcBs42_-zjINCzi_m0n-t5KWkh0l53Uuc-a3sTHWwWFLCwPXvilwXUDkvlE6O1kwRDGtkdgmqR4OuucbJrXVTEwUGOLg2Zcb296gqOWcCofZBuC0-vyOSIZSR-2hocsVxb1Cvg1jZqLnRfDQHKPf4fYmhjY_KtnrYRZDC7PdZM5NjwHA01vYG-eIeBUVsrl6aE"}"#;
    const EC: &str = r#"{"kty": "EC", "crv": "P-256", "kid": "ec", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const RSA_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    const EC_SIGNATURE: &str =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    fn verify(
        set: &KeySet,
        id: &str,
        algorithm: &str,
        head: &str,
        signature: &str,
    ) -> Result<(), TokenError> {
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        set.verify(Some(id), algorithm, format!("{head}.{MESSAGE}").as_bytes(), &signature)
    }

    #[test]
    fn the_signatures_of_rfc_7515_fit_their_own_keys() {
        let set = KeySet::parse(format!("{{\"keys\": [{RSA}, {EC}]}}").as_bytes()).unwrap();
        let (rs256, es256) = ("eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJFUzI1NiJ9");
        assert_eq!(set.len(), 2);
        assert_eq!(verify(&set, "rsa", "RS256", rs256, RSA_SIGNATURE), Ok(()));
        assert_eq!(verify(&set, "ec", "ES256", es256, EC_SIGNATURE), Ok(()));
        assert_eq!(verify(&set, "rsa", "RS256", es256, RSA_SIGNATURE), Err(TokenError::Signature));
        assert_eq!(verify(&set, "ec", "ES256", es256, RSA_SIGNATURE), Err(TokenError::Signature));
        assert_eq!(verify(&set, "ec", "RS256", rs256, RSA_SIGNATURE), Err(TokenError::Algorithm));
        assert_eq!(verify(&set, "oct", "RS256", rs256, RSA_SIGNATURE), Err(TokenError::UnknownKey));
    }

    #[test]
    fn keys_for_other_things_are_passed_over() {
        let parse = |keys: &str| KeySet::parse(format!("{{\"keys\": [{keys}]}}").as_bytes());
        for other in [
            r#"{"kty": "oct", "k": "AAAA"}"#.to_owned(),
            r#"{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}"#.to_owned(),
            r#"{"kty": "RSA", "n": "???", "e": "AQAB"}"#.to_owned(),
            EC.replace("\"kid\"", "\"use\": \"enc\", \"kid\""),
            RSA.replace("\"kid\"", "\"alg\": \"RS512\", \"kid\""),
        ] {
            assert!(matches!(parse(&other), Err(JwksError::Empty)), "{other}");
            assert_eq!(parse(&format!("{other}, {EC}")).unwrap().len(), 1);
        }
        assert!(matches!(KeySet::parse(b"[]"), Err(JwksError::Malformed(_))));
        assert!(matches!(KeySet::parse(&vec![b' '; MAX_SET + 1]), Err(JwksError::TooLarge)));
    }
}
