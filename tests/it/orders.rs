//! Orders over HTTP: placed, refused and found.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    samples::{model, order, with},
    world::{
        PATIENCE, Process, World, eventually,
        http::{Caller, MIN_POSITION},
    },
};

#[tokio::test]
async fn the_model_order_comes_out_as_it_went_in() {
    let world = World::new("model").await;
    let run = world.start(["run"]).await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/model.json");
    let emitted = world
        .millrace(&["emit", "order", "--file", file, "--json"], "")
        .await;
    assert_eq!(emitted.status, 0, "{emitted:?}");
    let emitted: Value = serde_json::from_str(&emitted.stdout).unwrap();
    assert_eq!(emitted["appended"], 1);
    let position = emitted["positions"][0].as_str().unwrap();

    let found = run.get_at("/order?uid=b563feb7b2b84b6test", position).await;
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(found.header("content-type"), "application/json");
    assert_eq!(found.json(), model());

    world.must_be_what_the_log_says().await;
    let rows = world.sql("SELECT * FROM orders.orders").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["date_created"], "2021-11-26T06:22:19Z");
    assert_eq!(rows[0]["sm_id"], 99);
    let rows = world.sql("SELECT * FROM orders.deliveries").await;
    assert_eq!(rows[0]["city"], "Kiryat Mozkin");
    let rows = world.sql("SELECT * FROM orders.payments").await;
    assert_eq!(
        (&rows[0]["amount"], &rows[0]["request_id"]),
        (&json!(1817), &json!(""))
    );
    let rows = world.sql("SELECT * FROM orders.items").await;
    assert_eq!(
        (&rows[0]["item_index"], &rows[0]["chrt_id"]),
        (&json!(0), &json!(9_934_930))
    );
}

#[tokio::test]
async fn any_text_and_any_number_comes_out_as_it_went_in() {
    let world = World::new("texts").await;
    let run = world.start(["run"]).await;
    let uid = "Ж&=%+\"'\\ 🛒 ?#/ü";
    let mut placed = order(uid);
    placed["date_created"] = json!("not a date,\tstill kept \u{2028}\u{7f}\u{1}");
    placed["delivery"]["name"] = json!("اسم \u{feff}\u{202e} O'Neil; DROP TABLE orders;--");
    placed["sm_id"] = json!(i64::MIN);
    placed["payment"]["payment_dt"] = json!(-1);
    placed["payment"]["amount"] = json!(i64::MAX);
    let item = placed["items"][0].clone();
    placed["items"] = (0..300)
        .map(|nm_id| with(item.clone(), "/nm_id", json!(nm_id)))
        .collect();
    let answer = run.post("/v1/orders", &placed).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let query = reqwest::Url::parse_with_params("http://x/order", [("uid", uid)]).unwrap();
    let path = &query.as_str()["http://x".len()..];
    assert_eq!(run.get_at(path, answer.position()).await.json(), placed);
    // Without the cache too.
    world.must_be_what_the_log_says().await;
    let other = world.start(["api"]).await;
    assert_eq!(other.get_at(path, answer.position()).await.json(), placed);
}

