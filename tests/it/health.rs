//! What supervisors, load balancers and Prometheus see.

use std::time::Duration;

use crate::{
    samples::order,
    world::{Raw, Servers, World, eventually},
};

#[tokio::test]
async fn a_process_says_that_it_lives_before_it_is_ready_and_why_it_is_not() {
    let world = World::without_topics(Servers::default(), "health").await;
    let mut run = world.spawn(&["run"], &[]);
    run.listening().await;
    for path in ["/livez", "/healthz", "/v1/healthcheck"] {
        let answer = run.get(path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, r#"{"status":"ok"}"#),
            "{path}"
        );
    }
    let missing = format!(
        "topic {} does not exist: run `millrace topics apply`",
        world.topic("clicks")
    );
    eventually("it says which topic is missing", async || {
        let answer = run.get("/readyz").await;
        assert_eq!(answer.status, 503, "{answer:?}");
        let health = answer.json();
        assert_eq!(health["status"], "not_ready");
        let reasons = health["reasons"].as_array().unwrap();
        assert!(!reasons.is_empty());
        reasons
            .iter()
            .any(|reason| reason.as_str().unwrap().contains(&missing))
            .then_some(())
    })
    .await;
    let began = tokio::time::Instant::now();
    let refused = run.get("/v1/banners/counter/1").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );

    let applied = world.millrace(&["topics", "apply"], "").await;
    assert_eq!(applied.status, 0, "{applied:?}");
    run.ready().await;
    assert_eq!(run.get("/v1/banners/counter/1").await.status, 204);
    run.terminate().await;
    world.drop_topics().await;
}

#[tokio::test]
async fn a_process_without_a_database_lives_and_says_so() {
    let world = World::new("nodb").await;
    let mut run = world.spawn(
        &["run"],
        &[("DATABASE_URL", "postgres://millrace@127.0.0.1:1/none")],
    );
    run.listening().await;
    eventually("it says that Postgres is away", async || {
        let answer = run.get("/readyz").await;
        assert_eq!(answer.status, 503, "{answer:?}");
        answer
            .body
            .contains("Postgres at 127.0.0.1:1/none")
            .then_some(())
    })
    .await;
    assert_eq!(run.get("/livez").await.status, 200);
    // The log has what was written all the same.
    eventually("a click is taken", async || {
        (run.get("/v1/banners/counter/1").await.status == 204).then_some(())
    })
    .await;
    assert_eq!(run.post("/v1/orders", &order("a")).await.status, 201);
    run.get("/order?uid=b")
        .await
        .problem(503, "database_unavailable");
    run.terminate().await;
}

#[tokio::test]
async fn what_goes_on_can_be_measured() {
    let world = World::new("metrics").await;
    let run = world.start(["run"]).await;
    let placed = run.post("/v1/orders", &order("a")).await;
    run.get_at("/order?uid=a", placed.position()).await;
    run.get("/order?uid=a").await;
    run.get("/order?uid=a").await;
    for _ in 0..3 {
        run.get("/v1/banners/counter/1").await;
    }
    world
        .append_raw("clicks", Raw::value("junk").into_partition(0))
        .await;
    world.caught_up("clicks").await;
    world.caught_up("orders").await;
    for name in [
        "millrace_appends_unknown_total",
        "millrace_appends_not_written_total",
        "millrace_http_requests_total{",
        "millrace_http_request_duration_seconds_bucket{",
        "process_resident_memory_bytes ",
        "millrace_projection_lag_records{",
        "millrace_projection_lag_seconds{",
        "millrace_projection_generation{",
        "millrace_dead_letters_total{",
        "millrace_dead_letter_alarm{",
        "millrace_waiters{",
    ] {
        // Some come with the next look at the log, which is every two seconds.
        eventually(&format!("there is {name}"), async || {
            let text = run.get("/metrics").await.body;
            text.contains(name).then_some(())
        })
        .await;
    }
    let answer = run.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = answer.body;
    let value = |line: &str| {
        let found = text
            .lines()
            .find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(' '));
        let number: f64 = found
            .unwrap_or_else(|| panic!("no {line} in\n{text}"))
            .parse()
            .unwrap();
        number
    };
    // One more than was asked for: the barrier of the sale.
    assert!((value("millrace_appends_total") - 5.0).abs() < 0.1);
    assert!(value("millrace_append_ack_seconds_count") > 0.0);
    assert!((value("millrace_fold_records_total{projection=\"orders\"}") - 1.0).abs() < 0.1);
    assert!((value("millrace_fold_records_total{projection=\"clicks\"}") - 4.0).abs() < 0.1);
    assert!(value("millrace_fold_batches_total{projection=\"clicks\"}") > 0.0);
    assert!(value("millrace_fold_batch_records_count{projection=\"clicks\"}") > 0.0);
    assert!(value("millrace_fold_apply_seconds_count{projection=\"orders\"}") > 0.0);
    assert!(
        (value("millrace_dead_letters_total{projection=\"clicks\",reason=\"not_framed\"}") - 1.0)
            .abs()
            < 0.1
    );
    assert!(value("millrace_cache_reads_total{cache=\"orders\",outcome=\"hit\"}") > 0.0);
}
