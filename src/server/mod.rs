//! What every protocol's connections share: the context that handlers need, the terms of a request's head, and the life of
//! a port from the first connection to the drain.
//!
//! What bytes on a connection mean is not known here: [`crate::http`] and [`crate::grpc`] bring that along as a [`Connect`].

pub mod gate;
mod lingering;
pub mod reload;
pub mod terms;
pub mod tls;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use http::{HeaderMap, HeaderName};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::{
    access::{Denied, Scope},
    config::HttpConfig,
    metrics::Metrics,
    service::Services,
    trace::Tracer,
    v2::Statistics,
};
use gate::{Gate, Who};
use lingering::Lingering;
use tls::Acceptor;

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
    /// Who may ask for what; everybody for everything when `None`.
    pub gate: Option<Arc<Gate>>,
}

impl Context {
    /// Who asks from `peer` for what needs `scope`; nobody is asked where it needs none.
    ///
    /// # Errors
    /// They may not.
    pub fn admit(&self, headers: &HeaderMap, peer: IpAddr, scope: Option<Scope>) -> Result<Who, Denied> {
        match (&self.gate, scope) {
            (Some(gate), Some(scope)) => gate.admit(headers, peer, scope),
            _ => Ok(Who::at(peer)),
        }
    }

    /// Whether `who`, let in before, may go on with one request more of what needs `scope`, as in a stream.
    ///
    /// # Errors
    /// They may not.
    pub fn admit_again(&self, who: &Who, scope: Scope) -> Result<(), Denied> {
        match (&self.gate, &who.caller) {
            (Some(gate), Some(caller)) => gate.again(caller, who.peer, scope),
            _ => Ok(()),
        }
    }
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

/// A connection's bytes, in the clear or out of TLS.
pub type Io = TokioIo<Either<Lingering, TlsStream<Lingering>>>;

/// Speaks a protocol on one connection after another.
pub trait Connect: Send + Sync {
    /// The connection of `peer`, to its end; `watcher` can end it early.
    fn connect(&self, io: Io, peer: SocketAddr, watcher: Watcher) -> BoxFuture<'static, ()>;

    /// No connections come any more, and those there are should end.
    fn close(&self) {}
}

/// A listener and what is spoken there.
pub struct Port {
    /// Bound already.
    pub listener: TcpListener,
    /// What is spoken.
    pub protocol: Arc<dyn Connect>,
    /// Does the handshakes, where it is spoken over TLS.
    pub tls: Option<Acceptor>,
}

/// Every port of a server.
pub struct Ports {
    /// For clients: closed when the lame-duck time is over.
    pub public: Vec<Port>,
    /// For operators, if there is one: open to the very end, and nobody waits for its connections.
    pub ops: Option<Port>,
}

/// Serves `ports` until `shutdown`, then drains.
pub async fn serve(ports: Ports, context: Arc<Context>, shutdown: impl Future<Output = Shutdown>) -> Ended {
    let Ports { public, ops } = ports;
    let served = serve_public(public, &context, shutdown);
    let Some(ops) = ops else { return served.await };
    let (door, nobody_waits) = (Door::new(ops, &context), GracefulShutdown::new());
    tokio::select! {
        ended = served => ended,
        _never = door.accept(&nobody_waits) => unreachable!("bug: ports are accepted on without end"),
    }
}

async fn serve_public(
    ports: Vec<Port>,
    context: &Arc<Context>,
    shutdown: impl Future<Output = Shutdown>,
) -> Ended {
    let graceful = GracefulShutdown::new();
    let doors: Vec<_> = ports.into_iter().map(|port| Door::new(port, context)).collect();
    let accept_all = || join_all(doors.iter().map(|door| door.accept(&graceful)));
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
    doors.into_iter().for_each(Door::close);
    tracing::info!(
        grace_ms = context.limits.grace.as_millis() as u64,
        "port closed, finishing requests in hand"
    );
    match tokio::time::timeout(context.limits.grace, graceful.shutdown()).await {
        Ok(()) => Ended::Drained,
        Err(_elapsed) => Ended::Cut,
    }
}

/// A port, and what its connections share.
struct Door {
    port: Port,
    seats: Arc<Semaphore>,
    context: Arc<Context>,
    closing: watch::Sender<bool>,
}

impl Door {
    fn new(port: Port, context: &Arc<Context>) -> Self {
        let seats = Arc::new(Semaphore::new(context.limits.max_connections));
        Self { port, seats, context: context.clone(), closing: watch::Sender::new(false) }
    }

    async fn accept(&self, graceful: &GracefulShutdown) -> Infallible {
        loop {
            let seat = self.seats.clone().acquire_owned().await.expect("bug: the semaphore is never closed");
            match self.port.listener.accept().await {
                Ok((stream, peer)) => self.welcome(stream, peer, seat, graceful.watcher()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// The handshake, if there is one, and the connection, on a task of their own.
    fn welcome(&self, stream: TcpStream, peer: SocketAddr, seat: OwnedSemaphorePermit, watcher: Watcher) {
        let (protocol, tls, context) =
            (self.port.protocol.clone(), self.port.tls.clone(), self.context.clone());
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let _seat = seat;
            context.metrics.connections.increment(1.0);
            let io = tokio::select! {
                io = prepared(stream, peer, tls, context.limits.read_timeout) => io,
                // Nobody waits for a handshake: no request is in hand.
                _ = closing.wait_for(|closing| *closing) => None,
            };
            if let Some(io) = io {
                protocol.connect(io, peer, watcher).await;
            }
            context.metrics.connections.decrement(1.0);
        });
    }

    fn close(self) {
        let Self { port, closing, .. } = self;
        drop(port.listener);
        closing.send_replace(true);
        port.protocol.close();
    }
}

async fn prepared(stream: TcpStream, peer: SocketAddr, tls: Option<Acceptor>, limit: Duration) -> Option<Io> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let bytes = match tls {
        None => Either::Left(Lingering::new(stream)),
        Some(acceptor) => Either::Right(acceptor.shake(stream, limit).await?),
    };
    Some(TokioIo::new(bytes))
}

/// Errors that concern the connection just accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