#[tokio::test]
async fn a_placed_order_is_on_the_log_and_can_be_read_at_once() {
    let world = World::new("placed").await;
    let run = world.start(["run"]).await;
    for n in 0..50 {
        let uid = format!("order-{n}");
        let placed = run.post("/v1/orders", &order(&uid)).await;
        assert_eq!(placed.status, 201, "{placed:?}");
        assert_eq!(placed.json(), order(&uid));
        let found = run
            .get_at(&format!("/order?uid={uid}"), placed.position())
            .await;
        assert_eq!((found.status, found.json()), (200, order(&uid)));
    }
    let last = run.post("/v1/orders", &order("last")).await;
    assert_eq!(last.status, 201);
    let records = world.read_topic("orders").await;
    assert_eq!(records.len(), 51);
    let record = records
        .iter()
        .find(|record| record.key.as_deref() == Some(b"last"))
        .unwrap();
    let place = format!(
        "{}/{}@{}",
        world.topic("orders"),
        record.partition,
        record.offset
    );
    assert_eq!(last.position(), place);
    assert_eq!(record.headers["ce_type"], "millrace.orders.OrderPlaced");
    assert_eq!(record.headers["ce_specversion"], "1.0");
    assert_eq!(record.headers["traceparent"], last.header("traceresponse"));
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn an_order_placed_twice_is_there_once_and_another_of_its_uid_is_refused() {
    let world = World::new("twice").await;
    let run = world.start(["run"]).await;
    let first = run.post("/v1/orders", &order("a")).await;
    assert_eq!(first.status, 201);
    run.get_at("/order?uid=a", first.position()).await;

    let same = run.post("/v1/orders", &order("a")).await;
    assert_eq!((same.status, same.json()), (200, order("a")));
    let other = run
        .post("/v1/orders", &with(order("a"), "/locale", json!("ru")))
        .await;
    other.problem(409, "order_exists");
    assert_eq!(world.ends("orders").await.iter().sum::<i64>(), 1);
    assert_eq!(run.get("/order?uid=a").await.json(), order("a"));
}

#[tokio::test]
async fn a_bad_order_is_refused_with_every_fault_and_nothing_is_stored() {
    let world = World::new("bad").await;
    let run = world.start(["run"]).await;
    let mut bad = model();
    bad["delivery"]["email"] = json!("nobody");
    bad["payment"]["currency"] = json!("DOLLARS");
    bad["payment"]["amount"] = json!(-1);
    bad["items"][0]["price"] = json!("1");
    bad["items"][0]["colour"] = json!("red");
    bad["track_number"] = json!(" ");
    bad.as_object_mut().unwrap().remove("locale");
    bad["extra"] = json!({});
    let problem = run.post("/v1/orders", &bad).await.problem(422, "invalid");
    let mut fields: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "delivery.email",
            "extra",
            "items[0].colour",
            "items[0].price",
            "locale",
            "payment.amount",
            "payment.currency",
            "track_number"
        ]
    );
    for bad in [
        with(model(), "/items", json!([])),
        with(model(), "/items", json!(null)),
        with(model(), "/order_uid", json!("")),
        with(model(), "/order_uid", json!("x".repeat(101))),
        with(model(), "/order_uid", json!("a\u{0}b")),
        with(model(), "/delivery", json!({})),
        with(model(), "/items/0/total_price", json!(-1)),
        with(model(), "/sm_id", json!(99.5)),
        with(model(), "/payment/amount", json!(u64::MAX)),
        json!([]),
        json!("text"),
        json!([model()]),
    ] {
        run.post("/v1/orders", &bad).await.problem(422, "invalid");
    }
    for broken in [
        "",
        "{",
        "{\"order_uid\":\"a\"",
        "\u{feff}{}",
        "{} {}",
        "nul",
    ] {
        let request = run
            .request(Method::POST, "/v1/orders")
            .header("content-type", "application/json");
        run.send(request.body(broken))
            .await
            .problem(400, "bad_request");
    }
    let deep = "[".repeat(200_000);
    let request = run
        .request(Method::POST, "/v1/orders")
        .header("content-type", "application/json");
    run.send(request.body(deep))
        .await
        .problem(400, "bad_request");
    let not_utf8 = run
        .request(Method::POST, "/v1/orders")
        .header("content-type", "application/json");
    run.send(not_utf8.body(&b"{\"order_uid\":\"\xff\"}"[..]))
        .await
        .problem(400, "bad_request");
    for kind in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ] {
        let request = run
            .request(Method::POST, "/v1/orders")
            .header("content-type", kind);
        run.send(request.body(model().to_string()))
            .await
            .problem(415, "not_json");
    }
    assert_eq!(world.ends("orders").await, [0; 8]);
    assert_eq!(
        world.sql("SELECT * FROM orders.orders").await,
        [] as [Value; 0]
    );
    assert_eq!(run.get("/order?uid=b563feb7b2b84b6test").await.status, 404);

    let kind = "Application/JSON; charset=utf-8";
    let request = run
        .request(Method::POST, "/v1/orders")
        .header("content-type", kind);
    assert_eq!(
        run.send(request.body(model().to_string())).await.status,
        201
    );
}

