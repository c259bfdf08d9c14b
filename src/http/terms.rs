//! What a request asks of the scheduler, read off its headers: `x-convoy-deadline-ms`, `grpc-timeout`,
//! `x-convoy-priority`, and whose it is.
//!
//! Limits and defaults are configuration's; bodies may shorten the deadline further with the V2 protocol's
//! `parameters.timeout`, in microseconds.

use std::{
    hash::RandomState,
    net::IpAddr,
    time::{Duration, Instant},
};

use hyper::{HeaderMap, header::HeaderName};
use serde::Deserialize;

use super::reply::Failure;
use crate::{
    batch::{Class, Client, Terms},
    config::{ClientsConfig, HttpConfig},
};

/// Milliseconds, from the arrival of the head, after which the answer is worth nothing.
pub const DEADLINE: HeaderName = HeaderName::from_static("x-convoy-deadline-ms");

/// The same, as gRPC clients say it: up to eight digits and a unit of `H M S m u n`.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `interactive` (the default) or `batch`.
pub const PRIORITY: HeaderName = HeaderName::from_static("x-convoy-priority");

/// How clients are told apart.
#[derive(Debug)]
pub struct Clients {
    config: ClientsConfig,
    hasher: RandomState,
}

impl Clients {
    /// By the header that `config` names, and by address where it names none.
    pub fn new(config: ClientsConfig) -> Self {
        Self { config, hasher: RandomState::new() }
    }

    /// Whose request it is.
    fn of(&self, headers: &HeaderMap, peer: IpAddr) -> Client {
        let named = self.config.header.as_ref().and_then(|name| headers.get(name));
        match named {
            Some(name) => {
                let weight = self.config.weights.get(name.as_bytes()).copied().unwrap_or(1.0);
                Client::named(name.as_bytes(), weight, &self.hasher)
            }
            None => Client::named(peer, 1.0, &self.hasher),
        }
    }
}

/// The terms of a request whose head arrived at `arrived` from `peer`.
///
/// # Errors
/// 400 with the header named.
pub fn of(
    headers: &HeaderMap,
    peer: IpAddr,
    arrived: Instant,
    limits: &HttpConfig,
    clients: &Clients,
) -> Result<Terms, Failure> {
    let asked = [(DEADLINE, parse_millis as Parse), (GRPC_TIMEOUT, parse_grpc as Parse)];
    let mut wait = limits.deadline;
    if let Some(shortest) = asked
        .iter()
        .filter_map(|(name, parse)| timeout(headers, name, *parse))
        .min_by_key(|outcome| outcome.as_ref().ok().copied().unwrap_or_default())
    {
        wait = shortest?.min(limits.max_deadline);
    }
    Ok(Terms { deadline: arrived + wait, class: class(headers)?, client: clients.of(headers, peer) })
}

/// Reads a header's value as a time.
type Parse = fn(&str) -> Option<Duration>;

fn timeout(headers: &HeaderMap, name: &HeaderName, parse: Parse) -> Option<Result<Duration, Failure>> {
    let value = headers.get(name)?;
    let parsed = value.to_str().ok().and_then(parse).filter(|wait| !wait.is_zero());
    Some(parsed.ok_or_else(|| Failure::invalid(format!("`{name}` is not a time above zero"))))
}

fn parse_millis(value: &str) -> Option<Duration> {
    Some(Duration::from_millis(value.trim().parse().ok()?))
}

fn parse_grpc(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn class(headers: &HeaderMap) -> Result<Class, Failure> {
    match headers.get(PRIORITY).map(|value| value.as_bytes()) {
        None | Some(b"interactive") => Ok(Class::Interactive),
        Some(b"batch") => Ok(Class::Batch),
        Some(_) => Err(Failure::invalid(format!("`{PRIORITY}` must be interactive or batch"))),
    }
}

/// What a JSON body may say of its request, in the words of the V2 protocol.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Parameters {
    /// Microseconds until the answer is worth nothing; 0 says nothing.
    pub timeout: Option<u64>,
}

