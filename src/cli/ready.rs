//! `convoy ready`: asks a server whether it wants traffic and ends with the answer, for health checks of images, scripts, and
//! whoever has just started one. What makes a server ready is the server's to know (`/readyz`, `/livez`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use ureq::{Agent, tls::TlsConfig};

use super::times::{time, time_or_none};
use crate::config::ConfigError;

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
    /// As `serve` has it.
    #[arg(long, env = "CONVOY_BIND", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    bind: SocketAddr,
    /// As `serve` has it.
    #[arg(long, env = "CONVOY_OPS_BIND", value_name = "ADDRESS")]
    ops_bind: Option<SocketAddr>,
    /// As `serve` has it; only whether there is one.
    #[arg(long, env = "CONVOY_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
}

/// Asks until the answer is yes or the time is over.
///
/// # Errors
/// No address to ask ([`ConfigError`]); nobody answers, or the answer is no.
pub(super) fn run(args: &ReadyArgs) -> anyhow::Result<()> {
    let own = args.url.is_none();
    let server = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => args.own()?,
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

impl ReadyArgs {
    /// The server that the same settings start on this machine.
    fn own(&self) -> Result<String, ConfigError> {
        let address = self.ops_bind.unwrap_or(self.bind);
        if address.port() == 0 {
            let problem = format!("{address} has no port to ask: give the URL that the server logged");
            return Err(ConfigError { problems: vec![problem] });
        }
        let tls = self.tls_cert.is_some() && self.ops_bind.is_none();
        Ok(format!("{}://{}", if tls { "https" } else { "http" }, reachable(address)))
    }
}

/// Where a server that listens on `address` can be asked from the same machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let host: IpAddr = match address.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, address.port())
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReadyArgs,
    }

    fn own(arguments: &[&str]) -> Result<String, ConfigError> {
        let line = ["ready"].iter().chain(arguments);
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).args.own()
    }

    #[test]
    fn the_server_of_the_same_settings_is_asked_where_it_listens() {
        for (arguments, url) in [
            (&["--bind", "0.0.0.0:8080"][..], "http://127.0.0.1:8080"),
            (&["--bind", "[::]:81"], "http://[::1]:81"),
            (&["--bind", "10.0.0.7:80"], "http://10.0.0.7:80"),
            (&["--bind", "0.0.0.0:8443", "--tls-cert", "c.pem"], "https://127.0.0.1:8443"),
            (&["--tls-cert", "c.pem", "--ops-bind", "127.0.0.1:9090"], "http://127.0.0.1:9090"),
        ] {
            assert_eq!(own(arguments).unwrap(), url);
        }
        let problems = own(&["--bind", "127.0.0.1:0"]).unwrap_err().problems;
        assert!(problems[0].contains("127.0.0.1:0 has no port"), "{problems:?}");
    }
}
