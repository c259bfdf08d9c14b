//! What a request asks of the scheduler, read off its headers: `x-convoy-deadline-ms`, `grpc-timeout`,
//! `x-convoy-priority`, and whose it is.
//!
//! Limits and defaults are configuration's; what bodies may say in addition is their protocols'.

use std::{
    hash::RandomState,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName};

use super::{gate::Who, seats::network};
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

/// A header that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Not a time, or none above zero.
    #[error("`{0}` is not a time above zero")]
    Time(HeaderName),
    /// Not a priority.
    #[error("`{0}` must be interactive or batch")]
    Priority(HeaderName),
}

/// How clients are told apart.
#[derive(Debug)]
pub struct Clients {
    config: ClientsConfig,
    hasher: RandomState,
}

impl Clients {
    /// By who they have shown to be, else by the header that `config` names, and by network where it names none: an IPv4
    /// address, or an IPv6 /64.
    pub fn new(config: ClientsConfig) -> Self {
        Self { config, hasher: RandomState::new() }
    }

    /// Whose request it is.
    fn of(&self, headers: &HeaderMap, who: &Who) -> Client {
        if let Some(caller) = &who.caller {
            return Client::named((caller.proof.kind(), &*caller.name), caller.weight, &self.hasher);
        }
        let named = self.config.header.as_ref().and_then(|name| headers.get(name));
        match named {
            Some(name) => {
                let weight = self.config.weights.get(name.as_bytes()).copied().unwrap_or(1.0);
                Client::named(name.as_bytes(), weight, &self.hasher)
            }
            None => Client::named(network(who.peer), 1.0, &self.hasher),
        }
    }
}

/// The terms of a request of `who`, whose head arrived at `arrived`.
///
/// # Errors
/// The header that is at fault.
pub fn of(
    headers: &HeaderMap,
    who: &Who,
    arrived: Instant,
    limits: &HttpConfig,
    clients: &Clients,
) -> Result<Terms, BadHeader> {
    let asked = [timeout(headers, &DEADLINE)?, timeout(headers, &GRPC_TIMEOUT)?];
    let wait =
        asked.into_iter().flatten().min().map_or(limits.deadline, |wait| wait.min(limits.max_deadline));
    Ok(Terms { deadline: arrived + wait, class: class(headers)?, client: clients.of(headers, who) })
}

/// How long the header `name`, [`DEADLINE`] or [`GRPC_TIMEOUT`], gives the request, if it is there.
///
/// # Errors
/// It is not a time above zero.
pub fn timeout(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Duration>, BadHeader> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parse = if *name == DEADLINE { parse_millis } else { parse_grpc };
    let parsed = value.to_str().ok().and_then(parse).filter(|wait| !wait.is_zero());
    parsed.map(Some).ok_or_else(|| BadHeader::Time(name.clone()))
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

fn class(headers: &HeaderMap) -> Result<Class, BadHeader> {
    match headers.get(PRIORITY).map(|value| value.as_bytes()) {
        None | Some(b"interactive") => Ok(Class::Interactive),
        Some(b"batch") => Ok(Class::Batch),
        Some(_) => Err(BadHeader::Priority(PRIORITY)),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::IpAddr, time::SystemTime};

    use http::HeaderValue;

    use super::*;
    use crate::access::{Caller, Proof, key::KeyDigest};
    use crate::config::ConnectionsConfig;

    const LIMITS: HttpConfig = HttpConfig {
        admin: false,
        max_body: 1,
        max_images: 1,
        deadline: Duration::from_secs(30),
        max_deadline: Duration::from_secs(60),
        read_timeout: Duration::from_secs(1),
        connections: ConnectionsConfig {
            max: 1,
            max_per_address: None,
            idle_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
        },
        lame_duck: Duration::ZERO,
        grace: Duration::ZERO,
    };

    fn clients() -> Clients {
        let weights = HashMap::from([(b"gold".to_vec(), 3.0)]);
        Clients::new(ClientsConfig { header: Some(HeaderName::from_static("x-client").to_string()), weights })
    }

    fn read(headers: &[(&'static str, &'static str)]) -> Result<Duration, BadHeader> {
        let arrived = Instant::now();
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let terms = of(&headers, &Who::at(IpAddr::from([127, 0, 0, 1])), arrived, &LIMITS, &clients())?;
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
            assert!(failure.to_string().contains(name), "{name}: {value}: {failure}");
        }
        let one_bad = [("grpc-timeout", "1S"), ("x-convoy-deadline-ms", "x")];
        assert!(read(&one_bad).is_err());
    }

    #[test]
    fn clients_are_told_apart_by_the_header_or_else_by_address() {
        let clients = clients();
        let [a, b] = [1, 2].map(|last| Who::at(IpAddr::from([127, 0, 0, last])));
        let named = |name: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static("x-client"), HeaderValue::from_static(name))])
        };
        assert_eq!(clients.of(&named("gold"), &a), clients.of(&named("gold"), &b));
        assert_ne!(clients.of(&named("gold"), &a), clients.of(&named("tin"), &a));
        assert_ne!(clients.of(&HeaderMap::new(), &a), clients.of(&HeaderMap::new(), &b));
        let [near, far, home] = ["2001:db8::1", "2001:db8:0:1::1", "2001:db8::ffff"]
            .map(|address| clients.of(&HeaderMap::new(), &Who::at(address.parse().unwrap())));
        assert_eq!(near, home, "one host has a whole /64");
        assert_ne!(near, far);
        let (key, token) = (Proof::Key(KeyDigest::of(b"k")), Proof::Token { until: SystemTime::now() });
        let shown = |proof, name: &str, peer: &Who| {
            let caller = Caller { name: name.into(), weight: 2.0, proof };
            clients.of(&named("gold"), &Who { caller: Some(caller), ..peer.clone() })
        };
        assert_eq!(shown(key, "web", &a), shown(key, "web", &b), "who somebody has shown to be comes first");
        assert_ne!(shown(key, "web", &a), shown(token, "web", &a));
        assert_ne!(shown(key, "web", &a), shown(key, "gold", &a));
    }
}
