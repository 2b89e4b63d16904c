//! The page of the running sale, as those see it who watch.

use super::address;
use crate::{
    browser::Browser,
    emit_sale::far_from_the_end_of_the_hour,
    world::{Process, Servers, World, eventually},
};

/// What stands where the id is.
fn number(id: &str, value: &str) -> String {
    format!("document.getElementById('{id}').textContent === '{value}'")
}

/// What a reader of the screen sees of the state: one line and one sentence at most.
const SHOWN: &str = "[...document.querySelectorAll('#board .line, #board .state')]
    .filter(e => e.checkVisibility()).map(e => e.className).join()";

#[tokio::test]
async fn numbers_move_when_somebody_buys_and_nothing_is_loaded_again() {
    far_from_the_end_of_the_hour().await;
    let world = World::new("board").await;
    world.sale_rules([2_000, 50, 60, 3600]).await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/sale")).await;
    browser.reads("Live").await;
    browser.reads("Nothing yet in this sale.").await;
    browser.until(&number("free", "2,000")).await;
    assert_eq!(browser.value(SHOWN).await, "line live");
    browser.value("window.wasHere = true").await;
    run.reserve(1, 7).await;
    browser.until(&number("reserved", "1")).await;
    browser.until(&number("free", "1,999")).await;
    for item in 100..120 {
        run.buy(item / 3, item).await;
    }
    browser.until(&number("sold", "20")).await;
    browser
        .until("Number(document.getElementById('pace').textContent) > 0")
        .await;
    let widths = "[...document.querySelectorAll('#bar rect')].map(part => part.getAttribute('width')).join()";
    assert_eq!(browser.value(widths).await, "20,1");
    // The last that were sold, the newest first, with pictures that are there.
    browser
        .until("document.querySelectorAll('.shelf li').length === 12 && [...document.images].every(i => i.complete && i.naturalWidth)")
        .await;
    let sale = run.get("/v1/sale").await.json();
    let sale = sale["sale_id"].as_str().unwrap();
    let sold = run.get(&format!("/v1/sales/{sale}/items")).await.json();
    let newest = &sold["items"][19];
    browser
        .until(&format!(
            "document.querySelector('.shelf a').textContent === {}",
            newest["item_name"]
        ))
        .await;
    let links = "[...document.querySelectorAll('#last a')].map(link => link.getAttribute('href'))";
    let links: Vec<String> = serde_json::from_value(browser.value(links).await).unwrap();
    assert_eq!(links[0], newest["image_url"].as_str().unwrap());
    for link in &links {
        assert_eq!(run.get(link).await.status, 200, "{link}");
    }
    browser
        .until("document.querySelector('#spark polyline').points.length > 3")
        .await;
    browser.picture("sale").await;
    assert_eq!(browser.value("window.wasHere").await, true);
    let roles = browser.roles().await;
    for role in ["status", "timer", "main", "heading"] {
        assert!(roles.contains(role), "no {role} among {roles:?}");
    }
    browser.close().await;
}

#[tokio::test]
async fn the_clock_runs_down_the_sale_is_sold_out_and_the_next_one_starts_by_itself() {
    let world = World::new("rollover").await;
    world.sale_rules([3, 3, 2, 8]).await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/sale")).await;
    browser.reads("Live").await;
    browser.value("window.wasHere = true").await;
    browser.value(WATCH).await;
    eventually("a sale is sold out", async || {
        for item in 0..3 {
            let code = run.send(run.checkout(1, item)).await;
            if code.status == 200 {
                run.send(run.purchase(&code.body)).await;
            }
        }
        let state = browser
            .value("document.getElementById('board').dataset.state")
            .await;
        (state == "sold-out").then_some(())
    })
    .await;
    browser.reads("Sold out. The next sale starts at").await;
    browser.picture("sale-sold-out").await;
    browser
        .until("document.getElementById('board').dataset.state === 'open'")
        .await;
    browser.until(&number("free", "3")).await;
    browser.until(&number("sold", "0")).await;
    browser.reads("Nothing yet in this sale.").await;
    browser
        .until("window.seen.join().includes('00:04,00:03,00:02,00:01,00:00')")
        .await;
    let seen = browser.value("window.seen").await;
    let seen: Vec<String> = serde_json::from_value(seen).unwrap();
    // No sale takes longer than its rules say.
    assert!(seen.iter().all(|time| time.as_str() <= "00:08"), "{seen:?}");
    let said: Vec<String> = serde_json::from_value(browser.value("window.said").await).unwrap();
    let heard = |words: &str| said.iter().any(|text| text.contains(words));
    assert!(
        heard("Sold out.") && heard("A new sale has started."),
        "{said:?}"
    );
    assert_eq!(browser.value("window.wasHere").await, true);
    browser.close().await;
}

