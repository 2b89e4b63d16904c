//! The pages, in a browser: what people see, and what must never happen to them. `MILLRACE_PICTURES=FOLDER` keeps
//! pictures.

mod log;
mod looks;
mod orders;
mod sale;
mod served;

use serde_json::Value;

use crate::{
    browser::Browser,
    world::{Process, Servers, World, eventually},
};

#[tokio::test]
async fn the_start_page_leads_to_everything_and_everything_is_there() {
    let world = World::new("start").await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/")).await;
    browser.picture("start").await;
    let links = "[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))";
    let links: Vec<String> = serde_json::from_value(browser.value(links).await).unwrap();
    for expected in [
        "/",
        "/orders",
        "/sale",
        "/log",
        "/v1/log",
        "/swagger/",
        "/openapi.json",
        "/livez",
        "/readyz",
        "/metrics",
        "/v1/sales",
    ] {
        assert!(links.iter().any(|link| link == expected), "{links:?}");
    }
    for link in &links {
        let path = if link == "#main" { "/" } else { link };
        let answer = eventually(&format!("{link} is there"), async || {
            let answer = run.get(path).await;
            // The log is looked at every two seconds; before the first time nobody knows how it stands.
            let is_early = path.ends_with("/log") && answer.status == 503;
            assert!(answer.status == 200 || is_early, "{link}: {answer:?}");
            (!is_early).then_some(answer)
        })
        .await;
        if answer.header("content-type").starts_with("text/html") {
            browser.goto(&address(&run, path)).await;
            browser.until("document.body.innerText.trim() !== ''").await;
        }
    }
    browser.close().await;
}

#[tokio::test]
async fn the_start_page_says_why_it_is_not_ready_and_when_it_is_without_being_loaded_again() {
    let world = World::without_topics(Servers::default(), "state").await;
    let mut run = world.spawn(&["run"], &[]);
    run.listening().await;
    let mut browser = Browser::open().await;
    let start = address(&run, "/");
    browser.goto(&start).await;
    browser.reads("Not ready").await;
    let missing = world.topic("clicks");
    let missing = format!("topic {missing} does not exist: run `millrace topics apply`");
    browser.reads(&missing).await;
    let reasons = run.get("/readyz").await.json()["reasons"].clone();
    assert!(reasons.to_string().contains(&missing), "{reasons}");
    browser.picture("not-ready").await;
    browser.value("window.wasHere = true").await;

    let applied = world.millrace(&["topics", "apply"], "").await;
    assert_eq!(applied.status, 0, "{applied:?}");
    browser
        .reads("Every part of this process is at work.")
        .await;
    assert_eq!(run.get("/readyz").await.status, 200);
    run.kill();
    browser.reads("Millrace does not answer").await;
    let again = world.spawn(&["run"], &[("MILLRACE_LISTEN", run.address())]);
    browser
        .reads("Every part of this process is at work.")
        .await;
    assert_eq!(browser.value("window.wasHere").await, true);
    browser.forgive("net::ERR_").await;
    browser.close().await;
    drop(again);
    world.drop_topics().await;
}

/// The address of a page.
fn address(run: &Process, path: &str) -> String {
    format!("http://{}{path}", run.address())
}

/// The address of the page of this order.
fn address_of(run: &Process, uid: &str) -> String {
    let page = address(run, "/orders");
    reqwest::Url::parse_with_params(&page, [("uid", uid)])
        .unwrap()
        .into()
}

/// Places an order; it can be seen from then on.
async fn place(run: &Process, order: &Value) {
    let placed = run.post("/v1/orders", order).await;
    assert_eq!(placed.status, 201, "{placed:?}");
    let uid = order["order_uid"].as_str().unwrap();
    let path = address_of(run, uid).replace(&address(run, "/orders"), "/order");
    let found = run.get_at(&path, placed.position()).await;
    assert_eq!(found.status, 200, "{found:?}");
}
