//! Places of calls that stay open: how many there are in all, and how many of them one client may have.
//!
//! As with memory ([`crate::memory::budget`]), a client may have four times what is left: one alone gets most of them, and somebody
//! new always finds some.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::batch::Client;

/// A client may have this many times what is left.
const STRETCH: usize = 4;

/// See the module's text.
pub(super) struct Places {
    all: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    taken: usize,
    by_client: HashMap<u64, usize>,
}

impl Places {
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { all, table: Mutex::default() })
    }

    /// A place for `client`, if there is one.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> Option<Place> {
        let mut table = self.table.lock();
        let own = table.by_client.get(&client.id()).copied().unwrap_or(0) + 1;
        let left = self.all.checked_sub(table.taken + 1)?;
        if own > STRETCH * left {
            return None;
        }
        table.taken += 1;
        table.by_client.insert(client.id(), own);
        Some(Place { places: self.clone(), client: client.id() })
    }
}

/// A client's place, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    client: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table.lock();
        table.taken -= 1;
        let own = table.by_client.get_mut(&self.client).expect("bug: who leaves has a place");
        *own -= 1;
        if *own == 0 {
            table.by_client.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    #[test]
    fn one_client_gets_most_and_others_find_some() {
        let places = Places::new(100);
        let hasher = RandomState::new();
        let [greedy, second, third] =
            ["greedy", "second", "third"].map(|name| Client::named(name, 1.0, &hasher));
        let take_all = |client| std::iter::from_fn(|| places.take(client)).collect::<Vec<_>>();
        let first = take_all(greedy);
        assert_eq!(first.len(), 80);
        for client in [second, third] {
            assert_eq!(take_all(client).len(), 16, "what is dropped is given back");
        }
        let held = take_all(second);
        assert_eq!((held.len(), take_all(third).len()), (16, 3));
        assert!(places.take(greedy).is_none());
        drop((first, held));
        let table = places.table.lock();
        assert_eq!((table.taken, table.by_client.len()), (0, 0));
    }
}
