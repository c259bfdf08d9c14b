//! The Hugging Face hub as far as weights need it: the address of a file, the token, and what its cache already has.

use std::path::PathBuf;

use hf_hub::Cache;

/// Where the hub is and who asks.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: Option<Cache>,
}

impl Hub {
    /// The hub at `endpoint`. `home` is the folder of its cache and of the token that `hf auth login` stored, which
    /// stands in for an absent `token`.
    pub fn new(endpoint: &str, token: Option<String>, home: Option<PathBuf>) -> Self {
        let cache = home.map(|home| Cache::new(home.join("hub")));
        let token = token.filter(|token| !token.is_empty()).or_else(|| cache.as_ref()?.token());
        Self { endpoint: endpoint.trim_end_matches('/').into(), token, cache }
    }

    /// The address of a file on the main branch of a repository.
    pub fn address(&self, repository: &str, file: &str) -> String {
        format!("{}/{repository}/resolve/main/{file}", self.endpoint)
    }

    /// What to identify with.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The file in the hub's cache on this machine, if another program fetched it before.
    pub fn cached(&self, repository: &str, file: &str) -> Option<PathBuf> {
        self.cache.as_ref()?.model(repository.into()).get(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_stored_token_stands_in_for_an_absent_one() {
        let home = tempfile::tempdir().unwrap();
        let hub =
            |token: Option<&str>| Hub::new("https://hub/", token.map(Into::into), Some(home.path().into()));
        assert_eq!(hub(None).token(), None);
        fs::write(home.path().join("token"), "stored\n").unwrap();
        assert_eq!(hub(None).token(), Some("stored"));
        assert_eq!(hub(Some("")).token(), Some("stored"));
        assert_eq!(hub(Some("given")).token(), Some("given"));
    }

    #[test]
    fn addresses_and_the_cache_have_the_hubs_layout() {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::new("https://hub/", None, Some(home.path().into()));
        assert_eq!(hub.address("a/b", "c.bin"), "https://hub/a/b/resolve/main/c.bin");
        let repository = home.path().join("hub/models--a--b");
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::create_dir_all(repository.join("snapshots/123")).unwrap();
        assert_eq!(hub.cached("a/b", "c.bin"), None);
        fs::write(repository.join("refs/main"), "123").unwrap();
        fs::write(repository.join("snapshots/123/c.bin"), "x").unwrap();
        assert_eq!(hub.cached("a/b", "c.bin"), Some(repository.join("snapshots/123/c.bin")));
    }
}
