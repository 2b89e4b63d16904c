//! What belongs together is seen together: the rows, dead letters and checkpoints of a batch, which are one
//! transaction, and what a query says of rows and checkpoints, which is one statement.

use projections::{
    checkpoints::{AdvanceError, Span, advance, start},
    clicks::{self, StatsQuery, Step},
    db::Database,
    generations, orders,
    projection::{Changes, Generation, prepare},
    users::{self, Said},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::{
    samples::{click, order},
    world::{Raw, World, eventually},
};

const MINUTE: &str = "2026-01-01T00:00:00Z";
const FOLD: &str = "millrace-fold-clicks";

/// Keeps what these statements have locked until the connection is closed.
pub async fn lock(world: &World, statements: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&world.database_url()).await.unwrap();
    let begin = sqlx::AssertSqlSafe(format!("BEGIN; {statements}"));
    sqlx::raw_sql(begin).execute(&mut connection).await.unwrap();
    connection
}

/// Waits until so many sessions of this application wait for a lock.
pub async fn wait_for_a_lock(world: &World, application: &str, sessions: usize) {
    let query = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = '{application}' AND wait_event_type = 'Lock'"
    );
    let what = format!("{sessions} of {application} wait for a lock");
    eventually(&what, async || {
        (world.sql(&query).await.len() >= sessions).then_some(())
    })
    .await;
}

/// Clicks that are counted, dead letters, and records up to the checkpoints, as of one moment.
async fn counted(world: &World) -> [i64; 3] {
    let rows = world
        .sql(
            "SELECT (SELECT coalesce(sum(v), 0) FROM clicks.stats)::bigint AS clicks,
                 (SELECT count(*) FROM millrace.dead_letters) AS letters,
                 (SELECT sum(next_offset) FROM millrace.checkpoints WHERE projection = 'clicks')::bigint AS records",
        )
        .await;
    ["clicks", "letters", "records"].map(|name| rows[0][name].as_i64().unwrap())
}

#[tokio::test]
async fn rows_dead_letters_and_checkpoints_of_a_batch_are_there_together_or_not_at_all() {
    let world = World::new("together").await;
    let mut process = world.start(["process", "--only", "clicks"]).await;
    let value = world.writer("clicks").await.value(&click(7, MINUTE));
    // Whichever of them cannot be written, the others are not there either.
    for table in [
        "clicks.stats",
        "millrace.dead_letters",
        "millrace.checkpoints",
    ] {
        let held_up = lock(
            &world,
            &format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"),
        )
        .await;
        let records = (0..40).map(|n| match n % 2 {
            0 => Raw::value(value.clone()),
            _ => Raw::value("junk"),
        });
        let records = records.map(|record| record.into_partition(0)).collect();
        world.append_all("clicks", records).await;
        wait_for_a_lock(&world, FOLD, 1).await;
        let [clicks, letters, records] = counted(&world).await;
        assert_eq!(clicks + letters, records, "while {table} was locked");
        held_up.close().await.unwrap();
        world.caught_up("clicks").await;
    }
    assert_eq!(counted(&world).await, [60, 60, 120]);
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}

#[tokio::test]
async fn a_process_that_is_paused_in_the_middle_of_a_batch_holds_nobody_up() {
    let world = World::new("paused").await;
    let mut process = world.start(["process", "--only", "clicks"]).await;
    let held_up = lock(
        &world,
        "LOCK TABLE clicks.stats IN SHARE ROW EXCLUSIVE MODE",
    )
    .await;
    let value = world.writer("clicks").await.value(&click(7, MINUTE));
    world
        .append_raw("clicks", Raw::value(value).into_partition(3))
        .await;
    wait_for_a_lock(&world, FOLD, 1).await;
    process.pause();
    held_up.close().await.unwrap();
    // It has moved its checkpoint, cannot commit, and is not there to be asked.
    let others = "SET LOCAL lock_timeout = '15s'; SELECT FROM millrace.checkpoints FOR UPDATE";
    lock(&world, others).await.close().await.unwrap();
    process.resume();
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}

