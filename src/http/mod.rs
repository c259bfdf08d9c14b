//! The HTTP layer: speaks HTTP on a connection and answers its requests. Status codes and JSON shapes appear only here.
//!
//! [`Http`] is what a port brings to [`crate::server`]. One file per API family; what they share is [`body`] (bounded
//! reading), [`reply`] (answers and errors), `parameters` (what JSON bodies say of their deadline), `timing` (where the time
//! went), `traced` (what a span says) and [`routes`] (which handler, and counting). [`page`] has what browsers are shown, [`openapi`] what programs read of
//! it all.

mod admin;
pub mod body;
mod classify;
mod cors;
mod faq;
pub mod openapi;
pub mod page;
mod parameters;
mod probes;
pub mod reply;
pub mod routes;
mod score;
mod timing;
mod traced;
pub mod v2;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};

use crate::{
    config::HttpConfig,
    server::{Connect, Context, Io, bound_http2},
};

use cors::Cors;
use openapi::Document;
use page::Pages;
use routes::Surface;

pub use crate::server::{Ended, Shutdown};

/// Most bytes an HTTP/1 connection buffers, heads included: room to read photos in few system calls.
const MAX_BUFFER: usize = 256 << 10;

/// HTTP/1.1 and HTTP/2.
pub struct Http {
    context: Arc<Context>,
    published: Arc<Published>,
}

/// What is the same for everybody, made once.
struct Published {
    pages: Pages,
    document: Document,
    cors: Cors,
    surface: Surface,
}

impl Http {
    /// Answers with what `context` serves; pages of `origins` may ask from browsers.
    pub fn new(context: Arc<Context>, origins: Vec<String>) -> Self {
        Self::with(context, Cors::new(origins), Surface::Everything)
    }

    /// Answers operators: liveness, readiness and metrics, and nothing else.
    pub fn ops(context: Arc<Context>) -> Self {
        Self::with(context, Cors::default(), Surface::Ops)
    }

    fn with(context: Arc<Context>, cors: Cors, surface: Surface) -> Self {
        let published = Published { pages: Pages::new(), document: Document::new(), cors, surface };
        Self { context, published: Arc::new(published) }
    }
}

impl Connect for Http {
    fn connect(&self, io: Io, peer: SocketAddr, watcher: Watcher) -> BoxFuture<'static, ()> {
        let (context, published) = (self.context.clone(), self.published.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (context, published) = (context.clone(), published.clone());
            async move { Ok::<_, Infallible>(routes::answer(request, peer.ip(), &context, &published).await) }
        });
        let connection = protocol(&self.context.limits).serve_connection(io, service).into_owned();
        let connection = watcher.watch(connection);
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "connection ended early");
            }
        }
        .boxed()
    }
}

fn protocol(limits: &HttpConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read_timeout)
        .max_buf_size(MAX_BUFFER);
    bound_http2(&mut builder, limits);
    builder
}
