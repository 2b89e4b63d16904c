//! Users over HTTP: set, removed and found, in the shapes of the earlier service.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::world::{Process, Raw, World, eventually, http::Answer};

/// A profile that says so.
pub fn profile(promo_message: &str) -> Value {
    json!({ "deeplink": format!("app://{promo_message}"), "promo_message": promo_message })
}

/// The address of a look-up.
pub fn of(user_id: &str) -> String {
    format!("/v1/users?user_id={user_id}")
}

impl Process {
    /// Sets the profile of a user.
    pub async fn set(&self, user_id: &str, profile: &Value) -> Answer {
        let path = format!("/v1/users/{user_id}");
        let set = self
            .send(self.request(Method::PUT, &path).json(profile))
            .await;
        assert_eq!(set.status, 200, "{set:?}");
        set
    }

    /// Removes the profile of a user.
    pub async fn remove(&self, user_id: &str) -> Answer {
        let path = format!("/v1/users/{user_id}");
        let removed = self.send(self.request(Method::DELETE, &path)).await;
        assert_eq!((removed.status, &*removed.body), (204, ""), "{removed:?}");
        assert_eq!(removed.header("cache-control"), "no-store");
        removed
    }
}

impl Answer {
    /// Asserts that it has a profile in the shape of the contract; gives whether it came from memory.
    pub fn must_have(&self, user_id: &str, profile: &Value) -> bool {
        assert_eq!(self.status, 200, "{self:?}");
        let mut body = self.json();
        must_end_well(&mut body, self);
        let hit = body["cache_hit"].as_bool().unwrap();
        let message = if hit { "ok:cache" } else { "ok:postgres" };
        let wanted = json!({
            "code": 200, "message": message, "user_id": user_id, "cache_hit": hit,
            "deeplink": profile["deeplink"], "promo_message": profile["promo_message"],
        });
        assert_eq!(body, wanted);
        hit
    }

