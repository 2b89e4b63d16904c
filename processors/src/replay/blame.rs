//! The records that should have made rows which are not what they should be.

use std::mem;

use anyhow::{Context as _, Result};
use projections::compare::DEAD_LETTERS;
use tokio::task::spawn_blocking;

use super::{
    Site,
    scan::{Events, Visitor, scan},
};
use crate::{
    fold::{Cells, Fold, names},
    record::Raw,
};

/// The most records of a row that are named.
const NAMED_MAX: usize = 5;

/// The records that had a part in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blamed {
    /// The table.
    pub table: String,
    /// The key of the row: columns and cells.
    pub key: Vec<(String, String)>,
    /// The first of them: partition and offset.
    pub records: Vec<(i32, i64)>,
    /// How many there are.
    pub count: u64,
}

impl<F: Fold> Site<'_, F> {
    /// Reads the log once more, if there are differences.
    pub(super) async fn blame(&mut self) -> Result<()> {
        let mut looking = Looking::<F> {
            events: Events::new(&self.topic, &self.services.registry),
            rows: Vec::new(),
        };
        for table in &self.outcome.tables {
            for example in &table.examples {
                let cells = example.second.as_ref().or(example.first.as_ref());
                let blamed = Blamed {
                    table: table.table.clone(),
                    key: example.key.clone(),
                    records: Vec::new(),
                    count: 0,
                };
                looking
                    .rows
                    .push((cells.cloned().unwrap_or_default(), blamed));
            }
        }
        if looking.rows.is_empty() {
            return Ok(());
        }
        let (kafka, topic) = (self.services.kafka.clone(), self.topic.clone());
        let until = self.outcome.compared_at.clone();
        let found = spawn_blocking(move || {
            scan(&kafka, &topic, &until, &mut looking)?;
            anyhow::Ok(mem::take(&mut looking.rows))
        });
        let found = found.await.context("reading the log")??;
        self.outcome.blamed = found.into_iter().map(|(_, blamed)| blamed).collect();
        Ok(())
    }
}

struct Looking<F: Fold> {
    events: Events<F::Event>,
    rows: Vec<(Cells, Blamed)>,
}

impl<F: Fold> Visitor for Looking<F> {
    fn see(&mut self, raw: &Raw<'_>) -> Result<()> {
        let event = self.events.event(raw)?;
        for (cells, blamed) in &mut self.rows {
            let is_part = match &event {
                _ if blamed.table == DEAD_LETTERS => names(cells, raw.partition, raw.offset),
                Ok(record) => F::touches(record, cells),
                Err(_) => false,
            };
            if is_part {
                blamed.count += 1;
                if blamed.records.len() < NAMED_MAX {
                    blamed.records.push((raw.partition, raw.offset));
                }
            }
        }
        Ok(())
    }

    fn goes_on(&mut self) -> Result<bool> {
        Ok(true)
    }
}
