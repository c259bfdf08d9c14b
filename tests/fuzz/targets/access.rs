//! Who may ask: the file of keys, an issuer's keys, and tokens, signed and not.

use std::{
    sync::OnceLock,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use convoy::access::{
    Keyring,
    jwks::KeySet,
    token::{self, Expected},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};

/// Longest name of a caller, as it comes into logs.
const MAX_NAME: usize = 100;

/// The first byte says what the rest is: keys, an issuer's keys, a token of anybody, or the claims of one that is signed.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = super::form(data) else { return };
    match form % 4 {
        0 => keyring(rest),
        1 => match KeySet::parse(rest) {
            Ok(keys) => assert!(!keys.is_empty() && verify(rest, &keys).is_err()),
            Err(error) => super::bounded(&error),
        },
        2 => assert!(verify(rest, &signer().keys).is_err(), "a token that nobody has signed"),
        _ => signed(rest),
    }
}

fn keyring(file: &[u8]) {
    match Keyring::parse(file) {
        Ok(keys) => {
            let written: String = keys.entries().iter().map(|entry| entry.to_toml() + "\n").collect();
            let written = if written.is_empty() { "key = []".to_owned() } else { written };
            let again = Keyring::parse(written.as_bytes()).expect("what is written is read");
            let shown = |keys: &Keyring| format!("{keys:?}");
            assert_eq!(shown(&keys), shown(&again), "written and read again");
            assert!(keys.entries().iter().all(|entry| keys.find(&entry.digest).is_some()));
        }
        Err(error) => {
            // A name, a line and the program's own words; never a value.
            let message = error.to_string();
            super::bounded_text(&message);
        }
    }
}

fn verify(token: &[u8], keys: &KeySet) -> Result<token::Claims, token::TokenError> {
    let expected = Expected { issuer: "https://issuer".to_owned(), audience: "convoy".to_owned() };
    token::verify(token, keys, &expected, UNIX_EPOCH + Duration::from_secs(1_700_000_000))
}

/// Signs `claims`; what is not due must still be refused.
fn signed(claims: &[u8]) {
    let Signer { pair, keys } = signer();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(br#"{"alg":"ES256","kid":"a"}"#), part(claims));
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let token = format!("{message}.{}", part(signature.as_ref()));
    match verify(token.as_bytes(), keys) {
        Ok(claims) => {
            assert!(claims.name.len() <= MAX_NAME && claims.name.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(claims.until > UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        }
        Err(error) => super::bounded(&error),
    }
}

struct Signer {
    pair: EcdsaKeyPair,
    keys: KeySet,
}

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        // An uncompressed point: 4, x, y.
        let point = pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let set = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"a","x":"{x}","y":"{y}"}}]}}"#);
        Signer { pair, keys: KeySet::parse(set.as_bytes()).unwrap() }
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let keys = format!(
        "[[key]]\nname = \"web\"\nsha256 = \"{}\"\nscopes = [\"score\", \"admin\"]\nweight = 2.5\nrate = 5\nburst = 9\nexpires = 2027-01-31T00:00:00Z\n[[key]]\nname = \"b\"\nsha256 = \"{}\"\n",
        "0".repeat(64),
        "a".repeat(64)
    );
    let set = br#"{"keys":[{"kty":"RSA","kid":"r","use":"sig","alg":"RS256","e":"AQAB","n":"AKH4Fgri48m0Zc6NLWVi"},{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let claims = br#"{"iss":"https://issuer","aud":["convoy"],"exp":1800000000,"nbf":1.5,"azp":"app","sub":"s","roles":["convoy.score"],"scp":"convoy.admin x"}"#;
    vec![
        super::formed(0, keys),
        super::formed(0, "key = []"),
        super::formed(1, set),
        super::formed(2, "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AAAA"),
        super::formed(3, claims),
    ]
}
