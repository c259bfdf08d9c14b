//! Files that may change while the server runs: looked at every so often, by content, and taken over when they differ.
//!
//! Content rather than times or inodes, because Kubernetes swaps a symbolic link two levels up, and editors write in place.
//! What a file means is known to whoever takes it; one that cannot be used changes nothing, is logged once and counted.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use metrics::Counter;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::metrics::Metrics;

/// Most bytes of a file.
const MAX_FILE: u64 = 1 << 20;

/// Lets the contents of the files, in their order, take over; says what they hold.
pub type Take = dyn Fn(&[Vec<u8>]) -> anyhow::Result<String> + Send + Sync;

/// Files that are taken over together.
pub struct Watched {
    what: &'static str,
    files: Vec<PathBuf>,
    take: Box<Take>,
    /// The digest of what was looked at last, usable or not.
    seen: Mutex<Option<[u8; 32]>>,
    failures: Counter,
}

impl Watched {
    /// Reads `files` for the first time.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        metrics: &Metrics,
        take: Box<Take>,
    ) -> anyhow::Result<Self> {
        let failures = metrics.reload_failures(what);
        let watched = Self { what, files, take, seen: Mutex::default(), failures };
        let held = watched.look(&mut watched.seen.lock())?.unwrap_or_default();
        tracing::info!(what, "loaded: {held}");
        Ok(watched)
    }

    /// Takes the files over if they differ from what was looked at last, and logs what comes of it.
    fn refresh(&self) {
        match self.look(&mut self.seen.lock()) {
            Ok(None) => {}
            Ok(Some(held)) => tracing::info!(what = self.what, "reloaded: {held}"),
            Err(error) => {
                self.failures.increment(1);
                let error = format!("{error:#}");
                tracing::error!(what = self.what, error, "not reloaded, what was there before stays");
            }
        }
    }

    /// As [`Watched::refresh`], whether or not the files differ.
    fn reload(&self) {
        *self.seen.lock() = None;
        self.refresh();
    }

    /// What the files hold, if they differ from what `seen` is the digest of. A failure, too, is told of once.
    fn look(&self, seen: &mut Option<[u8; 32]>) -> anyhow::Result<Option<String>> {
        let read: anyhow::Result<Vec<_>> = self.files.iter().map(|file| read(file)).collect();
        let digest = match &read {
            Ok(contents) => digest(contents),
            Err(error) => Sha256::digest(format!("unreadable: {error:#}")).into(),
        };
        if seen.replace(digest) == Some(digest) {
            return Ok(None);
        }
        (self.take)(&read?).map(Some)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut open = || File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes);
    open().with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", path.display());
    Ok(bytes)
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for content in contents {
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

/// Everything that is looked at; cheap to clone.
#[derive(Clone, Default)]
pub struct Reloads(Arc<Vec<Watched>>);

impl Reloads {
    /// Of these files.
    pub fn new(watched: Vec<Watched>) -> Self {
        Self(Arc::new(watched))
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all of them over anew.
    pub async fn reload(&self) {
        self.each(Watched::reload).await;
    }

    /// Looks at all of them again and again, without end.
    pub async fn watch(self, every: Duration) {
        while !self.is_empty() {
            tokio::time::sleep(every).await;
            self.each(Watched::refresh).await;
        }
    }

    /// On a thread that may block.
    async fn each(&self, what: fn(&Watched)) {
        let all = self.clone();
        let looking = tokio::task::spawn_blocking(move || all.0.iter().for_each(what));
        if looking.await.is_err() {
            tracing::error!("looking at files that may have changed failed unexpectedly");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn content_is_taken_over_once_and_what_cannot_be_used_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, "1").unwrap();
        fs::write(&b, "2").unwrap();
        let taken: Arc<Mutex<Vec<String>>> = Arc::default();
        let metrics = Metrics::new();
        let log = taken.clone();
        let take = move |contents: &[Vec<u8>]| {
            let text = String::from_utf8(contents.concat()).unwrap();
            anyhow::ensure!(!text.contains("bad"), "it is bad");
            log.lock().push(text);
            Ok("it".to_owned())
        };
        let watched = Watched::open("tls", vec![a.clone(), b.clone()], &metrics, Box::new(take)).unwrap();
        let failures = || metrics.render().contains("convoy_reload_failures_total{what=\"tls\"} 1");
        watched.refresh();
        fs::write(&a, "3").unwrap();
        watched.refresh();
        watched.refresh();
        assert_eq!(*taken.lock(), ["12", "32"]);
        fs::write(&b, "bad").unwrap();
        watched.refresh();
        watched.refresh();
        assert!(failures(), "{}", metrics.render());
        fs::write(&b, "2").unwrap();
        watched.refresh();
        fs::rename(&b, folder.path().join("c")).unwrap();
        watched.refresh();
        watched.refresh();
        assert_eq!(*taken.lock(), ["12", "32", "32"]);
        assert!(metrics.render().contains("convoy_reload_failures_total{what=\"tls\"} 2"));
        let gone = Watched::open("keys", vec![b], &metrics, Box::new(|_| Ok(String::new())));
        assert!(gone.err().unwrap().to_string().contains("cannot read"));
    }
}
