//! The server itself: what callers who are slow, many or greedy can do to the others, which is nothing.

use std::{io::ErrorKind, process::Command};

use tokio::{
    io::AsyncReadExt,
    net::TcpSocket,
    task::JoinSet,
    time::{Duration, Instant, interval, timeout},
};

use crate::world::{Process, World, http::Caller};

const CLICK: &str = "GET /v1/banners/counter/1 HTTP/1.1\r\nHost: millrace\r\n\r\n";
const ALIVE: &str = "HEAD /livez HTTP/1.1\r\nHost: millrace\r\n\r\n";
/// Of a quarter: 5 MB.
const LONG_STATS: &str = "GET /v1/banners/stats/1?from=1970-01-01T00:00:00Z&to=1970-04-01T00:00:00Z HTTP/1.1\r\nHost: millrace\r\nConnection: close\r\n\r\n";
/// Between the bytes of a caller that is slow on purpose.
const TRICKLE: Duration = Duration::from_millis(500);

impl Caller {
    /// With so little room for what it does not read that the rest stays with the server.
    async fn connect_narrow(run: &Process) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let address = run.address().parse().unwrap();
        Self(socket.connect(address).await.unwrap())
    }

    /// A click that has to be counted.
    async fn click(&mut self) {
        assert!(self.send(CLICK).await);
        self.must_be(204).await;
    }

    /// A question that has an answer without a body.
    async fn must_be_alive(&mut self) {
        assert!(self.send(ALIVE).await);
        self.must_be(200).await;
    }

    /// Asks for a long answer and takes its head.
    async fn begin_long(&mut self) {
        assert!(self.send(LONG_STATS).await);
        let answer = self.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    /// Sends a header a byte at a time, until it is cut off.
    async fn trickle(mut self) {
        let mut next = interval(TRICKLE);
        assert!(self.send("GET /livez HTTP/1.1\r\nX-Slow: ").await);
        loop {
            tokio::select! {
                // Nothing is answered to half a head: what comes is the end.
                end = self.0.read_u8() => return assert!(end.is_err(), "an answer to half a head"),
                _ = next.tick() => if !self.send("x").await { return },
            }
        }
    }
}

#[tokio::test]
async fn two_thousand_callers_that_never_finish_their_head_are_cut_off_while_others_are_served() {
    // This process needs as many as the one that it calls.
    let files = api::files::raise();
    assert!(
        files.is_none_or(|files| files >= 4_096),
        "ulimit -Hn: {files:?}"
    );
    let world = World::new("trickle").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_HEAD_TIMEOUT_MS", "3000")]);
    run.ready().await;
    let mut slow = JoinSet::new();
    for _ in 0..2_000 {
        slow.spawn(Caller::connect(&run).await.trickle());
    }
    let mut clicks = 0;
    while !slow.is_empty() {
        // A caller of its own each time: there is room for new ones too.
        Caller::connect(&run).await.click().await;
        clicks += 1;
        while let Some(cut_off) = slow.try_join_next() {
            cut_off.unwrap();
        }
    }
    assert!(clicks > 1, "nobody was served in between");
    assert_eq!(world.read_topic("clicks").await.len(), clicks);
}

#[tokio::test]
async fn out_of_open_files_it_serves_whom_it_has_and_lets_others_in_later() {
    let world = World::new("files_open").await;
    let mut run = world.start(["run"]).await;
    let mut known = Caller::connect(&run).await;
    known.click().await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", run.id()));
    let limit = open.unwrap().count() + 20;
    set_open_files(&run, limit);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Caller::connect(&run).await);
    }
    run.logged("it cannot let more in", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("cannot let connections in")
    })
    .await;
    known.click().await;
    drop(crowd);
    Caller::connect(&run).await.click().await;
    assert_eq!(world.read_topic("clicks").await.len(), 3);
}

#[tokio::test]
async fn who_finds_no_room_is_served_when_another_has_left() {
    let world = World::new("room").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_CONNECTIONS_MAX", "2")]);
    run.listening().await;
    let mut first = Caller::connect(&run).await;
    let mut second = Caller::connect(&run).await;
    first.must_be_alive().await;
    second.must_be_alive().await;
    let mut third = Caller::connect(&run).await;
    assert!(third.send(ALIVE).await);
    for _ in 0..50 {
        first.must_be_alive().await;
        second.must_be_alive().await;
    }
    let nothing = third.0.try_read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    drop(first);
    third.must_be(200).await;
}

