//! The file of keys: `[[key]]` entries in TOML, read as a whole or not at all.
//!
//! What is wrong is told by line and name, never by value: a digest or a misplaced key must not come into a log.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use serde::Deserialize;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use toml::{Spanned, Value};

use super::{Scope, Scopes, key::KeyDigest, limit::Limit};

/// Most bytes of the file.
pub const MAX_FILE: usize = 1 << 20;

/// Most keys of the file: every request is compared with each.
pub const MAX_KEYS: usize = 1000;

/// Most characters of a name.
const MAX_NAME: usize = 64;

/// A key that is known, by its digest.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose it is; several keys may share a name, as the old and the new one do while clients change over.
    pub name: Arc<str>,
    /// The key's.
    pub digest: KeyDigest,
    /// What it is good for.
    pub scopes: Scopes,
    /// Share of the server against others with 1.
    pub weight: f64,
    /// Requests it may make; as many as it likes when `None`.
    pub limit: Option<Limit>,
    /// From when on it is not valid any more.
    pub expires: Option<SystemTime>,
}

/// Why a file of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{problem}")]
pub struct KeyringError {
    place: Place,
    problem: String,
}

/// Where in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: Option<usize>,
    name: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, &self.name) {
            (Some(line), Some(name)) => write!(f, "line {line}, key `{name}`: "),
            (Some(line), None) => write!(f, "line {line}: "),
            _ => Ok(()),
        }
    }
}

fn whole(problem: impl Into<String>) -> KeyringError {
    KeyringError { place: Place { line: None, name: None }, problem: problem.into() }
}

/// Every key that is known.
#[derive(Debug, Default)]
pub struct Keyring(Vec<Entry>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    key: Vec<Spanned<Raw>>,
}

/// An entry as it stands in the file. Its values are looked at here rather than by serde, whose messages repeat them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Option<Value>,
    sha256: Option<Value>,
    scopes: Option<Value>,
    weight: Option<Value>,
    rate: Option<Value>,
    burst: Option<Value>,
    expires: Option<Value>,
}

impl Keyring {
    /// Reads a file.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(file: &[u8]) -> Result<Self, KeyringError> {
        if file.len() > MAX_FILE {
            return Err(whole(format!("the file is larger than {MAX_FILE} bytes")));
        }
        let text = std::str::from_utf8(file).map_err(|_| whole("the file is not UTF-8"))?;
        if text.trim().is_empty() {
            return Err(whole("the file is empty; `key = []` turns everybody away"));
        }
        let file: File = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        if file.key.len() > MAX_KEYS {
            return Err(whole(format!("{} keys; at most {MAX_KEYS}", file.key.len())));
        }
        let mut digests = HashSet::new();
        let mut entries = Vec::with_capacity(file.key.len());
        for raw in file.key {
            let line = line_of(text, raw.span().start);
            let raw = raw.into_inner();
            let name =
                raw.name.as_ref().and_then(Value::as_str).filter(|name| is_name(name)).map(str::to_owned);
            let place = Place { line: Some(line), name };
            let entry = raw.entry().map_err(|problem| KeyringError { place: place.clone(), problem })?;
            if !digests.insert(entry.digest.hex()) {
                return Err(KeyringError { place, problem: "another entry has the same sha256".to_owned() });
            }
            entries.push(entry);
        }
        Ok(Self(entries))
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The entry of a digest. All are compared, so that the time tells neither which one fits nor how nearly.
    pub fn find(&self, digest: &KeyDigest) -> Option<&Entry> {
        let mut found = u64::MAX;
        for (at, entry) in self.0.iter().enumerate() {
            found.conditional_assign(&(at as u64), entry.digest.ct_eq(digest));
        }
        self.0.get(usize::try_from(found).ok()?)
    }
}

