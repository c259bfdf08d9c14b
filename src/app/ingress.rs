//! Wires who may ask and how: the gate, TLS, and the files that both are read from again when they change.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;

use crate::{
    access::{Access, issuer::Issuer, keyring},
    config::{Config, JwksSource, OidcConfig},
    metrics::Metrics,
    server::{
        gate::Gate,
        reload::{Reloads, Take, Watched},
        tls::Tls,
    },
};

/// What stands between the network and the handlers.
pub(super) struct Ingress {
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) tls: Option<Tls>,
    pub(super) reloads: Reloads,
}

impl Ingress {
    /// Reads certificate, keys and the issuer's keys, as far as `config` names them.
    pub(super) fn open(config: &Config, metrics: &Metrics) -> anyhow::Result<Self> {
        let ingress = &config.ingress;
        let mut watched = Vec::new();
        let mut open = |what, files: Vec<PathBuf>, take: Box<Take>| {
            watched.push(Watched::open(what, files, metrics, take)?);
            anyhow::Ok(())
        };
        let tls = ingress.tls.as_ref().map(|files| Tls::new(files.clone(), metrics));
        if let (Some(tls), Some(files)) = (&tls, &ingress.tls) {
            open("tls", vec![files.cert.clone(), files.key.clone()], take_certificate(tls.clone()))?;
        }
        let issuer = ingress.oidc.as_ref().map(|oidc| Issuer::start(oidc, metrics.reload_failures("issuer")));
        let issuer = issuer.transpose().context("no thread to fetch the issuer's keys")?;
        let gate = ingress.guarded().then(|| Arc::new(Gate::new(Access::new(issuer), metrics)));
        if let (Some(gate), Some(file)) = (&gate, &ingress.keys) {
            open("keys", vec![file.clone()], take_keys(gate.clone(), file.clone()))?;
        }
        if let (Some(gate), Some(OidcConfig { keys: JwksSource::File(file), .. })) = (&gate, &ingress.oidc) {
            open("issuer", vec![file.clone()], take_issuer_keys(gate.clone(), file.clone()))?;
        }
        Ok(Self { gate, tls, reloads: Reloads::new(watched) })
    }
}

fn take_certificate(tls: Tls) -> Box<Take> {
    Box::new(move |contents| {
        let [cert, key] = contents else { unreachable!("bug: there are two files") };
        let expiry = tls.take(cert, key)?;
        if expiry <= now() {
            tracing::warn!(
                "the TLS certificate has expired; clients will refuse it until its file is replaced"
            );
        }
        Ok(format!("the certificate is valid until {}", rfc3339(expiry)))
    })
}

fn take_keys(gate: Arc<Gate>, file: PathBuf) -> Box<Take> {
    Box::new(move |contents| {
        let count =
            gate.access().take_keys(&contents.concat()).with_context(|| file.display().to_string())?;
        Ok(format!("keys: {count}"))
    })
}

fn take_issuer_keys(gate: Arc<Gate>, file: PathBuf) -> Box<Take> {
    Box::new(move |contents| {
        let issuer = gate.access().issuer().expect("bug: its keys are watched");
        let count = issuer.take_keys(&contents.concat()).with_context(|| file.display().to_string())?;
        Ok(format!("keys of the issuer: {count}"))
    })
}

fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// A moment as Unix time for people; certificates may name years that calendars do not have.
fn rfc3339(moment: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(moment);
    moment.map_or_else(|_| "the end of time".to_owned(), |moment| keyring::rfc3339(moment.into()))
}
