//! One id from a request through the headers of its record to what the fold says of it.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::{
    samples::{order, with},
    world::{Process, World, eventually, http::Answer, log::Record},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NO_DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://millrace@127.0.0.1:1/none");

/// The trace of a `traceparent`, and the step.
fn ids(traceparent: &str) -> (&str, &str) {
    let parts: Vec<_> = traceparent.split('-').collect();
    let ["00", trace, span, "00" | "01"] = parts[..] else {
        panic!("{traceparent}");
    };
    assert_eq!((trace.len(), span.len()), (32, 16), "{traceparent}");
    (trace, span)
}

async fn place(api: &Process, request: impl Fn(RequestBuilder) -> RequestBuilder) -> Answer {
    let answer = api
        .send(request(api.request(Method::POST, "/v1/orders")))
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer
}

/// The record at the position of an answer.
async fn record(world: &World, answer: &Answer) -> Record {
    let place = answer.position().rsplit_once('/').unwrap().1;
    let records = world.read_topic("orders").await;
    let here = |r: &Record| format!("{}@{}", r.partition, r.offset) == place;
    records.into_iter().find(here).unwrap()
}

fn is_about(line: &Value, trace: &str, message: &str) -> bool {
    line["trace_id"] == trace && line["message"] == message
}

#[tokio::test]
async fn an_order_that_is_refused_is_one_story_from_its_request_to_its_fold() {
    let world = World::new("traces").await;
    let mut fold = world.start(["run"]).await;
    // It cannot see what is there, so that another order of the same uid gets onto the log.
    let mut api = world.spawn(&["api"], &[NO_DATABASE]);
    api.listening().await;
    let first = eventually("it appends", async || {
        let answer = api.post("/v1/orders", &order("a")).await;
        (answer.status == 201).then_some(answer)
    })
    .await;
    let other = with(order("a"), "/entry", "other".into());
    let second = place(&api, |request| {
        let request = request.header("traceparent", PARENT);
        request.header("tracestate", "rojo=1, congo=2").json(&other)
    })
    .await;
    let record = record(&world, &second).await;
    let (trace, span) = ids(&record.headers["traceparent"]);
    assert_eq!(trace, TRACE);
    assert_ne!(span, ids(PARENT).1);
    assert_eq!(record.headers["tracestate"], "rojo=1,congo=2");
    assert_eq!(
        second.header("traceresponse"),
        record.headers["traceparent"]
    );
    assert_ne!(ids(first.header("traceresponse")).0, TRACE);

    let letter = fold
        .logged("the refusal with its trace", |line| {
            is_about(line, TRACE, "sent a record to the dead letters")
        })
        .await;
    assert_eq!(letter["reason"], "order_exists");
    assert_eq!(letter["offset"], record.offset);
}

#[tokio::test]
async fn what_the_command_line_emits_is_one_trace() {
    let world = World::new("emittrace").await;
    let mut fold = world.start(["process", "--only", "orders"]).await;
    let args = ["emit", "order", "--file", "-", "--json"];
    let first = world.millrace(&args, &order("a").to_string()).await;
    assert_eq!(first.status, 0, "{first:?}");
    let other = with(order("a"), "/entry", "other".into());
    let two = format!("{}\n{other}", order("b"));
    let emitted = world.millrace(&args, &two).await;
    assert_eq!(emitted.status, 0, "{emitted:?}");
    let told: Value = serde_json::from_str(&emitted.stdout).unwrap();
    let trace = told["trace_id"].as_str().unwrap();
    let records = world.read_topic("orders").await;
    let traces = records.iter().map(|r| ids(&r.headers["traceparent"]).0);
    assert_eq!(traces.filter(|other| *other == trace).count(), 2);
    fold.logged("the refusal with its trace", |line| {
        is_about(line, trace, "sent a record to the dead letters")
    })
    .await;
}

