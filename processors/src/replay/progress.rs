//! How far a build has come: for whoever watches it, and for others who ask.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::anyhow;
use projections::builds::{self, Building};

use crate::{fold::Fold, runtime::Services};

/// How often it is said how far a build has come.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How far a build has come, for whoever watches.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    phase: Mutex<&'static str>,
    records: AtomicI64,
    total: AtomicI64,
}

impl Progress {
    /// What is done just now; records folded, and to fold.
    pub fn look(&self) -> (&'static str, i64, i64) {
        let Inner {
            phase,
            records,
            total,
        } = &*self.0;
        let phase = *phase.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |number: &AtomicI64| number.load(Ordering::Relaxed);
        (phase, number(records), number(total))
    }

    pub(super) fn begin(&self, phase: &'static str) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    pub(super) fn expect(&self, total: i64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn add(&self, records: i64) {
        self.0.records.fetch_add(records, Ordering::Relaxed);
    }
}

/// Says every second how far the build has come, in a table that others read.
pub(super) async fn tell<F: Fold>(services: Services, progress: Progress) {
    let connected = services.database.connect_build(F::PROJECTION, "public");
    let Ok(mut connection) = connected.await else {
        return; // the build itself will say so
    };
    loop {
        let (phase, records, total) = progress.look();
        let told = builds::tell(&mut connection, F::PROJECTION, phase, records, total);
        if told.await.is_err() {
            return;
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Says who does it.
pub(super) fn occupied(projection: &str, who: Option<Building>) -> anyhow::Error {
    let Some(who) = who else {
        return anyhow!("somebody else has just begun to build {projection}: try again");
    };
    anyhow!(
        "`millrace {} {projection}` is under way: {}, since {} s, {}, {} of {} records",
        who.what,
        who.by_whom,
        who.seconds,
        who.phase,
        who.records,
        who.records_total
    )
}
