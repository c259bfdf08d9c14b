//! Bytes that come a few at a time, gathered in one buffer that is charged before it grows.

use bytes::Bytes;

use super::{Charge, Full};

/// Least bytes taken for a buffer.
const FIRST: usize = 4 << 10;

/// See the module's text.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Of the buffer's capacity, apart from what was charged before.
    charge: Charge,
    charged_before: usize,
    most: usize,
}

impl Buffer {
    /// An empty buffer for about `most` bytes, at the cost of `charge`.
    pub fn new(charge: Charge, most: usize) -> Self {
        Self { bytes: Vec::new(), charged_before: charge.bytes(), charge, most }
    }

    /// It is for about `most` bytes, as is known only now.
    pub fn expect(&mut self, most: usize) {
        self.most = most;
    }

    /// What is there.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes that are there.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `data`.
    ///
    /// # Errors
    /// There is no memory for it; the buffer is as it was.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Full> {
        let needed = self.bytes.len() + data.len();
        if needed > self.bytes.capacity() {
            let most = if needed <= self.most { self.most } else { usize::MAX };
            let capacity = needed.max(2 * self.bytes.capacity()).max(FIRST).min(most);
            // The old buffer and the new one are there together while the bytes move.
            self.charge.add(capacity)?;
            let grown = self.bytes.try_reserve_exact(capacity - self.bytes.len());
            self.charge.shrink_to(self.charged_before + self.bytes.capacity());
            grown.map_err(|_no_memory| Full::now())?;
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// What was gathered; charged for as long as any part of it lives.
    pub fn into_bytes(self) -> Bytes {
        let Self { mut bytes, mut charge, charged_before, .. } = self;
        bytes.shrink_to_fit();
        charge.shrink_to(charged_before + bytes.capacity());
        charge.hold(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::Client, memory::Budget, metrics::Metrics};

    #[test]
    fn what_has_come_is_charged_and_not_what_may_come() {
        let budget = Budget::new(1 << 20, Metrics::new().memory());
        let mut buffer = Buffer::new(budget.open(Client::ANONYMOUS), 300_000);
        assert_eq!(budget.held(), 0, "announcing costs nothing");
        buffer.push(b"a").unwrap();
        assert_eq!(budget.held(), FIRST);
        for _ in 0..99_999 {
            buffer.push(b"a").unwrap();
        }
        assert!((100_000..200_001).contains(&budget.held()), "{}", budget.held());
        let bytes = buffer.into_bytes();
        assert_eq!((bytes.len(), budget.held()), (100_000, 100_000), "the spare part is given back");
        drop(bytes);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_buffer_without_room_keeps_what_it_has() {
        let budget = Budget::new(1 << 20, Metrics::new().memory());
        let mut buffer = Buffer::new(budget.open(Client::ANONYMOUS), 1 << 20);
        let kib = [7; 1024];
        while buffer.push(&kib).is_ok() {}
        let (len, held) = (buffer.len(), budget.held());
        assert!(buffer.push(&kib).is_err());
        assert_eq!((buffer.len(), budget.held()), (len, held));
        drop(buffer);
        assert_eq!(budget.held(), 0);
    }
}
