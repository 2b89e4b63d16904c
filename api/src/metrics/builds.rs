//! What is replayed or verified just now, by whatever process: as `millrace.builds` tells it, for as long as it is told.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use producers::metrics::{Family, Gauge, Registry};
use projections::builds::Building;

/// The labels of a build: which projection, and the command that does it.
type OfBuild = [(&'static str, String); 2];

/// How far the builds that are under way have come.
#[derive(Debug, Clone, Default)]
pub struct BuildMetrics {
    records: Family<OfBuild, Gauge>,
    records_expected: Family<OfBuild, Gauge>,
    seconds: Family<OfBuild, Gauge>,
    shown: Arc<Mutex<Vec<OfBuild>>>,
}

impl BuildMetrics {
    /// Shows these builds and no others.
    pub fn show(&self, builds: &[Building]) {
        let label = |build: &Building| {
            [
                ("projection", build.projection.clone()),
                ("command", build.what.clone()),
            ]
        };
        let now: Vec<OfBuild> = builds.iter().map(label).collect();
        for (label, build) in now.iter().zip(builds) {
            self.records.get_or_create(label).set(build.records);
            let expected = self.records_expected.get_or_create(label);
            expected.set(build.records_total);
            self.seconds.get_or_create(label).set(build.seconds);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut *shown, now);
        for gone in before.iter().filter(|label| !shown.contains(label)) {
            for gauges in [&self.records, &self.records_expected, &self.seconds] {
                gauges.remove(gone);
            }
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "projection_build_records",
            "Records that a replay or verification under way has folded",
            self.records.clone(),
        );
        registry.register(
            "projection_build_records_expected",
            "Records that a replay or verification under way has to fold",
            self.records_expected.clone(),
        );
        registry.register(
            "projection_build_seconds",
            "For how long a replay or verification has been under way",
            self.seconds.clone(),
        );
    }
}
