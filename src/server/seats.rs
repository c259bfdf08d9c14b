//! The seats of a port: how many connections there may be, in all and of one network, and who goes when all are taken.
//!
//! A connection that has no request in hand makes room for one that has just come, the one that has been without for longest
//! first; a connection with a request in hand never does. What a connection may keep the server waiting for is
//! [`super::patience`]'s to say.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

use super::patience::History;
use crate::{config::ConnectionsConfig, metrics::Metrics};

/// See the module's text.
pub(super) struct Seats {
    max: usize,
    max_per_network: Option<usize>,
    table: Mutex<Table>,
    /// How often somebody came, or had no request in hand any more.
    turns: AtomicU64,
    /// Somebody left, or has no request in hand any more.
    moved: Notify,
    open: Gauge,
    evicted: Counter,
    crowded: Counter,
}

#[derive(Default)]
struct Table {
    taken: usize,
    /// Those without a request in hand, by the turn since which they are.
    waiting: BTreeMap<u64, Waiting>,
    networks: HashMap<IpAddr, usize>,
}

/// One that has no request in hand.
struct Waiting {
    task: AbortHandle,
    network: Option<IpAddr>,
}

impl Seats {
    pub(super) fn new(config: &ConnectionsConfig, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            max: config.max,
            max_per_network: config.max_per_address,
            table: Mutex::default(),
            turns: AtomicU64::new(0),
            moved: Notify::new(),
            open: metrics.connections.clone(),
            evicted: metrics.connections_ended("evicted"),
            crowded: metrics.connections_ended("address"),
        })
    }

    /// A seat for `peer`, whose connection is there; `None` where its network has as many as it may. Waits while every other
    /// connection has a request in hand.
    pub(super) async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Arc<Seat>> {
        let network = self.max_per_network.map(|max| (network(peer), max));
        loop {
            {
                let mut table = self.table.lock();
                if let Some((network, max)) = network
                    && table.networks.get(&network).is_some_and(|taken| *taken >= max)
                {
                    self.crowded.increment(1);
                    return None;
                }
                if table.taken < self.max || self.evict_from(&mut table) {
                    return Some(self.seat(&mut table, network.map(|(network, _)| network)));
                }
            }
            self.moved.notified().await;
        }
    }

    fn seat(self: &Arc<Self>, table: &mut Table, network: Option<IpAddr>) -> Arc<Seat> {
        table.taken += 1;
        if let Some(network) = network {
            *table.networks.entry(network).or_default() += 1;
        }
        self.open.increment(1.0);
        let place = Place {
            standing: Standing::Aside,
            in_hand: 0,
            kept: false,
            task: None,
            greeted: false,
            since: self.turn(),
            history: History::new(Instant::now()),
        };
        Arc::new(Seat { seats: self.clone(), network, place: Mutex::new(place) })
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends the connection that has been without a request in hand for longest; whether there was one.
    pub(super) fn evict(&self) -> bool {
        self.evict_from(&mut self.table.lock())
    }

    fn evict_from(&self, table: &mut Table) -> bool {
        let Some((_, waiting)) = table.waiting.pop_first() else { return false };
        table.leave(waiting.network);
        waiting.task.abort();
        self.evicted.increment(1);
        true
    }

    /// Until somebody leaves or has no request in hand any more; at once if that happened since the last call.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Until nobody is there.
    pub(super) async fn empty(&self) {
        while self.table.lock().taken > 0 {
            self.moved.notified().await;
        }
    }
}

impl Table {
    fn leave(&mut self, network: Option<IpAddr>) {
        self.taken -= 1;
        let Some(network) = network else { return };
        if let Some(taken) = self.networks.get_mut(&network) {
            *taken -= 1;
            if *taken == 0 {
                self.networks.remove(&network);
            }
        }
    }
}

/// Whoever has an IPv6 address has at least the 2^64 beside it.
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A connection's place at its port, until it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    network: Option<IpAddr>,
    place: Mutex<Place>,
}

struct Place {
    standing: Standing,
    in_hand: usize,
    /// Bytes of answers have not left.
    kept: bool,
    /// What serves the connection.
    task: Option<AbortHandle>,
    /// There has been time to say something.
    greeted: bool,
    /// The turn at which it came, or at which it had no request in hand any more.
    since: u64,
    history: History,
}

/// How a seat stands when another connection needs one.
#[derive(Clone, Copy)]
enum Standing {
    /// A request is in hand or an answer has not left, or the connection has only just come: it stays.
    Aside,
    /// In line to make room, by its key in the table.
    Waiting(u64),
    /// It has made room, and is not counted any more.
    Out,
}

impl Place {
    /// Gets in line, unless a request is in hand or may be on its way already, or an answer has not left.
    fn wait(&mut self, seats: &Seats, network: Option<IpAddr>) {
        if let (Standing::Aside, 0, false, true, Some(task)) =
            (self.standing, self.in_hand, self.kept, self.greeted, &self.task)
        {
            let waiting = Waiting { task: task.clone(), network };
            seats.table.lock().waiting.insert(self.since, waiting);
            self.standing = Standing::Waiting(self.since);
            seats.moved.notify_one();
        }
    }

