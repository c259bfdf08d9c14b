//! What every protocol's connections share: the context that handlers need, the terms of a request's head, and the life of
//! a port from the first connection to the drain.
//!
//! What bytes on a connection mean is not known here: [`crate::http`] and [`crate::grpc`] bring that along as a [`Connect`].

mod lingering;
pub mod terms;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use http::HeaderName;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{config::HttpConfig, metrics::Metrics, service::Services, trace::Tracer, v2::Statistics};
use lingering::Lingering;

/// How long to leave a listener alone after the system refused a connection (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Says on every answer that the classifier's weights are random.
pub const WARNING: HeaderName = HeaderName::from_static("x-convoy-warning");

/// HTTP/2 streams a client may have open on one connection.
const MAX_STREAMS: u32 = 256;

/// Most bytes of an HTTP/2 request's head.
const MAX_HEAD: u32 = 64 << 10;

/// How often an HTTP/2 connection is asked whether its client is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the handlers need; built once by [`crate::app`].
pub struct Context {
    /// What is served.
    pub services: Services,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub limits: HttpConfig,
    /// How clients are told apart.
    pub clients: terms::Clients,
    /// Gives requests their place in a trace.
    pub tracer: Tracer,
    /// What the V2 protocol counts.
    pub statistics: Statistics,
}

/// How a shutdown was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// An orchestrator's SIGTERM: load balancers still send for a moment, so ports stay open for the lame-duck time while
    /// readiness is off.
    Orchestrated,
    /// A person's Ctrl-C: close the ports at once.
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

/// Sets what any HTTP/2 connection may take and how long its client may be silent.
pub fn bound_http2(builder: &mut auto::Builder<TokioExecutor>, limits: &HttpConfig) {
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(limits.read_timeout);
}

/// A connection's bytes.
pub type Io = TokioIo<Lingering>;

/// Speaks a protocol on one connection after another.
pub trait Connect: Send + Sync {
    /// The connection of `peer`, to its end; `graceful` can end it early.
    fn connect(&self, io: Io, peer: SocketAddr, graceful: &GracefulShutdown) -> BoxFuture<'static, ()>;

    /// No connections come any more, and those there are should end.
    fn close(&self) {}
}

/// A listener and what is spoken there.
pub struct Port {
    /// Bound already.
    pub listener: TcpListener,
    /// What is spoken.
    pub protocol: Box<dyn Connect>,
}

/// Serves `ports` until `shutdown`, then drains.
pub async fn serve(
    ports: Vec<Port>,
    context: Arc<Context>,
    shutdown: impl Future<Output = Shutdown>,
) -> Ended {
    let graceful = GracefulShutdown::new();
    let seats: Vec<_> =
        ports.iter().map(|_| Arc::new(Semaphore::new(context.limits.max_connections))).collect();
    let accept_all = || {
        let each = ports.iter().zip(&seats).map(|(port, seats)| accept(port, &context, seats, &graceful));
        join_all(each)
    };
    let mut shutdown = std::pin::pin!(shutdown);
    context.metrics.ready.set(1.0);
    let how = tokio::select! {
        how = &mut shutdown => how,
        _never = accept_all() => unreachable!("bug: ports are accepted on without end"),
    };
    context.services.readiness.drain();
    context.metrics.ready.set(0.0);
    if how == Shutdown::Orchestrated {
        tracing::info!(
            lame_duck_ms = context.limits.lame_duck.as_millis() as u64,
            "not ready, still serving"
        );
        let _elapsed = tokio::time::timeout(context.limits.lame_duck, accept_all()).await;
    }
    for Port { listener, protocol } in ports {
        drop(listener);
        protocol.close();
    }
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
    port: &Port,
    context: &Arc<Context>,
    seats: &Arc<Semaphore>,
    graceful: &GracefulShutdown,
) -> Infallible {
    loop {
        let seat = seats.clone().acquire_owned().await.expect("bug: the semaphore is never closed");
        match port.listener.accept().await {
            Ok((stream, peer)) => {
                let connection = port.protocol.connect(prepared(stream, peer), peer, graceful);
                let context = context.clone();
                tokio::spawn(async move {
                    let _seat = seat;
                    context.metrics.connections.increment(1.0);
                    connection.await;
                    context.metrics.connections.decrement(1.0);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                if !is_of_one_connection(&error) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn prepared(stream: TcpStream, peer: SocketAddr) -> Io {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    TokioIo::new(Lingering::new(stream))
}

/// Errors that concern the connection just accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
