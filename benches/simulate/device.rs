//! Devices as cost tables: what a batch of ResNet-152 takes on each, and how long its clients are ready to wait.
//!
//! The figures of the GPUs are modelled estimates (a roofline with tile and wave quantisation, fp16), not measurements;
//! those of the CPU are rounded from runs on two AVX2 cores. The simulator compares policies on equal devices: it makes
//! no claim about the devices.

use std::time::Duration;

use convoy::batch::CostTable;

/// A device that runs one batch at a time.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) name: &'static str,
    /// Sizes and milliseconds; straight lines between them.
    points: &'static [(usize, f64)],
    /// What a client gives a request from its first byte.
    pub(crate) deadline: Duration,
    /// Cores that decode; enough for three times the device's capacity, so that decoding is not what is compared.
    pub(crate) decoders: usize,
}

pub(crate) const DEVICES: [Device; 4] = [
    Device {
        name: "H100",
        points: &[(1, 0.49), (4, 0.63), (8, 0.85), (16, 1.30), (32, 2.16), (64, 3.94), (128, 7.38)],
        deadline: Duration::from_millis(100),
        decoders: 96,
    },
    Device {
        name: "T4",
        points: &[(1, 1.97), (4, 4.96), (8, 8.87), (16, 15.58), (32, 29.30), (64, 53.94)],
        deadline: Duration::from_millis(400),
        decoders: 8,
    },
    Device {
        name: "CPU",
        points: &[(1, 97.0), (2, 189.0), (4, 374.0), (8, 740.0), (16, 1470.0), (32, 2930.0)],
        deadline: Duration::from_millis(5000),
        decoders: 2,
    },
    // No device in particular: a batch of 33 falls off the edge of a tile.
    Device {
        name: "cliff",
        points: &[(1, 4.25), (32, 12.0), (33, 20.25), (64, 28.0)],
        deadline: Duration::from_millis(200),
        decoders: 24,
    },
];

impl Device {
    /// The true costs.
    pub(crate) fn costs(&self) -> CostTable {
        let points = self.points.iter().map(|&(size, ms)| (size, Duration::from_secs_f64(ms / 1e3)));
        CostTable::from_points(self.max_batch(), points)
    }

    pub(crate) fn max_batch(&self) -> usize {
        self.points.last().map_or(1, |point| point.0)
    }

    /// The size that serves most in a second.
    pub(crate) fn best_batch(&self) -> usize {
        let costs = self.costs();
        let sizes = 1..=self.max_batch();
        sizes.min_by(|&a, &b| costs.per_job(a).total_cmp(&costs.per_job(b))).unwrap_or(1)
    }

    /// Jobs a second at the best size.
    pub(crate) fn capacity(&self) -> f64 {
        self.costs().per_job(self.best_batch()).recip()
    }
}
