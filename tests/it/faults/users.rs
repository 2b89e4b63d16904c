//! Users while servers and processes die: what is in memory is served, and what was acknowledged is found.

use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};

use super::{RECOVERY, faults, fork, random, servers::servers_to_kill};
use crate::{
    users::{of, profile},
    world::{Process, World, eventually_within, http::Answer},
};

#[tokio::test]
async fn while_postgres_is_dead_users_in_memory_are_served_and_kept_fresh() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "deadusers").await;
    let mut run = world.start(["run"]).await;
    run.set("ann", &profile("one")).await;
    run.set("bob", &profile("one")).await;
    world.caught_up("users").await;
    let mut asked = 0;
    for (id, status) in [("ann", 200), ("bob", 200), ("nobody", 404)] {
        eventually_within(RECOVERY, "it is read from memory", async || {
            let before = hits(&run).await;
            let answer = run.get(&of(id)).await;
            (answer.status == status && hits(&run).await > before).then_some(())
        })
        .await;
    }
    for round in 0..faults(2) {
        turn.kill("postgres").await;
        run.not_ready_since("Postgres").await;
        // What is in memory is served, and follows the log.
        let word = format!("round-{round}");
        let set = run.set("ann", &profile(&word)).await;
        let found = run.get_at(&of("ann"), set.position()).await;
        assert!(found.must_have("ann", &profile(&word)), "from memory");
        let came = run.set("nobody", &profile(&word)).await;
        let found = run.get_at(&of("nobody"), came.position()).await;
        assert!(found.must_have("nobody", &profile(&word)), "from memory");
        let removed = run.remove("bob").await;
        let gone = run.get_at(&of("bob"), removed.position()).await;
        gone.must_refuse(404, "not found");
        // What is not fails in its shape, however often it is asked for.
        asked += 1;
        for _ in 0..3 {
            let unread = run.get(&of(&format!("unread-{asked}"))).await;
            unread.must_refuse(500, "internal error");
        }
        turn.start("postgres").await;
        eventually_within(
            RECOVERY,
            "who was not read is looked for again",
            async || {
                let answer = run.get(&of(&format!("unread-{asked}"))).await;
                (answer.status == 404).then_some(())
            },
        )
        .await;
        run.set("bob", &profile("again")).await;
        run.ready_again().await;
    }
    world.must_be_what_the_log_says().await;
    run.terminate().await;
}

/// How often a user was found in memory, or found missing.
async fn hits(run: &Process) -> u64 {
    const HITS: &str = r#"millrace_cache_reads_total{cache="users",outcome="hit"} "#;
    let metrics = run.get("/metrics").await.body;
    let hits = metrics.lines().find_map(|line| line.strip_prefix(HITS));
    hits.unwrap().parse().unwrap()
}

/// What is done to whom, before a user is read.
#[derive(Debug, Clone, Copy)]
enum Harm {
    None,
    FoldKilled,
    FoldPaused,
    ReaderKilled,
    ReaderPaused,
}

const HARMS: [Harm; 5] = [
    Harm::None,
    Harm::FoldKilled,
    Harm::FoldPaused,
    Harm::ReaderKilled,
    Harm::ReaderPaused,
];

#[tokio::test]
async fn what_one_process_acknowledges_another_serves_whoever_is_killed_or_paused_meanwhile() {
    let world = World::new("twins").await;
    let mut random = random("twins");
    let mut fold = world.start(["process"]).await;
    let writer = world.start(["api"]).await;
    let mut reader = world.start(["api"]).await;
    let mut chance = fork(&mut random);
    for round in 0..10 * faults(1) {
        let harm = HARMS[round % HARMS.len()];
        let id = format!("user-{}", random.random_range(0..4));
        match harm {
            Harm::FoldKilled => fold.kill(),
            Harm::FoldPaused => fold.pause(),
            Harm::ReaderPaused => reader.pause(),
            Harm::ReaderKilled => {
                // Asked just now: it dies with a look-up under way.
                let asked = reader.request(Method::GET, &of(&id)).send();
                tokio::select! {
                    biased;
                    _ = asked => {}
                    () = tokio::task::yield_now() => {}
                }
                reader.kill();
            }
            Harm::None => {}
        }
        let (position, wanted) = write(&writer, &id, &mut chance).await;
        match harm {
            Harm::FoldKilled => fold = world.spawn(&["process"], &[]),
            Harm::FoldPaused => fold.resume(),
            Harm::ReaderPaused => reader.resume(),
            Harm::ReaderKilled => reader = world.start(["api"]).await,
            Harm::None => {}
        }
        for process in [&writer, &reader] {
            let answer = read_at(process, &id, &position).await;
            match &wanted {
                Some(profile) => drop(answer.must_have(&id, profile)),
                None => answer.must_refuse(404, "not found"),
            }
        }
    }
    world.must_be_what_the_log_says().await;
    fold.terminate().await;
}

/// Sets or removes a user. Gives where that stands, and the profile.
async fn write(
    writer: &Process,
    id: &str,
    chance: &mut rand::rngs::StdRng,
) -> (String, Option<Value>) {
    if chance.random_range(0..4) == 0 {
        return (writer.remove(id).await.position().to_owned(), None);
    }
    let word: u32 = chance.random();
    let profile = json!({"deeplink": "app://x", "promo_message": word.to_string()});
    let set = writer.set(id, &profile).await;
    (set.position().to_owned(), Some(profile))
}

/// Reads a user as of this position, as soon as somebody has folded it.
async fn read_at(process: &Process, id: &str, position: &str) -> Answer {
    eventually_within(
        RECOVERY,
        &format!("{id} is read at {position}"),
        async || {
            let answer = process.get_at_once(&of(id), position).await;
            (answer.status != 503).then_some(answer)
        },
    )
    .await
}
