//! Those who watch the running sale.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    emit_sale::far_from_the_end_of_the_hour,
    world::{PATIENCE, Process, Servers, World},
};

const EVENTS: &str = "/v1/sale/events";
/// After longer silence a listener takes the connection for dead.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// After so long nothing of a purchase is left in the pace.
const PACE_IS_OVER: SignedDuration = SignedDuration::from_secs(7);

/// Longer than any test listens.
const LISTENED_MAX: Duration = Duration::from_secs(300);

/// Who listens.
struct Listener {
    response: Response,
    heard: String,
}

impl Process {
    async fn listen(&self) -> Listener {
        let request = self.request(Method::GET, EVENTS).timeout(LISTENED_MAX);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Listener {
            response,
            heard: String::new(),
        }
    }
}

impl Listener {
    /// The fields of the next event; none at the end of all.
    async fn next(&mut self) -> Option<Vec<(String, String)>> {
        loop {
            if let Some((event, rest)) = self.heard.split_once("\n\n") {
                let field = |line: &str| {
                    let (name, value) = line.split_once(": ").unwrap();
                    (name.to_owned(), value.to_owned())
                };
                let fields = event.lines().map(field).collect();
                self.heard = rest.to_owned();
                return Some(fields);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk
                .expect("an event in time")
                .expect("no broken stream")?;
            self.heard.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// What the next event says.
    async fn data(&mut self) -> Value {
        let fields = self.next().await.expect("an event");
        let data = fields.iter().find(|(name, _)| name == "data");
        serde_json::from_str(&data.unwrap().1).unwrap()
    }

    /// Waits until it is told that so many are sold.
    async fn hears_of(&mut self, sold: u32) -> Value {
        loop {
            let data = self.data().await;
            if data["sold"] == sold {
                return data;
            }
        }
    }
}

#[tokio::test]
async fn who_listens_is_told_at_once_when_something_changes_and_that_all_is_well() {
    far_from_the_end_of_the_hour().await;
    let world = World::new("events").await;
    world.sale_rules([20, 5, 60, 3600]).await;
    let run = world.start(["run"]).await;
    let mut listener = run.listen().await;
    let header = |name: &str| listener.response.headers()[name].to_str().unwrap();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-store");
    let first = listener.next().await.unwrap();
    let (name, retry_ms) = &first[0];
    assert_eq!(name, "retry");
    assert!((1_000..5_000).contains(&retry_ms.parse::<u32>().unwrap()));
    assert_eq!(first.len(), 2, "{first:?}");
    let first: Value = serde_json::from_str(&first[1].1).unwrap();
    let mut plain = run.get("/v1/sale").await.json();
    assert_eq!(plain["sold"], 0);
    for more in ["server_time", "sold_per_second"] {
        plain[more] = first[more].clone();
    }
    assert_eq!(first, plain);
    assert_eq!(first["sold_per_second"], json!(0.0));

    // How fast it sells is known from the first look on.
    assert_eq!(listener.data().await["sold"], 0);
    run.buy(1, 3).await;
    let told = listener.hears_of(1).await;
    assert_eq!(told["reserved"], 0);
    assert!(told["sold_per_second"].as_f64().unwrap() > 0.0, "{told}");
    // Each is told by its time, at most four a second, and never after long silence.
    let time =
        |data: &Value| -> Timestamp { data["server_time"].as_str().unwrap().parse().unwrap() };
    let told_at = time(&told);
    let mut before = told;
    while time(&before).duration_since(told_at) < PACE_IS_OVER {
        let began = Instant::now();
        let data = listener.data().await;
        assert!(began.elapsed() < SILENCE_MAX, "{:?}", began.elapsed());
        let between = time(&data).duration_since(time(&before));
        assert!(between.as_millis() >= 200, "{between}");
        before = data;
    }
    assert_eq!(before["sold_per_second"], json!(0.0));
    let head = run.send(run.request(Method::HEAD, EVENTS)).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn who_listens_is_let_go_when_the_process_is_told_to_stop() {
    let world = World::new("listeners").await;
    let mut run = world.start(["run"]).await;
    let mut listeners = Vec::new();
    for _ in 0..100 {
        let mut listener = run.listen().await;
        listener.data().await;
        listeners.push(listener);
    }
    let began = Instant::now();
    run.terminate().await;
    // Answers that are under way would have 15 s.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    for mut listener in listeners {
        while listener.next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_sale_that_is_not_open_is_said_to_be_so_and_when_it_opens() {
    let world = World::without_topics(Servers::default(), "closed").await;
    let mut run = world.spawn(&["run"], &[]);
    run.listening().await;
    let mut listener = run.listen().await;
    let first = listener.next().await.unwrap();
    assert_eq!(first[1], ("event".to_owned(), "closed".to_owned()));
    let applied = world.millrace(&["topics", "apply"], "").await;
    assert_eq!(applied.status, 0, "{applied:?}");
    listener.hears_of(0).await;
    world.drop_topics().await;
}

#[tokio::test]
async fn listeners_leave_room_for_those_who_come_to_buy() {
    far_from_the_end_of_the_hour().await;
    let world = World::new("room").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_CONNECTIONS_MAX", "40")]);
    run.ready().await;
    let mut listeners = Vec::new();
    for _ in 0..20 {
        listeners.push(run.listen().await);
    }
    let refused = run.get(EVENTS).await;
    refused.problem(503, "overloaded");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    run.buy(1, 1).await;
    for listener in &mut listeners {
        listener.hears_of(1).await;
    }
    drop(listeners);
    crate::world::eventually("there is room again", async || {
        let request = run.request(Method::HEAD, EVENTS);
        (run.send(request).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_thousand_listeners_do_not_keep_a_buyer_waiting() {
    far_from_the_end_of_the_hour().await;
    // This process needs as many as the one that it calls.
    let files = api::files::raise();
    assert!(files.is_none_or(|files| files >= 4_096), "{files:?}");
    let world = World::new("thousand").await;
    let run = world.start(["run"]).await;
    let mut listeners = Vec::new();
    for _ in 0..1_000 {
        listeners.push(run.listen().await);
    }
    let began = Instant::now();
    run.buy(1, 1).await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    for listener in &mut listeners {
        listener.hears_of(1).await;
    }
    let metrics = run.get("/metrics").await.body;
    assert!(
        metrics.contains("millrace_sale_listeners 1000"),
        "{metrics}"
    );
}
