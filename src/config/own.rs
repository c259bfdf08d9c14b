//! Where the server that the same flags and variables start on this machine can be asked.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use super::ConfigError;

/// Flags of `serve` that say where it can be asked.
#[derive(Debug, Clone, Args)]
pub struct OwnServerArgs {
    /// As `serve` has it.
    #[arg(long, env = "CONVOY_BIND", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub bind: SocketAddr,
    /// As `serve` has it.
    #[arg(long, env = "CONVOY_OPS_BIND", value_name = "ADDRESS")]
    pub ops_bind: Option<SocketAddr>,
    /// As `serve` has it; only whether there is one.
    #[arg(long, env = "CONVOY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
}

impl OwnServerArgs {
    /// Its URL, without a path: the port for operators where it has one.
    ///
    /// # Errors
    /// The port is 0: nobody knows which one it took.
    pub fn url(&self) -> Result<String, ConfigError> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: OwnServerArgs,
    }

    fn url(arguments: &[&str]) -> Result<String, ConfigError> {
        let line = ["ready"].iter().chain(arguments);
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).args.url()
    }

    #[test]
    fn the_server_of_the_same_settings_is_asked_where_it_listens() {
        for (arguments, expected) in [
            (&["--bind", "0.0.0.0:8080"][..], "http://127.0.0.1:8080"),
            (&["--bind", "[::]:81"], "http://[::1]:81"),
            (&["--bind", "10.0.0.7:80"], "http://10.0.0.7:80"),
            (&["--bind", "0.0.0.0:8443", "--tls-cert", "c.pem"], "https://127.0.0.1:8443"),
            (&["--tls-cert", "c.pem", "--ops-bind", "127.0.0.1:9090"], "http://127.0.0.1:9090"),
        ] {
            assert_eq!(url(arguments).unwrap(), expected);
        }
        let problems = url(&["--bind", "127.0.0.1:0"]).unwrap_err().problems;
        assert!(problems[0].contains("127.0.0.1:0 has no port"), "{problems:?}");
    }
}
