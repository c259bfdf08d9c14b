//! What the system says of this process, under the names that all Prometheus clients use, and the memory it may have.
//!
//! Looked up when somebody scrapes; nothing is kept.

use std::sync::Arc;

use metrics::{Gauge, Key, Recorder, with_local_recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_process::Collector;

use super::{MEMORY_LIMIT, METADATA};
use crate::memory;

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
        self.memory_limit.set(memory::process::limit().unwrap_or(0) as f64);
    }
}
