//! The page of the log: numbers that move by themselves, and what is said when a server is away.

use serde_json::json;
use sqlx::Connection;

use super::{address, place};
use crate::{
    browser::Browser,
    faults::{replay::look_for_live, servers::servers_to_kill},
    samples::order,
    world::{Raw, World, eventually},
};

/// The text of the row of a projection.
fn row(projection: &str) -> String {
    format!(
        "[...document.querySelectorAll('#numbers tr')].find(row => row.innerText.includes('{projection}\\nof ')).innerText"
    )
}

#[tokio::test]
async fn numbers_move_by_themselves_and_dead_letters_show() {
    let world = World::new("logpage").await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/log")).await;
    browser.value("window.wasHere = true").await;
    browser
        .until(&format!("{}.includes('nothing')", row("orders")))
        .await;
    browser
        .until("document.getElementById('positions-orders')")
        .await;
    browser
        .value("document.getElementById('positions-orders').open = true")
        .await;
    for number in 0..20 {
        place(&run, &order(&format!("page-{number}"))).await;
    }
    world.append_raw("orders", Raw::value("junk")).await;
    let topic = world.topic("orders");
    browser
        .until("[...document.querySelectorAll('#numbers tr')].some(row => row.innerText.replace(/\\s+/g, ' ').trim().includes('orders 8 21 '))")
        .await;
    browser
        .until(&format!("/\\b1$/.test({}.trim())", row("orders")))
        .await;
    // What is open stays open, and moves too.
    let applied = "[...document.querySelectorAll('#positions-orders tbody code')].map(code => Number(code.textContent.split('@')[1])).reduce((sum, next) => sum + next, 0) === 21";
    browser.until(applied).await;
    assert_eq!(
        browser
            .value("document.getElementById('positions-orders').open")
            .await,
        true
    );
    browser.picture("log").await;
    let stands = run.get("/v1/log").await.json();
    let orders = stands["projections"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["projection"] == "orders")
        .unwrap();
    assert_eq!(orders["generation"], 1, "{stands}");
    assert_eq!(orders["records_behind"], 0, "{stands}");
    assert_eq!(orders["dead_letters"], 1, "{stands}");
    assert_eq!(orders["dead_letters_more"], false, "{stands}");
    assert_eq!(orders["topic"], topic, "{stands}");
    assert_eq!(browser.value("window.wasHere").await, true);
    browser.close().await;
}

#[tokio::test]
async fn what_is_made_anew_shows_for_as_long_as_it_is() {
    let world = World::new("logbuild").await;
    let run = world.start(["run"]).await;
    for number in 0..20 {
        place(&run, &order(&format!("page-{number}"))).await;
    }
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/log")).await;
    // The switch waits for whoever looks for the generation that is live.
    let look = look_for_live(&world, "orders").await;
    let mut replay = world.spawn(&["replay", "orders"], &[]);
    let cells =
        "[...document.querySelectorAll('[aria-labelledby=builds] td')].map(cell => cell.innerText)";
    browser.until(&format!("{cells}[1] === 'takes over'")).await;
    browser.picture("log-replay").await;
    let cells = browser.value(cells).await;
    let command = cells[0].as_str().unwrap();
    assert!(command.starts_with("millrace replay orders"), "{cells}");
    assert_eq!(cells[2], "20 of 20 records, 100 %", "{cells}");
    let stands = run.get("/v1/log").await.json();
    let build = &stands["builds"][0];
    assert_eq!(
        (&build["projection"], &build["command"], &build["records"]),
        (&"orders".into(), &"replay".into(), &20.into()),
        "{stands}"
    );
    let metrics = run.get("/metrics").await.body;
    let folded = "millrace_projection_build_records{projection=\"orders\",command=\"replay\"} 20";
    assert!(metrics.contains(folded), "{metrics}");
    look.close().await.unwrap();
    assert_eq!(replay.ended().await.code(), Some(0));
    browser
        .until("document.querySelector('[aria-labelledby=builds]') === null")
        .await;
    eventually("it shows the new generation", async || {
        let stands = run.get("/v1/log").await.json();
        let mut all = stands["projections"].as_array().unwrap().iter();
        let orders = all.find(|it| it["projection"] == "orders").unwrap();
        (orders["generation"] == 2).then_some(())
    })
    .await;
    eventually("no metric tells of a build any more", async || {
        let metrics = run.get("/metrics").await.body;
        (!metrics.contains("millrace_projection_build_records{")).then_some(())
    })
    .await;
    browser.close().await;
}

#[tokio::test]
async fn a_page_that_was_loaded_before_anything_was_known_shows_it_by_itself() {
    let world = World::new("logearly").await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    let projections = "[...document.querySelectorAll('details')].map(stands => stands.id)";
    browser.goto(&address(&run, "/log")).await;
    browser
        .until("document.querySelectorAll('details').length === 6")
        .await;
    let all = [
        "clicks",
        "orders",
        "users",
        "segments",
        "sales",
        "sale_attempts",
    ];
    let all = all.map(|projection| format!("positions-{projection}"));
    browser.value("window.wasHere = true").await;
    // As it is served while the tables of most projections are yet to be made.
    browser
        .value("document.querySelectorAll('details:not(#positions-orders)').forEach(stands => stands.remove())")
        .await;
    browser
        .until("document.querySelectorAll('details').length === 6")
        .await;
    assert_eq!(browser.value(projections).await, json!(all));
    assert_eq!(browser.value("window.wasHere").await, true);
    browser.close().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_said_to_be_and_the_last_numbers_stay() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "logaway").await;
    let mut run = world.start(["run"]).await;
    place(&run, &order("a")).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/log")).await;
    browser
        .until(&format!("{}.includes('nothing')", row("orders")))
        .await;
    turn.kill("postgres").await;
    browser.reads("Not up to date").await;
    browser.reads("Postgres at").await;
    browser.picture("log-away").await;
    assert_eq!(
        browser
            .value(&format!("{}.includes('nothing')", row("orders")))
            .await,
        true
    );
    turn.start("postgres").await;
    browser
        .until("document.querySelector('#state section') === null")
        .await;
    run.kill();
    browser.reads("Millrace does not answer").await;
    browser.forgive("net::ERR_").await;
    browser.close().await;
}
