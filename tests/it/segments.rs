//! Segments as their callers see them: one process or several over the same log.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{join, task::JoinSet, time::Instant};

use crate::{
    sale::KEY,
    world::{Process, Raw, World, eventually, http::Answer},
};

const REPLAYED: &str = "idempotency-replayed";
/// A second, in days.
pub const SECOND: f64 = 1.0 / 86_400.0;

impl Process {
    /// A request about a segment.
    pub fn segment(&self, method: Method, slug: &str, key: &str) -> RequestBuilder {
        self.request(method, "/segment")
            .header(KEY, key)
            .json(&json!({ "slug": slug }))
    }

    /// Another list of segments for a user.
    pub fn change(&self, body: &Value, key: &str) -> RequestBuilder {
        self.request(Method::POST, "/segment/user")
            .header(KEY, key)
            .json(body)
    }

    /// Makes segments that are not there.
    pub async fn create_segments(&self, slugs: &[&str]) {
        for slug in slugs {
            let key = format!("create-{slug}");
            let answer = self.send(self.segment(Method::POST, slug, &key)).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }

    /// The segments of a user, as a write has left them.
    pub async fn segments_at(&self, user_id: i64, position: &str) -> Value {
        let path = format!("/segment/user?id={user_id}");
        let answer = self.get_at(&path, position).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["segments"].clone()
    }

    /// Puts a user into segments.
    pub async fn put_in(
        &self,
        user_id: i64,
        slugs: &[&str],
        ttl_days: Option<f64>,
        key: &str,
    ) -> Answer {
        let body = json!({"user_id": user_id, "add": slugs, "ttl_days": ttl_days});
        let answer = self.send(self.change(&body, key)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }
}

#[tokio::test]
async fn a_segment_has_members_until_they_are_taken_out_or_it_is_deleted() {
    let world = World::new("segments").await;
    let run = world.start(["run"]).await;
    let created = run.send(run.segment(Method::POST, "A", "k1")).await;
    assert_eq!(
        (created.status, created.json()),
        (201, json!({"slug": "A"}))
    );
    assert!(created.position().starts_with(&world.topic("segments")));
    assert_eq!(created.header("cache-control"), "no-store");
    assert_eq!(created.find_header(REPLAYED), None);
    assert_eq!(created.header("ratelimit-policy"), "\"address\";q=2000;w=1");
    let again = run.send(run.segment(Method::POST, "A", "k2")).await;
    again.problem(409, "segment_exists");
    run.create_segments(&["B", "C"]).await;

    let body = json!({"user_id": 7, "add": ["B", "A", "B"], "del": ["C"]});
    let changed = run.send(run.change(&body, "k3")).await;
    let wanted = json!({"user_id": 7, "added": ["A", "B"], "removed": []});
    assert_eq!((changed.status, changed.json()), (200, wanted));
    let is_in = json!([{"slug": "A", "expires_at": null}, {"slug": "B", "expires_at": null}]);
    assert_eq!(run.segments_at(7, changed.position()).await, is_in);
    let body = json!({"user_id": 7, "add": ["C"], "del": ["A"]});
    let changed = run.send(run.change(&body, "k4")).await;
    let wanted = json!({"user_id": 7, "added": ["C"], "removed": ["A"]});
    assert_eq!(changed.json(), wanted);

    let deleted = run.send(run.segment(Method::DELETE, "C", "k5")).await;
    assert_eq!(
        (deleted.status, deleted.json()),
        (200, json!({"slug": "C"}))
    );
    let left = json!([{"slug": "B", "expires_at": null}]);
    assert_eq!(run.segments_at(7, deleted.position()).await, left);
    let unknown = run.send(run.segment(Method::DELETE, "C", "k6")).await;
    unknown.problem(404, "not_found");
    let body = json!({"user_id": 7, "add": ["C", "Z"], "del": ["B"]});
    let problem = run.send(run.change(&body, "k7")).await;
    let problem = problem.problem(404, "not_found");
    assert!(
        problem["detail"].as_str().unwrap().ends_with("C, Z"),
        "{problem}"
    );
    run.send(run.segment(Method::POST, "C", "k8")).await;
    assert_eq!(run.segments_at(7, changed.position()).await, left);
    assert_eq!(
        run.get("/segment/user?id=8").await.json()["segments"],
        json!([])
    );
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_the_log() {
    let world = World::new("segment_nonsense").await;
    let run = world.start(["run"]).await;
    run.create_segments(&["A", "B"]).await;
    let end = world.ends("segments").await;
    let long = "x".repeat(101);
    for slug in ["", "a b", "ü", "a;b", &long] {
        for method in [Method::POST, Method::DELETE] {
            let answer = run.send(run.segment(method, slug, "k")).await;
            answer.problem(400, "bad_request");
        }
    }
    let many: Vec<_> = (0..1_001).map(|number| number.to_string()).collect();
    for body in [
        json!({}),
        json!({"user_id": 1}),
        json!({"user_id": 1, "add": [], "del": []}),
        json!({"user_id": 1, "add": ["A"], "del": ["A"]}),
        json!({"user_id": -1, "add": ["A"]}),
        json!({"user_id": "1", "add": ["A"]}),
        json!({"user_id": 1.5, "add": ["A"]}),
        json!({"user_id": 1, "add": "A"}),
        json!({"user_id": 1, "add": ["a b"]}),
        json!({"user_id": 1, "add": ["A"], "ttl_days": 0}),
        json!({"user_id": 1, "add": ["A"], "ttl_days": -1}),
        json!({"user_id": 1, "add": ["A"], "ttl_days": 36_501}),
        json!({"user_id": 1, "add": ["A"], "ttl_days": "5"}),
        json!({"user_id": 1, "add": ["A"], "ttl": 5}),
        json!({"user_id": 1, "add": many}),
        json!(["A"]),
    ] {
        let answer = run.send(run.change(&body, "k")).await;
        answer.problem(400, "bad_request");
    }
    for key in ["", "a b", &"x".repeat(256), "\u{e9}"] {
        let answer = run.send(run.segment(Method::POST, "C", key)).await;
        answer.problem(400, "bad_request");
    }
    let body = json!({"slug": "C"});
    run.post("/segment", &body)
        .await
        .problem(400, "bad_request");
    let two = run.segment(Method::POST, "C", "a").header(KEY, "b");
    run.send(two).await.problem(400, "bad_request");
    let no_json = run
        .request(Method::POST, "/segment")
        .header(KEY, "k")
        .body("{}");
    run.send(no_json).await.problem(415, "not_json");
    for query in [
        "",
        "?id=",
        "?id=-1",
        "?id=x",
        "?id=1.5",
        "?id=9223372036854775808",
    ] {
        let answer = run.get(&format!("/segment/user{query}")).await;
        answer.problem(400, "bad_request");
    }
    assert_eq!(world.ends("segments").await, end);
}

#[tokio::test]
async fn a_key_gets_one_answer_in_every_process_and_after_a_restart() {
    let world = World::new("segment_keys").await;
    let (mut one, two) = join!(world.start(["run"]), world.start(["api"]));
    one.create_segments(&["A"]).await;
    let mut asked = JoinSet::new();
    let body = json!({"user_id": 7, "add": ["A"]});
    for number in 0..16 {
        let process = if number % 2 == 0 { &one } else { &two };
        asked.spawn(process.change(&body, "order-17").send());
    }
    let mut replayed = 0;
    for answer in asked.join_all().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        replayed += usize::from(answer.headers().contains_key(REPLAYED));
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body, json!({"user_id": 7, "added": ["A"], "removed": []}));
    }
    assert_eq!(replayed, 15);
    // Whoever it is: there is one space of keys.
    let other = json!({"user_id": 8, "add": ["A"]});
    let reused = two.send(two.change(&other, "order-17")).await;
    reused.problem(422, "key_reused");
    let reused = two.send(two.segment(Method::POST, "A", "order-17")).await;
    reused.problem(422, "key_reused");

    one.kill();
    let after = world.start(["run"]).await;
    let again = after.send(after.change(&body, "order-17")).await;
    assert_eq!((again.status, again.header(REPLAYED)), (200, "true"));
    assert_eq!(again.json()["added"], json!(["A"]));
    // An answer that refuses is an answer.
    for replayed in [None, Some("true")] {
        let refused = after
            .send(after.segment(Method::POST, "A", "refused"))
            .await;
        refused.problem(409, "segment_exists");
        assert_eq!(refused.find_header(REPLAYED), replayed);
    }
    after.send(after.segment(Method::DELETE, "A", "end")).await;
    let refused = after
        .send(after.segment(Method::POST, "A", "refused"))
        .await;
    refused.problem(409, "segment_exists");
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn of_two_who_meet_both_are_told_what_the_log_has_in_its_order() {
    let world = World::new("segment_race").await;
    let (one, two) = join!(world.start(["run"]), world.start(["api"]));
    for round in 0..40 {
        let slug = format!("S{round}");
        one.create_segments(&[&slug]).await;
        let key = |what: &str| format!("{what}-{round}");
        let body = json!({"user_id": round, "add": [slug]});
        let (deleted, created, added) = join!(
            one.send(one.segment(Method::DELETE, &slug, &key("delete"))),
            two.send(two.segment(Method::POST, &slug, &key("again"))),
            two.send(two.change(&body, &key("add"))),
        );
        assert_eq!(deleted.status, 200, "{deleted:?}");
        assert!([201, 409].contains(&created.status), "{created:?}");
        assert!([200, 404].contains(&added.status), "{added:?}");
        let offset = |answer: &Answer| -> i64 {
            let (_, offset) = answer.position().rsplit_once('@').unwrap();
            offset.parse().unwrap()
        };
        let [deleted, again, put_in] = [&deleted, &created, &added].map(offset);
        assert_eq!(created.status == 201, again > deleted, "{round}");
        let is_there = put_in < deleted || (created.status == 201 && put_in > again);
        assert_eq!(added.status == 200, is_there, "{round}");
        let is_in = put_in > deleted && added.status == 200;
        for process in [&one, &two] {
            let segments = process.segments_at(round, added.position()).await;
            assert_eq!(segments.as_array().unwrap().len() == 1, is_in, "{round}");
        }
    }
    world.must_be_what_the_log_says().await;
    let mut one = one;
    one.terminate().await;
    let beside = world.beside().await;
    let mut process = beside.start(["process", "--only", "segments"]).await;
    beside.caught_up("segments").await;
    process.terminate().await;
    for table in ["segments", "memberships", "verdicts", "log_time"] {
        let query = format!("SELECT to_jsonb(t) AS row FROM segments.{table} AS t ORDER BY 1");
        assert_eq!(world.sql(&query).await, beside.sql(&query).await, "{table}");
    }
}

#[tokio::test]
async fn a_membership_is_gone_to_the_second() {
    let world = World::new("segment_ttl").await;
    // It is asked as often as it goes.
    let mut run = world.spawn(&["run"], &[("MILLRACE_RATE_PER_USER", "0")]);
    run.ready().await;
    run.create_segments(&["A", "B"]).await;
    run.put_in(7, &["B"], None, "k1").await;
    let put_in = run.put_in(7, &["A"], Some(2.0 * SECOND), "k2").await;
    let segments = run.segments_at(7, put_in.position()).await;
    let expires_at: jiff::Timestamp =
        serde_json::from_value(segments[0]["expires_at"].clone()).unwrap();
    let began = Instant::now();
    let mut seen = 0;
    loop {
        let before = producers::clock::now_ms();
        let answer = run.get("/segment/user?id=7").await.json();
        let after = producers::clock::now_ms();
        let is_in = answer["segments"].as_array().unwrap().len() == 2;
        if after < expires_at.as_millisecond() {
            assert!(is_in, "{answer} at {after}");
            seen += 1;
        }
        if before >= expires_at.as_millisecond() {
            assert!(!is_in, "{answer} at {before}");
            break;
        }
    }
    assert!(seen > 0 && began.elapsed().as_secs() >= 1);
    // Taking out what is over takes out nothing, and putting in again is a change.
    let body = json!({"user_id": 7, "del": ["A"]});
    let over = run.send(run.change(&body, "k3")).await;
    assert_eq!(over.json()["removed"], json!([]));
    let again = run.put_in(7, &["A"], Some(1.0), "k4").await;
    assert_eq!(again.json()["added"], json!(["A"]));
    let renewed = run.put_in(7, &["A"], None, "k5").await;
    assert_eq!(renewed.json()["added"], json!([]));
    let segments = run.segments_at(7, renewed.position()).await;
    assert_eq!(segments[0]["expires_at"], Value::Null);
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn what_others_write_to_the_topic_is_decided_too_or_a_dead_letter() {
    let world = World::new("segment_foreign").await;
    let run = world.start(["run"]).await;
    let writer = world.writer("segments").await;
    let now = producers::clock::now_ms();
    let create = |slug: &str, key: &str, requested_at: i64| {
        let event = json!({"slug": slug, "requested_at": requested_at, "key": key});
        Raw::value(writer.of("SegmentCreateRequested").value(&event))
    };
    let change = |add: &[&str], key: &str, ttl_ms: i64| {
        let event = json!({
            "user_id": 7, "add": add, "del": [], "ttl_ms": {"long": ttl_ms},
            "requested_at": now, "key": key,
        });
        let event = crate::samples::with(event, "/ttl_ms", json!(ttl_ms));
        Raw::value(writer.of("MembershipChangeRequested").value(&event))
    };
    let records = vec![
        create("A", "k1", now),
        create("A", "k2", now),
        create("LATE", "k3", now - 120_000),
        create("a b", "k4", now),
        change(&["A"], "k5", 3_600_000),
        change(&["A", "A"], "k6", 3_600_000),
        change(&["A"], "k7", 0),
        Raw::value("junk"),
    ];
    world.append_all("segments", records).await;
    world.must_be_what_the_log_says().await;
    let answer = run.get("/segment/user?id=7").await.json();
    assert_eq!(answer["segments"][0]["slug"], "A");
    let again = run.send(run.segment(Method::POST, "LATE", "k3")).await;
    assert_eq!(
        again.status, 201,
        "a void request has used up its key: {again:?}"
    );
}

#[tokio::test]
async fn callers_are_counted_by_address_and_by_user() {
    let world = World::new("segment_rates").await;
    let settings = [
        ("MILLRACE_RATE_PER_ADDRESS", "20"),
        ("MILLRACE_RATE_PER_USER", "3"),
        ("MILLRACE_BEHIND_PROXY", "1"),
    ];
    let mut run = world.spawn(&["run"], &settings);
    run.ready().await;
    let ask = |from: &'static str, user: i64| {
        let path = format!("/segment/user?id={user}");
        run.send(
            run.request(Method::GET, &path)
                .header("x-forwarded-for", from),
        )
    };
    let refused = eventually("a user is asked for too often", async || {
        let answer = ask("203.0.113.1", 1).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    refused.problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1");
    let policies: Vec<_> = refused.headers.get_all("ratelimit-policy").iter().collect();
    assert_eq!(policies, ["\"user\";q=3;w=1", "\"address\";q=20;w=1"]);
    assert_eq!(ask("203.0.113.2", 2).await.status, 200);
    for user in 10.. {
        // What the caller itself says does not count.
        let answer = ask("10.0.0.1, 203.0.113.3", user).await;
        if answer.status == 429 {
            assert_eq!(answer.header("ratelimit"), "\"address\";r=0;t=1");
            break;
        }
    }
    assert_eq!(ask("203.0.113.4", 3).await.status, 200);
    // Others are not counted.
    for _ in 0..40 {
        let checkout = run.checkout(1, 1).header("x-forwarded-for", "203.0.113.3");
        assert_ne!(run.send(checkout).await.status, 429);
    }
}
