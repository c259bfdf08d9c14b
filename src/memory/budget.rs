//! One budget for the bytes of requests and answers, whoever they are from and however they come.
//!
//! Memory is charged when bytes arrive or are about to be made, never because a client announces them, and given back when
//! the bytes are dropped: a [`Charge`] lives as long as what it pays for. Nobody waits for memory while holding some; who
//! does not fit is refused and gives back what it had, so that others get on.
//!
//! Who is refused follows the dynamic thresholds of shared-memory switches (Choudhury and Hahne, IEEE/ACM Transactions on
//! Networking 6(2), 1998): a client may hold a multiple of what is left, so that one alone gets most of the budget, many get
//! equal parts, and somebody new always finds some. Small holdings may also use a part that is closed to large ones.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{batch::Client, metrics::MemoryMetrics};

/// A client may hold this many times what is left.
const STRETCH: usize = 4;

/// Holdings up to this many bytes are small: questions, their answers, and most photos.
const SMALL: usize = 256 << 10;

/// One part in so many is closed to larger ones.
const RESERVE: usize = 8;

/// When somebody who found no room may come again: about as long as a large body takes to be read and decoded.
const ROOM_AGAIN: Duration = Duration::from_secs(1);

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Others, or other requests of the same client, hold too much of it.
    #[error(
        "too many bytes of requests and answers are in memory; try again in about {} ms (--body-memory-mib)",
        .retry_after.as_millis()
    )]
    Now {
        /// When to come again.
        retry_after: Duration,
    },
    /// It would not fit if nobody else held anything.
    #[error(
        "the request and its answer take {bytes} bytes of memory, more than the {most} that one may have (--body-memory-mib)"
    )]
    Ever {
        /// What it would have held.
        bytes: usize,
        /// What one may hold.
        most: usize,
    },
}

impl Full {
    /// There is no room now.
    pub fn now() -> Self {
        Self::Now { retry_after: ROOM_AGAIN }
    }
}

/// The most that one client can hold of `capacity` bytes when nobody else holds any.
pub const fn most_alone(capacity: usize) -> usize {
    (capacity - capacity / RESERVE) / (STRETCH + 1) * STRETCH
}

/// The budget; clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Pool>);

struct Pool {
    capacity: usize,
    metrics: MemoryMetrics,
    ledger: Mutex<Ledger>,
}

/// Who holds what.
#[derive(Debug, Default)]
struct Ledger {
    held: usize,
    by_client: HashMap<u64, usize>,
}

impl Ledger {
    /// Whether `client` may hold `more` of `capacity`, as part of a holding that then has `size` bytes.
    fn fits(&self, capacity: usize, client: u64, more: usize, size: usize) -> bool {
        let ceiling = if size <= SMALL { capacity } else { capacity - capacity / RESERVE };
        let own = self.by_client.get(&client).copied().unwrap_or(0).saturating_add(more);
        let free = ceiling.checked_sub(self.held.saturating_add(more));
        free.is_some_and(|free| own <= STRETCH.saturating_mul(free))
    }

    fn add(&mut self, client: u64, more: usize) {
        self.held += more;
        *self.by_client.entry(client).or_default() += more;
    }

    fn give_back(&mut self, client: u64, bytes: usize) {
        self.held -= bytes;
        let own = self.by_client.get_mut(&client).expect("bug: who gives back holds some");
        *own -= bytes;
        if *own == 0 {
            self.by_client.remove(&client);
        }
    }
}

impl Budget {
    /// `capacity` bytes for everybody together.
    pub fn new(capacity: usize, metrics: MemoryMetrics) -> Self {
        Self(Arc::new(Pool { capacity, metrics, ledger: Mutex::default() }))
    }

    /// A holding of `client`, empty yet.
    pub fn open(&self, client: Client) -> Charge {
        Charge { pool: self.0.clone(), client: client.id(), bytes: 0 }
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.ledger.lock().held
    }

    /// Updates the gauge.
    pub fn sample(&self) {
        self.0.metrics.held.set(self.held() as f64);
    }
}

/// What one holder is charged. Dropping it gives the bytes back.
pub struct Charge {
    pool: Arc<Pool>,
    client: u64,
    bytes: usize,
}

impl Charge {
    /// Charges `more` bytes.
    ///
    /// # Errors
    /// [`Full`], counted; what was charged before stays charged until it is dropped.
    pub fn add(&mut self, more: usize) -> Result<(), Full> {
        if more == 0 {
            return Ok(());
        }
        self.check(more)?;
        let mut ledger = self.pool.ledger.lock();
        if !ledger.fits(self.pool.capacity, self.client, more, self.bytes.saturating_add(more)) {
            drop(ledger);
            return Err(self.refused(Full::now()));
        }
        ledger.add(self.client, more);
        drop(ledger);
        self.bytes += more;
        Ok(())
    }

    /// Whether `more` bytes would fit now. Nothing is charged.
    ///
    /// # Errors
    /// [`Full`], counted.
    pub fn foresee(&self, more: usize) -> Result<(), Full> {
        self.check(more)?;
        let size = self.bytes.saturating_add(more);
        let fits = self.pool.ledger.lock().fits(self.pool.capacity, self.client, more, size);
        if fits { Ok(()) } else { Err(self.refused(Full::now())) }
    }

