//! What is told of sales that ran: tables, answers and the audit say what the log says.

mod audit;
mod shop;

use rand::RngExt;
use serde_json::{Value, json};

pub use self::shop::{Shop, name};
use crate::world::{Process, Raw, World, eventually};

const FOLDS: [&str; 3] = ["process", "--only", "sales,sale_attempts"];
/// Items, limit, seconds to pay, seconds of a sale: short, so that much happens.
const SHORT: [i64; 4] = [12, 2, 1, 2];

/// Refusals that needed no log.
async fn refuse(world: &World, sale: i64, count: i64) {
    let writer = world.writer("sale-attempts").await;
    let refused = |n: i64| {
        let at = sale + n % 5;
        let event = json!({
            "user_id": n, "item_id": n % 7, "reason": "item_sold", "sale_started_at": sale,
            "decided_at_offset": n, "requested_at": at,
        });
        Raw::value(writer.value(&event)).into_partition(i32::try_from(n % 8).unwrap())
    };
    let mut records: Vec<_> = (0..count).map(refused).collect();
    records.push(Raw::value("junk").into_partition(0));
    world.append_all("sale-attempts", records).await;
}

/// Everything that a list has, page by page.
async fn pages(run: &Process, path: &str, rows: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let answer = run.get(&format!("{path}?limit={limit}{after}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        let found = page[rows].as_array().unwrap();
        assert!(found.len() <= limit, "{page}");
        all.extend(found.iter().cloned());
        after = match &page["next"] {
            Value::Null => return all,
            Value::String(next) => format!("&after={next}"),
            next => format!("&after={next}"),
        };
        assert_eq!(found.len(), limit, "{page}");
    }
}

#[tokio::test]
async fn answers_have_every_row_once_and_no_code() {
    let world = World::new("sales").await;
    let mut run = world.start(["run"]).await;
    let shop = Shop::with(&world, SHORT).await;
    let mut random = producers::clock::generator(None);
    let mut codes = Vec::new();
    for _ in 0..5 {
        shop.round(&mut random, SHORT[0], &mut codes).await;
    }
    let sale = shop.sell(100, 3).await.sale;
    refuse(&world, sale, 40).await;
    world.must_be_what_the_log_says().await;

    let sales = pages(&run, "/v1/sales", "sales", 1).await;
    let rows = world
        .sql("SELECT to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MI') AS minute, sold FROM sales.sales ORDER BY starts_at DESC")
        .await;
    assert_eq!(sales.len(), rows.len());
    let mut attempts_of_all = 0;
    for (sale, row) in sales.iter().zip(&rows) {
        let id = sale["sale_id"].as_str().unwrap();
        assert!(
            id.starts_with(row["minute"].as_str().unwrap()),
            "{sale} {row}"
        );
        assert_eq!(sale["sold"], row["sold"]);
        let path = format!("/v1/sales/{id}");
        let alone = run.get(&path).await.json();
        let count = |what: &str| alone[what].as_i64().unwrap();
        assert_eq!((count("items"), count("limit")), (SHORT[0], SHORT[1]));
        let items = pages(&run, &format!("{path}/items"), "items", 3).await;
        assert_eq!(items.len(), usize::try_from(count("sold")).unwrap());
        must_rise(&items, |item| item["item_id"].as_i64());
        let attempts = pages(&run, &format!("{path}/attempts"), "attempts", 7).await;
        must_rise(&attempts, place);
        let bought = attempts
            .iter()
            .filter(|attempt| attempt["verdict"] == "purchased" && attempt["is_replayed"] == false);
        let mut bought: Vec<_> = bought
            .map(|a| [&a["item_id"], &a["user_id"], &a["at"]])
            .collect();
        bought.sort_by_key(|[item, ..]| item.as_i64());
        let sold: Vec<_> = items
            .iter()
            .map(|i| [&i["item_id"], &i["purchased_by"], &i["purchased_at"]])
            .collect();
        assert_eq!(bought, sold);
        attempts_of_all += attempts.len();
        let whole = run.get(&format!("{path}/attempts?limit=1000")).await.body;
        assert!(
            codes.iter().all(|code| !whole.contains(code)),
            "a code can be bought with"
        );
    }
    let stored = "SELECT (SELECT count(*) FROM sales.attempts WHERE verdict <> 'void')
        + (SELECT count(*) FROM sale_attempts.attempts) AS n";
    assert_eq!(world.sql(stored).await[0]["n"], attempts_of_all);
    run.terminate().await;
}

/// Time and place of an attempt, by which they are sorted.
fn place(attempt: &Value) -> (String, bool, String, i64) {
    let (place, offset) = attempt["position"]
        .as_str()
        .unwrap()
        .rsplit_once('@')
        .unwrap();
    let at: jiff::Timestamp = attempt["at"].as_str().unwrap().parse().unwrap();
    let is_beside = place.contains("sale-attempts");
    (
        format!("{at:.3}"),
        is_beside,
        place.to_owned(),
        offset.parse().unwrap(),
    )
}

fn must_rise<K: Ord>(rows: &[Value], key: impl Fn(&Value) -> K) {
    for pair in rows.windows(2) {
        assert!(key(&pair[0]) < key(&pair[1]), "{pair:?}");
    }
}

#[tokio::test]
async fn a_sale_is_told_as_it_stands_at_this_moment() {
    let world = World::new("standing").await;
    let mut run = world.start(["run"]).await;
    let shop = Shop::with(&world, [5, 3, 2, 3_600]).await;
    shop.sell(7, 1).await;
    let placed = shop.append(vec![shop.checkout(7, 2)]).await[0];
    let path = format!("/v1/sales/{}", name(placed.sale));
    let position = format!("{}/0@{}", world.topic("sales"), placed.offset);
    let answer = run.get_at(&path, &position).await.json();
    assert_eq!(
        (&answer["sold"], &answer["reserved"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(answer["sale_id"], name(placed.sale));
    eventually("the reservation has lapsed", async || {
        (run.get(&path).await.json()["reserved"] == 0).then_some(())
    })
    .await;
    let item = &run.get(&format!("{path}/items")).await.json()["items"][0];
    assert_eq!(
        (&item["item_id"], &item["purchased_by"]),
        (&json!(1), &json!(7))
    );
    let picture = run.get(item["image_url"].as_str().unwrap()).await;
    assert_eq!(picture.header("content-type"), "image/svg+xml");
    assert!(picture.header("cache-control").contains("immutable"));
    assert!(picture.body.contains(item["item_name"].as_str().unwrap()));
    run.terminate().await;
}

#[tokio::test]
async fn what_is_no_sale_is_refused_and_what_was_none_is_not_found() {
    let world = World::new("nosale").await;
    let mut run = world.start(["run"]).await;
    for path in ["", "/items", "/attempts"] {
        let unknown = format!("/v1/sales/20260101T0000Z{path}");
        run.get(&unknown).await.problem(404, "not_found");
        let never = format!("/v1/sales/20260231T0000Z{path}");
        run.get(&never).await.problem(404, "not_found");
        let bad = run.get(&format!("/v1/sales/today{path}")).await;
        let problem = bad.problem(400, "bad_request");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("20261121T0900Z")
        );
    }
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=x",
        "limit=1&limit=2",
    ] {
        for path in [
            "sales",
            "sales/20260101T0000Z/items",
            "sales/20260101T0000Z/attempts",
        ] {
            let bad = run.get(&format!("/v1/{path}?{query}")).await;
            bad.problem(400, "bad_request");
        }
    }
    assert_eq!(
        run.get("/v1/sales").await.json(),
        json!({"sales": [], "next": null})
    );
    for file in ["10000.svg", "-1.svg", "01.svg", "x", "1.png"] {
        let path = format!("/sale/images/20260101T0000Z/{file}");
        run.get(&path).await.problem(404, "not_found");
    }
    run.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_that_is_killed_again_and_again_knows_what_came_before() {
    let world = World::new("warmup").await;
    let mut random = producers::clock::generator(None);
    let shop = Shop::with(&world, SHORT).await;
    let mut codes = Vec::new();
    let mut process = world.spawn(&FOLDS, &[]);
    let mut warmed_up = 0;
    for round in 0..12 {
        shop.round(&mut random, SHORT[0], &mut codes).await;
        if round % 3 == 2 {
            world.caught_up("sales").await;
        }
        if random.random_bool(0.4) {
            process.kill();
            warmed_up += process.said(&["reads what has to be known before"]);
            process = world.spawn(&FOLDS, &[]);
        }
    }
    let sale = shop.sell(100, 3).await.sale;
    refuse(&world, sale, 100).await;
    world.must_be_what_the_log_says().await;
    process.kill();
    let mut process = world.start(FOLDS).await;
    shop.round(&mut random, SHORT[0], &mut codes).await;
    world.must_be_what_the_log_says().await;
    warmed_up += process.said(&["reads what has to be known before"]);
    assert!(warmed_up > 0);
    process.terminate().await;

    let in_one_go = world.beside().await;
    let mut process = in_one_go.start(FOLDS).await;
    in_one_go.must_be_what_the_log_says().await;
    process.terminate().await;
    world.tables().await.must_equal(&in_one_go.tables().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_goes_on_where_the_other_was() {
    let world = World::new("saletwo").await;
    let mut random = producers::clock::generator(None);
    let shop = Shop::with(&world, SHORT).await;
    let mut codes = Vec::new();
    let mut processes = vec![world.start(FOLDS).await, world.start(FOLDS).await];
    for round in 0..4 {
        for _ in 0..3 {
            shop.round(&mut random, SHORT[0], &mut codes).await;
        }
        world.caught_up("sales").await;
        shop.round(&mut random, SHORT[0], &mut codes).await;
        if round % 2 == 0 {
            processes.remove(0).kill();
        } else {
            processes.remove(0).terminate().await;
        }
        processes.push(world.start(FOLDS).await);
    }
    world.must_be_what_the_log_says().await;
    for mut process in processes {
        process.terminate().await;
    }
}
