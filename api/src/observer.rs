//! Looks at broker, Postgres and lag every few seconds: for `/readyz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use processors::{
    lag::{Lag, next_offsets},
    status::Doing,
};
use producers::clock;
use projections::projection::{Projection, live_generations};
use schemas::topics::TOPICS;

use crate::app::App;

/// Parts of the process, as `/readyz` names them.
pub(crate) const BROKER: &str = "broker";
pub(crate) const DATABASE: &str = "database";
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_secs(2);

/// Observes for as long as it is polled.
pub async fn observe(app: Arc<App>) {
    loop {
        let answers = look_at_broker(&app).await;
        look_at_projections(&app, answers).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether it answers.
async fn look_at_broker(app: &Arc<App>) -> bool {
    let asking = Arc::clone(app);
    let check = move || asking.topics.check(TOPICS);
    let doing = match tokio::task::spawn_blocking(check).await {
        Ok(Ok(())) => Doing::Running,
        Ok(Err(error)) => Doing::Waiting(error.to_string()),
        Err(error) => Doing::Waiting(error.to_string()),
    };
    let answers = doing == Doing::Running;
    app.services.status.set(BROKER, doing);
    answers
}

async fn look_at_projections(app: &Arc<App>, broker_answers: bool) {
    let looked = tokio::time::timeout(LOOK_TIMEOUT, try_look_at_projections(app)).await;
    let mut offsets = None;
    let doing = match looked.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
        Ok(found) => {
            offsets = Some(found);
            Doing::Running
        }
        Err(error) => {
            let address = app.services.database.address();
            Doing::Waiting(format!("Postgres at {address}: {error}"))
        }
    };
    app.services.status.set(DATABASE, doing);
    // The broker is asked for the ends of the log: if that takes long, it says nothing of Postgres.
    if let Some(offsets) = offsets.filter(|_| broker_answers) {
        let _ = tokio::time::timeout(LOOK_TIMEOUT, measure_lag(app, offsets)).await;
    }
}

/// Partitions and next offsets of each projection.
type NextOffsets = Vec<(&'static Projection, Vec<(i32, i64)>)>;

/// Notes the generations that are live, and gives where each projection goes on.
async fn try_look_at_projections(app: &Arc<App>) -> sqlx::Result<NextOffsets> {
    let mut connection = app.pool.borrow().await?;
    let offsets = next_offsets(&mut connection).await?;
    let generations = live_generations(&mut *connection).await?;
    connection.give_back();
    for (projection, generation) in generations {
        let label = [("projection", projection)];
        let gauge = app.metrics.generation.get_or_create(&label).clone();
        gauge.set(i64::from(generation));
    }
    Ok(offsets)
}

async fn measure_lag(app: &Arc<App>, offsets: NextOffsets) {
    for (projection, next_offsets) in offsets {
        let measuring = Arc::clone(app);
        let measure = move || {
            measuring
                .meter
                .measure(projection, &next_offsets, clock::now_ms())
        };
        if let Ok(Ok(lags)) = tokio::task::spawn_blocking(measure).await {
            lags.iter().for_each(|lag| show_lag(app, lag));
        }
    }
}

fn show_lag(app: &App, lag: &Lag) {
    let partition = lag.partition.to_string();
    let label = [
        ("projection", lag.projection.to_owned()),
        ("partition", partition),
    ];
    app.metrics
        .lag_records
        .get_or_create(&label)
        .set(lag.records);
    app.metrics
        .next_offset
        .get_or_create(&label)
        .set(lag.next_offset);
    app.metrics
        .lag_seconds
        .get_or_create(&label)
        .set(lag.seconds);
}
