//! The open loop: a thread that keeps time, a line of due requests, and connections that serve it, as many as it needs.
//! No request leaves the line unrecorded: it is sent, or it is given up long after the last due time.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinSet,
    time::timeout,
};

use super::{Failure, client::Client, drive::Generator, record::Exchange, schedule::Schedule};

/// Due requests taken over from the thread that keeps time at once.
const AT_ONCE: usize = 1024;

/// A request to send.
struct Due {
    index: u64,
    at: Instant,
}

/// The line, first come first served.
#[derive(Default)]
pub(super) struct Line {
    due: RefCell<VecDeque<Due>>,
    /// Told when the line has grown, or when it will not grow any more.
    news: Notify,
    idle: Cell<usize>,
    last_call: Cell<bool>,
}

impl Line {
    /// Requests due that no connection has taken up.
    pub(super) fn waiting(&self) -> usize {
        self.due.borrow().len()
    }
}

impl Generator {
    pub(super) async fn open_loop(self: &Rc<Self>, schedule: Schedule) -> io::Result<()> {
        let (announce, announced) = unbounded_channel();
        let (mut limit, start) = (self.limit(), self.start);
        let due = schedule.take_while(move |at| limit.admits(*at));
        let clock = thread::Builder::new().name("load-clock".into());
        let clock = clock.spawn(move || keep_time(due, start, &announce))?;
        let mut clients = JoinSet::new();
        self.line_up(announced, &mut clients).await;
        self.line.last_call.set(true);
        self.line.news.notify_waiters();
        let served = timeout(self.plan.timeout, async { while clients.join_next().await.is_some() {} }).await;
        if served.is_err() {
            self.give_up();
            clients.join_all().await;
        }
        clock.join().expect("bug: keeping time does not panic");
        Ok(())
    }

    /// Puts requests into the line as they become due, and opens as many connections as the line needs.
    async fn line_up(self: &Rc<Self>, mut announced: UnboundedReceiver<Due>, clients: &mut JoinSet<()>) {
        let mut due = Vec::with_capacity(AT_ONCE);
        while announced.recv_many(&mut due, AT_ONCE).await > 0 {
            let arrived = due.len();
            self.line.due.borrow_mut().extend(due.drain(..));
            let missing = self.line.due.borrow().len().saturating_sub(self.line.idle.get());
            for _ in 0..missing.min(arrived).min(self.plan.connections - clients.len()) {
                let this = Rc::clone(self);
                clients.spawn_local(async move { this.serve_line().await });
            }
            for _ in 0..arrived.min(self.line.idle.get()) {
                self.line.news.notify_one();
            }
        }
    }

    async fn serve_line(&self) {
        let mut client = Client::new(self.address, self.plan.timeout);
        loop {
            let next = self.line.due.borrow_mut().pop_front();
            if let Some(due) = next {
                self.ask(&mut client, due.index, due.at).await;
            } else if self.line.last_call.get() {
                return self.leave(&client);
            } else {
                self.line.idle.set(self.line.idle.get() + 1);
                self.line.news.notified().await;
                self.line.idle.set(self.line.idle.get() - 1);
            }
        }
    }

    /// What is still in the line will not be sent.
    fn give_up(&self) {
        let done = Instant::now();
        for due in self.line.due.borrow_mut().drain(..) {
            let result = Err((Failure::Unsent, "no connection was free in time".to_owned()));
            let exchange = Exchange { due: due.at, sent: None, done, size: 0, result };
            self.recording.borrow_mut().record(&exchange);
        }
    }
}

/// Announces requests when they are due; when it is late, all of them at once. A thread of its own, because the runtime's
/// timers tick in milliseconds.
fn keep_time(due: impl Iterator<Item = Duration>, start: Instant, announce: &UnboundedSender<Due>) {
    for (index, offset) in (0..).zip(due) {
        let at = start + offset;
        if let Some(wait) = at.checked_duration_since(Instant::now()) {
            thread::sleep(wait);
        }
        if announce.send(Due { index, at }).is_err() {
            return;
        }
    }
}
