//! `millrace lag`: how far the projections are behind the log.

use anyhow::Result;
use processors::lag::{Lag, Meter, next_offsets};
use producers::clock;
use projections::projection::{PROJECTIONS, PrepareError};
use serde::Serialize;
use tokio::task::block_in_place;

use super::{connect, of_postgres};
use crate::{
    cli::{Connection, LagArgs},
    output,
};

#[derive(Serialize)]
struct Report {
    partitions: Vec<Lag>,
    total: Total,
}

/// All partitions together: records add up, and the oldest record counts.
#[derive(Serialize)]
struct Total {
    records: i64,
    seconds: f64,
}

pub async fn lag(connection: &Connection, args: &LagArgs) -> Result<()> {
    let kafka = connection.kafka();
    let database = connection.database()?;
    let mut postgres = connect(&database).await?;
    for projection in PROJECTIONS {
        let topic = projection.topic(&kafka.prefix);
        match projection.live(&mut postgres, &topic).await {
            // Whatever the version of the fold, its distance to the end can be told.
            Ok(_) | Err(PrepareError::OtherVersion { .. }) => {}
            Err(PrepareError::Postgres(error)) => return of_postgres(&database, Err(error)),
            Err(error) => return Err(error.into()),
        }
    }
    let offsets = of_postgres(&database, next_offsets(&mut postgres).await)?;
    let mut partitions = Vec::new();
    let meter = Meter::new(&kafka)?;
    for (projection, offsets) in offsets {
        let lags = block_in_place(|| meter.measure(projection, &offsets, clock::now_ms()))?;
        partitions.extend(lags);
    }
    let total = Total {
        records: partitions.iter().map(|lag| lag.records).sum(),
        seconds: partitions.iter().map(|lag| lag.seconds).fold(0.0, f64::max),
    };
    let report = Report { partitions, total };
    if args.json {
        return output::json(&report);
    }
    report.print()
}

impl Report {
    fn print(&self) -> Result<()> {
        let head = [
            "projection",
            "partition",
            "next offset",
            "end offset",
            "records behind",
            "seconds behind",
        ];
        let mut table = output::table(head);
        for lag in &self.partitions {
            table.add_row([
                lag.projection.to_owned(),
                lag.partition.to_string(),
                lag.next_offset.to_string(),
                lag.end_offset.to_string(),
                output::grouped(lag.records.unsigned_abs()),
                format!("{:.3}", lag.seconds),
            ]);
        }
        let Total { records, seconds } = self.total;
        table.add_row([
            "total".to_owned(),
            String::new(),
            String::new(),
            String::new(),
            output::grouped(records.unsigned_abs()),
            format!("{seconds:.3}"),
        ]);
        output::align_right(&mut table, &[1, 2, 3, 4, 5]);
        output::print(&table)
    }
}
