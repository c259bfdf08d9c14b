//! `convoy serve`: configuration, models, then the ports, then signals.

use std::{future::Future, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::log::Log;
use crate::{
    app::{self, App, Listeners},
    config::ServeArgs,
    server::{Ended, Shutdown, files, reload::Reloads},
    service::{Questions, Slot},
};

/// Serves until told to stop.
pub(super) fn run(args: ServeArgs, log: &Log) -> anyhow::Result<()> {
    let config = args.resolve()?;
    files::provide(&config);
    let lost = log.lost();
    let app = App::build(&config)?
        .counting_lost_log_lines(move || lost.as_ref().map_or(0, |lost| lost.dropped_lines() as u64));
    let runtime = app::runtime()?;
    let ended = runtime.block_on(async {
        tokio::spawn(log.quota().keep());
        let (stop, at_once) = stop_signals()?;
        reload_on_hangup(app.questions(), app.reloads())?;
        let listeners = Listeners::bind(&config).await?;
        tokio::select! {
            ended = app.serve(listeners, stop) => anyhow::Ok(Some(ended)),
            () = at_once => Ok(None),
        }
    });
    // Whatever still runs is nobody's: a batch that is stuck, a file that is being looked at.
    runtime.shutdown_background();
    match ended? {
        Some(Ended::Drained) => {
            tracing::info!("stopped, every request answered");
            Ok(())
        }
        Some(Ended::Cut) => {
            anyhow::bail!("requests were still running when the grace period ended (--grace-ms)")
        }
        None => anyhow::bail!("stopped at once, requests in hand are lost"),
    }
}

/// Reloads the FAQ model, the certificate and the keys on every SIGHUP; what comes of it is logged.
fn reload_on_hangup(questions: Option<Arc<Slot<Questions>>>, reloads: Reloads) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloads.reload().await;
            match &questions {
                Some(slot) => drop(slot.load().await),
                None if reloads.is_empty() => {
                    tracing::warn!(
                        "SIGHUP reloads the FAQ model, the certificate and the keys; there are none"
                    );
                }
                None => {}
            }
        }
    });
    Ok(())
}

/// The first resolves on the first SIGTERM or SIGINT, the second on the next of either.
fn stop_signals() -> anyhow::Result<(impl Future<Output = Shutdown>, impl Future<Output = ()>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (asked, heard) = oneshot::channel();
    let stop = async move {
        let how = tokio::select! {
            _ = terminate.recv() => Shutdown::Orchestrated,
            _ = interrupt.recv() => Shutdown::Immediate,
        };
        tracing::info!(?how, "asked to stop; once more stops at once");
        let _serving_has_ended = asked.send((terminate, interrupt));
        how
    };
    let at_once = async move {
        match heard.await {
            Ok((terminate, interrupt)) => next(terminate, interrupt).await,
            Err(_never_asked) => std::future::pending().await,
        }
    };
    Ok((stop, at_once))
}

async fn next(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