impl Parameters {
    /// The earlier deadline that the body asks for, if it does.
    pub fn tightened(self, terms: &Terms, arrived: Instant) -> Option<Terms> {
        let wait = self.timeout.filter(|micros| *micros > 0).map(Duration::from_micros)?;
        let deadline = arrived.checked_add(wait)?;
        (deadline < terms.deadline).then_some(Terms { deadline, ..*terms })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hyper::header::HeaderValue;

    use super::*;

    const LIMITS: HttpConfig = HttpConfig {
        admin: false,
        max_body: 1,
        max_images: 1,
        deadline: Duration::from_secs(30),
        max_deadline: Duration::from_secs(60),
        read_timeout: Duration::from_secs(1),
        max_connections: 1,
        lame_duck: Duration::ZERO,
        grace: Duration::ZERO,
    };

    fn clients() -> Clients {
        let weights = HashMap::from([(b"gold".to_vec(), 3.0)]);
        Clients::new(ClientsConfig { header: Some(HeaderName::from_static("x-client").to_string()), weights })
    }

    fn read(headers: &[(&'static str, &'static str)]) -> Result<Duration, Failure> {
        let arrived = Instant::now();
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let terms = of(&headers, IpAddr::from([127, 0, 0, 1]), arrived, &LIMITS, &clients())?;
        Ok(terms.deadline - arrived)
    }

    #[test]
    fn the_shortest_deadline_counts_within_the_servers_limit() {
        let secs = Duration::from_secs;
        assert_eq!(read(&[]).unwrap(), secs(30));
        assert_eq!(read(&[("x-convoy-deadline-ms", "250")]).unwrap(), Duration::from_millis(250));
        assert_eq!(read(&[("x-convoy-deadline-ms", "99999999")]).unwrap(), secs(60));
        assert_eq!(read(&[("grpc-timeout", "2S")]).unwrap(), secs(2));
        assert_eq!(read(&[("grpc-timeout", "40S")]).unwrap(), secs(40), "longer than the default is allowed");
        assert_eq!(read(&[("grpc-timeout", "1500u")]).unwrap(), Duration::from_micros(1500));
        let both = [("grpc-timeout", "1H"), ("x-convoy-deadline-ms", "7")];
        assert_eq!(read(&both).unwrap(), Duration::from_millis(7));
    }

    #[test]
    fn what_is_no_time_is_named() {
        for (name, value) in [
            ("x-convoy-deadline-ms", "soon"),
            ("x-convoy-deadline-ms", "0"),
            ("x-convoy-deadline-ms", "-5"),
            ("grpc-timeout", "5"),
            ("grpc-timeout", ""),
            ("grpc-timeout", "123456789S"),
            ("x-convoy-priority", "high"),
        ] {
            let failure = read(&[(name, value)]).unwrap_err();
            assert!(failure.message.contains(name), "{name}: {value}: {}", failure.message);
        }
        let one_bad = [("grpc-timeout", "1S"), ("x-convoy-deadline-ms", "x")];
        assert!(read(&one_bad).is_err());
    }

    #[test]
    fn clients_are_told_apart_by_the_header_or_else_by_address() {
        let clients = clients();
        let (a, b) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        let named = |name: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static("x-client"), HeaderValue::from_static(name))])
        };
        assert_eq!(clients.of(&named("gold"), a), clients.of(&named("gold"), b));
        assert_ne!(clients.of(&named("gold"), a), clients.of(&named("tin"), a));
        assert_ne!(clients.of(&HeaderMap::new(), a), clients.of(&HeaderMap::new(), b));
    }

    #[test]
    fn a_body_can_only_shorten_the_deadline() {
        let now = Instant::now();
        let terms = Terms::by(now + Duration::from_secs(1));
        let asked = |timeout| Parameters { timeout }.tightened(&terms, now).map(|terms| terms.deadline - now);
        assert_eq!(asked(Some(5_000)), Some(Duration::from_millis(5)));
        assert_eq!(
            (asked(None), asked(Some(0)), asked(Some(9_000_000)), asked(Some(u64::MAX))),
            (None, None, None, None)
        );
    }
}
