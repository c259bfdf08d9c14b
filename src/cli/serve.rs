//! `convoy serve`: configuration, models, then the ports, then signals.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::log::Log;
use crate::{
    app::{self, App, Listeners},
    config::ServeArgs,
    server::{Ended, Shutdown, files, reload::Reloads},
    service::{Questions, Slot},
};

/// How long worker threads may take to end after the last request was answered.
const WORKERS_END: Duration = Duration::from_secs(2);

/// Serves until told to stop.
pub(super) fn run(args: ServeArgs, log: &Log) -> anyhow::Result<()> {
    let config = args.resolve()?;
    files::provide(&config);
    let app = App::build(&config)?;
    let runtime = app::runtime()?;
    let ended = runtime.block_on(async {
        tokio::spawn(log.quota().keep());
        let stop = stop_signal()?;
        reload_on_hangup(app.questions(), app.reloads())?;
        let listeners = Listeners::bind(&config).await?;
        anyhow::Ok(app.serve(listeners, stop).await)
    })?;
    runtime.shutdown_timeout(WORKERS_END);
    match ended {
        Ended::Drained => {
            tracing::info!("stopped, every request answered");
            Ok(())
        }
        Ended::Cut => anyhow::bail!("requests were still running when the grace period ended (--grace-ms)"),
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

/// Resolves on the first SIGTERM or SIGINT; a second one of either ends the process at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = Shutdown>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let how = tokio::select! {
            _ = terminate.recv() => Shutdown::Orchestrated,
            _ = interrupt.recv() => Shutdown::Immediate,
        };
        tracing::info!(?how, "asked to stop; once more stops at once");
        tokio::spawn(exit_on_next(terminate, interrupt));
        how
    })
}

async fn exit_on_next(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("stopped at once, requests in hand are lost");
    std::process::exit(1);
}
