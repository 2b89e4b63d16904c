//! Looks at broker, Postgres and lag every few seconds: for `/readyz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use processors::status::Doing;
use producers::clock;
use projections::{
    checkpoints::{self, Checkpoint},
    projection::{PROJECTIONS, live_generations},
};
use schemas::topics::TOPICS;

use crate::app::App;

/// Parts of the process, as `/readyz` names them.
pub(crate) const BROKER: &str = "broker";
pub(crate) const DATABASE: &str = "database";
const EVERY: Duration = Duration::from_secs(2);

/// Observes for as long as it is polled.
pub async fn observe(app: Arc<App>) {
    loop {
        look_at_broker(&app).await;
        look_at_projections(&app).await;
        tokio::time::sleep(EVERY).await;
    }
}

async fn look_at_broker(app: &Arc<App>) {
    let asking = Arc::clone(app);
    let check = move || asking.topics.check(TOPICS);
    let doing = match tokio::task::spawn_blocking(check).await {
        Ok(Ok(())) => Doing::Running,
        Ok(Err(error)) => Doing::Waiting(error.to_string()),
        Err(error) => Doing::Waiting(error.to_string()),
    };
    app.services.status.set(BROKER, doing);
}

async fn look_at_projections(app: &App) {
    let doing = match try_look_at_projections(app).await {
        Ok(()) => Doing::Running,
        Err(error) => {
            let address = app.services.database.address();
            Doing::Waiting(format!("Postgres at {address}: {error}"))
        }
    };
    app.services.status.set(DATABASE, doing);
}

async fn try_look_at_projections(app: &App) -> sqlx::Result<()> {
    for projection in PROJECTIONS {
        let found = checkpoints::live(&app.pool, projection.name).await?;
        look_at_lag(app, projection.name, &found).await;
    }
    for (projection, generation) in live_generations(&app.pool).await? {
        let label = [("projection", projection)];
        app.metrics
            .generation
            .get_or_create(&label)
            .set(i64::from(generation));
    }
    Ok(())
}

async fn look_at_lag(app: &App, projection: &'static str, checkpoints: &[Checkpoint]) {
    let topic = format!("{}{projection}", app.services.kafka.prefix);
    let now_ms = clock::now_ms();
    for checkpoint in checkpoints {
        let Some(end) = app.log_ends.of(&topic, checkpoint.partition).await else {
            return;
        };
        let records = (end - checkpoint.next_offset).max(0);
        let behind_ms = checkpoint.record_at_ms.map_or(0, |at| (now_ms - at).max(0));
        let seconds = if records == 0 { 0 } else { behind_ms / 1_000 };
        let label = || {
            let partition = checkpoint.partition.to_string();
            [
                ("projection", projection.to_owned()),
                ("partition", partition),
            ]
        };
        app.metrics.lag_records.get_or_create(&label()).set(records);
        app.metrics.lag_seconds.get_or_create(&label()).set(seconds);
    }
}
