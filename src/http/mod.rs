//! The HTTP layer: accepts connections, answers requests, drains on shutdown. Status codes and JSON shapes appear
//! only here.
//!
//! [`serve`] takes a bound listener and a shutdown future, so tests bind port 0. One file per API family; what they
//! share is [`body`] (bounded reading), [`terms`] (deadline, priority, client), [`reply`] (answers and errors), `timing` (where
//! the time went) and [`routes`] (which handler, and counting).

mod admin;
pub mod base64_image;
pub mod body;
mod classify;
mod connection;
mod faq;
pub mod page;
mod probes;
pub mod reply;
pub mod routes;
mod score;
pub mod terms;
mod timing;
pub mod v2;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    config::HttpConfig,
    metrics::Metrics,
    service::{Photos, Questions, Readiness, Served, Slot},
};
use connection::Lingering;
use reply::Failure;

/// How long to leave the listener alone after the system refused a connection (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// HTTP/2 streams a client may have open on one connection.
const MAX_STREAMS: u32 = 256;

/// Most bytes of an HTTP/2 request's head.
const MAX_HEAD: u32 = 64 << 10;

/// Most bytes an HTTP/1 connection buffers, heads included: room to read photos in few system calls.
const MAX_BUFFER: usize = 256 << 10;

/// What the handlers need; built once by [`crate::app`].
pub struct Context {
    /// The photo side, when served.
    pub photos: Option<Arc<Slot<Photos>>>,
    /// The FAQ side, when served.
    pub questions: Option<Arc<Slot<Questions>>>,
    /// Whether traffic is wanted.
    pub readiness: Readiness,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub limits: HttpConfig,
    /// How clients are told apart.
    pub clients: terms::Clients,
    /// What the V2 protocol counts.
    pub statistics: v2::statistics::Statistics,
    /// What browsers are shown.
    pub pages: page::Pages,
}

impl Context {
    /// What classifies photos now.
    ///
    /// # Errors
    /// Nothing does: 404 where it was never meant to, 503 while it is unloaded.
    fn photos(&self) -> Result<Arc<Photos>, Failure> {
        serving(self.photos.as_deref(), "photos")
    }

    /// What answers questions now.
    ///
    /// # Errors
    /// As [`Context::photos`].
    fn questions(&self) -> Result<Arc<Questions>, Failure> {
        serving(self.questions.as_deref(), "questions")
    }

    /// Updates the gauges of every queue.
    pub fn sample(&self) {
        if let Some(photos) = self.photos.as_ref().and_then(|slot| slot.get()) {
            photos.decoder.sample();
            photos.classifier.sample();
        }
        if let Some(questions) = self.questions.as_ref().and_then(|slot| slot.get()) {
            questions.queue.sample();
        }
    }
}

fn serving<T: Served>(slot: Option<&Slot<T>>, service: &str) -> Result<Arc<T>, Failure> {
    let slot = slot.ok_or_else(|| Failure::not_served(service))?;
    slot.get().ok_or_else(|| Failure::unloaded(&slot.name()))
}

/// How a shutdown was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// An orchestrator's SIGTERM: load balancers still send for a moment, so the port stays open for the lame-duck
    /// time while readiness is off.
    Orchestrated,
    /// A person's Ctrl-C: close the port at once.
    Immediate,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request in hand was answered.
    Drained,
    /// The grace period ran out first.
    Cut,
}

/// Serves `listener` until `shutdown`, then drains.
pub async fn serve(
    listener: TcpListener,
    context: Arc<Context>,
    shutdown: impl Future<Output = Shutdown>,
) -> Ended {
    let graceful = GracefulShutdown::new();
    let seats = Arc::new(Semaphore::new(context.limits.max_connections));
    let mut shutdown = std::pin::pin!(shutdown);
    context.metrics.ready.set(1.0);
    let how = tokio::select! {
        how = &mut shutdown => how,
        never = accept(&listener, &context, &seats, &graceful) => match never {},
    };
    context.readiness.drain();
    context.metrics.ready.set(0.0);
    if how == Shutdown::Orchestrated {
        tracing::info!(
            lame_duck_ms = context.limits.lame_duck.as_millis() as u64,
            "not ready, still serving"
        );
        let _elapsed =
            tokio::time::timeout(context.limits.lame_duck, accept(&listener, &context, &seats, &graceful))
                .await;
    }
    drop(listener);
    tracing::info!(
        grace_ms = context.limits.grace.as_millis() as u64,
        "port closed, finishing requests in hand"
    );
    match tokio::time::timeout(context.limits.grace, graceful.shutdown()).await {
        Ok(()) => Ended::Drained,
        Err(_elapsed) => Ended::Cut,
    }
}

async fn accept(
    listener: &TcpListener,
    context: &Arc<Context>,
    seats: &Arc<Semaphore>,
    graceful: &GracefulShutdown,
) -> Infallible {
    loop {
        let seat = seats.clone().acquire_owned().await.expect("bug: the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => connect(stream, peer, context.clone(), seat, graceful),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                if !is_of_one_connection(&error) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Errors that concern the connection just accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    context: Arc<Context>,
    seat: OwnedSemaphorePermit,
    graceful: &GracefulShutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let service = service_fn({
        let context = context.clone();
        move |request: Request<Incoming>| {
            let context = context.clone();
            async move { Ok::<_, Infallible>(routes::answer(request, peer.ip(), &context).await) }
        }
    });
    let io = TokioIo::new(Lingering::new(stream));
    let connection = protocol(&context.limits).serve_connection(io, service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let _seat = seat;
        context.metrics.connections.increment(1.0);
        if let Err(error) = connection.await {
            tracing::debug!(%peer, %error, "connection ended early");
        }
        context.metrics.connections.decrement(1.0);
    });
}

fn protocol(limits: &HttpConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read_timeout)
        .max_buf_size(MAX_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(limits.read_timeout);
    builder
}
