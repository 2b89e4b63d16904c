//! Reports of what happened to memberships, as their callers see them.

use std::time::Duration;

use jiff::Timestamp;
use producers::clock;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::join;

use crate::{
    reference::segment_tables::Happened,
    segments::SECOND,
    world::{Process, World, eventually, http::Answer},
};

const MINUTE_MS: i64 = 60_000;
const LONG: u64 = 600_000;
/// More memory than this for a report that is longer than all buffers is too much, in KiB.
const FLAT_KIB: u64 = 24 << 10;

/// As `GET /report` wants it.
fn minute(at_ms: i64) -> String {
    let time = Timestamp::from_millisecond(at_ms).unwrap();
    time.strftime("%Y-%m-%d+%H:%M").to_string()
}

impl Process {
    /// Asks for a report, and gives its task.
    async fn report(&self, query: &str) -> String {
        let answer = self.get(&format!("/report?{query}")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["task_id"].as_str().unwrap().to_owned()
    }

    async fn report_check(&self, task_id: &str) -> Answer {
        self.get(&format!("/report_check?task_id={task_id}")).await
    }

    /// Where a report is, once it is done.
    async fn file_of(&self, task_id: &str) -> String {
        eventually("the report is done", async || {
            let answer = self.report_check(task_id).await.json();
            assert_eq!(answer["task_id"], task_id);
            let is_done = answer["status"] == "done";
            is_done.then(|| answer["file"].as_str().unwrap().to_owned())
        })
        .await
    }

    /// A report from its request to its last byte.
    async fn report_of(&self, query: &str) -> (String, Vec<Happened>) {
        let task_id = self.report(query).await;
        let file = self.file_of(&task_id).await;
        let answer = self.get(&file).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let rows = rows(&answer.body);
        (answer.body, rows)
    }
}

/// The rows of a report, which are by time; in the order of the reference.
fn rows(csv: &str) -> Vec<Happened> {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("user_id;segment;operation;at"));
    let mut rows: Vec<_> = lines.map(row).collect();
    assert!(rows.is_sorted_by_key(|row| row.0), "{csv}");
    rows.sort();
    rows
}

fn row(line: &str) -> Happened {
    let [user, segment, operation, at] = line.split(';').collect::<Vec<_>>()[..] else {
        panic!("{line}");
    };
    let operations = ["added", "removed", "expired", "segment_deleted"];
    let operation = operations.into_iter().find(|known| *known == operation);
    let at: Timestamp = at.parse().unwrap();
    (
        at.as_millisecond(),
        user.parse().unwrap(),
        segment.trim_start_matches('\'').to_owned(),
        operation.unwrap_or_else(|| panic!("{line}")),
    )
}

