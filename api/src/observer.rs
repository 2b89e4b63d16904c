//! Looks at broker, Postgres and lag every few seconds: for `/readyz` and `/metrics`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use processors::{
    lag::{Lag, next_offsets},
    status::Doing,
};
use producers::clock;
use projections::{
    builds,
    projection::{Live, Projection, live_generations},
};
use schemas::topics::{TOPICS, Topic};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::warn;

use crate::{
    app::App,
    overview::{Rates, Tables, TopicSeen},
};

/// Parts of the process, as `/readyz` names them.
pub(crate) const BROKER: &str = "broker";
pub(crate) const DATABASE: &str = "database";
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_secs(2);

/// Observes for as long as it is polled.
pub async fn observe(app: Arc<App>) {
    let mut rates = Rates::default();
    let mut known = Known::new();
    loop {
        let broker_answers = look_at_broker(&app).await;
        let projections = look_at_projections(&app, &mut known).await;
        // The broker is asked for the ends of the log: if that takes long, it says nothing of Postgres.
        if let Some((offsets, tables)) = projections.filter(|_| broker_answers) {
            let looked = timeout(LOOK_TIMEOUT, look_at_log(&app, offsets)).await;
            match looked {
                Ok(Ok(topics)) => {
                    let prefix = &app.services.kafka.prefix;
                    app.overview.show(prefix, &topics, tables, &mut rates);
                }
                Ok(Err(error)) => {
                    warn!(error = %format!("{error:#}"), "cannot see how the log stands");
                }
                Err(late) => warn!(error = %late, "cannot see how the log stands"),
            }
        }
        sleep(EVERY).await;
    }
}

/// Of each projection, the generation that is live, and how often its rows changed behind the checkpoints.
type Known = HashMap<String, (i32, i32)>;

/// How a projection begins.
const AT_FIRST: (i32, i32) = (1, 0);

/// Drops what is cached of rows that are others now. At the first look, too, since entries may be older than it; but not
/// where nothing can have changed yet.
fn forget_other_rows(app: &App, known: &mut Known, live: &[Live]) {
    for live in live {
        let now = (live.generation, live.revision);
        let before = known.insert(live.projection.clone(), now);
        if before.unwrap_or(AT_FIRST) != now {
            app.forget_rows_of(&live.projection);
        }
    }
}

/// Whether it answers.
async fn look_at_broker(app: &Arc<App>) -> bool {
    let asking = Arc::clone(app);
    let check = move || asking.topics.check(TOPICS);
    let doing = match spawn_blocking(check).await {
        Ok(Ok(())) => Doing::Running,
        Ok(Err(error)) => Doing::Waiting(error.to_string()),
        Err(error) => Doing::Waiting(error.to_string()),
    };
    let answers = doing == Doing::Running;
    app.services.status.set(BROKER, doing);
    answers
}

/// Partitions and next offsets of each projection.
type NextOffsets = Vec<(&'static Projection, Vec<(i32, i64)>)>;

/// How far the projections are, and their generations; none if Postgres does not tell.
async fn look_at_projections(app: &App, known: &mut Known) -> Option<(NextOffsets, Tables)> {
    let looked = timeout(LOOK_TIMEOUT, try_look_at_projections(app)).await;
    let (doing, found) = match looked.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
        Ok(found) => {
            // Before it is said that all is well: what is cached from then on stays.
            forget_other_rows(app, known, &found.1.live);
            (Doing::Running, Some(found))
        }
        Err(error) => {
            let address = app.services.database.address();
            let why = format!("Postgres at {address}: {error}");
            // Nobody knows what is built now.
            app.metrics.builds.show(&[]);
            (Doing::Waiting(why), None)
        }
    };
    app.services.status.set(DATABASE, doing);
    found
}

async fn try_look_at_projections(app: &App) -> sqlx::Result<(NextOffsets, Tables)> {
    let mut connection = app.pool.borrow().await?;
    let offsets = next_offsets(&mut connection).await?;
    let tables = Tables {
        live: live_generations(&mut *connection).await?,
        builds: builds::under_way(&mut *connection).await?,
    };
    connection.give_back();
    for Live {
        projection,
        generation,
        ..
    } in &tables.live
    {
        let label = [("projection", projection.clone())];
        let gauge = app.metrics.generation.get_or_create(&label).clone();
        gauge.set(i64::from(*generation));
    }
    app.metrics.builds.show(&tables.builds);
    Ok((offsets, tables))
}

/// How far every topic goes, and the projections of it. Shows the lag of each, also if another topic does not tell.
async fn look_at_log(app: &Arc<App>, offsets: NextOffsets) -> anyhow::Result<Vec<TopicSeen>> {
    let offsets = Arc::new(offsets);
    let mut outcome = Ok(Vec::new());
    for topic in TOPICS {
        let offsets = Arc::clone(&offsets);
        match beside(app, move |app| look_at_topic(app, topic, &offsets)).await {
            Ok(seen) => {
                let lags = seen.lags.iter().flat_map(|(_, lags)| lags);
                lags.for_each(|lag| show_lag(app, lag));
                if let Ok(all) = &mut outcome {
                    all.push(seen);
                }
            }
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

fn look_at_topic(
    app: &App,
    topic: &'static Topic,
    offsets: &NextOffsets,
) -> anyhow::Result<TopicSeen> {
    let extents = app.meter.extents(topic)?;
    let at = Instant::now();
    let of_it = offsets
        .iter()
        .filter(|(projection, _)| projection.of.name == topic.name);
    let lags = of_it.map(|(projection, next_offsets)| {
        let now_ms = clock::now_ms();
        let measured = app
            .meter
            .measure_within(&extents, projection, next_offsets, now_ms);
        measured.map(|lags| (*projection, lags))
    });
    let lags = lags.collect::<anyhow::Result<_>>()?;
    Ok(TopicSeen {
        topic,
        at,
        extents,
        lags,
    })
}

/// Asks where waiting is allowed.
async fn beside<T: Send + 'static>(
    app: &Arc<App>,
    ask: impl FnOnce(&App) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let app = Arc::clone(app);
    spawn_blocking(move || ask(&app)).await?
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
