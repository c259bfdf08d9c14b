//! What the system says of this process, under the names that all Prometheus clients use, and the memory it may have.
//!
//! Looked up when somebody scrapes; nothing is kept.

use std::{fs, sync::Arc};

use metrics::{Gauge, Key, Recorder, with_local_recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_process::Collector;

use super::{MEMORY_LIMIT, METADATA};

/// Where the limit of a control group stands: version 2, then version 1. In a container the root is its own group.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Version 1 says with a number close to the largest that there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Reads the process's own figures.
pub(super) struct Process {
    recorder: Arc<PrometheusRecorder>,
    collector: Collector,
    memory_limit: Gauge,
}

impl Process {
    pub(super) fn new(recorder: Arc<PrometheusRecorder>) -> Self {
        let collector = Collector::default();
        with_local_recorder(recorder.as_ref(), || collector.describe());
        let memory_limit = recorder.register_gauge(&Key::from_name(MEMORY_LIMIT), &METADATA);
        Self { recorder, collector, memory_limit }
    }

    /// Updates the gauges. A few short reads from /proc.
    pub(super) fn sample(&self) {
        with_local_recorder(self.recorder.as_ref(), || self.collector.collect());
        let limit = LIMITS.iter().find_map(|path| limit(&fs::read_to_string(path).ok()?));
        self.memory_limit.set(limit.unwrap_or(0) as f64);
    }
}

/// The bytes that a file of [`LIMITS`] allows; `None` where it allows any.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_that_there_is_no_limit() {
        assert_eq!(limit("4294967296\n"), Some(4 << 30));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
    }
}