/// Keeps what the clock shows, and what a screen reader says.
const WATCH: &str = "(() => {
    const keep = (id, name) => {
        window[name] = [];
        const place = document.getElementById(id);
        const note = () => window[name].push(place.textContent);
        new MutationObserver(note).observe(place, {childList: true, characterData: true, subtree: true});
    };
    keep('left', 'seen');
    keep('said', 'said');
})()";

#[tokio::test]
async fn a_server_that_dies_is_said_to_be_away_and_when_it_is_back_the_page_goes_on() {
    far_from_the_end_of_the_hour().await;
    let world = World::new("away").await;
    let mut run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/sale")).await;
    browser.reads("Live").await;
    browser.value("window.wasHere = true").await;
    run.buy(1, 1).await;
    browser.until(&number("sold", "1")).await;
    run.kill();
    browser.reads("Connection lost, trying again.").await;
    browser.picture("sale-lost").await;
    assert_eq!(browser.value(SHOWN).await, "line lost");
    let mut again = world.spawn(&["run"], &[("MILLRACE_LISTEN", run.address())]);
    again.ready().await;
    browser
        .until("document.getElementById('board').dataset.line === 'live'")
        .await;
    browser.until(&number("sold", "1")).await;
    again.buy(1, 2).await;
    browser.until(&number("sold", "2")).await;
    // One that stands still keeps its connections: only silence tells.
    again.pause();
    browser.reads("Connection lost, trying again.").await;
    again.resume();
    browser
        .until("document.getElementById('board').dataset.line === 'live'")
        .await;
    // And one that is told to stop ends them.
    again.terminate().await;
    browser.reads("Connection lost, trying again.").await;
    assert_eq!(browser.value("window.wasHere").await, true);
    browser.forgive("net::ERR_").await;
    // It may have been asked before it had read the sale.
    browser.overlook("503 (Service Unavailable)").await;
    browser.close().await;
}

#[tokio::test]
async fn without_its_script_the_page_shows_how_the_sale_stood() {
    far_from_the_end_of_the_hour().await;
    let world = World::new("snapshot").await;
    let run = world.start(["run"]).await;
    run.buy(4, 44).await;
    world.caught_up("sales").await;
    let mut browser = Browser::open().await;
    browser.run_scripts(false).await;
    let sale = address(&run, "/sale");
    eventually("it is sold", async || {
        browser.goto(&sale).await;
        let text = browser.text().await;
        (text.contains("9,999 of 10,000 items") && text.contains("user 4")).then_some(())
    })
    .await;
    let text = browser.text().await;
    assert!(text.contains("As it stood at "), "{text}");
    assert!(!text.contains("Live") && !text.contains("lost"), "{text}");
    assert_eq!(browser.value(SHOWN).await, "line snapshot");
    browser.picture("sale-without-script").await;
    // The start page has a line of it.
    browser.goto(&address(&run, "/")).await;
    browser.reads("9,999 of 10,000 items are free.").await;
    browser.close().await;
}

#[tokio::test]
async fn a_sale_that_is_not_open_is_said_to_be_so_until_it_is() {
    let world = World::without_topics(Servers::default(), "shut").await;
    let mut run = world.spawn(&["run"], &[]);
    run.listening().await;
    let page = run.get("/sale").await;
    assert_eq!(page.status, 503);
    assert_eq!(page.header("retry-after"), "1");
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/sale")).await;
    browser.reads("The sale is not open here yet").await;
    must_show(&mut browser, "line live,state closed").await;
    browser.picture("sale-closed").await;
    let applied = world.millrace(&["topics", "apply"], "").await;
    assert_eq!(applied.status, 0, "{applied:?}");
    must_show(&mut browser, "line live").await;
    browser.until(&number("free", "10,000")).await;
    browser.reads("Each item is sold once.").await;
    browser.forgive("503").await;
    browser.close().await;
    ended(run).await;
    world.drop_topics().await;
}

async fn must_show(browser: &mut Browser, what: &str) {
    browser.until(&format!("{SHOWN} === '{what}'")).await;
}

async fn ended(mut run: Process) {
    run.terminate().await;
}