    /// Asserts that it has no profile, in the shape of the contract.
    pub fn must_refuse(&self, code: u16, message: &str) {
        assert_eq!(self.status, code, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        let mut body = self.json();
        must_end_well(&mut body, self);
        let wanted = json!({ "code": code, "message": message, "cache_hit": false });
        assert_eq!(body, wanted);
    }
}

/// Takes out what differs from one answer to the next, once it is seen to be well-formed.
fn must_end_well(body: &mut Value, answer: &Answer) {
    let metadata = body.as_object_mut().unwrap().remove("metadata").unwrap();
    let timestamp = metadata["timestamp"].as_str().unwrap();
    let time: jiff::Timestamp = timestamp.parse().unwrap();
    assert_eq!(timestamp.len(), "2026-01-02T03:04:05Z".len(), "{answer:?}");
    assert!(time.as_second() > 1_767_225_600, "{answer:?}");
    assert_eq!(metadata, json!({ "timestamp": timestamp, "version": "v1" }));
}

#[tokio::test]
async fn a_profile_is_set_replaced_and_removed_in_the_shapes_of_the_contract() {
    let world = World::new("users").await;
    let run = world.start(["run"]).await;
    run.get(&of("ann")).await.must_refuse(404, "not found");
    let set = run.set("ann", &profile("one")).await;
    let wanted = json!({ "user_id": "ann", "deeplink": "app://one", "promo_message": "one" });
    assert_eq!(set.json(), wanted);
    let found = run.get_at(&of("ann"), set.position()).await;
    found.must_have("ann", &profile("one"));
    assert_eq!(found.header("content-type"), "application/json");

    let text = json!({ "deeplink": "", "promo_message": "„Ж\u{1f6d2}\"\\\n</script>\u{2028}" });
    let set = run.set("ann", &text).await;
    assert!(
        run.get_at(&of("ann"), set.position())
            .await
            .must_have("ann", &text)
    );
    // Without the cache too.
    let other = world.start(["api"]).await;
    other
        .get_at(&of("ann"), set.position())
        .await
        .must_have("ann", &text);

    let removed = run.remove("ann").await;
    for process in [&run, &other] {
        let gone = process.get_at(&of("ann"), removed.position()).await;
        gone.must_refuse(404, "not found");
    }
    let set = run.set("ann", &profile("again")).await;
    let found = other.get_at(&of("ann"), set.position()).await;
    assert!(found.must_have("ann", &profile("again")), "from memory");
    let never = run.remove("nobody").await;
    let gone = run.get_at(&of("nobody"), never.position()).await;
    gone.must_refuse(404, "not found");
    world.must_be_what_the_log_says().await;
    let records = world.read_topic("users").await;
    assert_eq!(records.len(), 5);
    let kinds = records.iter().map(|record| &*record.headers["ce_type"]);
    let removals = kinds.filter(|kind| *kind == "millrace.users.UserRemoved");
    assert_eq!(removals.count(), 2);
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_in_the_shape_of_the_contract() {
    let world = World::new("ids").await;
    let run = world.start(["run"]).await;
    let long = "x".repeat(21);
    for query in [
        "",
        "?",
        "?user_id=",
        "?user_id=a%20b",
        "?user_id=a/b",
        "?user_id=%C3%A9",
        "?user_id=%FF",
        "?user_id=a&user_id=b",
        "?id=a",
        "?USER_ID=a",
        &format!("?user_id={long}"),
    ] {
        let answer = run.get(&format!("/v1/users{query}")).await;
        answer.must_refuse(400, "invalid user_id");
    }
    for id in ["a", "0", "_", "-", "AZaz09_-", &"x".repeat(20)] {
        run.get(&of(id)).await.must_refuse(404, "not found");
    }
    for (method, path) in [
        (Method::PUT, "/v1/users/a%20b".to_owned()),
        (Method::PUT, format!("/v1/users/{long}")),
        (Method::DELETE, "/v1/users/%C3%A9".to_owned()),
    ] {
        let request = run.request(method, &path).json(&profile("x"));
        run.send(request).await.problem(400, "bad_request");
    }
    for (method, path) in [
        (Method::POST, "/v1/users"),
        (Method::PUT, "/v1/users"),
        (Method::GET, "/v1/users/a"),
        (Method::POST, "/v1/users/a"),
    ] {
        let answer = run.send(run.request(method, path)).await;
        answer.problem(405, "method_not_allowed");
    }
    assert_eq!(world.ends("users").await, [0; 8]);
}

#[tokio::test]
async fn a_bad_profile_is_refused_with_every_fault_and_nothing_is_stored() {
    let world = World::new("profiles").await;
    let run = world.start(["run"]).await;
    let put = async |body: &Value| {
        let request = run.request(Method::PUT, "/v1/users/ann").json(body);
        run.send(request).await
    };
    for (bad, fields) in [
        (json!({}), &["deeplink", "promo_message"][..]),
        (json!([]), &[""]),
        (
            json!({"deeplink": 1, "promo_message": null}),
            &["deeplink", "promo_message"],
        ),
        (
            json!({"deeplink": "a\u{0}", "promo_message": ""}),
            &["deeplink"],
        ),
        (
            json!({"deeplink": "", "promo_message": "", "user_id": "ann"}),
            &["user_id"],
        ),
    ] {
        let problem = put(&bad).await.problem(422, "invalid");
        let named = problem["errors"].as_array().unwrap().iter();
        let named: Vec<_> = named
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        assert_eq!(named, fields, "{bad}");
    }
    let of_bytes = |bytes: usize| json!({"deeplink": "x", "promo_message": "y".repeat(bytes - 1)});
    put(&of_bytes(65_537)).await.problem(413, "too_large");
    let broken = run
        .request(Method::PUT, "/v1/users/ann")
        .header("content-type", "application/json");
    run.send(broken.body("{")).await.problem(400, "bad_request");
    let text = run.request(Method::PUT, "/v1/users/ann").body("{}");
    run.send(text).await.problem(415, "not_json");
    assert_eq!(world.ends("users").await, [0; 8]);

    let largest = of_bytes(65_536);
    let set = run.set("ann", &largest).await;
    let found = run.get_at(&of("ann"), set.position()).await;
    found.must_have("ann", &largest);
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn two_processes_see_what_the_other_writes() {
    let world = World::new("twousers").await;
    let _folds = world.start(["process"]).await;
    let (one, two) = (world.start(["api"]).await, world.start(["api"]).await);
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let id = format!("user-{n}");
        // Known to be absent by both.
        for process in [writer, reader] {
            process.get(&of(&id)).await.must_refuse(404, "not found");
        }
        let set = writer.set(&id, &profile("first")).await;
        let found = reader.get_at(&of(&id), set.position()).await;
        found.must_have(&id, &profile("first"));
        let set = reader.set(&id, &profile("second")).await;
        let found = writer.get_at(&of(&id), set.position()).await;
        found.must_have(&id, &profile("second"));
        let removed = writer.remove(&id).await;
        let gone = reader.get_at(&of(&id), removed.position()).await;
        gone.must_refuse(404, "not found");
    }
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn a_user_who_was_looked_for_in_vain_is_found_as_soon_as_there_is_one() {
    let world = World::new("vainuser").await;
    let run = world.start(["run"]).await;
    for _ in 0..3 {
        run.get(&of("late")).await.must_refuse(404, "not found");
    }
    assert_eq!(reads(&run).await, [2, 1], "one miss, then hits");
    // By another hand; without a token, the cache hears of it by itself.
    let writer = world.writer("users").await.of("UserProfileSet");
    let event = json!({"user_id": "late", "deeplink": "app://x", "promo_message": "x"});
    let record = Raw::value(writer.value(&event)).key("late");
    world.append_raw("users", record).await;
    let found = eventually("the user is found", async || {
        let answer = run.get(&of("late")).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(found.must_have("late", &profile("x")), "from memory");
    let removed = run.remove("late").await;
    let gone = run.get_at(&of("late"), removed.position()).await;
    gone.must_refuse(404, "not found");
    let [_, others] = reads(&run).await;
    assert_eq!(
        others, 1,
        "all the while nothing else was read from Postgres"
    );
}

/// Hits of the cache of the users, and other look-ups.
async fn reads(run: &Process) -> [i64; 2] {
    let metrics = run.get("/metrics").await.body;
    let of = |outcome: &str| {
        let line = format!(r#"millrace_cache_reads_total{{cache="users",outcome="{outcome}"}} "#);
        let count = metrics.lines().find_map(|text| text.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    };
    [of("hit"), of("miss") + of("shared")]
}

#[tokio::test]
async fn however_many_ask_for_a_missing_user_one_query_answers_them() {
    const CALLERS: usize = 200;
    let world = World::new("stampede").await;
    let mut api = world.spawn(&["api"], &[("REQUEST_TIMEOUT_MS", "20000")]);
    api.ready().await;
    let mut held_up = PgConnection::connect(&world.database_url()).await.unwrap();
    let lock = "BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut held_up).await.unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..CALLERS {
        // Each over a connection of its own, as long as none has an answer.
        let asked = api.request(Method::GET, &of("nobody")).send();
        asking.spawn(async move { asked.await.unwrap().status().as_u16() });
    }
    eventually("all of them have come", async || {
        let metrics = api.get("/metrics").await.body;
        let open = metrics
            .lines()
            .find_map(|line| line.strip_prefix("millrace_http_connections "));
        (open?.parse::<usize>().unwrap() > CALLERS).then_some(())
    })
    .await;
    held_up.close().await.unwrap();
    let statuses = asking.join_all().await;
    assert!(statuses.iter().all(|status| *status == 404), "{statuses:?}");
    let metrics = api.get("/metrics").await.body;
    let line = r#"millrace_cache_reads_total{cache="users",outcome="miss"} 1"#;
    assert!(metrics.lines().any(|text| text == line), "{metrics}");
}