/// A connection as a fold of the clicks has it, with checkpoints for these partitions.
async fn fold(world: &World, partitions: &[i32]) -> (PgConnection, Generation, String) {
    let database = Database::new(&world.database_url()).unwrap();
    prepare(&database, &world.prefix).await.unwrap();
    let projection = &clicks::PROJECTION;
    let mut connection = database
        .connect_fold(projection, projection.name)
        .await
        .unwrap();
    let topic = world.topic(projection.name);
    let generation = projection.live(&mut connection, &topic).await.unwrap();
    start(&mut connection, &generation, &topic, partitions)
        .await
        .unwrap();
    (connection, generation, topic)
}

fn span(partition: i32, from: i64, to: i64) -> Span {
    Span {
        partition,
        from,
        to,
        record_at_ms: 1,
        last: None,
    }
}

#[tokio::test]
async fn a_checkpoint_moves_from_where_it_stands_and_in_the_live_generation_alone() {
    let world = World::new("moves").await;
    let (mut fold, generation, topic) = fold(&world, &[0, 1]).await;
    let mut moves = async |spans: &[Span]| {
        let mut transaction = fold.begin().await.unwrap();
        match advance(&mut transaction, &generation, &topic, spans).await {
            Ok(()) => transaction.commit().await.map(|()| true).unwrap(),
            Err(AdvanceError::Lost { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(moves(&[span(0, 0, 10)]).await);
    assert!(!moves(&[span(0, 0, 10)]).await, "the same again");
    assert!(!moves(&[span(0, 5, 15)]).await, "a part of it again");
    assert!(!moves(&[span(0, 11, 12)]).await, "with a gap");
    assert!(
        !moves(&[span(0, 10, 11), span(1, 1, 2)]).await,
        "half right"
    );
    assert!(!moves(&[span(2, 0, 1)]).await, "of a partition without one");
    assert!(moves(&[span(0, 10, 11), span(1, 0, 2)]).await);
    world
        .execute("UPDATE millrace.checkpoints SET live = false")
        .await;
    assert!(!moves(&[span(0, 11, 12)]).await, "not live any more");
    let rows = world
        .sql("SELECT next_offset FROM millrace.checkpoints WHERE projection = 'clicks' ORDER BY partition")
        .await;
    assert_eq!(
        rows,
        [json!({"next_offset": 11}), json!({"next_offset": 2})]
    );
}

#[tokio::test]
async fn checkpoints_are_locked_in_the_order_of_their_partitions() {
    let world = World::new("order").await;
    // They lie in another order, and no index may bring them into this one by chance.
    let (mut fold, generation, topic) = fold(&world, &[5, 2]).await;
    for method in ["indexscan", "bitmapscan", "indexonlyscan"] {
        let off = sqlx::AssertSqlSafe(format!("SET enable_{method} = off"));
        sqlx::raw_sql(off).execute(&mut fold).await.unwrap();
    }
    let first = lock(
        &world,
        "SELECT FROM millrace.checkpoints WHERE partition = 2 FOR UPDATE",
    )
    .await;
    let advancing = tokio::spawn(async move {
        let spans = [span(2, 0, 1), span(5, 0, 1)];
        let mut transaction = fold.begin().await.unwrap();
        advance(&mut transaction, &generation, &topic, &spans)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    });
    wait_for_a_lock(&world, FOLD, 1).await;
    // Whoever waits for the first has none of the others.
    let free = "SELECT partition FROM millrace.checkpoints WHERE partition = 5 FOR UPDATE NOWAIT";
    lock(&world, free).await.close().await.unwrap();
    first.close().await.unwrap();
    advancing.await.unwrap();
}

#[tokio::test]
async fn a_query_gives_rows_and_checkpoints_of_one_moment() {
    let world = World::new("moment").await;
    let mut process = world.start(["process"]).await;
    let clicked = world.writer("clicks").await.value(&click(7, MINUTE));
    world
        .append_raw("clicks", Raw::value(clicked).into_partition(0))
        .await;
    let placed = world.writer("orders").await.value(&order("a"));
    let (home, _) = world
        .append_raw("orders", Raw::value(placed).key("a"))
        .await;
    let users = world.writer("users").await.of("UserProfileSet");
    let ann = json!({"user_id": "ann", "deeplink": "", "promo_message": ""});
    let record = Raw::value(users.value(&ann)).key("ann");
    let (hers, _) = world.append_raw("users", record).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;

    // While a query is under way, rows and checkpoints change in one transaction.
    let change =
        "UPDATE clicks.stats SET v = 2; DELETE FROM orders.orders; DELETE FROM users.users;
        UPDATE millrace.checkpoints SET next_offset = next_offset + 1; COMMIT";
    let database = Database::new(&world.database_url()).unwrap();
    let pool = database.pool(3, crate::world::PATIENCE);
    let mut changing = lock(
        &world,
        "LOCK TABLE millrace.checkpoints IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let asking = tokio::spawn(async move {
        let from: jiff::Timestamp = MINUTE.parse().unwrap();
        let minute = from.as_second() / 60;
        let query = StatsQuery {
            banner_id: 7,
            from_minute: minute,
            to_minute: minute + 1,
            step: Step::Minute,
            limit: 10,
        };
        let anns = [("ann".to_owned(), hers)];
        let (stats, order, users) = tokio::join!(
            clicks::stats(&pool, query),
            orders::find(&pool, "a", home),
            users::find(&pool, &anns)
        );
        (stats.unwrap(), order.unwrap(), users.unwrap())
    });
    wait_for_a_lock(&world, "millrace-api", 3).await;
    sqlx::raw_sql(change).execute(&mut changing).await.unwrap();
    let (stats, found, users) = asking.await.unwrap();
    let clicks: i64 = stats.steps.iter().map(|(_, clicks)| clicks).sum();
    let reached = stats.checkpoints.iter().find(|(p, _)| *p == 0);
    assert_eq!((clicks, reached), (2, Some(&(0, 2))));
    assert_eq!((found.order, found.next_offset), (None, 2));
    let user = &users[0];
    assert_eq!((&user.profile, user.next_offset), (&None, 2));
}

#[tokio::test]
async fn a_record_that_is_folded_late_does_not_undo_what_a_later_one_said_of_a_user() {
    let world = World::new("late").await;
    let database = Database::new(&world.database_url()).unwrap();
    prepare(&database, &world.prefix).await.unwrap();
    let mut fold = database
        .connect_fold(&users::PROJECTION, "users")
        .await
        .unwrap();
    let said = |user_id, profile, offset| Said {
        user_id,
        profile,
        partition: 0,
        offset,
    };
    let (old, new) = (Some(("old", "old")), Some(("new", "new")));
    for changes in [
        vec![
            said("ann", new, 9),
            said("bob", None, 8),
            said("cay", old, 3),
        ],
        vec![
            said("ann", old, 4),
            said("bob", old, 5),
            said("cay", new, 6),
        ],
        vec![
            said("ann", None, 2),
            said("cay", None, 6),
            said("dan", None, 7),
        ],
    ] {
        changes.apply(&mut fold).await.unwrap();
    }
    let rows = world
        .sql(r#"SELECT user_id, promo_message, "offset" FROM users.users ORDER BY user_id"#)
        .await;
    let row = |id, promo, offset| json!({"user_id": id, "promo_message": promo, "offset": offset});
    assert_eq!(
        rows,
        [
            row("ann", Some("new"), 9),
            row("bob", None, 8),
            row("cay", Some("new"), 6),
            row("dan", None, 7),
        ]
    );
}

#[tokio::test]
async fn whoever_looks_for_the_live_generation_waits_until_a_switch_is_over() {
    let world = World::new("look").await;
    let database = Database::new(&world.database_url()).unwrap();
    prepare(&database, &world.prefix).await.unwrap();
    let fold = &clicks::PROJECTION;
    let mut switching = PgConnection::connect(&world.database_url()).await.unwrap();
    let mut looking = database.connect_fold(fold, fold.name).await.unwrap();
    generations::close(&mut switching, fold).await.unwrap();
    let look = tokio::spawn(async move { generations::live(&mut looking, fold).await });
    eventually("it waits", async || {
        let waits = format!(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()
             AND wait_event = 'advisory' AND application_name = '{FOLD}'"
        );
        (!world.sql(&waits).await.is_empty()).then_some(())
    })
    .await;
    assert!(!look.is_finished());
    generations::open(&mut switching, fold).await.unwrap();
    let (number, version, topic) = look.await.unwrap().unwrap();
    assert_eq!((number, version), (1, fold.version));
    assert_eq!(topic, world.topic("clicks"));
    // And it leaves nothing behind.
    generations::close(&mut switching, fold).await.unwrap();
}