#[tokio::test]
async fn a_report_has_what_happened_until_it_was_asked_for_and_stays_as_it_is() {
    let world = World::new("report").await;
    let (run, api) = join!(world.start(["run"]), world.start(["api"]));
    run.create_segments(&["A", "-B", "C", "D"]).await;
    let from = minute(clock::now_ms() - MINUTE_MS);
    run.put_in(7, &["A", "-B", "C"], None, "k1").await;
    run.put_in(7, &["-B"], Some(3.0), "k2").await;
    let brief = run.put_in(8, &["A", "C", "D"], Some(SECOND), "k3").await;
    run.put_in(9, &["A"], Some(2.0), "k4").await;
    let body = json!({"user_id": 7, "del": ["A"]});
    assert_eq!(run.send(run.change(&body, "k5")).await.status, 200);
    eventually("it is over", async || {
        let segments = run.segments_at(8, brief.position()).await;
        (segments == json!([])).then_some(())
    })
    .await;
    // What was over before its segment stays over; the others end with it.
    for slug in ["C", "A"] {
        let key = format!("delete-{slug}");
        run.send(run.segment(Method::DELETE, slug, &key)).await;
    }
    let end = world.ends("segments").await[0];
    let query = format!("date={from}");
    let (csv, found) = api.report_of(&query).await;
    let wanted = world.memberships_until(end, clock::now_ms()).await;
    assert_eq!(found, wanted);
    for operation in ["added", "removed", "expired", "segment_deleted"] {
        assert!(
            found.iter().any(|row| row.3 == operation),
            "{operation}: {csv}"
        );
    }
    assert!(csv.contains("7;'-B;added;"), "{csv}");
    let (_, of_user) = run.report_of(&format!("{query}&user_id=8")).await;
    let mut wanted_of_user = wanted.clone();
    wanted_of_user.retain(|row| row.1 == 8);
    assert_eq!(of_user, wanted_of_user);

    let task_id = api.report(&query).await;
    let before = api.get(&run.file_of(&task_id).await).await;
    // All that it shows changes: it does not.
    run.put_in(8, &["D"], None, "k6").await;
    run.put_in(9, &["-B", "D"], None, "k7").await;
    let body = json!({"user_id": 7, "del": ["-B"]});
    run.send(run.change(&body, "k8")).await;
    run.send(run.segment(Method::DELETE, "D", "k9")).await;
    let later = run.get(&api.file_of(&task_id).await).await;
    assert_eq!(later.body, before.body);
    assert_eq!(
        later.header("content-type"),
        "text/csv; charset=utf-8; header=present"
    );
    assert_eq!(later.header("transfer-encoding"), "chunked");
    let (_, now) = run.report_of(&query).await;
    assert_eq!(
        now,
        world.memberships_until(i64::MAX, clock::now_ms()).await
    );
    let (nothing_yet, _) = run
        .report_of(&format!("date={}", minute(clock::now_ms() + 2 * MINUTE_MS)))
        .await;
    assert_eq!(nothing_yet, "user_id;segment;operation;at\n");
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn a_task_of_nobody_or_of_another_installation_is_not_found() {
    let world = World::new("report_forged").await;
    let other = World::new("report_foreign").await;
    let (run, foreign) = join!(world.start(["run"]), other.start(["run"]));
    let query = format!("date={}", minute(clock::now_ms()));
    let ours = run.report(&query).await;
    let theirs = foreign.report(&query).await;
    foreign.file_of(&theirs).await;
    let mut forged = ours.clone();
    let last = if forged.ends_with('A') { "B" } else { "A" };
    forged.replace_range(forged.len() - 1.., last);
    for task_id in [
        &*theirs,
        &*forged,
        "",
        "x",
        "../../etc/passwd",
        "%00",
        "%ff",
    ] {
        let check = run.report_check(task_id).await;
        assert!([400, 404].contains(&check.status), "{task_id}: {check:?}");
        let path = format!("/reports/{}.csv", task_id.replace('/', "%2F"));
        run.get(&path).await.problem(404, "not_found");
    }
    run.report_check(&theirs).await.problem(404, "not_found");
    run.get(&format!("/reports/{ours}"))
        .await
        .problem(404, "not_found");
    for query in [
        "",
        "?date=",
        "?date=2023-08-29",
        "?date=2023-08-29T10:32",
        "?date=2023-02-30+10:32",
        "?date=2023-08-29+10:32&user_id=-1",
        "?date=2023-08-29+10:32&user_id=x",
    ] {
        let answer = run.get(&format!("/report{query}")).await;
        answer.problem(400, "bad_request");
    }
    run.get("/report_check").await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_report_is_pending_until_the_projection_has_passed_its_position() {
    let world = World::new("report_pending").await;
    let mut folds = world.start(["process"]).await;
    let mut api = world.spawn(&["api"], &[("MILLRACE_WAIT_MS", "100")]);
    api.ready().await;
    api.create_segments(&["A"]).await;
    folds.terminate().await;
    let writer = world.writer("segments").await;
    let event = json!({"slug": "B", "requested_at": clock::now_ms(), "key": "k"});
    let value = writer.of("SegmentCreateRequested").value(&event);
    world
        .append_raw("segments", crate::world::Raw::value(value))
        .await;
    let task_id = api
        .report(&format!("date={}", minute(clock::now_ms())))
        .await;
    let pending = json!({"task_id": task_id, "status": "pending", "file": null});
    assert_eq!(api.report_check(&task_id).await.json(), pending);
    let too_early = api.get(&format!("/reports/{task_id}.csv")).await;
    too_early.problem(503, "not_caught_up");
    assert_eq!(too_early.header("retry-after"), "1");
    let mut folds = world.start(["process", "--only", "segments"]).await;
    let file = api.file_of(&task_id).await;
    assert_eq!(api.get(&file).await.status, 200);
    folds.terminate().await;
}

#[tokio::test]
async fn a_long_report_takes_no_memory_and_one_that_is_broken_off_can_be_told() {
    let world = World::new("report_long").await;
    let run = world.start(["run"]).await;
    run.create_segments(&["A"]).await;
    world
        .execute(&format!(
            "INSERT INTO segments.memberships (user_id, life, \"offset\", is_renewal, added_at)
             SELECT n, 0, 0, false, now() FROM generate_series(1, {LONG}) AS n"
        ))
        .await;
    let query = format!("date={}", minute(clock::now_ms() - MINUTE_MS));
    let file = run.file_of(&run.report(&query).await).await;
    let before_kib = run.peak_memory_kib();
    let whole = run.get(&file).await;
    assert_eq!(whole.body.lines().count() as u64, LONG + 1);
    let more_kib = run.peak_memory_kib() - before_kib;
    assert!(
        more_kib < FLAT_KIB,
        "{more_kib} KiB for {} bytes",
        whole.body.len()
    );

    let begin = async || run.request(Method::GET, &file).send().await.unwrap();
    let (mut one, two) = (begin().await, begin().await);
    assert!(one.status() == 200 && two.status() == 200);
    let full = run.get(&file).await;
    full.problem(503, "overloaded");
    assert_eq!(full.header("retry-after"), "1");
    drop(two);
    eventually("there is room again", async || {
        let answer = begin().await;
        (answer.status() == 200).then_some(())
    })
    .await;
    assert!(one.chunk().await.unwrap().is_some());
    let end = "SELECT pg_terminate_backend(pid) AS is_ended FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'millrace-report'";
    assert_eq!(world.sql(end).await[0]["is_ended"], Value::Bool(true));
    let broken_off = loop {
        match one.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken_off, "half a report ended as a whole one does");
}

#[tokio::test]
async fn a_report_is_sent_to_its_end_by_a_process_that_is_told_to_stop() {
    let world = World::new("report_stop").await;
    let mut run = world.start(["run"]).await;
    run.create_segments(&["A"]).await;
    world
        .execute(&format!(
            "INSERT INTO segments.memberships (user_id, life, \"offset\", is_renewal, added_at)
             SELECT n, 0, 0, false, now() FROM generate_series(1, {LONG}) AS n"
        ))
        .await;
    let query = format!("date={}", minute(clock::now_ms() - MINUTE_MS));
    let file = run.file_of(&run.report(&query).await).await;
    let mut taken = run.request(Method::GET, &file).send().await.unwrap();
    run.ask_to_stop();
    let mut bytes = Vec::new();
    while let Some(piece) = taken.chunk().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(
        bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
        LONG + 1
    );
    let ended = tokio::time::timeout(Duration::from_secs(20), run.ended()).await;
    assert_eq!(ended.unwrap().code(), Some(0));
}
