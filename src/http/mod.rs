//! The HTTP layer: speaks HTTP on a connection and answers its requests. Status codes and JSON shapes appear only here.
//!
//! [`Http`] is what a port brings to [`crate::server`]. One file per API family; what they share is [`body`] (bounded
//! reading), [`reply`] (answers and errors), `json` (what parsing takes), `parameters` (what JSON bodies say of their deadline), `timing` (where the time
//! went), `traced` (what a span says) and [`routes`] (which handler, and counting). [`page`] has what browsers are shown, [`openapi`] what programs read of
//! it all.

mod admin;
pub mod body;
mod classify;
mod cors;
pub mod faq;
mod json;
pub mod openapi;
pub mod page;
mod parameters;
mod probes;
pub mod reply;
pub mod routes;
pub mod score;
mod timing;
mod traced;
pub mod v2;

use std::{convert::Infallible, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};

use crate::server::{Connect, Connection, Context, Io, MAX_HEAD, Opening, http2};

use cors::Cors;
use openapi::Document;
use page::Pages;
use routes::Surface;

pub use crate::server::{Ended, Shutdown};

/// Most bytes an HTTP/1 connection buffers each way, heads included: room to read photos in few system calls.
const MAX_BUFFER: usize = 128 << 10;

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
    fn connect(&self, io: Io, connection: Connection) -> BoxFuture<'static, ()> {
        let connection = Arc::new(connection);
        let (context, published, requests) =
            (self.context.clone(), self.published.clone(), connection.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (context, published, peer) = (context.clone(), published.clone(), requests.peer.ip());
            let in_hand = requests.request();
            async move {
                let response = routes::answer(request, peer, &context, &published).await;
                Ok::<_, Infallible>(in_hand.answer(response))
            }
        });
        match io.inner().opening() {
            Opening::Http2 => {
                let protocol = http2(&self.context.limits).serve_connection(io, service);
                async move { connection.drive(protocol).await }.boxed()
            }
            Opening::Other => {
                let protocol = http1().serve_connection(io, service);
                async move { connection.drive(protocol).await }.boxed()
            }
        }
    }
}

/// How long a head may take is known to [`crate::server`], as it is for every protocol.
fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(MAX_BUFFER).max_header_size(MAX_HEAD as usize);
    builder
}
