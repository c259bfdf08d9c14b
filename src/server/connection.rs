//! One connection while HTTP is spoken on it: its requests in hand, its answers until they have left, and its end.
//!
//! A request is in hand from its head to the last byte of its answer that leaves. What takes too long is
//! [`super::patience`]'s to say.

use std::{
    fmt::Display,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use metrics::Counter;
use tokio::{sync::watch, time::sleep_until};

use super::{
    patience::{Patience, Tardy},
    seats::Seat,
};
use crate::metrics::Metrics;

/// How long a client that had no request for long may take to hear that the connection ends.
const PARTING: Duration = Duration::from_secs(1);

/// See the module's text.
pub struct Connection {
    /// Who is at the other end.
    pub peer: SocketAddr,
    pub(super) seat: Arc<Seat>,
    pub(super) patience: Patience,
    pub(super) ends: Ends,
    pub(super) closing: watch::Receiver<bool>,
}

/// Counts the connections that the server ends, by why.
#[derive(Clone)]
pub(super) struct Ends {
    /// Nothing came.
    pub(super) silent: Counter,
    head: Counter,
    idle: Counter,
    reading: Counter,
}

impl Ends {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let ended = |reason| metrics.connections_ended(reason);
        Self {
            silent: ended("silent"),
            head: ended("slow_head"),
            idle: ended("idle"),
            reading: ended("not_reading"),
        }
    }

    fn count(&self, tardy: Tardy) {
        match tardy {
            Tardy::Head => &self.head,
            Tardy::Idle | Tardy::Leaving => &self.idle,
            Tardy::Reading | Tardy::Trickling => &self.reading,
        }
        .increment(1);
    }
}

impl Connection {
    /// Says that a request's head is there.
    pub fn request(&self) -> InHand {
        InHand { seat: self.seat.clone(), stays: self.seat.begin() }
    }

    /// Speaks `protocol` to the end: the client's, the server's, or that of all patience.
    pub async fn drive<C: GracefulConnection<Error: Display>>(&self, protocol: C) {
        let mut closing = self.closing.clone();
        let mut protocol = std::pin::pin!(protocol);
        let mut look = std::pin::pin!(sleep_until(Instant::now().into()));
        let (mut closed, mut parting) = (false, false);
        loop {
            tokio::select! {
                biased;
                ended = &mut protocol => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = %self.peer, %error, "connection ended early");
                    }
                    return;
                }
                _or_the_port_is_gone = closing.wait_for(|closing| *closing), if !closed => {
                    closed = true;
                    self.seat.history(|history| history.close(Instant::now()));
                    protocol.as_mut().graceful_shutdown();
                    look.as_mut().reset(Instant::now().into());
                }
                () = &mut look => match self.judge(parting) {
                    Some(Verdict::Stays(until)) => look.as_mut().reset(until.into()),
                    Some(Verdict::Parts(time)) => {
                        parting = true;
                        protocol.as_mut().graceful_shutdown();
                        look.as_mut().reset((Instant::now() + time).into());
                    }
                    None => return,
                },
            }
        }
    }

    /// What becomes of the connection; `None` where it ends at once.
    fn judge(&self, parting: bool) -> Option<Verdict> {
        let judged = self.seat.history(|history| self.patience.judge(history, Instant::now()));
        let tardy = match judged {
            Ok(until) => return Some(Verdict::Stays(until)),
            Err(Tardy::Idle | Tardy::Trickling) if parting => return None,
            Err(tardy) => tardy,
        };
        self.ends.count(tardy);
        tracing::debug!(peer = %self.peer, ?tardy, "the connection has kept the server waiting for too long");
        match tardy {
            Tardy::Idle => Some(Verdict::Parts(PARTING)),
            // Others' requests may be in hand on it: a proxy's connection has many users.
            Tardy::Trickling => Some(Verdict::Parts(self.patience.write)),
            Tardy::Head | Tardy::Reading | Tardy::Leaving => None,
        }
    }
}

enum Verdict {
    Stays(Instant),
    /// Is told that it ends, and has this long to.
    Parts(Duration),
}

/// A request in hand, until it is dropped.
pub struct InHand {
    seat: Arc<Seat>,
    /// Whether the connection stays for it.
    stays: bool,
}

impl InHand {
    /// `response` to it, which the request goes along with until it has left.
    pub fn answer<B>(self, response: Response<B>) -> Response<Answer<B>> {
        response.map(|body| Answer { body, in_hand: Arc::new(self) })
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.stays {
            self.seat.end();
        }
    }
}

/// An answer's body, whose pieces are known until they have left.
pub struct Answer<B> {
    body: B,
    in_hand: Arc<InHand>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let in_hand = &self.in_hand;
        frame.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, in_hand.clone())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer that are on their way, until they have left or nobody wants them any more.
pub struct Piece {
    bytes: Bytes,
    number: u64,
    in_hand: Arc<InHand>,
}

impl Piece {
    fn new(bytes: Bytes, in_hand: Arc<InHand>) -> Self {
        let number = in_hand.seat.history(|history| history.owe(Instant::now()));
        Self { bytes, number, in_hand }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.in_hand.seat.history(|history| history.settle(self.number));
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
