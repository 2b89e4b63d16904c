//! Clicks over HTTP: counted, and their statistics.

use std::collections::BTreeMap;

use producers::clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    samples::click,
    world::{Raw, World, eventually},
};

/// A day around now, as a query: clicks of the test lie within it.
fn today() -> String {
    let at = |ms| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
    let now = clock::now_ms();
    format!("from={}&to={}", at(now - 43_200_000), at(now + 43_200_000))
}

fn sum(stats: &Value) -> i64 {
    stats["stats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["v"].as_i64().unwrap())
        .sum()
}

#[tokio::test]
async fn a_click_is_counted_once_in_the_minute_it_was_received() {
    let world = World::new("click").await;
    let run = world.start(["run"]).await;
    let before = clock::now_ms() / 60_000;
    for method in [Method::GET, Method::POST] {
        let counted = run.send(run.request(method, "/v1/banners/counter/7")).await;
        assert_eq!((counted.status, counted.body.as_str()), (204, ""));
        assert_eq!(counted.header("cache-control"), "no-store");
        let place = counted
            .position()
            .strip_prefix(&world.topic("clicks"))
            .unwrap();
        assert!(place.starts_with('/'), "{place}");
    }
    let last = run.get("/v1/banners/counter/7").await;
    for method in [Method::HEAD, Method::OPTIONS] {
        let answer = run.send(run.request(method, "/v1/banners/counter/7")).await;
        assert_eq!(
            (answer.status, answer.find_header("millrace-position")),
            (204, None)
        );
    }
    let after = clock::now_ms() / 60_000;
    let stats = eventually("three clicks are counted", async || {
        let stats = run
            .get_at(&format!("/v1/banners/stats/7?{}", today()), last.position())
            .await
            .json();
        (sum(&stats) == 3).then_some(stats)
    })
    .await;
    for step in stats["stats"].as_array().unwrap() {
        let ts = step["ts"].as_str().unwrap();
        assert!(ts.ends_with(":00Z") && ts.len() == 20, "{ts}");
        let minute = ts.parse::<jiff::Timestamp>().unwrap().as_second() / 60;
        assert!((before..=after).contains(&minute), "{ts}");
    }
    assert_eq!(world.ends("clicks").await.iter().sum::<i64>(), 3);
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn only_whole_numbers_from_zero_are_banners() {
    let world = World::new("banners").await;
    let run = world.start(["run"]).await;
    let range = "from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z";
    for id in [
        "-1",
        "abc",
        "1.5",
        "9223372036854775808",
        "1%20",
        "+1",
        "%00",
        "0x1",
        "%F0%9F%9B%92",
    ] {
        for method in [Method::GET, Method::POST, Method::HEAD] {
            let answer = run
                .send(run.request(method.clone(), &format!("/v1/banners/counter/{id}")))
                .await;
            assert_eq!(answer.status, 400, "{method} {id}: {answer:?}");
            if method != Method::HEAD {
                answer.problem(400, "bad_request");
            }
        }
        run.get(&format!("/v1/banners/stats/{id}?{range}"))
            .await
            .problem(400, "bad_request");
    }
    run.get("/v1/banners/counter/")
        .await
        .problem(404, "not_found");
    assert_eq!(world.ends("clicks").await, [0; 8]);
    for id in ["0", "9223372036854775807", "007"] {
        assert_eq!(
            run.get(&format!("/v1/banners/counter/{id}")).await.status,
            204,
            "{id}"
        );
    }
    world.must_be_what_the_log_says().await;
    let rows = world
        .sql("SELECT banner_id FROM clicks.stats ORDER BY 1")
        .await;
    let ids: Vec<_> = rows
        .iter()
        .map(|row| row["banner_id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [0, 7, i64::MAX]);
}

#[tokio::test]
async fn statistics_have_the_minutes_that_begin_in_the_range() {
    let world = World::new("stats").await;
    let run = world.start(["run"]).await;
    let writer = world.writer("clicks").await;
    let times = [
        "2024-01-01T09:59:59.999Z",
        "2024-01-01T10:00:00Z",
        "2024-01-01T10:00:59.999Z",
        "2024-01-01T10:01:00Z",
        "2024-01-01T10:59:30Z",
        "2024-01-01T11:00:00Z",
        "2024-01-02T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "9999-12-30T21:59:59.999Z",
    ];
    let records: Vec<_> = (0..)
        .zip(times)
        .map(|(n, at)| Raw::value(writer.value(&click(5, at))).into_partition(n % 8))
        .collect();
    world.append_all("clicks", records).await;
    world
        .append_raw(
            "clicks",
            Raw::value(writer.value(&click(6, times[1]))).into_partition(0),
        )
        .await;
    world.must_be_what_the_log_says().await;

    let step = |ts: &str, v: i64| json!({ "ts": ts, "v": v });
    let ask = async |from: &str, to: &str| {
        let body = json!({ "from": from, "to": to });
        let posted = run.post("/v1/banners/stats/5", &body).await;
        assert_eq!(posted.status, 200, "{posted:?}");
        let got = run
            .get(&format!("/v1/banners/stats/5?from={from}&to={to}"))
            .await;
        assert_eq!(got.json(), posted.json(), "GET and POST, {from} to {to}");
        posted.json()["stats"].clone()
    };
    assert_eq!(
        ask("2024-01-01T10:00:00Z", "2024-01-01T11:00:00Z").await,
        json!([
            step("2024-01-01T10:00:00Z", 2),
            step("2024-01-01T10:01:00Z", 1),
            step("2024-01-01T10:59:00Z", 1)
        ])
    );
    // The end does not belong to it, the beginning does.
    assert_eq!(
        ask("2024-01-01T10:00:00Z", "2024-01-01T10:01:00Z").await,
        json!([step("2024-01-01T10:00:00Z", 2)])
    );
    // Minutes that began before are out, even if they reach into it; those that begin in it are in, whole.
    assert_eq!(
        ask("2024-01-01T10:00:01Z", "2024-01-01T10:01:01Z").await,
        json!([step("2024-01-01T10:01:00Z", 1)])
    );
    assert_eq!(
        ask("2023-01-01T00:00:00Z", "2023-01-02T00:00:00Z").await,
        json!([])
    );
    assert_eq!(
        ask("1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z").await,
        json!([step("1970-01-01T00:00:00Z", 1)])
    );
    let unknown = run
        .get("/v1/banners/stats/404?from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z")
        .await;
    assert_eq!(unknown.body, r#"{"stats":[]}"#);

    let range = "from=2024-01-01T00:00:00Z&to=2024-01-03T00:00:00Z";
    let by = async |name: &str| {
        run.get(&format!("/v1/banners/stats/5?{range}&step={name}"))
            .await
            .json()["stats"]
            .clone()
    };
    assert_eq!(
        by("hour").await,
        json!([
            step("2024-01-01T09:00:00Z", 1),
            step("2024-01-01T10:00:00Z", 4),
            step("2024-01-01T11:00:00Z", 1),
            step("2024-01-02T00:00:00Z", 1)
        ])
    );
    assert_eq!(
        by("day").await,
        json!([
            step("2024-01-01T00:00:00Z", 6),
            step("2024-01-02T00:00:00Z", 1)
        ])
    );
    assert_eq!(by("minute").await.as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn a_time_in_another_zone_is_the_same_time() {
    let world = World::new("zones").await;
    let run = world.start(["run"]).await;
    let writer = world.writer("clicks").await;
    world
        .append_raw(
            "clicks",
            Raw::value(writer.value(&click(5, "2024-01-01T10:00:30Z"))).into_partition(0),
        )
        .await;
    world.caught_up("clicks").await;
    let body = json!({ "from": "2024-01-01T15:30:00+05:30", "to": "2024-01-01T05:01:00-05:00" });
    let stats = run.post("/v1/banners/stats/5", &body).await;
    assert_eq!(
        stats.body,
        r#"{"stats":[{"ts":"2024-01-01T10:00:00Z","v":1}]}"#
    );
    let query = "from=2024-01-01T15:30:00%2B05:30&to=2024-01-01T05:01:00-05:00";
    let stats = run.get(&format!("/v1/banners/stats/5?{query}")).await;
    assert_eq!(
        stats.body,
        r#"{"stats":[{"ts":"2024-01-01T10:00:00Z","v":1}]}"#
    );
}

#[tokio::test]
async fn a_bad_question_for_statistics_is_refused() {
    let world = World::new("questions").await;
    let run = world.start(["run"]).await;
    let (early, late) = ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
    for (from, to) in [
        (late, early),
        (early, early),
        ("yesterday", late),
        (early, ""),
        ("2024-01-01", late),
        ("2024-13-01T00:00:00Z", late),
        (early, "1704153600"),
    ] {
        run.post("/v1/banners/stats/1", &json!({ "from": from, "to": to }))
            .await
            .problem(400, "bad_request");
        let path = format!("/v1/banners/stats/1?from={from}&to={to}");
        run.get(&path).await.problem(400, "bad_request");
    }
    for path in [
        "/v1/banners/stats/1",
        "/v1/banners/stats/1?from=2024-01-01T00:00:00Z",
        "/v1/banners/stats/1?from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z&step=week",
    ] {
        run.get(path).await.problem(400, "bad_request");
    }
    for body in ["", "{}", "[]", "{", "{\"from\":1,\"to\":2}"] {
        let request = run.request(Method::POST, "/v1/banners/stats/1").body(body);
        run.send(request).await.problem(400, "bad_request");
    }
    // As far as times go.
    let all = "from=-009999-01-02T01:59:59Z&to=9999-12-30T22:00:00Z";
    assert_eq!(
        run.get(&format!("/v1/banners/stats/1?{all}")).await.body,
        r#"{"stats":[]}"#
    );
    // The earlier clients sent their JSON without saying so.
    let body = json!({ "from": early, "to": late }).to_string();
    assert_eq!(
        run.send(run.request(Method::POST, "/v1/banners/stats/1").body(body))
            .await
            .body,
        r#"{"stats":[]}"#
    );
}

#[tokio::test]
async fn every_one_of_many_clicks_at_once_is_counted() {
    const CONNECTIONS: usize = 64;
    const CLICKS: usize = 2_000;
    let world = World::new("many").await;
    let run = world.start(["run"]).await;
    let url = format!("http://{}/v1/banners/counter/3", run.address());
    let mut clicking = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let (http, url) = (reqwest::Client::new(), url.clone());
        clicking.spawn(async move {
            let mut reached = BTreeMap::new();
            for _ in (connection..CLICKS).step_by(CONNECTIONS) {
                let answer = http.get(&url).send().await.unwrap();
                assert_eq!(answer.status(), 204);
                let position = answer.headers()["millrace-position"]
                    .to_str()
                    .unwrap()
                    .to_owned();
                let (partition, offset) = position.rsplit_once('@').unwrap();
                reached.insert(partition.to_owned(), offset.parse::<i64>().unwrap());
            }
            reached
        });
    }
    let mut reached: BTreeMap<String, i64> = BTreeMap::new();
    while let Some(clicked) = clicking.join_next().await {
        for (partition, offset) in clicked.unwrap() {
            let largest = reached.entry(partition).or_default();
            *largest = offset.max(*largest);
        }
    }
    let token: Vec<_> = reached
        .iter()
        .map(|(partition, offset)| format!("{partition}@{offset}"))
        .collect();
    let path = format!("/v1/banners/stats/3?{}", today());
    let stats = run.get_at(&path, &token.join(",")).await;
    assert_eq!(stats.status, 200, "{stats:?}");
    assert_eq!(usize::try_from(sum(&stats.json())).unwrap(), CLICKS);
    assert_eq!(world.read_topic("clicks").await.len(), CLICKS);
    world.must_be_what_the_log_says().await;
}