impl Raw {
    fn entry(&self) -> Result<Entry, String> {
        let name = self.name.as_ref().ok_or("`name` is missing")?.as_str().filter(|name| is_name(name));
        let digest =
            self.sha256.as_ref().ok_or("`sha256` is missing")?.as_str().and_then(KeyDigest::from_hex);
        let weight = number(self.weight.as_ref(), "weight", 0.001, 1000.0)?;
        Ok(Entry {
            name: name.ok_or(NAME)?.into(),
            digest: digest
                .ok_or("`sha256` must be a string of 64 hexadecimal digits, the SHA-256 of the key")?,
            scopes: self.scopes()?,
            weight: weight.unwrap_or(1.0),
            limit: self.limit()?,
            expires: self.expires()?,
        })
    }

    fn scopes(&self) -> Result<Scopes, String> {
        let problem = "`scopes` must be a list of \"score\", \"admin\" and \"metrics\"";
        let Some(value) = &self.scopes else { return Ok(Scopes::from_iter([Scope::Score])) };
        let names = value.as_array().filter(|names| !names.is_empty()).ok_or(problem)?;
        let scopes: Option<Scopes> = names.iter().map(|name| Scope::of(name.as_str()?)).collect();
        scopes.ok_or_else(|| problem.to_owned())
    }

    fn limit(&self) -> Result<Option<Limit>, String> {
        let rate = number(self.rate.as_ref(), "rate", 0.001, 1e6)?;
        let burst = number(self.burst.as_ref(), "burst", 1.0, 1e6)?;
        match (rate, burst) {
            (None, Some(_)) => Err("`burst` needs `rate` beside it".to_owned()),
            (rate, burst) => Ok(rate.map(|rate| Limit { rate, burst: burst.unwrap_or(rate.max(1.0)) })),
        }
    }

    fn expires(&self) -> Result<Option<SystemTime>, String> {
        let Some(value) = &self.expires else { return Ok(None) };
        let moment = match value {
            Value::Datetime(moment) => self::moment(&moment.to_string()),
            Value::String(text) => self::moment(text),
            _ => None,
        };
        let problem = "`expires` must be a time with its offset (RFC 3339), such as 2027-01-31T00:00:00Z";
        moment.map(Some).ok_or_else(|| problem.to_owned())
    }
}

