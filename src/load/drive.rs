//! Runs a plan: finds the server, runs the closed loop or hands over to the open one, and tells of progress. Times are
//! taken in `client` and kept in `record`.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{
    net::{TcpStream, lookup_host},
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Failure, Pace, Plan, Recording,
    client::Client,
    open::Line,
    record::Exchange,
    schedule::{Limit, Schedule},
};

/// Time between two words on progress.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A connection of a closed loop that could not be opened is tried again after this time, not at once and for ever.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Why a plan could not be run at all.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The host's name has no address.
    #[error("cannot find the host {0}: is its name right?")]
    Unknown(String, #[source] io::Error),
    /// Nobody listens there.
    #[error("cannot connect to {0}: is convoy serving there? `convoy serve --bind HOST:PORT` starts it")]
    Unreachable(String, #[source] io::Error),
    /// The system has no thread or no poll for the generator.
    #[error("cannot start the load generator")]
    System(#[from] io::Error),
}

/// How far a run is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Since the start, warm-up included.
    pub elapsed: Duration,
    /// How long requests are sent, warm-up included; `None` where only their number ends the run.
    pub total: Option<Duration>,
    /// Requests that counted and have ended.
    pub requests: u64,
    /// Those of them that were not answered well.
    pub failed: u64,
    /// Requests due and waiting for a connection.
    pub waiting: usize,
    /// 99th percentile of latency so far, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// What the loops share.
pub(super) struct Generator {
    pub(super) plan: Plan,
    pub(super) address: SocketAddr,
    pub(super) start: Instant,
    pub(super) recording: RefCell<Recording>,
    pub(super) line: Line,
}

/// See [`super::run`].
pub(super) fn run(plan: &Plan, progress: impl FnMut(&Progress)) -> Result<Recording, LoadError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let address = find(plan).await?;
        let generator = Rc::new(Generator::new(plan.clone(), address));
        generator.run(progress).await?;
        let mut recording = generator.recording.borrow().clone();
        recording.finish(plan.requests);
        Ok(recording)
    })
}

/// The first of the host's addresses where somebody listens.
async fn find(plan: &Plan) -> Result<SocketAddr, LoadError> {
    let (host, port) = plan.target.endpoint();
    let addresses =
        lookup_host((host, port)).await.map_err(|error| LoadError::Unknown(host.to_owned(), error))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match timeout(plan.timeout, TcpStream::connect(address)).await {
            Ok(Ok(_stream)) => return Ok(address),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(LoadError::Unreachable(format!("{host}:{port}"), last))
}

impl Generator {
    fn new(plan: Plan, address: SocketAddr) -> Self {
        let start = Instant::now();
        let recording = Recording::new(start + plan.warm_up, plan.duration);
        Self { plan, address, start, recording: RefCell::new(recording), line: Line::default() }
    }

    async fn run(self: &Rc<Self>, mut progress: impl FnMut(&Progress)) -> io::Result<()> {
        let this = Rc::clone(self);
        let work = async move {
            match this.plan.pace {
                Pace::Closed => this.closed_loop().await,
                Pace::Open { rate, arrivals, seed } => {
                    this.open_loop(Schedule::new(rate, arrivals, seed)).await
                }
            }
        };
        tokio::pin!(work);
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => progress(&self.progress()),
            }
        }
    }

    fn progress(&self) -> Progress {
        let recording = self.recording.borrow();
        Progress {
            elapsed: self.start.elapsed(),
            total: self.plan.duration.map(|duration| self.plan.warm_up + duration),
            requests: recording.requests(),
            failed: recording.failed(),
            waiting: self.line.waiting(),
            p99_ms: recording.latency_ms(0.99),
        }
    }

    pub(super) fn limit(&self) -> Limit {
        Limit::new(self.plan.warm_up, self.plan.duration, self.plan.requests)
    }

    pub(super) async fn ask(&self, client: &mut Client, index: u64, due: Instant) -> Exchange {
        let payloads = &self.plan.payloads;
        let exchange = client.ask(&payloads[(index % payloads.len() as u64) as usize], due).await;
        self.recording.borrow_mut().record(&exchange);
        exchange
    }

    pub(super) fn leave(&self, client: &Client) {
        self.recording.borrow_mut().connections += client.opened();
    }

    async fn closed_loop(self: &Rc<Self>) -> io::Result<()> {
        let sent = Rc::new((Cell::new(0), RefCell::new(self.limit())));
        let mut clients = JoinSet::new();
        for _ in 0..self.plan.connections {
            let (this, sent) = (Rc::clone(self), Rc::clone(&sent));
            clients.spawn_local(async move { this.keep_asking(&sent.0, &sent.1).await });
        }
        clients.join_all().await;
        Ok(())
    }

    async fn keep_asking(&self, sent: &Cell<u64>, limit: &RefCell<Limit>) {
        let mut client = Client::new(self.address, self.plan.timeout);
        loop {
            let now = Instant::now();
            if !limit.borrow_mut().admits(now - self.start) {
                break;
            }
            let index = sent.replace(sent.get() + 1);
            let exchange = self.ask(&mut client, index, now).await;
            if matches!(exchange.result, Err((Failure::Connect, _))) {
                sleep(RECONNECT_AFTER).await;
            }
        }
        self.leave(&client);
    }
}
