//! One connection that stays open, opened again when the server has closed it, and one request at a time on it with its
//! times taken. Which request, and what becomes of the outcome, is its caller's business.

use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Response,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::{AbortHandle, spawn_local},
    time::timeout,
};

use super::{
    Payload,
    record::{Answer, Exchange, Failure},
};

/// Most of a refusal's body that is kept.
const EXCERPT: usize = 200;

type Failed = (Failure, String);

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A client with at most one connection. Lives on a [`tokio::task::LocalSet`].
pub(super) struct Client {
    address: SocketAddr,
    timeout: Duration,
    connection: Option<Connection>,
    opened: u64,
}

impl Client {
    /// Nothing is opened yet. `timeout` is for one request, connecting included.
    pub(super) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self { address, timeout, connection: None, opened: 0 }
    }

    /// Connections opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Sends a request that was due at `due` and reads the whole answer.
    pub(super) async fn ask(&mut self, payload: &Payload, due: Instant) -> Exchange {
        let (mut sent, limit) = (None, self.timeout);
        let result = timeout(limit, self.attempt(payload, &mut sent)).await;
        let result = result.unwrap_or_else(|_elapsed| Err((Failure::Timeout, format!("after {limit:?}"))));
        if result.is_err() {
            self.connection = None;
        }
        Exchange { due, sent, done: Instant::now(), size: payload.size(), result }
    }

    /// A connection that turns out to have been closed before a byte of the request left is replaced once.
    async fn attempt(&mut self, payload: &Payload, sent: &mut Option<Instant>) -> Result<Answer, Failed> {
        let mut request = payload.request();
        loop {
            let (connection, reused) = self.ready().await?;
            *sent = Some(Instant::now());
            let mut refused = match connection.sender.try_send_request(request).await {
                Ok(response) => return read(response).await,
                Err(refused) => refused,
            };
            request = match refused.take_message() {
                Some(unsent) if reused => unsent,
                _ => return Err(broken(&refused.into_error())),
            };
            self.connection = None;
            *sent = None;
        }
    }

    /// An open connection, and whether it has been used before.
    async fn ready(&mut self) -> Result<(&mut Connection, bool), Failed> {
        let alive = match &mut self.connection {
            Some(connection) => connection.sender.ready().await.is_ok(),
            None => false,
        };
        if !alive {
            self.connection = None;
            let connection = connect(self.address).await?;
            self.opened += 1;
            return Ok((self.connection.insert(connection), false));
        }
        Ok((self.connection.as_mut().expect("bug: it was there above"), true))
    }
}

async fn connect(address: SocketAddr) -> Result<Connection, Failed> {
    let refused = |error: std::io::Error| (Failure::Connect, error.to_string());
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let driver = spawn_local(async {
        // Its error is also that of the request in flight, where there is one.
        let _ended = driver.await;
    });
    Ok(Connection { sender, driver: driver.abort_handle() })
}

async fn read(response: Response<Incoming>) -> Result<Answer, Failed> {
    let status = response.status();
    let mut body = response.into_body();
    let (mut bytes, mut excerpt) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        bytes += data.len() as u64;
        if !status.is_success() {
            let room = EXCERPT - excerpt.len();
            excerpt.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    let excerpt = String::from_utf8_lossy(&excerpt).trim().replace(char::is_control, " ");
    Ok(Answer { status: status.as_u16(), bytes, excerpt })
}

fn broken(error: &hyper::Error) -> Failed {
    let failure = if error.is_parse() { Failure::Protocol } else { Failure::Closed };
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    (failure, format!("{error}{cause}"))
}