    /// Gets out of line.
    fn stay(&mut self, seats: &Seats) {
        if let Standing::Waiting(key) = self.standing {
            let stays = seats.table.lock().waiting.remove(&key).is_some();
            self.standing = if stays { Standing::Aside } else { Standing::Out };
        }
    }
}

impl Seat {
    /// Names the task that is ended when another connection needs the seat.
    pub(super) fn served_by(&self, task: AbortHandle) {
        let mut place = self.place.lock();
        place.task = Some(task);
        place.wait(&self.seats, self.network);
    }

    /// There has been time for a request that was sent at once to be seen: without one, it makes room for others.
    pub(super) fn greet(&self) {
        let mut place = self.place.lock();
        place.greeted = true;
        place.wait(&self.seats, self.network);
    }

    /// A request's head is there; whether the connection stays until [`Seat::end`] says that it is answered.
    pub(super) fn begin(&self) -> bool {
        let mut place = self.place.lock();
        if !place.history.begin(Instant::now()) {
            return false;
        }
        place.in_hand += 1;
        place.stay(&self.seats);
        true
    }

    /// A request that the connection stays for has been answered, or given up.
    pub(super) fn end(&self) {
        let mut place = self.place.lock();
        place.in_hand -= 1;
        if place.in_hand == 0 {
            place.since = self.seats.turn();
            place.history.end(Instant::now());
        }
        place.wait(&self.seats, self.network);
    }

    /// Bytes of answers have not left: the connection makes no room for others before [`Seat::sent`] says that they have.
    pub(super) fn keep(&self) {
        let mut place = self.place.lock();
        place.kept = true;
        place.history.keep(Instant::now());
        place.stay(&self.seats);
    }

    /// Every byte of answers has left.
    pub(super) fn sent(&self) {
        let mut place = self.place.lock();
        place.kept = false;
        place.history.sent();
        place.since = self.seats.turn();
        place.wait(&self.seats, self.network);
    }

    /// What `look` sees or changes in how the connection has gone so far.
    pub(super) fn history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.place.lock().history)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut table = self.seats.table.lock();
            let counted = match self.place.get_mut().standing {
                Standing::Aside => true,
                Standing::Waiting(key) => table.waiting.remove(&key).is_some(),
                Standing::Out => false,
            };
            if counted {
                table.leave(self.network);
            }
        }
        self.seats.open.decrement(1.0);
        self.seats.moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(max: usize, max_per_address: Option<usize>) -> Arc<Seats> {
        Seats::new(
            &ConnectionsConfig { max, max_per_address, ..ConnectionsConfig::default() },
            &Metrics::new(),
        )
    }

    /// A connection that does nothing, and what serves it.
    async fn sit(seats: &Arc<Seats>, peer: &str) -> Option<(Arc<Seat>, tokio::task::JoinHandle<()>)> {
        let seat = seats.take(peer.parse().unwrap()).await?;
        let task = tokio::spawn(std::future::pending());
        seat.served_by(task.abort_handle());
        seat.greet();
        Some((seat, task))
    }

    #[tokio::test]
    async fn who_has_only_just_come_stays() {
        let seats = seats(1, None);
        let seat = seats.take("10.0.0.1".parse().unwrap()).await.unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        seat.served_by(task.abort_handle());
        seat.begin();
        seat.end();
        assert!(!seats.evict());
        seat.greet();
        assert!(seats.evict() && task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn who_has_been_without_a_request_for_longest_makes_room() {
        let seats = seats(3, None);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(sit(&seats, "10.0.0.1").await.unwrap());
        }
        let [a, b, c] = held.try_into().ok().unwrap();
        a.0.begin();
        b.0.begin();
        b.0.end();
        let d = sit(&seats, "10.0.0.1").await.unwrap();
        assert!(c.1.await.unwrap_err().is_cancelled(), "it has never had one");
        drop(c.0);
        let e = sit(&seats, "10.0.0.1").await.unwrap();
        assert!(b.1.await.unwrap_err().is_cancelled(), "it came to be without before the fourth was there");
        b.0.begin();
        b.0.end();
        drop(b.0);
        for seat in [&d.0, &e.0] {
            seat.begin();
        }
        assert!(!seats.evict(), "all have requests in hand");
        let next = sit(&seats, "10.0.0.1");
        let ends = async {
            tokio::task::yield_now().await;
            a.0.end();
        };
        let (next, ()) = tokio::join!(next, ends);
        assert!(next.is_some() && a.1.await.unwrap_err().is_cancelled());
        for seat in [d, e, next.unwrap()] {
            drop(seat);
        }
        drop(a.0);
        seats.empty().await;
    }

    #[tokio::test]
    async fn a_network_has_as_many_as_it_may() {
        let seats = seats(10, Some(2));
        let first = sit(&seats, "10.0.0.1").await.unwrap();
        let second = sit(&seats, "::ffff:10.0.0.1").await.unwrap();
        assert!(sit(&seats, "10.0.0.1").await.is_none());
        assert!(sit(&seats, "10.0.0.2").await.is_some());
        drop((first, second));
        assert!(sit(&seats, "10.0.0.1").await.is_some());
        assert_eq!(network("2001:db8::1".parse().unwrap()), network("2001:db8::ffff:1:2:3".parse().unwrap()));
        assert_ne!(network("2001:db8::1".parse().unwrap()), network("2001:db8:0:1::1".parse().unwrap()));
    }
}
