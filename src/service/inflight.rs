//! One execution for identical photos in flight: whoever comes second waits for the first one's answer.
//!
//! Photos are compared byte by byte, so nobody can get another photo's answer by a forged hash. A photo joins only work that
//! is at least as urgent as itself. Answers are not kept: what is done is forgotten.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;

use super::photos::{Classified, Photo};
use crate::{
    batch::{Class, Terms},
    config::TransformName,
    error::ScoreError,
};

/// Photos above this many bytes do not share: comparing them would hold up an asynchronous thread.
const MAX_BYTES: usize = 4 << 20;

/// Blocks of a file that are hashed, evenly spread, and the bytes of each. The hash only finds candidates.
const BLOCKS: usize = 8;
const BLOCK_BYTES: usize = 64;

/// Work that several may wait for. It goes on as long as one of them does.
pub type Work = Shared<BoxFuture<'static, Result<Classified, ScoreError>>>;

/// Photos that are being decoded or classified.
#[derive(Default)]
pub struct Inflight {
    hasher: RandomState,
    entries: Mutex<HashMap<Key, Entry>>,
    started: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    hash: u64,
    length: usize,
    transform: Option<TransformName>,
}

struct Entry {
    bytes: Bytes,
    deadline: Instant,
    class: Class,
    top: usize,
    work: WeakShared<BoxFuture<'static, Result<Classified, ScoreError>>>,
    number: u64,
}

impl Entry {
    /// Whether waiting for this serves `photo` as well as running it.
    fn serves(&self, photo: &Photo, terms: &Terms) -> bool {
        let as_urgent = self.deadline <= terms.deadline
            && (self.class == Class::Interactive || terms.class == Class::Batch);
        as_urgent && self.top >= photo.top && self.bytes == photo.bytes
    }
}

/// Takes an entry out when its work ends or nobody waits for it any more.
struct Registered {
    inflight: Arc<Inflight>,
    key: Key,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut entries = self.inflight.entries.lock();
        if entries.get(&self.key).is_some_and(|entry| entry.number == self.number) {
            entries.remove(&self.key);
        }
    }
}

impl Inflight {
    /// Joins work on the same photo, or starts it with `run`. Whether it joined.
    pub fn join<F>(
        self: &Arc<Self>,
        photo: &Photo,
        terms: &Terms,
        run: impl FnOnce(Photo) -> F,
    ) -> (Work, bool)
    where
        F: Future<Output = Result<Classified, ScoreError>> + Send + 'static,
    {
        if photo.bytes.len() > MAX_BYTES {
            return (run(photo.clone()).boxed().shared(), false);
        }
        let key = self.key(photo);
        let mut entries = self.entries.lock();
        let known = entries.get(&key).filter(|entry| entry.serves(photo, terms));
        if let Some(work) = known.and_then(|entry| entry.work.upgrade()) {
            return (work, true);
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let registered = Registered { inflight: self.clone(), key, number };
        let running = run(photo.clone());
        let work = async move {
            let _until_the_end = registered;
            running.await
        };
        let work = work.boxed().shared();
        if let Some(weak) = work.downgrade() {
            let Terms { deadline, class, .. } = *terms;
            let bytes = photo.bytes.clone();
            entries.insert(key, Entry { bytes, deadline, class, top: photo.top, work: weak, number });
        }
        (work, false)
    }

    /// Photos in flight.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(&self, photo: &Photo) -> Key {
        let mut hasher = self.hasher.build_hasher();
        let length = photo.bytes.len();
        for block in 0..BLOCKS {
            let start = length * block / BLOCKS;
            photo.bytes[start..length.min(start + BLOCK_BYTES)].hash(&mut hasher);
        }
        Key { hash: hasher.finish(), length, transform: photo.transform }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use tokio::sync::oneshot;

    use super::*;
    use crate::service::Timeline;

    fn photo(bytes: &'static [u8], top: usize) -> Photo {
        Photo { bytes: Bytes::from_static(bytes), transform: None, top }
    }

    fn terms() -> Terms {
        Terms::by(Instant::now() + Duration::from_secs(60))
    }

    async fn done() -> Result<Classified, ScoreError> {
        Ok(Classified { predictions: [].into(), timeline: Timeline::default() })
    }

    #[tokio::test]
    async fn the_same_photo_runs_once_and_is_forgotten() {
        let (inflight, runs) = (Arc::new(Inflight::default()), AtomicUsize::new(0));
        let terms = terms();
        let (go, gone) = oneshot::channel::<()>();
        let mut gone = Some(gone);
        let mut join = |photo: &Photo| {
            inflight.join(photo, &terms, |_| {
                runs.fetch_add(1, Ordering::Relaxed);
                let gone = gone.take();
                async move {
                    if let Some(gone) = gone {
                        gone.await.unwrap();
                    }
                    done().await
                }
            })
        };
        let (first, joined) = join(&photo(b"same", 5));
        assert!(!joined);
        let (second, joined) = join(&photo(b"same", 3));
        assert!(joined);
        let (_, joined) = join(&photo(b"other", 3));
        assert!(!joined);
        go.send(()).unwrap();
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_ok() && second.is_ok() && runs.load(Ordering::Relaxed) == 2);
        assert!(inflight.is_empty(), "work that ended or that nobody waits for is forgotten");
    }

    #[test]
    fn nobody_waits_for_work_that_is_less_urgent_or_answers_less() {
        let inflight = Arc::new(Inflight::default());
        let terms = terms();
        let background = Terms { class: Class::Batch, ..terms };
        let (_work, _) = inflight.join(&photo(b"same", 5), &background, |_| done());
        for (asked, of) in [
            (photo(b"same", 6), background),
            (photo(b"same", 5), terms),
            (photo(b"same", 5), Terms { deadline: terms.deadline - Duration::from_secs(1), ..background }),
            (Photo { transform: Some(TransformName::Stretch), ..photo(b"same", 5) }, background),
        ] {
            assert!(!inflight.clone().join(&asked, &of, |_| done()).1, "{asked:?}");
            let (_again, _) = inflight.join(&photo(b"same", 5), &background, |_| done());
        }
    }

    #[test]
    fn work_whose_owners_left_is_dropped() {
        let inflight = Arc::new(Inflight::default());
        let (first, _) = inflight.join(&photo(b"same", 5), &terms(), |_| std::future::pending());
        let (second, joined) = inflight.join(&photo(b"same", 5), &terms(), |_| done());
        assert!(joined);
        drop(first);
        assert_eq!(inflight.len(), 1, "one still waits");
        drop(second);
        assert!(inflight.is_empty());
    }
}
