//! What every protocol's connections share: the context that handlers need, the terms of a request's head, and the life of
//! a port from the first connection to the drain.
//!
//! What bytes on a connection mean is not known here: [`crate::http`] and [`crate::grpc`] bring that along as a [`Connect`].

mod connection;
mod door;
pub mod files;
pub mod gate;
mod lingering;
mod patience;
pub mod reload;
mod seats;
pub mod terms;
pub mod tls;
mod wire;

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use http::{HeaderMap, HeaderName};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::{
    access::{Denied, Scope},
    config::{HttpConfig, MemoryConfig},
    memory::Budget,
    metrics::Metrics,
    service::Services,
    trace::Tracer,
    v2::Statistics,
};
use door::Door;
use gate::{Gate, Who};
use tls::Acceptor;
use wire::Wire;

pub use connection::{Answer, Connection, InHand, Piece};
pub use wire::Opening;

/// Says on every answer that the classifier's weights are random.
pub const WARNING: HeaderName = HeaderName::from_static("x-convoy-warning");

/// HTTP/2 streams a client may have open on one connection.
const MAX_STREAMS: u32 = 256;

/// Most bytes of a request's head. More is a 431.
pub const MAX_HEAD: u32 = 64 << 10;

/// Bytes of one HTTP/2 stream that may be on their way or unread: a photo in a few round trips.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same of a connection's streams together, which is what a client can make the server hold by sending bodies that
/// nobody reads. Twice a stream's, so that one stream that stands still does not stop the others.
const CONNECTION_WINDOW: u32 = 512 << 10;

/// Bytes of a connection at worst, beside what requests on it are charged: what has come and nobody has read (an HTTP/2 window;
/// HTTP/1 buffers are smaller), a head, frames on their way in and out, TLS records, and 32 KiB of tasks and state, which is what
/// an idle one takes.
pub const CONNECTION_BYTES: u64 =
    CONNECTION_WINDOW as u64 + MAX_HEAD as u64 + (64 << 10) + (128 << 10) + (32 << 10);

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
    /// How long bodies may keep others waiting.
    pub memory: MemoryConfig,
    /// What requests and answers may hold.
    pub budget: Budget,
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

/// HTTP/2 with what any connection may take, and how long its client may be silent.
pub fn http2(limits: &HttpConfig) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(limits.read_timeout);
    builder
}

/// A connection's bytes, in the clear or out of TLS.
pub type Io = TokioIo<Wire>;

/// Speaks a protocol on one connection after another.
pub trait Connect: Send + Sync {
    /// The connection, whose bytes are `io`, to its end.
    fn connect(&self, io: Io, connection: Connection) -> BoxFuture<'static, ()>;

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
    let door = Door::new(ops, &context);
    tokio::select! {
        ended = served => ended,
        _never = door.accept() => unreachable!("bug: ports are accepted on without end"),
    }
}

async fn serve_public(
    ports: Vec<Port>,
    context: &Arc<Context>,
    shutdown: impl Future<Output = Shutdown>,
) -> Ended {
    let doors: Vec<_> = ports.into_iter().map(|port| Door::new(port, context)).collect();
    let mut shutdown = std::pin::pin!(shutdown);
    context.metrics.ready.set(1.0);
    {
        let mut accepting = std::pin::pin!(join_all(doors.iter().map(Door::accept)));
        let how = tokio::select! {
            how = &mut shutdown => how,
            _never = &mut accepting => unreachable!("bug: ports are accepted on without end"),
        };
        context.services.readiness.drain();
        context.metrics.ready.set(0.0);
        if how == Shutdown::Orchestrated {
            tracing::info!(
                lame_duck_ms = context.limits.lame_duck.as_millis() as u64,
                "not ready, still serving"
            );
            let _elapsed = tokio::time::timeout(context.limits.lame_duck, accepting).await;
        }
    }
    let seats: Vec<_> = doors.into_iter().map(Door::close).collect();
    tracing::info!(
        grace_ms = context.limits.grace.as_millis() as u64,
        "port closed, finishing requests in hand"
    );
    let empty = join_all(seats.iter().map(|seats| seats.empty()));
    match tokio::time::timeout(context.limits.grace, empty).await {
        Ok(_all) => Ended::Drained,
        Err(_elapsed) => Ended::Cut,
    }
}
