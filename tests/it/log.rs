//! What comes out of a log that others write to as well: repetitions, contradictions, junk, and records of other
//! versions of the schema.

use serde_json::{Value, json};

use producers::clock;

use crate::{
    reference::{Refused, sales::Verdict},
    samples::{click, model, order, with},
    world::{Raw, World, avro::framed},
};

const UNKNOWN_ID: u32 = 987_654_321;

/// Places of records and the reason of their dead letters, as the table has them.
async fn dead_letters(world: &World, projection: &str) -> Vec<(i32, i64, String)> {
    let query = format!(
        r#"SELECT partition, "offset", reason FROM millrace.dead_letters
           WHERE projection = '{projection}' ORDER BY 1, 2"#
    );
    let rows = world.sql(&query).await;
    let place = |row: &Value| {
        serde_json::from_value(json!([row["partition"], row["offset"], row["reason"]])).unwrap()
    };
    rows.iter().map(place).collect()
}

#[tokio::test]
async fn an_order_that_comes_again_changes_nothing_and_another_of_its_uid_is_a_dead_letter() {
    let world = World::new("again").await;
    let writer = world.writer("orders").await;
    let raw = |order: &Value| Raw::value(writer.value(order)).key("a");
    let other = with(order("a"), "/items/0/brand", json!("Other"));
    // Of one batch, and of several.
    let places = world
        .append_all(
            "orders",
            vec![raw(&order("a")), raw(&other), raw(&order("a"))],
        )
        .await;
    let run = world.start(["run"]).await;
    world.caught_up("orders").await;
    let later = world
        .append_all("orders", vec![raw(&order("a")), raw(&other)])
        .await;
    world.must_be_what_the_log_says().await;
    let dead = |(partition, offset): (i32, i64)| (partition, offset, "order_exists".to_owned());
    assert_eq!(
        dead_letters(&world, "orders").await,
        [dead(places[1]), dead(later[1])]
    );
    assert_eq!(run.get("/order?uid=a").await.json(), order("a"));
    let rows = world.sql(r#"SELECT "offset" FROM orders.orders"#).await;
    assert_eq!(rows[0]["offset"], places[0].1);
}

#[tokio::test]
async fn bad_records_never_stop_the_good_ones_around_them() {
    let world = World::new("poison").await;
    let run = world.start(["run"]).await;
    let writer = world.writer("orders").await;
    let foreign = world.writer("clicks").await;
    let valid = writer.value(&order("good"));
    // The good order first, which tells the partition of its key.
    let (home, _) = world
        .append_raw("orders", Raw::value(valid.clone()).key("good"))
        .await;
    let raw = |value: Vec<u8>| Raw::value(value).key("good").into_partition(home);
    let datum = writer.datum(&order("bad"));
    let with_id = |id: u32| framed(id, &datum);
    let invalid = |pointer: &str, value: Value| writer.value(&with(order("good"), pointer, value));
    let mut wrong_magic = valid.clone();
    wrong_magic[0] = 1;
    let bad: Vec<(&str, Raw)> = vec![
        ("no_value", Raw::no_value().key("good").into_partition(home)),
        ("not_framed", raw(Vec::new())),
        ("not_framed", raw(vec![0])),
        ("not_framed", raw(vec![0, 0, 0, 1])),
        ("not_framed", raw(wrong_magic)),
        ("not_framed", raw(model().to_string().into_bytes())),
        ("not_framed", raw(vec![0xff; 1_000_000])),
        ("unknown_schema", raw(with_id(UNKNOWN_ID))),
        ("unknown_schema", raw(with_id(u32::MAX))),
        ("unknown_schema", raw(with_id(0))),
        ("unknown_schema", raw(vec![0; 5])),
        ("foreign_schema", raw(with_id(foreign.id))),
        ("malformed", raw(valid[..valid.len() - 1].to_vec())),
        ("malformed", raw(valid[..5].to_vec())),
        ("malformed", raw([&valid[..], &[0]].concat())),
        ("malformed", raw([&valid[..5], &[0xff; 64]].concat())),
        // A text of 2^62 bytes, and one of a negative length.
        (
            "malformed",
            raw(framed(
                writer.id,
                &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            )),
        ),
        ("malformed", raw(framed(writer.id, &[0x01]))),
        // A text that is not UTF-8.
        (
            "malformed",
            raw(framed(
                writer.id,
                &[&[0x04, 0xc3, 0x28], &datum[..]].concat(),
            )),
        ),
        ("malformed", raw(framed(writer.id, &vec![0x00; 900_000]))),
        ("invalid", raw(invalid("/track_number", json!("")))),
        ("invalid", raw(invalid("/order_uid", json!("")))),
        ("invalid", raw(invalid("/items", json!([])))),
        ("invalid", raw(invalid("/payment/amount", json!(-1)))),
        (
            "invalid",
            raw(invalid("/payment/currency", json!("dollars"))),
        ),
        ("invalid", raw(invalid("/delivery/email", json!("nobody")))),
        ("invalid", raw(invalid("/locale", json!("a\u{0}b")))),
        ("wrong_key", raw(writer.value(&order("bad")))),
        ("wrong_key", Raw::value(valid.clone()).into_partition(home)),
        (
            "wrong_key",
            Raw::value(valid.clone()).key("").into_partition(home),
        ),
        (
            "wrong_key",
            Raw::value(valid.clone())
                .key(&b"\xff\x00"[..])
                .into_partition(home),
        ),
        (
            "wrong_partition",
            Raw::value(valid.clone())
                .key("good")
                .into_partition((home + 1) % 8),
        ),
    ];
    let mut records = Vec::new();
    let mut good = vec!["good".to_owned()];
    for (n, (_, raw)) in bad.iter().enumerate() {
        records.push(raw.clone());
        // Spread over the partitions: enough that each bad record has good ones after it.
        for copy in 0..4 {
            let uid = format!("good-{n}-{copy}");
            records.push(Raw::value(writer.value(&order(&uid))).key(uid.clone()));
            good.push(uid);
        }
    }
    let places = world.append_all("orders", records).await;
    world.must_be_what_the_log_says().await;
    let mut wanted: Vec<_> = bad
        .iter()
        .zip(places.iter().step_by(5))
        .map(|((reason, _), (partition, offset))| (*partition, *offset, (*reason).to_owned()))
        .collect();
    wanted.sort();
    assert_eq!(dead_letters(&world, "orders").await, wanted);
    let rows = world.sql("SELECT count(*) FROM orders.orders").await;
    assert_eq!(rows[0]["count"], good.len());
    for uid in good.iter().step_by(9) {
        assert_eq!(
            run.get(&format!("/order?uid={uid}")).await.json(),
            order(uid)
        );
    }
    assert_eq!(run.get("/order?uid=bad").await.status, 404);
    assert_eq!(run.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn bad_clicks_never_stop_the_good_ones_around_them() {
    let world = World::new("junk").await;
    let _run = world.start(["run"]).await;
    let writer = world.writer("clicks").await;
    let foreign = world.writer("orders").await;
    let at = "2024-01-01T10:00:00Z";
    let good = writer.value(&click(1, at));
    let of = |banner: i64, received_at: i64| {
        writer.value(&json!({"banner_id": banner, "received_at": received_at}))
    };
    let bad = [
        ("no_value", None),
        ("not_framed", Some(Vec::new())),
        ("not_framed", Some(b"click".to_vec())),
        ("not_framed", Some(vec![7; 1_000_000])),
        ("unknown_schema", Some(framed(UNKNOWN_ID, &good[5..]))),
        ("foreign_schema", Some(foreign.value(&model()))),
        ("malformed", Some(good[..good.len() - 1].to_vec())),
        ("malformed", Some([&good[..], b"x"].concat())),
        ("malformed", Some(framed(writer.id, &[0xff; 12]))),
        ("invalid", Some(of(-1, 0))),
        ("invalid", Some(of(1, -1))),
        ("invalid", Some(of(1, i64::MAX))),
        ("invalid", Some(of(i64::MIN, i64::MIN))),
    ];
    let mut records = Vec::new();
    for (_, value) in &bad {
        let raw = value.clone().map_or_else(Raw::no_value, Raw::value);
        records.push(raw.into_partition(2));
        // A click needs no key, and may have one.
        records.push(Raw::value(good.clone()).key("any").into_partition(2));
    }
    let places = world.append_all("clicks", records).await;
    world.must_be_what_the_log_says().await;
    let wanted: Vec<_> = bad
        .iter()
        .zip(places.iter().step_by(2))
        .map(|((reason, _), (partition, offset))| (*partition, *offset, (*reason).to_owned()))
        .collect();
    assert_eq!(dead_letters(&world, "clicks").await, wanted);
    let rows = world
        .sql("SELECT sum(v)::bigint AS v FROM clicks.stats")
        .await;
    assert_eq!(rows[0]["v"], bad.len());
}

#[tokio::test]
async fn a_valid_record_that_postgres_refuses_is_a_dead_letter_and_the_rest_goes_on() {
    let world = World::new("refused").await;
    let run = world.start(["run"]).await;
    world
        .execute("ALTER TABLE orders.orders ADD CHECK (track_number <> 'refused')")
        .await;
    let writer = world.writer("orders").await;
    let raw = |order: &Value, uid: &str| Raw::value(writer.value(order)).key(uid);
    let refused = with(order("refused"), "/track_number", json!("refused"));
    let mut records = Vec::new();
    for n in 0..300 {
        let uid = format!("good-{n}");
        records.push(raw(&order(&uid), &uid));
        if n % 100 == 50 {
            records.push(raw(&refused, "refused"));
        }
    }
    // The uid is free: the refused ones left no trace.
    records.push(raw(&order("refused"), "refused"));
    let places = world.append_all("orders", records).await;
    let of_refused: Refused = [places[51], places[152], places[253]].into();
    world.must_be_what_the_log_says_but(&of_refused).await;
    let letters = dead_letters(&world, "orders").await;
    assert_eq!(letters.len(), 3);
    assert!(
        letters
            .iter()
            .all(|(_, _, reason)| reason == "not_storable"),
        "{letters:?}"
    );
    assert_eq!(
        run.get("/order?uid=good-299").await.json(),
        order("good-299")
    );
    assert_eq!(run.get("/order?uid=refused").await.json(), order("refused"));
}

#[tokio::test]
async fn records_of_another_version_of_the_schema_are_read_by_this_one() {
    let world = World::new("versions").await;
    let _run = world.start(["run"]).await;
    let mut newer: Value =
        serde_json::from_str(include_str!("../../schemas/avro/orders.avsc")).unwrap();
    let fields = newer["fields"].as_array_mut().unwrap();
    // Other order of the fields, one more with a default, other words of documentation.
    fields.reverse();
    fields.push(
        json!({"name": "gift", "type": ["null", "string"], "default": null, "doc": "A card."}),
    );
    let newer = world.register("orders", &newer).await;
    let current = world.writer("orders").await;
    assert_eq!(newer.id, current.id, "the newest version");
    let mut gift = order("gift");
    gift["gift"] = json!("Happy birthday");
    world
        .append_raw("orders", Raw::value(newer.value(&gift)).key("gift"))
        .await;

    let mut clicks: Value =
        serde_json::from_str(include_str!("../../schemas/avro/clicks.avsc")).unwrap();
    clicks["fields"].as_array_mut().unwrap().insert(
        0,
        json!({"name": "campaign", "type": "string", "default": "none"}),
    );
    let newer = world.register("clicks", &clicks).await;
    let mut click = click(4, "2024-01-01T10:00:00Z");
    click["campaign"] = json!("spring");
    world
        .append_raw("clicks", Raw::value(newer.value(&click)).into_partition(7))
        .await;

    world.must_be_what_the_log_says().await;
    assert_eq!(
        world.sql("SELECT banner_id FROM clicks.stats").await,
        [json!({"banner_id": 4})]
    );
    assert_eq!(
        world.sql("SELECT order_uid FROM orders.orders").await,
        [json!({"order_uid": "gift"})]
    );
    assert_eq!(
        world.sql("SELECT * FROM millrace.dead_letters").await,
        [] as [Value; 0]
    );
}

#[tokio::test]
async fn an_id_that_gets_a_meaning_later_is_read_from_then_on() {
    let world = World::new("later").await;
    let _process = world.start(["process", "--only", "clicks"]).await;
    let mut schema: Value =
        serde_json::from_str(include_str!("../../schemas/avro/clicks.avsc")).unwrap();
    let campaign = json!({ "name": "campaign", "type": "string", "default": "" });
    schema["fields"].as_array_mut().unwrap().push(campaign);
    // A schema has one id, under however many subjects it is registered.
    let elsewhere = world.register("elsewhere", &schema).await;
    let mut event = click(7, "2024-01-01T10:00:00Z");
    event["campaign"] = json!("spring");
    let record = Raw::value(elsewhere.value(&event)).into_partition(0);
    world.append_raw("clicks", record.clone()).await;
    world.caught_up("clicks").await;
    let here = world.register("clicks", &schema).await;
    assert_eq!(here.id, elsewhere.id);
    world.append_raw("clicks", record).await;
    world.caught_up("clicks").await;
    let letters = dead_letters(&world, "clicks").await;
    assert_eq!(letters, [(0, 0, "foreign_schema".to_owned())]);
    let rows = world.sql("SELECT v FROM clicks.stats").await;
    assert_eq!(rows, [json!({ "v": 1 })]);
}

#[tokio::test]
async fn a_cache_keeps_to_the_same_rules_as_the_tables() {
    let world = World::new("rules").await;
    let run = world.start(["run"]).await;
    let writer = world.writer("orders").await;
    // Looked for first, so that the cache has an entry which the log then changes.
    assert_eq!(run.get("/order?uid=a").await.status, 404);
    let first = order("a");
    let other = with(order("a"), "/locale", json!("ru"));
    let invalid = with(order("a"), "/items", json!([]));
    let raw = |order: &Value| Raw::value(writer.value(order)).key("a");
    let (home, _) = world.append_raw("orders", raw(&invalid)).await;
    world
        .append_raw("orders", raw(&first).into_partition((home + 1) % 8))
        .await;
    world
        .append_raw("orders", Raw::value(b"junk".to_vec()).key("a"))
        .await;
    let (_, offset) = world.append_raw("orders", Raw::no_value().key("a")).await;
    let position = format!("{}/{home}@{offset}", world.topic("orders"));
    run.get_at("/order?uid=a", &position)
        .await
        .problem(404, "not_found");
    world.append_raw("orders", raw(&first)).await;
    let (_, offset) = world.append_raw("orders", raw(&other)).await;
    let position = format!("{}/{home}@{offset}", world.topic("orders"));
    assert_eq!(run.get_at("/order?uid=a", &position).await.json(), first);
    let (_, offset) = world.append_raw("orders", Raw::no_value().key("a")).await;
    let position = format!("{}/{home}@{offset}", world.topic("orders"));
    assert_eq!(run.get_at("/order?uid=a", &position).await.json(), first);
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn the_log_of_the_users_is_folded_around_its_junk_in_tables_and_caches_alike() {
    let world = World::new("userjunk").await;
    let run = world.start(["run"]).await;
    let path = "/v1/users?user_id=ann";
    // Looked for first, so that the cache has an entry which the log then changes.
    run.get(path).await.must_refuse(404, "not found");
    let writer = world.writer("users").await;
    let set = writer.of("UserProfileSet");
    let profile =
        |id: &str, promo: &str| json!({"user_id": id, "deeplink": "", "promo_message": promo});
    let raw = |event: &Value| Raw::value(set.value(event)).key("ann");
    let (home, _) = world
        .append_raw("users", raw(&profile("ann", "first")))
        .await;
    let long = "x".repeat(65_537);
    let bad = [
        ("no_value", Raw::no_value().key("ann")),
        ("not_framed", Raw::value(b"junk".to_vec()).key("ann")),
        (
            "unknown_schema",
            Raw::value(framed(UNKNOWN_ID, &[0])).key("ann"),
        ),
        // A branch that the union does not have.
        (
            "malformed",
            Raw::value(framed(writer.id, &[4, 0])).key("ann"),
        ),
        ("invalid", raw(&profile("ann b", ""))),
        ("invalid", raw(&profile("", ""))),
        ("invalid", raw(&profile("ann", &long))),
        ("invalid", raw(&profile("ann", "a\u{0}"))),
        ("wrong_key", raw(&profile("bob", ""))),
        (
            "wrong_partition",
            raw(&profile("ann", "astray")).into_partition((home + 1) % 8),
        ),
    ];
    let records = bad.iter().map(|(_, raw)| raw.clone()).collect();
    let places = world.append_all("users", records).await;
    let mut wanted: Vec<_> = (places.iter().zip(&bad))
        .map(|((partition, offset), (reason, _))| (*partition, *offset, (*reason).to_owned()))
        .collect();
    wanted.sort();
    let at =
        |(partition, offset): (i32, i64)| format!("{}/{partition}@{offset}", world.topic("users"));
    let has = |promo: &str| json!({"deeplink": "", "promo_message": promo});
    let found = run.get_at(path, &at(places[8])).await;
    assert!(found.must_have("ann", &has("first")), "from memory");
    let removed = writer.of("UserRemoved").value(&json!({"user_id": "ann"}));
    let place = world
        .append_raw("users", Raw::value(removed).key("ann"))
        .await;
    run.get_at(path, &at(place))
        .await
        .must_refuse(404, "not found");
    let place = world
        .append_raw("users", raw(&profile("ann", "second")))
        .await;
    let found = run.get_at(path, &at(place)).await;
    assert!(found.must_have("ann", &has("second")), "from memory");
    world.must_be_what_the_log_says().await;
    assert_eq!(dead_letters(&world, "users").await, wanted);
}

#[tokio::test]
async fn the_log_of_the_sale_is_judged_with_junk_and_barriers_on_it() {
    let world = World::new("judged").await;
    let rules = world.writer("sale-rules").await;
    let set = json!({"items": 7, "limit": 1, "reservation_seconds": 60, "sale_seconds": 3_600});
    world
        .append_raw("sale-rules", Raw::value(rules.value(&set)))
        .await;
    let sales = world.writer("sales").await;
    let now_ms = clock::now_ms();
    let checkout = |item_id: i64, requested_at: i64| {
        json!({"user_id": 1, "item_id": item_id, "requested_at": requested_at, "rules_seen": 1,
               "nonce": 5, "key": null})
    };
    let events = [
        sales.value(&json!({"nonce": 1})),
        b"junk".to_vec(),
        sales.value(&checkout(7, now_ms - 40_000)),
        sales.value(&checkout(7, now_ms)),
        sales.value(&checkout(6, now_ms)),
    ];
    let records = events.into_iter().map(Raw::value).collect();
    world.append_all("sales", records).await;
    let history = world.sale_history().await;
    for (offset, wanted) in [
        (0, Verdict::None),
        (1, Verdict::None),
        (2, Verdict::Void),
        (3, Verdict::Refused("no_such_item")),
    ] {
        assert_eq!(history.verdict(offset), Some(&wanted), "at {offset}");
    }
    assert!(matches!(history.verdict(4), Some(Verdict::Reserved { .. })));
}
