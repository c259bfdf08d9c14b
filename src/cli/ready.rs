//! `convoy ready`: asks a server whether it wants traffic and ends with the answer, for health checks of images, scripts, and
//! whoever has just started one. What makes a server ready is the server's to know (`/readyz`, `/livez`).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use ureq::{Agent, tls::TlsConfig};

use super::times::{time, time_or_none};
use crate::config::OwnServerArgs;

/// Between two questions while waiting.
const PAUSE: Duration = Duration::from_millis(200);

/// Most of an answer that is read: both are a line or two.
const ANSWER: u64 = 64 << 10;

/// Flags of `convoy ready`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  convoy ready                                 is the server that these settings start here ready?
  convoy ready --wait 2m http://convoy:8080    wait until that one is, two minutes at most
  convoy ready --live                          is it worth keeping? (GET /livez instead of /readyz)

Ends with 0 if it is; else with 1, and says why. In an image: HEALTHCHECK CMD [\"convoy\", \"ready\"]")]
pub(super) struct ReadyArgs {
    /// Which server, such as `http://convoy:8080`. When not given, the one that the flags and variables below start on this
    /// machine: its port for operators if it has one, and TLS is spoken without a look at its certificate.
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Ask whether it is worth keeping, not whether it wants traffic.
    #[arg(long)]
    live: bool,
    /// How long to go on asking until it is; 0 asks once.
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = time_or_none)]
    wait: Duration,
    /// Most time for one answer.
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = time)]
    timeout: Duration,
    #[command(flatten)]
    own: OwnServerArgs,
}

/// Asks until the answer is yes or the time is over.
///
/// # Errors
/// No address to ask ([`ConfigError`](crate::config::ConfigError)); nobody answers, or the answer is no.
pub(super) fn run(args: &ReadyArgs) -> anyhow::Result<()> {
    let own = args.url.is_none();
    let server = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => args.own.url()?,
    };
    let at = format!("{server}{}", if args.live { "/livez" } else { "/readyz" });
    let tls = TlsConfig::builder().disable_verification(own).build();
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        // What is asked is this server and not what answers for it elsewhere.
        .proxy(None)
        .timeout_global(Some(args.timeout))
        .user_agent(concat!("convoy/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .into();
    let started = Instant::now();
    loop {
        let Err(no) = ask(&agent, &at) else { return Ok(()) };
        let left = args.wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(no);
        }
        thread::sleep(PAUSE.min(left));
    }
}

fn ask(agent: &Agent, at: &str) -> anyhow::Result<()> {
    let answer = agent.get(at).call().with_context(|| format!("{at} does not answer"))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.into_body().into_with_config().limit(ANSWER).read_to_vec().unwrap_or_default();
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    match said["reason"].as_str() {
        Some(reason) => anyhow::bail!("{at}: {reason}"),
        None => anyhow::bail!("{at} answers {status}; is it a convoy server?"),
    }
}