#[tokio::test]
async fn told_to_stop_with_a_full_house_it_answers_who_waits_for_a_place() {
    let world = World::new("full_house").await;
    let settings = [("MILLRACE_CONNECTIONS_MAX", "2"), ("MILLRACE_THREADS", "1")];
    let mut run = world.spawn(&["run"], &settings);
    run.listening().await;
    let mut idle = [Caller::connect(&run).await, Caller::connect(&run).await];
    for caller in &mut idle {
        caller.must_be_alive().await;
    }
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let mut caller = Caller::connect(&run).await;
        assert!(caller.send(ALIVE).await);
        waiting.push(caller);
    }
    run.ask_to_stop();
    for caller in &mut waiting {
        let answer = caller.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(run.ended().await.code(), Some(0));
}

#[tokio::test]
async fn while_a_long_answer_is_made_others_of_the_thread_are_served() {
    let world = World::new("long_answer").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_THREADS", "1")]);
    run.ready().await;
    fill_a_quarter(&world).await;
    let mut other = Caller::connect(&run).await;
    // The machine may stand still for a moment, but not each time.
    for _ in 0..3 {
        let mut long = Caller::connect(&run).await;
        let began = Instant::now();
        let asking = tokio::spawn(async move {
            long.begin_long().await;
            let mut body = Vec::new();
            long.0.read_to_end(&mut body).await.unwrap();
            assert!(body.len() > 4_000_000 && body.ends_with(b"]}"));
            began.elapsed()
        });
        let mut longest = Duration::ZERO;
        while !asking.is_finished() {
            let asked = Instant::now();
            other.must_be_alive().await;
            longest = longest.max(asked.elapsed());
        }
        if longest < asking.await.unwrap() / 3 {
            return;
        }
    }
    panic!("others waited for the long answer");
}

#[tokio::test]
async fn a_long_answer_keeps_its_place_until_it_is_taken() {
    let world = World::new("places").await;
    let mut run = world.spawn(&["run"], &[]);
    run.ready().await;
    fill_a_quarter(&world).await;
    let mut first = Caller::connect_narrow(&run).await;
    let mut second = Caller::connect_narrow(&run).await;
    let began = Instant::now();
    first.begin_long().await;
    second.begin_long().await;
    let took = began.elapsed();
    let mut third = Caller::connect(&run).await;
    assert!(third.send(LONG_STATS).await);
    // Longer than it would take it alone, and less than it may wait.
    let a_while = took.min(Duration::from_secs(5));
    let answer = timeout(a_while, third.0.readable()).await;
    assert!(answer.is_err(), "a third answer is in memory");
    drop(first);
    let answer = third.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A click of banner 1 in each minute of the first quarter of 1970.
async fn fill_a_quarter(world: &World) {
    world
        .execute(
            "INSERT INTO clicks.stats (banner_id, ts, partition, v)
             SELECT 1, to_timestamp(minute * 60), 0, 1 FROM generate_series(0, 129599) AS minute",
        )
        .await;
}

#[tokio::test]
async fn requests_sent_without_waiting_are_answered_in_their_order() {
    let world = World::new("pipelined").await;
    let run = world.start(["run"]).await;
    let mut caller = Caller::connect(&run).await;
    let none = CLICK.replace("/1 ", "/none ").replace("GET", "HEAD");
    assert!(caller.send(&[CLICK, &none, CLICK].concat()).await);
    for status in [204, 400, 204] {
        caller.must_be(status).await;
    }
}

#[tokio::test]
async fn all_threads_together_keep_to_the_connections_to_postgres_that_are_allowed() {
    let world = World::new("shares").await;
    let settings = [("MILLRACE_THREADS", "3"), ("PG_MAX_CONNS", "5")];
    let mut api = world.spawn(&["api"], &settings);
    api.ready().await;
    let stats = "/v1/banners/stats/1?from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00Z";
    let mut asking = JoinSet::new();
    for _ in 0..60 {
        let mut caller = Caller::connect(&api).await;
        asking.spawn(async move {
            for _ in 0..20 {
                let request = format!("GET {stats} HTTP/1.1\r\nHost: millrace\r\n\r\n");
                assert!(caller.send(&request).await);
                caller.must_be(200).await;
                let mut body = [0; r#"{"stats":[]}"#.len()];
                caller.0.read_exact(&mut body).await.unwrap();
                assert_eq!(body, *br#"{"stats":[]}"#);
            }
        });
    }
    asking.join_all().await;
    let open = world
        .sql("SELECT count(*) AS open FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'millrace-api'")
        .await;
    // Two more are for what runs beside the requests.
    let open = open[0]["open"].as_i64().unwrap();
    assert!((4..=7).contains(&open), "{open}");
}

/// Takes from a process that runs what it may open.
fn set_open_files(run: &Process, limit: usize) {
    let set = Command::new("prlimit")
        .args([format!("--pid={}", run.id()), format!("--nofile={limit}")])
        .status();
    assert!(set.unwrap().success());
}
