//! How long a connection may keep the server waiting, by how it has gone so far. Pure: the time is passed in.
//!
//! Bodies are not known here; how slowly they may come is their readers' to say.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::config::HttpConfig;

/// A client that takes an answer piece by piece has this many times as long as one that takes nothing.
const TRICKLE: u32 = 4;

/// More bytes than TLS keeps until the kernel takes them: once as many have come after others, those have left.
const KEPT: usize = 128 << 10;

/// How long, once the port is closed, a client without a request in hand may take to hear that the connection ends: on HTTP/2 it
/// answers that it has, and one that is gone never does.
const FAREWELL: Duration = Duration::from_secs(3);

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From a head's first byte to its end.
    pub(super) head: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// Without a byte taken of an answer.
    pub(super) write: Duration,
}

/// What a connection has done that its time is counted from.
#[derive(Debug)]
pub(super) struct History {
    in_hand: bool,
    /// Since when no request is in hand.
    idle: Instant,
    /// The first byte of a head that has not come to its end.
    head: Option<Instant>,
    /// The last byte that the client has taken.
    wrote: Instant,
    /// Answers, or pieces of them, that are on their way, by their numbers, and since when.
    owed: BTreeMap<u64, Instant>,
    next: u64,
    /// When the port was closed, if it is.
    closed: Option<Instant>,
    unsent: Option<Unsent>,
}

/// Bytes that TLS has taken and the kernel has not.
#[derive(Debug, Clone, Copy)]
struct Unsent {
    /// Since when there are any, or the oldest of them may be from.
    since: Instant,
    /// How many more have been taken since then.
    more: usize,
}

/// What keeps the server waiting for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tardy {
    /// A head that does not come to its end.
    Head,
    /// No request.
    Idle,
    /// An answer that is not taken.
    Reading,
    /// An answer of which some is taken, or others on the same connection are.
    Trickling,
    /// No request, since the port is closed.
    Leaving,
}

impl Patience {
    pub(super) fn new(limits: &HttpConfig) -> Self {
        let connections = limits.connections;
        Self { head: limits.read_timeout, idle: connections.idle_timeout, write: connections.write_timeout }
    }

    /// Until when nothing needs to be looked at again.
    ///
    /// # Errors
    /// What has taken too long at `now`.
    pub(super) fn judge(&self, history: &History, now: Instant) -> Result<Instant, Tardy> {
        let mut limits = Vec::with_capacity(4);
        match history.head {
            _ if history.in_hand => {}
            Some(began) => limits.push((began + self.head, Tardy::Head)),
            None => {
                limits.push((history.idle + self.idle, Tardy::Idle));
                let farewell = if history.unsent.is_some() { FAREWELL + self.write } else { FAREWELL };
                let leaves = history.closed.map(|closed| history.idle.max(closed) + farewell);
                limits.extend(leaves.map(|leaves| (leaves, Tardy::Leaving)));
            }
        }
        if let Some(unsent) = history.unsent {
            limits.push((unsent.since.max(history.wrote) + self.write, Tardy::Reading));
            limits.push((unsent.since + TRICKLE * self.write, Tardy::Trickling));
        }
        if let Some((_, since)) = history.owed.first_key_value() {
            limits.push(((*since).max(history.wrote) + self.write, Tardy::Reading));
            limits.push((*since + TRICKLE * self.write, Tardy::Trickling));
        }
        // What begins after this look is over no earlier than this.
        let begins = self.head.min(self.idle).min(self.write);
        let soon = now + if history.closed.is_some() { begins.min(FAREWELL) } else { begins };
        match limits.into_iter().min_by_key(|(end, _)| *end) {
            Some((end, tardy)) if end <= now => Err(tardy),
            Some((end, _)) => Ok(end.min(soon)),
            None => Ok(soon),
        }
    }
}