impl Entry {
    /// The entry as the file has it.
    pub fn to_toml(&self) -> String {
        let quoted: Vec<_> = self.scopes.iter().map(|scope| format!("\"{}\"", scope.name())).collect();
        let mut lines = vec![
            "[[key]]".to_owned(),
            format!("name = \"{}\"", self.name),
            format!("sha256 = \"{}\"", self.digest.hex()),
            format!("scopes = [{}]", quoted.join(", ")),
        ];
        if self.weight != 1.0 {
            lines.push(format!("weight = {}", self.weight));
        }
        if let Some(Limit { rate, burst }) = self.limit {
            lines.push(format!("rate = {rate}"));
            lines.push(format!("burst = {burst}"));
        }
        if let Some(expires) = self.expires {
            lines.push(format!("expires = {}", rfc3339(expires)));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

/// What a name may be.
pub const NAME: &str = "a name is 1 to 64 letters, digits, `.`, `_` or `-`";

/// Whether `text` may be a name: names come into logs and into the file as they are.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(fits)
}

/// The moment of an RFC 3339 text.
pub fn moment(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

/// A moment as RFC 3339, in UTC, to the second.
pub fn rfc3339(moment: SystemTime) -> String {
    let moment = OffsetDateTime::from(moment);
    let whole = moment.replace_nanosecond(0).unwrap_or(moment);
    whole.format(&Rfc3339).unwrap_or_else(|_| "a time beyond the calendar".to_owned())
}

fn number(value: Option<&Value>, name: &str, low: f64, high: f64) -> Result<Option<f64>, String> {
    let Some(value) = value else { return Ok(None) };
    let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
    let within = number.filter(|number| (low..=high).contains(number));
    within.map(Some).ok_or_else(|| format!("`{name}` must be a number between {low} and {high}"))
}

/// An error of the syntax, without the line that the parser would show of it.
fn syntax(text: &str, error: &toml::de::Error) -> KeyringError {
    let line = error.span().map(|span| line_of(text, span.start));
    let known =
        "a file of keys holds [[key]] entries of name, sha256, scopes, weight, rate, burst and expires";
    let message = error.message();
    let problem = match message.contains("unknown field") || message.contains("missing field") {
        true => known.to_owned(),
        false if message.starts_with("invalid type") => known.to_owned(),
        false => format!("this is not TOML: {message}"),
    };
    KeyringError { place: Place { line, name: None }, problem }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn refused(text: &str) -> String {
        let problem = Keyring::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(!problem.contains("ba7816"), "{problem}");
        problem
    }

    #[test]
    fn an_entry_has_defaults_and_says_what_it_says() {
        let file = format!(
            "# who\n[[key]]\nname = \"web\"\nsha256 = \"{DIGEST}\"\n\n[[key]]\nname = \"ops\"\nsha256 = \"{}\"\n\
             scopes = [\"admin\", \"metrics\"]\nweight = 2.5\nrate = 10\nexpires = 2027-01-31T00:00:00+01:00\n",
            DIGEST.replace("ba", "ab")
        );
        let keyring = Keyring::parse(file.as_bytes()).unwrap();
        let [web, ops] = keyring.entries() else { panic!("{keyring:?}") };
        assert_eq!((&*web.name, web.weight, web.limit, web.expires), ("web", 1.0, None, None));
        assert_eq!(web.scopes, Scopes::from_iter([Scope::Score]));
        assert_eq!(ops.scopes, Scopes::from_iter([Scope::Admin, Scope::Metrics]));
        assert_eq!((ops.weight, ops.limit), (2.5, Some(Limit { rate: 10.0, burst: 10.0 })));
        assert_eq!(ops.expires, Some(UNIX_EPOCH + Duration::from_secs(1_801_350_000)));
        let again = Keyring::parse((web.to_toml() + &ops.to_toml()).as_bytes()).unwrap();
        assert_eq!(again.entries()[1].to_toml(), ops.to_toml());
        assert!(ops.to_toml().contains("expires = 2027-01-30T23:00:00Z"), "{}", ops.to_toml());
        assert_eq!(keyring.find(&KeyDigest::of(b"abc")).unwrap().name, web.name);
        assert!(keyring.find(&KeyDigest::of(b"abd")).is_none());
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_name_and_never_by_value() {
        let with = |more: &str| format!("\n[[key]]\nname = \"web\"\nsha256 = \"{DIGEST}\"\n{more}\n");
        for (text, parts) in [
            (String::new(), &["empty"][..]),
            ("[[keys]]".to_owned(), &["[[key]]"]),
            (format!("[[key]]\nsha256 = \"{DIGEST}\""), &["line 1", "`name` is missing"]),
            ("[[key]]\nname = \"web\"".to_owned(), &["line 1, key `web`", "`sha256` is missing"]),
            (format!("[[key]]\nname = \"web\"\nsha256 = \"{DIGEST}0\""), &["key `web`", "64 hexadecimal"]),
            (format!("[[key]]\nname = \"a b\"\nsha256 = \"{DIGEST}\""), &["a name is"]),
            (with("scopes = [\"scores\"]"), &["line 2, key `web`", "`scopes`"]),
            (with("scopes = []"), &["`scopes`"]),
            (with("weight = 0"), &["`weight`", "0.001"]),
            (with(&format!("rate = \"{DIGEST}\"")), &["`rate`"]),
            (with("burst = 2"), &["`burst` needs `rate`"]),
            (with("expires = 2027-01-31"), &["`expires`", "offset"]),
            (with(&format!("expires = \"{DIGEST}\"")), &["`expires`"]),
            (with("limit = 3"), &["line", "[[key]]"]),
            (with(DIGEST), &["line 5", "not TOML"]),
            (with("") + &with(""), &["line 7, key `web`", "same sha256"]),
            (format!("key = \"{DIGEST}\""), &["line 1", "[[key]]"]),
        ] {
            let problem = refused(&text);
            for part in parts {
                assert!(problem.contains(part), "{part} missing from {problem}, of\n{text}");
            }
        }
        assert!(refused(&"#".repeat(MAX_FILE + 1)).contains("larger"));
        assert_eq!(Keyring::parse(b"key = []").unwrap().entries().len(), 0);
    }
}
