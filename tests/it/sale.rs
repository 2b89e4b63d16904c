//! The flash sale as its callers see it: one process or several over the same log.

pub mod crowd;
mod events;

use std::net::TcpListener;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{join, task::JoinSet};

use crate::world::{
    Process, Raw, World, eventually,
    http::{Answer, MIN_POSITION},
};

/// The header that makes a request the same as an earlier one.
pub const KEY: &str = "idempotency-key";

impl World {
    /// Sets rules of the sale: items, limit, and seconds of reservations and sales. They hold from the start if nobody has
    /// asked for anything yet.
    pub async fn sale_rules(&self, [items, limit, reservation, sale]: [i64; 4]) {
        let writer = self.writer("sale-rules").await;
        let rules = json!({
            "items": items, "limit": limit, "reservation_seconds": reservation, "sale_seconds": sale,
        });
        self.append_raw("sale-rules", Raw::value(writer.value(&rules)))
            .await;
    }
}

impl Process {
    /// A checkout.
    pub fn checkout(&self, user_id: i64, item_id: i64) -> RequestBuilder {
        let path = format!("/checkout?user_id={user_id}&item_id={item_id}");
        self.request(Method::POST, &path)
    }

    /// A purchase.
    pub fn purchase(&self, code: &str) -> RequestBuilder {
        self.request(Method::POST, &format!("/purchase?code={code}"))
    }

