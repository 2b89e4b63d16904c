//! `millrace audit sale`.

use serde_json::{Value, json};

use super::{FOLDS, Shop, name};
use crate::world::World;

#[tokio::test]
async fn the_audit_says_ok_and_finds_what_was_tampered_with() {
    let world = World::new("audit").await;
    let mut process = world.start(FOLDS).await;
    let shop = Shop::with(&world, [5, 2, 60, 3_600]).await;
    let sale = shop.sell(7, 1).await.sale;
    shop.sell(8, 2).await;
    shop.append(vec![shop.checkout(9, 2)]).await;
    world.caught_up("sales").await;
    let id = name(sale);

    let report = world.millrace(&["audit", "sale", &id, "--json"], "").await;
    assert_eq!(report.status, 0, "{report:?}");
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["differences"], json!([]));
    let counts = ["items", "limit", "requests", "reserved", "sold", "refused"];
    assert_eq!(
        counts.map(|count| report[count].as_i64().unwrap()),
        [5, 2, 5, 2, 2, 1]
    );
    let report = world.millrace(&["audit", "sale", &id], "").await;
    assert!(report.stdout.contains("ok "), "{report:?}");

    for (tampering, difference) in [
        (
            "UPDATE sales.items SET purchased_by = 9 WHERE item_id = 1",
            "item 1: the table has one by user 9",
        ),
        (
            "UPDATE sales.items SET purchased_by = NULL WHERE item_id = 2",
            "item 2: the table has no purchase",
        ),
        (
            "UPDATE sales.sales SET \"limit\" = 3",
            "rules: the table has",
        ),
    ] {
        world.execute(tampering).await;
        let report = world.millrace(&["audit", "sale", &id], "").await;
        assert_eq!(report.status, 1, "{report:?}");
        assert!(report.stdout.contains(difference), "{report:?}");
    }
    process.terminate().await;
}

#[tokio::test]
async fn the_audit_says_what_is_missing() {
    let world = World::new("noaudit").await;
    let bad = world.millrace(&["audit", "sale", "today"], "").await;
    assert_eq!(bad.status, 2, "{bad:?}");
    assert!(bad.stderr.contains("20261121T0900Z"), "{bad:?}");
    let mut process = world.start(FOLDS).await;
    let none = world
        .millrace(&["audit", "sale", "20260101T0000Z"], "")
        .await;
    assert_eq!(none.status, 1, "{none:?}");
    assert!(none.stderr.contains("there was no sale"), "{none:?}");
    process.terminate().await;
    let shop = Shop::open(&world).await;
    let sale = shop.sell(7, 1).await.sale;
    let behind = world.millrace(&["audit", "sale", &name(sale)], "").await;
    assert_eq!(behind.status, 1, "{behind:?}");
    assert!(behind.stderr.contains("millrace lag"), "{behind:?}");
}

#[tokio::test]
async fn the_audit_says_that_the_tables_are_of_another_log() {
    let world = World::new("auditlog").await;
    let mut process = world.start(FOLDS).await;
    let shop = Shop::with(&world, [5, 2, 60, 3_600]).await;
    let sale = shop.sell(7, 1).await.sale;
    world.caught_up("sales").await;
    process.terminate().await;
    // As if the topic had been deleted and made anew, with the same records.
    world
        .execute("UPDATE millrace.generations SET topic_id = 'another' WHERE projection = 'sales'")
        .await;
    let refused = world.millrace(&["audit", "sale", &name(sale)], "").await;
    refused.failed(
        1,
        &[
            "the tables of sales are of another log",
            "was deleted and made anew",
            "replay --new-log sales",
        ],
    );
}
