//! `convoy keys`: make a key for the file that `convoy serve --keys` reads, and check such a file. A key is shown once, when it
//! is made; the file holds its digest.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::{
    access::{
        Keyring, Scope, Scopes,
        key::Key,
        keyring::{self, Entry, MAX_FILE},
        limit::Limit,
    },
    config::ConfigError,
};

/// Subcommands of `convoy keys`.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key. With --file, its digest goes into the file and the key alone to standard output; without, both are printed.
    New(NewArgs),
    /// Check a file of keys and list what is in it.
    Check {
        /// The file, as `serve --keys` takes it.
        file: PathBuf,
    },
}

/// Flags of `convoy keys new`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  convoy keys new web                                        print a key and its entry
  KEY=$(convoy keys new web --file keys.toml)                add the entry to a file, keep the key
  convoy keys new ops --scope admin --scope metrics --file keys.toml
  convoy keys new trial --rate 5 --burst 20 --expires 30d --file keys.toml

To change a key: make another one of the same name, let callers change over while both are valid, and take the old entry
out of the file. A running server follows within seconds.")]
pub(super) struct NewArgs {
    /// Whose key it is: what logs and shares go by. Several keys may have one name.
    #[arg(value_parser = name)]
    name: String,
    /// What it is good for: score, admin, metrics; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', default_value = "score", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Share of the server against others with 1.
    #[arg(long, default_value_t = 1.0, value_name = "W")]
    weight: f64,
    /// Requests a second; as many as it likes when not given.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Requests at once; as many as in a second when not given.
    #[arg(long, requires = "rate", value_name = "N")]
    burst: Option<f64>,
    /// When it stops being valid: a time such as 2027-01-31T00:00:00Z, or days from now such as 90d.
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<SystemTime>,
    /// File to add the entry to; it is made where there is none, for its owner's eyes only.
    #[arg(long, value_name = "FILE", value_parser = super::output)]
    file: Option<PathBuf>,
}

fn name(text: &str) -> Result<String, String> {
    if keyring::is_name(text) { Ok(text.to_owned()) } else { Err(keyring::NAME.to_owned()) }
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::of(text).ok_or_else(|| "it must be score, admin or metrics".to_owned())
}

fn expiry(text: &str) -> Result<SystemTime, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let from_now = days.map(|days| SystemTime::now() + Duration::from_secs(u64::from(days) * 24 * 3600));
    let moment = from_now.or_else(|| keyring::moment(text));
    moment.ok_or_else(|| {
        "it must be a time such as 2027-01-31T00:00:00Z, or days from now such as 90d".to_owned()
    })
}

/// Makes or checks keys.
pub(super) fn run(command: KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::New(args) => new(&args),
        KeysCommand::Check { file } => check(&file),
    }
}

fn new(args: &NewArgs) -> anyhow::Result<()> {
    let key = Key::random();
    let text = entry(args, &key).to_toml();
    // Read back as the server will, so that no entry is made that it would refuse.
    let problem = |error| ConfigError { problems: vec![format!("this key cannot be made: {error}")] };
    Keyring::parse(text.as_bytes()).map_err(problem)?;
    match &args.file {
        Some(file) => {
            append(file, &text).with_context(|| file.display().to_string())?;
            print(&format!("{}\n", key.secret()))
        }
        None => print(&format!("{}\n\n{text}", key.secret())),
    }
}

fn entry(args: &NewArgs, key: &Key) -> Entry {
    Entry {
        name: args.name.as_str().into(),
        digest: key.digest(),
        scopes: args.scopes.iter().copied().collect::<Scopes>(),
        weight: args.weight,
        limit: args.rate.map(|rate| Limit { rate, burst: args.burst.unwrap_or(rate.max(1.0)) }),
        expires: args.expires,
    }
}

/// Adds an entry to a file of keys, all at once: whoever reads it meanwhile sees the one or the other.
fn append(file: &Path, entry: &str) -> anyhow::Result<()> {
    let present = match read(file) {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_missing) => String::new(),
        present => present?,
    };
    let whole = match present.trim() {
        "" | "key = []" => entry.to_owned(),
        _ => format!("{}\n\n{entry}", present.trim_end()),
    };
    Keyring::parse(whole.as_bytes()).context("not added")?;
    // The file itself rather than a link to it.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let fresh = file.with_extension(format!("{}.tmp", std::process::id()));
    let mode = fs::metadata(&file).map_or(0o600, |present| present.permissions().mode() & 0o777);
    let written = write(&fresh, mode, &whole).and_then(|()| fs::rename(&fresh, &file));
    if written.is_err() {
        let _never_there = fs::remove_file(&fresh);
    }
    written.context("cannot be written")
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn check(file: &Path) -> anyhow::Result<()> {
    let named = || file.display().to_string();
    let keyring = Keyring::parse(read(file).with_context(named)?.as_bytes()).with_context(named)?;
    let mut table = format!(
        "{:<24} {:<20} {:>7} {:>9} {:>7}  {}\n",
        "NAME", "SCOPES", "WEIGHT", "RATE", "BURST", "EXPIRES"
    );
    for entry in keyring.entries() {
        table.push_str(&row(entry));
    }
    print(&format!("{table}{} keys\n", keyring.entries().len()))
}

fn row(entry: &Entry) -> String {
    let (rate, burst) =
        entry.limit.map_or_else(Default::default, |limit| (limit.rate.to_string(), limit.burst.to_string()));
    let expires = match entry.expires {
        None => "never".to_owned(),
        Some(moment) if moment <= SystemTime::now() => format!("{}, expired", keyring::rfc3339(moment)),
        Some(moment) => keyring::rfc3339(moment),
    };
    let Entry { name, scopes, weight, .. } = entry;
    format!("{name:<24} {:<20} {weight:>7} {rate:>9} {burst:>7}  {expires}\n", scopes.to_string())
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}
