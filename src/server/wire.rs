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
        let wire = Self { stream, seat, opening, first, unread: 0..come };
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
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.seat.history(|history| history.wrote(Instant::now()));
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
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