impl History {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_hand: false,
            idle: now,
            head: None,
            wrote: now,
            owed: BTreeMap::new(),
            next: 0,
            closed: None,
            unsent: None,
        }
    }

    /// The port is closed.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed = Some(now);
    }

    /// A request's head is there; whether the connection stays for it, as it does not for one that comes long after the client
    /// was told that there will be no more.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let began = self.head.take().unwrap_or(now);
        let stays = self.closed.is_none_or(|closed| began < closed + FAREWELL);
        self.in_hand |= stays;
        stays
    }

    /// No request is in hand any more.
    pub(super) fn end(&mut self, now: Instant) {
        (self.in_hand, self.idle, self.head) = (false, now, None);
    }

    /// Bytes have come that may belong to a head.
    pub(super) fn heard(&mut self, now: impl FnOnce() -> Instant) {
        if !self.in_hand && self.head.is_none() {
            self.head = Some(now());
        }
    }

    /// The client, or TLS for it, has taken `bytes`.
    pub(super) fn wrote(&mut self, bytes: usize, now: Instant) {
        self.wrote = now;
        if let Some(unsent) = &mut self.unsent {
            unsent.more += bytes;
            if unsent.more > KEPT {
                *unsent = Unsent { since: now, more: 0 };
            }
        }
    }

    /// Some of what TLS has taken has not left.
    pub(super) fn keep(&mut self, now: Instant) {
        self.unsent.get_or_insert(Unsent { since: now, more: 0 });
    }

    /// All of it has.
    pub(super) fn sent(&mut self) {
        self.unsent = None;
    }

    /// A piece of an answer is on its way; its number.
    pub(super) fn owe(&mut self, now: Instant) -> u64 {
        self.next += 1;
        self.owed.insert(self.next, now);
        self.next
    }

    /// The piece with this number has left, or nobody wants it any more.
    pub(super) fn settle(&mut self, number: u64) {
        self.owed.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(15),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(10),
    };

    /// The second at which `history` is found to take too long, looking when told to from `from` on.
    fn over(history: &History, start: Instant, from: u32) -> Option<(u64, Tardy)> {
        let mut now = start + from * SECOND;
        for _ in 0..100 {
            match PATIENCE.judge(history, now) {
                Ok(next) => {
                    assert!(next > now);
                    now = next;
                }
                Err(tardy) => return Some(((now - start).as_secs(), tardy)),
            }
        }
        None
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_and_silence_has_another() {
        let start = Instant::now();
        let mut history = History::new(start);
        assert_eq!(over(&history, start, 0), Some((75, Tardy::Idle)));
        history.heard(|| start + 5 * SECOND);
        history.heard(|| start + 6 * SECOND);
        assert_eq!(over(&history, start, 3), Some((20, Tardy::Head)));
        assert!(history.begin(start + 7 * SECOND));
        history.heard(|| start + 7 * SECOND);
        assert_eq!(over(&history, start, 0), None, "a request in hand");
        history.end(start + 30 * SECOND);
        assert_eq!(over(&history, start, 30), Some((105, Tardy::Idle)));
    }

    #[test]
    fn an_answer_is_taken_bit_by_bit_for_a_while_and_not_at_all_for_less() {
        let start = Instant::now();
        let mut history = History::new(start);
        assert!(history.begin(start));
        let (first, second) = (history.owe(start), history.owe(start + 2 * SECOND));
        assert_eq!(over(&history, start, 0), Some((10, Tardy::Reading)));
        history.wrote(1, start + 9 * SECOND);
        assert_eq!(over(&history, start, 9), Some((19, Tardy::Reading)));
        history.settle(first);
        history.wrote(1, start + 41 * SECOND);
        assert_eq!(
            over(&history, start, 9),
            Some((42, Tardy::Trickling)),
            "four times as long, and no longer"
        );
        history.settle(second);
        assert_eq!(over(&history, start, 9), None);
    }

    #[test]
    fn once_the_port_is_closed_nobody_is_waited_for_long_who_has_no_request_in_hand() {
        let start = Instant::now();
        let mut history = History::new(start);
        history.close(start + 10 * SECOND);
        assert_eq!(over(&history, start, 10), Some((13, Tardy::Leaving)));
        assert!(history.begin(start + 12 * SECOND));
        assert_eq!(over(&history, start, 12), None);
        history.end(start + 20 * SECOND);
        assert_eq!(over(&history, start, 20), Some((23, Tardy::Leaving)));
        assert!(!history.begin(start + 21 * SECOND), "it was told eleven seconds ago");
        assert_eq!(over(&history, start, 21), Some((23, Tardy::Leaving)));
        history.heard(|| start + 21 * SECOND);
        assert_eq!(over(&history, start, 21), Some((36, Tardy::Head)));
    }

    #[test]
    fn bytes_that_have_not_left_are_waited_for_as_answers_are() {
        let start = Instant::now();
        let mut history = History::new(start);
        history.close(start);
        assert!(history.begin(start));
        history.end(start + 20 * SECOND);
        history.keep(start + 20 * SECOND);
        assert_eq!(over(&history, start, 20), Some((30, Tardy::Reading)), "nothing is taken");
        history.wrote(1, start + 29 * SECOND);
        assert_eq!(
            over(&history, start, 20),
            Some((33, Tardy::Leaving)),
            "however little is taken at a time"
        );
        history.sent();
        assert_eq!(over(&history, start, 20), Some((23, Tardy::Leaving)));
        let mut history = History::new(start);
        assert!(history.begin(start));
        history.keep(start);
        for second in 1..100 {
            history.wrote(1, start + second * SECOND);
        }
        assert_eq!(over(&history, start, 40), Some((40, Tardy::Trickling)));
        history.wrote(KEPT, start + 100 * SECOND);
        assert_eq!(over(&history, start, 100), Some((110, Tardy::Reading)), "those of before have left");
    }

    #[test]
    fn a_request_whose_head_began_before_the_farewell_is_waited_for() {
        let start = Instant::now();
        let mut history = History::new(start);
        history.close(start);
        history.heard(|| start + 2 * SECOND);
        assert!(history.begin(start + 9 * SECOND));
        assert_eq!(over(&history, start, 9), None);
    }
}