#[tokio::test]
async fn an_order_that_fits_into_a_record_is_stored_and_a_larger_one_is_refused() {
    let world = World::new("large").await;
    let run = world.start(["run"]).await;
    let large = with(
        order("large"),
        "/delivery/address",
        json!("x".repeat(960_000)),
    );
    let placed = run.post("/v1/orders", &large).await;
    assert_eq!(placed.status, 201, "{}", placed.status);
    let found = run.get_at("/order?uid=large", placed.position()).await;
    assert!(found.json() == large);
    // One with as many items as there may be.
    let mut long = order("long");
    let item = json!({"chrt_id":1,"track_number":"","price":0,"rid":"","name":"","sale":0,"size":"","total_price":0,"nm_id":1,"brand":"","status":0});
    long["items"] = vec![item.clone(); 8_000].into();
    let body = long.to_string();
    assert!(body.len() < 1 << 20, "{}", body.len());
    let placed = run.post("/v1/orders", &long).await;
    assert_eq!(placed.status, 201, "{}", placed.status);
    assert!(
        run.get_at("/order?uid=long", placed.position())
            .await
            .json()
            == long
    );
    let request = run
        .request(Method::POST, "/v1/orders")
        .header("content-type", "application/json");
    run.send(request.body(" ".repeat((1 << 20) + 1)))
        .await
        .problem(413, "too_large");
    assert_eq!(world.ends("orders").await.iter().sum::<i64>(), 2);
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn an_endless_body_is_cut_off_and_takes_no_memory() {
    let world = World::new("endless").await;
    let run = world.start(["run"]).await;
    assert_eq!(run.post("/v1/orders", &order("a")).await.status, 201);
    let before = run.peak_memory_kib();
    for framing in ["transfer-encoding: chunked", "content-length: 104857600"] {
        let answer = stream(&run, framing, 100 << 20).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{framing}: {answer}");
        assert!(
            answer.contains("application/problem+json"),
            "{framing}: {answer}"
        );
    }
    let grown = run.peak_memory_kib() - before;
    assert!(grown < 20 << 10, "the server took {grown} KiB more");
    assert_eq!(world.ends("orders").await.iter().sum::<i64>(), 1);
}

/// Sends a body of so many bytes, or as much of it as is taken, and gives the answer.
async fn stream(process: &Process, framing: &str, bytes: usize) -> String {
    let (mut answer, mut sink) = Caller::connect(process).await.0.into_split();
    let head = format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
    );
    let is_chunked = framing.contains("chunked");
    let sending = tokio::spawn(async move {
        sink.write_all(head.as_bytes()).await?;
        let piece = vec![b' '; 64 << 10];
        for _ in 0..bytes / piece.len() {
            if is_chunked {
                sink.write_all(format!("{:x}\r\n", piece.len()).as_bytes())
                    .await?;
            }
            sink.write_all(&piece).await?;
            if is_chunked {
                sink.write_all(b"\r\n").await?;
            }
        }
        std::io::Result::Ok(())
    });
    let mut text = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        // A reset after the answer is as good as an end.
        while let Ok(read @ 1..) = answer.read(&mut piece).await {
            text.extend_from_slice(&piece[..read]);
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    sending.abort();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn an_order_that_was_looked_for_in_vain_is_found_once_it_is_placed() {
    let world = World::new("vain").await;
    let run = world.start(["run"]).await;
    for _ in 0..3 {
        run.get("/order?uid=late").await.problem(404, "not_found");
    }
    for empty in ["/order", "/order?uid=", "/order?UID=a"] {
        run.get(empty).await.problem(400, "bad_request");
    }
    run.get(&format!("/order?uid={}", "x".repeat(5_000)))
        .await
        .problem(404, "not_found");
    let emitted = world
        .millrace(
            &["emit", "order", "--file", "-"],
            &order("late").to_string(),
        )
        .await;
    assert_eq!(emitted.status, 0, "{emitted:?}");
    // Without a token: the cache hears of it by itself.
    let found = eventually("the order is found", async || {
        let answer = run.get("/order?uid=late").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(found.json(), order("late"));
}

#[tokio::test]
async fn two_processes_see_each_others_orders() {
    let world = World::new("two").await;
    let _folds = world.start(["process"]).await;
    let (one, two) = (world.start(["api"]).await, world.start(["api"]).await);
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let uid = format!("order-{n}");
        let path = format!("/order?uid={uid}");
        // Known to be absent by both.
        assert_eq!(
            (one.get(&path).await.status, two.get(&path).await.status),
            (404, 404)
        );
        let placed = writer.post("/v1/orders", &order(&uid)).await;
        assert_eq!(placed.status, 201, "{placed:?}");
        let found = reader.get_at(&path, placed.position()).await;
        assert_eq!((found.status, found.json()), (200, order(&uid)));
        let other = with(order(&uid), "/locale", json!("ru"));
        let request = reader.request(Method::POST, "/v1/orders").json(&other);
        let refused = reader
            .send(request.header(MIN_POSITION, placed.position()))
            .await;
        refused.problem(409, "order_exists");
    }
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_as_a_problem() {
    let world = World::new("problems").await;
    let run = world.start(["run"]).await;
    for path in ["/nothing", "/v1", "/v1/orders/a", "/order/", "//order"] {
        run.get(path).await.problem(404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::GET, "/v1/orders", "POST"),
        (Method::DELETE, "/order", "GET,HEAD"),
        (Method::POST, "/order?uid=a", "GET,HEAD"),
        (
            Method::PUT,
            "/v1/banners/counter/1",
            "GET,POST,HEAD,OPTIONS",
        ),
        (Method::DELETE, "/v1/banners/stats/1", "GET,HEAD,POST"),
        (Method::POST, "/metrics", "GET,HEAD"),
    ] {
        let answer = run.send(run.request(method.clone(), path)).await;
        answer.problem(405, "method_not_allowed");
        let sorted = |list: &str| {
            let mut methods: Vec<_> = list.split(',').map(|m| m.trim().to_owned()).collect();
            methods.sort_unstable();
            methods
        };
        assert_eq!(
            sorted(answer.header("allow")),
            sorted(allowed),
            "{method} {path}"
        );
    }
    let head = run.send(run.request(Method::HEAD, "/order?uid=none")).await;
    assert_eq!((head.status, head.body.as_str()), (404, ""));
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_the_others_or_the_end() {
    let world = World::new("slow").await;
    let mut run = world.start(["run"]).await;
    let mut slow = Caller::connect(&run).await;
    let head = "POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 1000\r\n\r\n{";
    assert!(slow.send(head).await);
    let mut idle = Caller::connect(&run).await;
    assert!(idle.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await);
    assert_eq!(run.post("/v1/orders", &order("a")).await.status, 201);
    let answer = slow.answer().await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") || answer.starts_with("HTTP/1.1 503 "),
        "{answer}"
    );
    let began = tokio::time::Instant::now();
    run.terminate().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "an idle connection held up the end: {:?}",
        began.elapsed()
    );
}