    /// Gives back all above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(spare) = self.bytes.checked_sub(bytes).filter(|spare| *spare > 0) {
            self.pool.ledger.lock().give_back(self.client, spare);
            self.bytes = bytes;
        }
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Another holding of the same client, empty yet.
    pub fn another(&self) -> Self {
        Self { pool: self.pool.clone(), client: self.client, bytes: 0 }
    }

    /// `bytes`, which are charged for as long as any part of them lives.
    pub fn hold(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Held { bytes, _charge: self })
    }

    /// As [`Charge::hold`], of a charge for several.
    pub fn hold_shared(self: &Arc<Self>, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Held { bytes, _charge: self.clone() })
    }

    fn check(&self, more: usize) -> Result<(), Full> {
        let (bytes, most) = (self.bytes.saturating_add(more), most_alone(self.pool.capacity));
        if bytes <= most { Ok(()) } else { Err(self.refused(Full::Ever { bytes, most })) }
    }

    fn refused(&self, full: Full) -> Full {
        self.pool.metrics.refused.increment(1);
        full
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Charge").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

struct Held<B, C> {
    bytes: B,
    _charge: C,
}

impl<B: AsRef<[u8]>, C> AsRef<[u8]> for Held<B, C> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Metrics;

    const MIB: usize = 1 << 20;

    fn budget(capacity: usize) -> Budget {
        Budget::new(capacity, Metrics::new().memory())
    }

    fn client(name: u32) -> Client {
        thread_local!(static HASHER: RandomState = RandomState::new());
        HASHER.with(|hasher| Client::named(name, 1.0, hasher))
    }

    /// Charges a MiB at a time until it is refused.
    fn fill(charge: &mut Charge) -> usize {
        while charge.add(MIB).is_ok() {}
        charge.bytes() / MIB
    }

    #[test]
    fn what_is_dropped_comes_back() {
        let budget = budget(64 * MIB);
        let mut charge = budget.open(client(1));
        charge.add(3 * MIB).unwrap();
        charge.shrink_to(MIB);
        let held = charge.hold(vec![7; MIB]);
        let part = held.slice(5..6);
        drop(held);
        assert_eq!((budget.held(), &part[..]), (MIB, &[7][..]), "a part keeps the whole");
        drop(part);
        assert_eq!(budget.held(), 0);
        assert!(budget.0.ledger.lock().by_client.is_empty());
    }

    #[test]
    fn who_holds_nothing_is_not_known() {
        let budget = budget(64 * MIB);
        let _nothing = budget.open(client(1)).add(0);
        assert!(budget.0.ledger.lock().by_client.is_empty());
    }

    #[test]
    fn one_alone_gets_most_and_the_next_still_finds_some() {
        let budget = budget(80 * MIB);
        let (mut first, mut second, mut third) =
            (budget.open(client(1)), budget.open(client(2)), budget.open(client(3)));
        let alone = fill(&mut first);
        assert_eq!(alone, most_alone(80 * MIB) / MIB);
        let rest = fill(&mut second);
        assert!(rest > 0 && alone + rest < 80, "{alone} {rest}");
        assert!(third.add(MIB).is_ok(), "and so does a third");
        drop(first);
        assert!(fill(&mut second) > rest, "who stays gets more when another goes");
    }

    #[test]
    fn many_share_equally() {
        let budget = budget(900 * MIB);
        let mut charges: Vec<_> = (0..9).map(|name| budget.open(client(name))).collect();
        let mut growing = true;
        while growing {
            growing = charges.iter_mut().filter_map(|charge| charge.add(MIB).ok()).count() > 0;
        }
        let parts: Vec<_> = charges.iter().map(|charge| charge.bytes() / MIB).collect();
        assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
        assert!(parts.iter().sum::<usize>() > 700, "{parts:?}");
    }

    #[test]
    fn a_part_is_closed_to_what_is_large() {
        let budget = budget(80 * MIB);
        let mut large = budget.open(client(1));
        fill(&mut large);
        let mut another = budget.open(client(1));
        assert!(matches!(another.add(MIB), Err(Full::Now { .. })));
        let mut small = budget.open(client(1));
        assert!(small.add(SMALL).is_ok(), "the same client's small one still fits");
        assert!(matches!(small.add(MIB), Err(Full::Now { .. })), "until it grows");
    }

    #[test]
    fn what_fits_never_is_told_apart_from_what_does_not_fit_now() {
        let budget = budget(8 * MIB);
        let mut charge = budget.open(client(1));
        assert!(matches!(charge.add(8 * MIB), Err(Full::Ever { bytes, .. }) if bytes == 8 * MIB));
        assert!(matches!(charge.foresee(usize::MAX), Err(Full::Ever { .. })));
        charge.foresee(4 * MIB).unwrap();
        assert_eq!((budget.held(), charge.bytes()), (0, 0), "looking ahead costs nothing");
        charge.add(4 * MIB).unwrap();
        assert!(matches!(budget.open(client(1)).foresee(4 * MIB), Err(Full::Now { .. })));
    }

    proptest! {
        /// Whatever is charged, refused and dropped: the sum is never above the budget and is zero at the end.
        #[test]
        fn the_sum_stays_within_the_budget(steps in prop::collection::vec((0u32..5, 0usize..40_000, any::<bool>()), 1..300)) {
            let budget = budget(100_000);
            let mut charges: Vec<_> = (0..5).map(|name| budget.open(client(name))).collect();
            for (at, bytes, grow) in steps {
                let charge = &mut charges[at as usize];
                if grow { let _maybe_full = charge.add(bytes); } else { charge.shrink_to(bytes) }
                let held: usize = charges.iter().map(Charge::bytes).sum();
                prop_assert!(held <= 100_000 && held == budget.held());
            }
            drop(charges);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