    /// The code of an item that is free.
    pub async fn reserve(&self, user_id: i64, item_id: i64) -> String {
        let answer = self.send(self.checkout(user_id, item_id)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Buys an item that is free.
    pub async fn buy(&self, user_id: i64, item_id: i64) {
        let code = self.reserve(user_id, item_id).await;
        let answer = self.send(self.purchase(&code)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// What the running sale has sold and reserved, as far as a position.
    async fn stock_at(&self, position: &str) -> (i64, i64) {
        let sale = self.get_at("/v1/sale", position).await.json();
        let number = |name: &str| sale[name].as_i64().unwrap();
        (number("sold"), number("reserved"))
    }
}

/// A request is answered by the log, not by what is known in the process: nothing was decided for longer than a second,
/// or it has a key.
fn by_log(answer: &Answer) -> &str {
    answer.find_header("millrace-position").unwrap_or("nowhere")
}

#[tokio::test]
async fn an_item_is_reserved_by_one_and_bought_once() {
    let world = World::new("checkout").await;
    let run = world.start(["run"]).await;
    let reserved = run.send(run.checkout(3, 7)).await;
    assert_eq!(reserved.status, 200, "{reserved:?}");
    assert_eq!(reserved.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(reserved.header("cache-control"), "no-store");
    assert!(reserved.header("millrace-expires-at").ends_with('Z'));
    assert_eq!(reserved.body.len(), 36, "{reserved:?}");
    let position = reserved.position().to_owned();
    assert!(position.starts_with(&format!("{}/0@", world.topic("sales"))));
    assert_eq!(run.stock_at(&position).await, (0, 1));
    let other = run.send(run.checkout(4, 7)).await;
    other.problem(409, "item_reserved");

    let bought = run.send(run.purchase(&reserved.body)).await;
    assert_eq!(bought.status, 200, "{bought:?}");
    let what = bought.json();
    assert_eq!((&what["item_id"], &what["user_id"]), (&json!(7), &json!(3)));
    assert_eq!(run.stock_at(bought.position()).await, (1, 0));
    let again = run.send(run.purchase(&reserved.body)).await;
    again.problem(409, "code_used");
    run.send(run.checkout(4, 7)).await.problem(409, "item_sold");
    let sale = run.get("/v1/sale").await.json();
    assert_eq!(sale["items"], 10_000);
    assert_eq!(sale["limit"], 10);
    assert_eq!(sale["sale_id"], what["sale_id"]);
}

#[tokio::test]
async fn nobody_has_more_than_the_limit_and_what_lapses_is_free_again() {
    let world = World::new("limit").await;
    // Long enough for what must not lapse to be done meanwhile.
    world.sale_rules([4, 2, 8, 3600]).await;
    let run = world.start(["run"]).await;
    run.buy(1, 0).await;
    let code = run.reserve(1, 1).await;
    run.send(run.checkout(1, 2))
        .await
        .problem(409, "user_limit");
    // Whoever asks for it next, after a second of the log.
    let free_again = eventually("it has lapsed", async || {
        let answer = run.send(run.checkout(2, 1)).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    run.send(run.purchase(&code))
        .await
        .problem(409, "code_expired");
    let taken = run.send(run.purchase(&free_again.body)).await;
    assert_eq!(taken.status, 200, "{taken:?}");
    run.buy(1, 2).await;
    run.buy(2, 3).await;
    run.send(run.checkout(3, 0)).await.problem(409, "sold_out");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_the_log() {
    let world = World::new("nonsense").await;
    let run = world.start(["run"]).await;
    let code = run.reserve(1, 1).await;
    let end = world.ends("sales").await;
    for query in [
        "",
        "user_id=1",
        "item_id=1",
        "user_id=-1&item_id=1",
        "user_id=1&item_id=-1",
        "user_id=1&item_id=10000",
        "user_id=1&item_id=1.5",
        "user_id=one&item_id=1",
        "user_id=9223372036854775808&item_id=1",
        "user_id=1&item_id=99999999999999999999",
        "user_id=1&item_id=",
    ] {
        let path = format!("/checkout?{query}");
        let answer = run.send(run.request(Method::POST, &path)).await;
        answer.problem(400, "bad_request");
    }
    for query in ["", "code=", "code=1", "code=not-a-uuid-at-all", "item_id=1"] {
        let path = format!("/purchase?{query}");
        let answer = run.send(run.request(Method::POST, &path)).await;
        answer.problem(400, "bad_request");
    }
    for key in ["", "a b", &"x".repeat(256), "\u{e9}"] {
        for request in [run.checkout(1, 2), run.purchase(&code)] {
            let answer = run.send(request.header(KEY, key)).await;
            answer.problem(400, "bad_request");
        }
    }
    let two = run.checkout(1, 2).header(KEY, "a").header(KEY, "b");
    run.send(two).await.problem(400, "bad_request");
    for path in ["/checkout?user_id=1&item_id=1", "/purchase?code=1"] {
        let answer = run.get(path).await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), "POST");
    }
    assert_eq!(world.ends("sales").await, end);
    // A code that nobody has given is for the log to refuse.
    let unknown = "06b01c00-0000-8000-8149-a8711bcc5719";
    let random = "123e4567-e89b-12d3-a456-426614174000";
    run.send(run.purchase(random))
        .await
        .problem(409, "code_unknown");
    run.send(run.purchase(unknown))
        .await
        .problem(409, "code_expired");
}

#[tokio::test]
async fn the_same_key_gives_the_same_answer_in_every_process_and_after_a_restart() {
    let world = World::new("keys").await;
    let (mut one, two) = join!(world.start(["run"]), world.start(["api"]));
    let mut asked = JoinSet::new();
    for number in 0..16 {
        let process = if number % 2 == 0 { &one } else { &two };
        let request = process.checkout(5, 50).header(KEY, "order-17");
        asked.spawn(request.send());
    }
    let mut codes = Vec::new();
    let mut replayed = 0;
    for answer in asked.join_all().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        replayed += usize::from(answer.headers().contains_key("idempotency-replayed"));
        codes.push(answer.text().await.unwrap());
    }
    codes.dedup();
    assert_eq!((codes.len(), replayed), (1, 15));

    let other_item = one.checkout(5, 51).header(KEY, "order-17");
    one.send(other_item).await.problem(422, "key_reused");
    let other_user = one.checkout(6, 50).header(KEY, "order-17");
    one.send(other_user).await.problem(409, "item_reserved");
    one.kill();
    let after = world.start(["run"]).await;
    let again = after
        .send(after.checkout(5, 50).header(KEY, "order-17"))
        .await;
    assert_eq!((again.status, &again.body), (200, &codes[0]));
    assert_eq!(again.header("idempotency-replayed"), "true");

    let bought = two.send(two.purchase(&codes[0]).header(KEY, "pay")).await;
    assert_eq!(bought.status, 200, "{bought:?}");
    let again = after
        .send(after.purchase(&codes[0]).header(KEY, "pay"))
        .await;
    assert_eq!((again.status, &again.body), (200, &bought.body));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let without = after.send(after.purchase(&codes[0])).await;
    without.problem(409, "code_used");
}

#[tokio::test]
async fn who_cannot_succeed_is_refused_without_the_log_and_the_refusal_is_kept() {
    let world = World::new("refused").await;
    world.sale_rules([2, 1, 60, 3600]).await;
    let run = world.start(["run"]).await;
    let refused = eventually("a second has not gone by between the two", async || {
        let code = run.send(run.checkout(1, 0)).await;
        if code.status == 200 {
            run.send(run.purchase(&code.body)).await;
        }
        let answer = run.send(run.checkout(2, 0)).await;
        answer.problem(409, "item_sold");
        (by_log(&answer) == "nowhere").then_some(())
    });
    refused.await;
    let kept = eventually("it is on its topic", async || {
        let records = world.read_topic("sale-attempts").await;
        (!records.is_empty()).then_some(records)
    })
    .await;
    let avsc = include_str!("../../schemas/avro/sale-attempts.avsc");
    let mut reader = crate::world::avro::Reader::new(&world, "sale-attempts", avsc);
    let event = reader.read(kept[0].value.as_deref()).await.unwrap();
    let of = |name: &str| event[name].clone();
    assert_eq!((of("user_id"), of("item_id")), (json!(2), json!(0)));
    assert_eq!(of("reason"), "item_sold");
    // With a key the log decides: it keeps the answer for the next time.
    let keyed = run.send(run.checkout(2, 0).header(KEY, "k")).await;
    keyed.problem(409, "item_sold");
    assert_ne!(by_log(&keyed), "nowhere");
    // After a second without a request that counts, too.
    eventually("the log is asked", async || {
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let answer = run.send(run.checkout(2, 0)).await;
        answer.problem(409, "item_sold");
        (by_log(&answer) != "nowhere").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_that_starts_in_the_middle_decides_as_the_others_do() {
    let world = World::new("middle").await;
    world.sale_rules([100, 3, 3600, 3600]).await;
    let first = world.start(["api"]).await;
    let mut codes = Vec::new();
    for item in 0..20 {
        codes.push(first.reserve(item / 2, item).await);
    }
    for code in &codes[..10] {
        let bought = first.send(first.purchase(code)).await;
        assert_eq!(bought.status, 200, "{bought:?}");
    }
    let last = first.send(first.purchase(&codes[0])).await;
    last.problem(409, "code_used");
    let position = last.position();
    let second = world.start(["api"]).await;
    assert_eq!(first.stock_at(position).await, (10, 10));
    assert_eq!(second.stock_at(position).await, (10, 10));
    second
        .send(second.checkout(50, 0))
        .await
        .problem(409, "item_sold");
    second
        .send(second.checkout(50, 15))
        .await
        .problem(409, "item_reserved");
    second
        .send(second.purchase(&codes[0]))
        .await
        .problem(409, "code_used");
    let bought = second.send(second.purchase(&codes[15])).await;
    assert_eq!(bought.status, 200, "{bought:?}");
    let position = bought.position();
    assert_eq!(first.stock_at(position).await, (11, 9));
    world.sale_history().await.check(&[]);
}

#[tokio::test]
async fn a_read_of_the_sale_waits_for_the_position_it_is_given() {
    let world = World::new("standing").await;
    let (one, two) = join!(world.start(["api"]), world.start(["api"]));
    for item in 0..30 {
        let reserved = one.send(one.checkout(item, item)).await;
        let (_, reserved) = two.stock_at(reserved.position()).await;
        assert_eq!(reserved, item + 1);
    }
    let beyond = format!("{}/0@1000000", world.topic("sales"));
    let answer = one.get_at("/v1/sale", &beyond).await;
    answer.problem(400, "bad_request");
    let nowhere = one.request(Method::GET, "/v1/sale");
    let answer = one.send(nowhere.header(MIN_POSITION, "junk")).await;
    answer.problem(400, "bad_request");
}

#[tokio::test]
async fn junk_on_the_log_of_the_sale_changes_nothing() {
    let world = World::new("junksale").await;
    let run = world.start(["run"]).await;
    let writer = world.writer("sales").await;
    let now = producers::clock::now_ms();
    for raw in [
        Raw::value("junk"),
        Raw::no_value(),
        Raw::value(writer.value(&checkout_event(-1, now, 0))),
        // Void: it was asked for a minute before it came.
        Raw::value(writer.value(&checkout_event(1, now - 60_000, 0))),
    ] {
        world.append_raw("sales", raw).await;
    }
    let reserved = run.send(run.checkout(9, 1)).await;
    assert_eq!(reserved.status, 200, "{reserved:?}");
    assert_eq!(run.stock_at(reserved.position()).await, (0, 1));
}

/// A checkout as it stands on the log.
fn checkout_event(user_id: i64, requested_at: i64, rules_seen: i64) -> Value {
    json!({
        "user_id": user_id, "item_id": 1, "requested_at": requested_at, "rules_seen": rules_seen, "nonce": 1, "key": null,
    })
}

#[tokio::test]
async fn who_waits_for_rules_that_nobody_set_stops_when_told_to() {
    let world = World::new("stopwindow").await;
    let writer = world.writer("sales").await;
    let foreign = checkout_event(1, producers::clock::now_ms(), 9);
    world
        .append_raw("sales", Raw::value(writer.value(&foreign)))
        .await;
    for command in ["api", "run"] {
        let mut reading = world.spawn(&[command], &[]);
        reading.listening().await;
        reading.terminate().await;

        let mut waiting = world.spawn(&[command], &[]);
        waiting.listening().await;
        waiting.not_ready_since("names rules").await;
        waiting.terminate().await;
    }
}

#[tokio::test]
async fn who_reads_the_window_stops_though_the_registry_is_silent() {
    let world = World::new("stopsilent").await;
    world.start(["api"]).await.reserve(1, 1).await;
    // Takes callers, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut reading = world.spawn(&["api"], &[("MILLRACE_REGISTRY_URL", &url)]);
    reading.listening().await;
    reading.terminate().await;
}
