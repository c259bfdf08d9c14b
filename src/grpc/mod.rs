//! The gRPC layer: speaks gRPC on a connection and answers its calls. Status codes and protobuf shapes appear only here.
//!
//! [`Grpc`] is what a port brings to [`crate::server`]. `calls` finds the handler of a call and bounds, times and counts it;
//! `messages` charges what comes; `places` are those of streams;
//! `inference` is the V2 protocol, whose meaning is [`crate::v2`]'s, with [`message`] and `describe` to and from protobuf,
//! `status` for errors, `traced` for spans and [`codec`] for bytes; `health` is `grpc.health.v1`. Reflection answers with what `build.rs` made.

mod calls;
pub mod codec;
mod describe;
mod health;
mod inference;
pub mod message;
mod messages;
mod places;
mod status;
mod traced;

use std::{convert::Infallible, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use hyper::{Request, body::Incoming, service::service_fn};
use tokio::sync::watch;

use crate::{
    config::HttpConfig,
    server::{Connect, Connection, Context, Io, http2},
};
use calls::Calls;

/// Messages and service of `proto/inference.proto`.
#[allow(missing_docs, clippy::all, reason = "made by build.rs; the documentation is in the .proto file")]
pub mod proto {
    tonic::include_proto!("inference");

    /// The descriptors of all of it.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("inference");
}

/// gRPC over HTTP/2; TLS, where there is any, is the port's.
pub struct Grpc {
    calls: Arc<Calls>,
    limits: HttpConfig,
    closing: watch::Sender<bool>,
}

impl Grpc {
    /// Answers with what `context` serves.
    pub fn new(context: Arc<Context>) -> Self {
        let closing = watch::Sender::new(false);
        let limits = context.limits;
        Self { calls: Arc::new(Calls::new(context, &closing)), limits, closing }
    }
}

impl Connect for Grpc {
    fn connect(&self, io: Io, connection: Connection) -> BoxFuture<'static, ()> {
        let connection = Arc::new(connection);
        let (calls, requests) = (self.calls.clone(), connection.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (calls, peer) = (calls.clone(), requests.peer.ip());
            let in_hand = requests.request();
            async move { Ok::<_, Infallible>(in_hand.answer(calls.answer(request, peer).await)) }
        });
        let protocol = http2(&self.limits).serve_connection(io, service);
        async move { connection.drive(protocol).await }.boxed()
    }

    fn close(&self) {
        self.closing.send_replace(true);
    }
}
