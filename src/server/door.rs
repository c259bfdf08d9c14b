//! Lets connections in at one port: a seat, the handshake if there is one, the first bytes, and then HTTP.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::unconstrained,
    time::{sleep, timeout},
};
use tokio_util::either::Either;

use super::{
    Connect, Context, Io, Port,
    connection::{Connection, Ends},
    files::Spare,
    lingering::Lingering,
    patience::Patience,
    seats::{Seat, Seats},
    tls::Acceptor,
    wire::Wire,
};

/// How long to leave a listener alone after the system refused a connection (file descriptors, memory), if nobody leaves.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long after the port was closed somebody who was let in just before may still be heard.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long somebody who has just come has to say something before another may take the seat: what was sent together with
/// the connection has been read by then.
const GREETING: Duration = Duration::from_millis(10);

/// Most connections that the kernel keeps until they are accepted, as the runtime asks of it.
const BACKLOG: usize = 1024;

/// See the module's text.
pub(super) struct Door {
    listener: TcpListener,
    hall: Hall,
    /// Who has come, and waits for a seat.
    waits: Mutex<Option<(TcpStream, SocketAddr)>>,
}

/// What is behind the door.
struct Hall {
    protocol: Arc<dyn Connect>,
    tls: Option<Acceptor>,
    seats: Arc<Seats>,
    context: Arc<Context>,
    ends: Ends,
    closing: watch::Sender<bool>,
}

impl Door {
    pub(super) fn new(port: Port, context: &Arc<Context>) -> Self {
        let seats = Seats::new(&context.limits.connections, &context.metrics);
        let ends = Ends::new(&context.metrics);
        let Port { listener, protocol, tls } = port;
        let closing = watch::Sender::new(false);
        let hall = Hall { protocol, tls, seats, context: context.clone(), ends, closing };
        Self { listener, hall, waits: Mutex::new(None) }
    }

    pub(super) async fn accept(&self) -> Infallible {
        let mut spare = Spare::default();
        loop {
            spare.keep();
            match self.listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer).await,
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => self.refused(&error, &mut spare).await,
            }
        }
    }

    async fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        *self.waits.lock() = Some((stream, peer));
        let seat = self.hall.seats.take(peer.ip()).await;
        if let (Some((stream, peer)), Some(seat)) = (self.waits.lock().take(), seat) {
            self.hall.welcome(stream, peer, seat);
        }
    }

    /// The system has no file for another connection, or says so although none is there, which the spare one shows. For one
    /// that is there, another that has no request in hand makes room; and so it does for the spare file where that is gone,
    /// because a connection was accepted with what was closed between two looks.
    async fn refused(&self, error: &io::Error, spare: &mut Spare) {
        let lent = spare.lend();
        let came = match lent {
            true => match self.next() {
                None => return,
                Some(came) => came.ok(),
            },
            false => None,
        };
        self.hall.context.metrics.accept_failures.increment(1);
        tracing::warn!(
            %error,
            "a connection could not be accepted; where files are the problem, raise their limit (ulimit -n) or lower \
             --max-connections"
        );
        // Who left before this made no room that has not been taken.
        let _stale = self.hall.seats.moved().now_or_never();
        let room = (came.is_some() || !lent) && self.hall.seats.evict();
        if let Some((stream, peer)) = came {
            self.admit(stream, peer).await;
        }
        if room {
            let _long_enough = timeout(ACCEPT_PAUSE, self.hall.seats.moved()).await;
        } else {
            sleep(ACCEPT_PAUSE).await;
        }
    }

    /// The next connection, if it is there already; however many were accepted in this turn of the task.
    fn next(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        unconstrained(self.listener.accept()).now_or_never()
    }

    /// Lets nobody in any more but who is through to the kernel already, and asks those who are there to end.
    pub(super) fn close(self) -> Arc<Seats> {
        let Self { listener, hall, waits } = self;
        let open = waits.into_inner().is_none_or(|(stream, peer)| hall.admit_now(stream, peer));
        // The kernel knows of connections that the runtime has not heard of.
        match listener.into_std() {
            Ok(listener) if open => hall.admit_all(&listener),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "who is just connecting is not let in any more"),
        }
        hall.closing.send_replace(true);
        hall.protocol.close();
        hall.seats
    }
}

impl Hall {
    /// Lets in whoever is at the door, as long as there are seats.
    fn admit_all(&self, listener: &std::net::TcpListener) {
        for _ in 0..BACKLOG {
            let come = listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, peer))
            });
            match come {
                Ok((stream, peer)) => {
                    if !self.admit_now(stream, peer) {
                        return;
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "who is just connecting is not let in any more");
                    return;
                }
            }
        }
    }

    /// Lets somebody in for whom there is a seat, if one is left; whether there may be another.
    fn admit_now(&self, stream: TcpStream, peer: SocketAddr) -> bool {
        let Some(seat) = self.seats.take(peer.ip()).now_or_never() else { return false };
        if let Some(seat) = seat {
            self.welcome(stream, peer, seat);
        }
        true
    }

    /// The connection, from the handshake on, on a task of its own.
    fn welcome(&self, stream: TcpStream, peer: SocketAddr, seat: Arc<Seat>) {
        let (protocol, tls, limits) = (self.protocol.clone(), self.tls.clone(), &self.context.limits);
        let (limit, ends) = (limits.read_timeout, self.ends.clone());
        let connection = Connection {
            peer,
            seat: seat.clone(),
            patience: Patience::new(limits),
            ends: ends.clone(),
            closing: self.closing.subscribe(),
        };
        let mut closing = self.closing.subscribe();
        let opened = opened(stream, peer, tls, seat.clone(), limit, ends);
        let serving = async move {
            let io = tokio::select! {
                // Who has sent something already is served.
                biased;
                io = opened => io,
                // Nobody waits for a handshake or a first byte: no request is in hand. But what has arrived already may be
                // known to the kernel only.
                () = after(&mut closing, LAST_WORDS) => None,
            };
            drop(closing);
            match io {
                Some(io) => protocol.connect(io, connection).await,
                None => tracing::debug!(%peer, "connection ended before its first byte"),
            }
        };
        let served = tokio::spawn(greeted(seat.clone(), serving));
        seat.served_by(served.abort_handle());
    }
}

/// `serving`, which whoever needs the seat lets alone in its first moment.
async fn greeted(seat: Arc<Seat>, serving: impl Future<Output = ()>) {
    let mut serving = pin!(serving);
    tokio::select! {
        biased;
        () = &mut serving => return,
        () = sleep(GREETING) => seat.greet(),
    }
    drop(seat);
    serving.await;
}

/// Some time after the port was closed.
async fn after(closing: &mut watch::Receiver<bool>, time: Duration) {
    drop(closing.wait_for(|closing| *closing).await);
    sleep(time).await;
}

async fn opened(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Acceptor>,
    seat: Arc<Seat>,
    limit: Duration,
    ends: Ends,
) -> Option<Io> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let bytes = match tls {
        None => Either::Left(Lingering::new(stream)),
        Some(acceptor) => Either::Right(acceptor.shake(stream, limit).await?),
    };
    match timeout(limit, Wire::open(bytes, seat)).await {
        Ok(wire) => wire.ok().map(TokioIo::new),
        Err(_elapsed) => {
            ends.silent.increment(1);
            None
        }
    }
}

/// Errors that concern the connection just accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
