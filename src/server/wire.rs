//! A connection's bytes after the handshake, if there was one: which HTTP the first of them open, and when more come and go.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{lingering::Lingering, seats::Seat};

/// How a client opens HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client opens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The preface of HTTP/2.
    Http2,
    /// Anything else.
    Other,
}

type Stream = Either<Lingering, TlsStream<Lingering>>;

/// See the module's text.
pub struct Wire {
    stream: Stream,
    seat: Arc<Seat>,
    opening: Opening,
    first: [u8; PREFACE.len()],
    /// Which of `first` have come and have not been read.
    unread: std::ops::Range<usize>,
    /// TLS has taken bytes that the kernel has not.
    unsent: bool,
}

impl Wire {
    /// Reads until it is known what the client opens with.
    ///
    /// # Errors
    /// It ends the connection before that.
    pub(super) async fn open(mut stream: Stream, seat: Arc<Seat>) -> io::Result<Self> {
        let mut first = [0; PREFACE.len()];
        let mut come = 0;
        while come < PREFACE.len() && first[..come] == PREFACE[..come] {
            match stream.read(&mut first[come..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => come += more,
            }
        }
        let opening = if first == *PREFACE { Opening::Http2 } else { Opening::Other };
        let wire = Self { stream, seat, opening, first, unread: 0..come, unsent: false };
        wire.heard();
        Ok(wire)
    }

    /// What the client opened with.
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// HTTP/2 has frames that belong to no request; there, bytes alone do not say that a head has begun.
    fn heard(&self) {
        if self.opening == Opening::Other {
            self.seat.history(|history| history.heard(Instant::now));
        }
    }

    /// Notes that the client has taken bytes, if it has.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes @ 1..)) = written {
            self.seat.history(|history| history.wrote(bytes, Instant::now()));
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        if !wire.unread.is_empty() {
            let count = wire.unread.len().min(buffer.remaining());
            let end = wire.unread.start + count;
            buffer.put_slice(&wire.first[wire.unread.start..end]);
            wire.unread.start = end;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut wire.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            wire.heard();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        match (self.unsent, flushed.is_pending()) {
            (false, true) => self.seat.keep(),
            (true, false) => self.seat.sent(),
            _as_before => {}
        }
        self.unsent = flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};
    use tokio_rustls::{
        TlsAcceptor, TlsConnector,
        rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
    };

    use super::*;
    use crate::{config::ConnectionsConfig, metrics::Metrics, server::seats::Seats};

    /// A server's end of TLS and a client's.
    async fn pair() -> (TlsStream<Lingering>, tokio_rustls::client::TlsStream<tokio::net::TcpStream>) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let server =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let server = server.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let mut trusted = RootCertStore::empty();
        trusted.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(trusted).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let calls = async {
            let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let name = "localhost".try_into().unwrap();
            TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap()
        };
        let answers = async {
            let stream = Lingering::new(listener.accept().await.unwrap().0);
            TlsAcceptor::from(Arc::new(server.unwrap())).accept(stream).await.unwrap()
        };
        tokio::join!(answers, calls)
    }

    #[tokio::test]
    async fn what_has_not_left_is_in_hand() {
        let (stream, mut client) = pair().await;
        client.write_all(b"G").await.unwrap();
        let config = ConnectionsConfig { max: 1, max_per_address: None, ..ConnectionsConfig::default() };
        let seats = Seats::new(&config, &Metrics::new());
        let seat = seats.take("10.0.0.1".parse().unwrap()).await.unwrap();
        let mut wire = Wire::open(Either::Right(stream), seat.clone()).await.unwrap();
        seat.begin();
        // As much as the client's kernel, this one and TLS take.
        let mut written = 0;
        while let Some(more) = wire.write(&[7; 1 << 14]).now_or_never() {
            written += more.unwrap();
        }
        seat.end();
        assert!(poll_fn(|context| Poll::Ready(Pin::new(&mut wire).poll_flush(context))).await.is_pending());
        seat.served_by(tokio::spawn(std::future::pending::<()>()).abort_handle());
        seat.greet();
        assert!(!seats.evict(), "its last bytes are still here");
        let mut taken = vec![0; written];
        let (read, flushed) = tokio::join!(client.read_exact(&mut taken), wire.flush());
        assert!(read.is_ok() && flushed.is_ok());
        assert!(seats.evict());
    }
}