#[tokio::test]
async fn what_is_no_traceparent_begins_a_new_trace() {
    let world = World::new("newtrace").await;
    let run = world.start(["run"]).await;
    let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
    let parents = [
        vec![],
        vec!["nonsense"],
        vec![&zero],
        vec![PARENT, PARENT],
        vec!["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
    ];
    let mut seen = vec![TRACE.to_owned()];
    for (n, parents) in parents.into_iter().enumerate() {
        let answer = place(&run, |request| {
            let request = request
                .json(&order(&format!("order-{n}")))
                .header("tracestate", "a=b");
            parents.iter().fold(request, |request, parent| {
                request.header("traceparent", *parent)
            })
        })
        .await;
        let record = record(&world, &answer).await;
        let trace = ids(&record.headers["traceparent"]).0.to_owned();
        assert!(!seen.contains(&trace), "{parents:?}: {trace}");
        assert_eq!(record.headers.get("tracestate"), None, "{parents:?}");
        seen.push(trace);
    }
}

#[tokio::test]
async fn an_error_names_its_trace_and_so_does_the_log() {
    let world = World::new("errtrace").await;
    let mut api = world.spawn(&["api"], &[NO_DATABASE]);
    api.listening().await;
    let failed = eventually("a read fails", async || {
        let request = api
            .request(Method::GET, "/order?uid=b")
            .header("traceparent", PARENT);
        let answer = api.send(request).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(
        failed.problem(503, "database_unavailable")["trace_id"],
        TRACE
    );
    assert_eq!(ids(failed.header("traceresponse")).0, TRACE);
    let line = api
        .logged("the failure", |line| {
            is_about(line, TRACE, "a request failed")
        })
        .await;
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        (&line["method"], &line["path"]),
        (&"GET".into(), &"/order".into())
    );
    assert_eq!(line["status"], 503);
    assert!(line["ms"].is_number(), "{line}");

    let wrong = api.get("/v1/banners/counter/x").await;
    let problem = wrong.problem(400, "bad_request");
    assert_eq!(problem["trace_id"], ids(wrong.header("traceresponse")).0);
}

#[tokio::test]
async fn a_plain_click_has_no_trace_and_one_that_brings_a_trace_keeps_it() {
    let world = World::new("clicktrace").await;
    let run = world.start(["run"]).await;
    let plain = run.get("/v1/banners/counter/1").await;
    assert_eq!(
        (plain.status, plain.find_header("traceresponse")),
        (204, None)
    );
    let request = run.request(Method::GET, "/v1/banners/counter/1");
    let traced = run.send(request.header("traceparent", PARENT)).await;
    assert_eq!(
        (traced.status, ids(traced.header("traceresponse")).0),
        (204, TRACE)
    );
    for record in world.read_topic("clicks").await {
        assert!(record.headers.is_empty(), "{record:?}");
    }
}

#[tokio::test]
async fn every_line_of_the_log_is_json_and_a_request_is_one_of_them() {
    let world = World::new("jsonlog").await;
    let levels = "debug,librdkafka=debug,rdkafka=debug";
    let mut run = world.spawn(&["run"], &[("MILLRACE_LOG", levels)]);
    run.ready().await;
    let placed = run.post("/v1/orders", &order("a")).await;
    let trace = ids(placed.header("traceresponse")).0.to_owned();
    run.logged("the request", |line| {
        is_about(line, &trace, "answered a request")
    })
    .await;
    run.logged("its record", |line| {
        is_about(line, &trace, "passed a record")
    })
    .await;
    run.get("/v1/banners/counter/7").await;
    let click = run
        .logged("the click", |line| {
            line["message"] == "answered a request" && line["status"] == 204
        })
        .await;
    assert_eq!(click["path"], "/v1/banners/counter/{banner_id}");
    assert!(click["trace_id"].is_string(), "{click}");
    run.terminate().await;
    for text in run.logs() {
        let line: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "no {field}: {text}");
        }
        let at: Result<jiff::Timestamp, _> = line["timestamp"].as_str().unwrap().parse();
        assert!(at.is_ok(), "{text}");
    }
}
