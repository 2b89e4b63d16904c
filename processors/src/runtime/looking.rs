//! Looking back: whether the log is still the one that was applied, and schema ids mean what they meant. Before the first
//! batch of a process, and of a generation, it is waited for; then it goes on beside the work.

use std::time::Duration;

use producers::kafka::Kafka;
use projections::{
    history::{self, Known},
    schema_ids::{self, Met},
};
use schemas::{registry::Registry, topics::subject};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};

use super::{CONNECT_TIMEOUT, Halt, RETRY_FIRST, RETRY_MAX, Runner, within};
use crate::{
    fold::Fold,
    guard::{CONFIRM, Found, look_back, other_meaning, what_to_do},
    status::Doing,
};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// So many schema ids are asked for, the newest.
const IDS_MAX: i64 = 8;

/// When it was looked, and the look that is under way.
#[derive(Default)]
pub(super) struct Looking {
    last: Option<Instant>,
    under_way: Option<JoinHandle<anyhow::Result<Found>>>,
}

impl Looking {
    fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= LOOK_EVERY)
    }
}

impl<F: Fold> Runner<F> {
    /// Looks back, however long broker or Postgres are away, unless that was done just before.
    pub(super) async fn look_back(&mut self) -> Result<(), Halt> {
        let mut pause = RETRY_FIRST;
        while self.looking.is_due() {
            match self.try_look_back().await {
                Ok(()) => break,
                Err(Trouble::Halt(halt)) => return Err(halt),
                Err(Trouble::Waits(why)) => self.doing(Doing::Waiting(why)),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        Ok(())
    }

    /// A batch may come before it is said that reading has begun.
    pub(super) async fn look_back_before_the_first(&mut self) -> Result<(), Halt> {
        if self.looking.last.is_some() {
            return Ok(());
        }
        self.look_back().await
    }

    /// Begins a look when it is time, and weighs what the last one found; waits for neither.
    pub(super) async fn look_back_now_and_then(&mut self) -> Result<(), Halt> {
        if let Some(look) = self.looking.under_way.take_if(|look| look.is_finished()) {
            let found = look.await.map_err(anyhow::Error::from).flatten();
            match found {
                Ok(Found::Same(_)) => self.looking.last = Some(Instant::now()),
                // Once more, and waiting: nothing is to be applied meanwhile.
                Ok(Found::Another(_)) => {
                    self.looking.last = None;
                    self.look_back().await?;
                    self.doing(Doing::Running);
                }
                Err(error) => {
                    tracing::warn!(part = self.part, error = %format!("{error:#}"), "cannot look back at the log");
                    self.looking.last = Some(Instant::now());
                }
            }
        }
        // Before the first look there is nothing to look back at.
        if self.looking.last.is_some() && self.looking.is_due() && self.looking.under_way.is_none()
        {
            self.begin_look().await;
        }
        Ok(())
    }

    /// What a reader that cannot go on means, if the log tells more than the reader.
    pub(super) async fn explain(&mut self, why: String) -> Halt {
        self.looking.last = None;
        match self.try_look_back().await {
            Err(Trouble::Halt(halt)) => halt,
            _ => Halt(why),
        }
    }

    async fn begin_look(&mut self) {
        // Without an answer another connection is made for the next batch, and the next look is soon.
        match within(CONNECT_TIMEOUT, self.prepare_look()).await {
            Ok(look) => self.looking.under_way = Some(tokio::spawn(look.run())),
            Err(_) => self.connection = None,
        }
    }

    async fn try_look_back(&mut self) -> Result<(), Trouble> {
        match self.look_once().await? {
            Found::Same(_) => return Ok(()),
            Found::Another(_) => sleep(CONFIRM).await,
        }
        match self.look_once().await? {
            Found::Same(_) => Ok(()),
            Found::Another(why) => Err(Trouble::Halt(Halt(why))),
        }
    }

    /// Looks, and notes which log it is.
    async fn look_once(&mut self) -> Result<Found, Trouble> {
        self.connect().await.map_err(Trouble::Halt)?;
        let look = match within(CONNECT_TIMEOUT, self.prepare_look()).await {
            Ok(look) => look,
            Err(error) => return Err(self.lost_postgres(&error)),
        };
        let found = look.run().await;
        let found = found.map_err(|error| Trouble::Waits(format!("{error:#}")))?;
        if let (Found::Same(id), Some(connection), Some(generation)) =
            (&found, &mut self.connection, &self.generation)
        {
            let noted = history::note(connection, generation, &id.cluster, &id.topic);
            if let Err(error) = within(CONNECT_TIMEOUT, noted).await {
                return Err(self.lost_postgres(&error));
            }
            self.looking.last = Some(Instant::now());
        }
        Ok(found)
    }

    fn lost_postgres(&mut self, error: &sqlx::Error) -> Trouble {
        self.connection = None;
        Trouble::Waits(format!("Postgres: {error}"))
    }

    async fn prepare_look(&mut self) -> sqlx::Result<Look> {
        let (Some(connection), Some(generation)) = (&mut self.connection, &self.generation) else {
            return Err(sqlx::Error::WorkerCrashed);
        };
        let subject = subject(&self.topic);
        Ok(Look {
            kafka: self.services.kafka.clone(),
            registry: self.services.registry.clone(),
            projection: F::PROJECTION.name,
            topic: self.topic.clone(),
            known: history::known(connection, generation).await?,
            met: schema_ids::newest(connection, Some(&subject), IDS_MAX).await?,
        })
    }
}

/// What is compared with the log and the registry, apart from the fold.
struct Look {
    kafka: Kafka,
    registry: Registry,
    projection: &'static str,
    topic: String,
    known: Known,
    met: Vec<Met>,
}

impl Look {
    async fn run(self) -> anyhow::Result<Found> {
        let Self {
            kafka,
            registry,
            projection,
            topic,
            known,
            met,
        } = self;
        let look = spawn_blocking(move || look_back(&kafka, &topic, &known));
        match look.await?? {
            Found::Another(what) => {
                let what_to_do = what_to_do(projection);
                Ok(Found::Another(format!("{what}; {what_to_do}")))
            }
            same => match other_meaning(&registry, &met).await {
                Some(why) => Ok(Found::Another(why)),
                None => Ok(same),
            },
        }
    }
}

/// Why it is not known that the log is the same.
enum Trouble {
    /// It may pass: what, in words.
    Waits(String),
    /// It is another one.
    Halt(Halt),
}
