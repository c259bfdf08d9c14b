//! How many requests a second a name has: token buckets, told the time by whoever asks.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How fast a bucket fills and what it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Requests a second; positive.
    pub rate: f64,
    /// Requests at once; at least 1.
    pub burst: f64,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, limit: Limit, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * limit.rate).min(limit.burst);
        self.at = self.at.max(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / limit.rate))
    }
}

/// A bucket for each name that has a limit and has asked. Names are those of keys, so there are no more than keys.
#[derive(Debug, Default)]
pub struct Buckets(Mutex<HashMap<Arc<str>, Bucket>>);

impl Buckets {
    /// One request of `name`.
    ///
    /// # Errors
    /// None is left; how long until one is.
    pub fn take(&self, name: &Arc<str>, limit: Limit, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock();
        let full = || Bucket { left: limit.burst, at: now };
        buckets.entry(name.clone()).or_insert_with(full).take(limit, now)
    }

    /// Forgets names that are not there any more.
    pub fn retain(&self, there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|name, _| there(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let limit = Limit { rate: 10.0, burst: 3.0 };
        let (buckets, name) = (Buckets::default(), Arc::from("web"));
        let take = |ms| buckets.take(&name, limit, at(ms));
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        assert_eq!(take(0), Err(Duration::from_millis(100)));
        assert_eq!(take(50), Err(Duration::from_millis(50)));
        assert_eq!((take(100), take(100).is_err()), (Ok(()), true));
        assert_eq!(
            (0..9).filter(|_| take(60_000).is_ok()).count(),
            3,
            "what is not used is not kept beyond the burst"
        );
        assert!(take(59_000).is_err(), "a clock that goes back gives nothing");
        buckets.retain(|name| name != "web");
        assert_eq!(take(60_000), Ok(()));
    }
}
