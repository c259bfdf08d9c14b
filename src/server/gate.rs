//! The gate that every request passes before its body is read: who asks, whether they may, and what is counted and logged of
//! it. What is valid is [`crate::access`]'s to say, what a refusal looks like the transports'.

use std::net::IpAddr;

use http::HeaderMap;
use metrics::Counter;

use crate::{
    access::{Access, Caller, Denied, Now, Scope},
    metrics::Metrics,
};

/// Who asks.
#[derive(Debug, Clone)]
pub struct Who {
    /// The address that the request came from; a proxy's where there is one.
    pub peer: IpAddr,
    /// Who they have shown to be; `None` where nobody is asked to.
    pub caller: Option<Caller>,
}

impl Who {
    /// Somebody of whom only the address is known.
    pub fn at(peer: IpAddr) -> Self {
        Self { peer, caller: None }
    }
}

/// See the module's text.
pub struct Gate {
    access: Access,
    outcomes: Outcomes,
}

/// What became of requests to which a scope is needed.
struct Outcomes {
    allowed: Counter,
    missing: Counter,
    unknown: Counter,
    expired: Counter,
    forbidden: Counter,
    rate_limited: Counter,
}

impl Gate {
    /// Lets those through whom `access` knows.
    pub fn new(access: Access, metrics: &Metrics) -> Self {
        let outcome = |outcome| metrics.access(outcome);
        let outcomes = Outcomes {
            allowed: outcome("allowed"),
            missing: outcome("missing"),
            unknown: outcome("unknown"),
            expired: outcome("expired"),
            forbidden: outcome("forbidden"),
            rate_limited: outcome("rate_limited"),
        };
        Self { access, outcomes }
    }

    /// What is valid.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Who asks from `peer` for what needs `scope`.
    ///
    /// # Errors
    /// They may not.
    pub fn admit(&self, headers: &HeaderMap, peer: IpAddr, scope: Scope) -> Result<Who, Denied> {
        let checked = self.access.check(headers, scope, Now::read());
        match &checked {
            Ok(_) => self.outcomes.allowed.increment(1),
            Err(denied) => self.note(denied, peer),
        }
        Ok(Who { peer, caller: Some(checked?) })
    }

    /// Whether `caller`, who was let in before from `peer`, may go on with one request more of what needs `scope`.
    ///
    /// # Errors
    /// They may not.
    pub fn again(&self, caller: &Caller, peer: IpAddr, scope: Scope) -> Result<(), Denied> {
        let checked = self.access.again(caller, scope, Now::read());
        match &checked {
            Ok(()) => self.outcomes.allowed.increment(1),
            Err(denied) => self.note(denied, peer),
        }
        checked
    }

    /// Names are only logged of those who were known once: whatever else a caller sends may be a secret.
    fn note(&self, denied: &Denied, peer: IpAddr) {
        match denied {
            Denied::Missing => {
                self.outcomes.missing.increment(1);
                tracing::debug!(%peer, "refused: neither key nor token");
            }
            Denied::Unknown(why) => {
                self.outcomes.unknown.increment(1);
                tracing::debug!(%peer, "refused: {why}");
            }
            Denied::Expired(name) => {
                self.outcomes.expired.increment(1);
                tracing::info!(%peer, %name, "refused: expired");
            }
            Denied::Forbidden { name, scope } => {
                self.outcomes.forbidden.increment(1);
                tracing::info!(%peer, %name, scope = scope.name(), "refused: without the scope");
            }
            Denied::RateLimited { name, .. } => {
                self.outcomes.rate_limited.increment(1);
                tracing::debug!(%peer, %name, "refused: over its rate");
            }
        }
    }
}
