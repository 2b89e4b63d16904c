//! How the pages look: on a narrow screen, in the dark, to weak eyes.

use serde_json::{Value, json};

use super::{address, address_of, place};
use crate::{
    browser::Browser,
    samples::{model, with},
    world::{Process, Raw, World, eventually},
};

/// A narrow telephone, the least width at which items are a table, and a laptop, in pixels.
const WIDTHS: [u32; 3] = [360, 641, 1_000];
const OPEN_DETAILS: &str =
    "document.querySelectorAll('details').forEach(details => details.open = true)";
/// The contrast that text has to have at least (WCAG 2.2, 1.4.3).
const CONTRAST_MIN: f64 = 4.5;

/// Places orders of all kinds, and gives the addresses of all pages that look in another way.
async fn pages(run: &Process) -> Vec<(&'static str, String)> {
    place(run, &model()).await;
    let long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
        .repeat(5);
    let mut wide = with(model(), "/order_uid", json!("W".repeat(100)));
    for field in [
        "/items/0/name",
        "/items/0/brand",
        "/items/0/rid",
        "/delivery/address",
        "/track_number",
    ] {
        wide = with(wide, field, json!(long));
    }
    for field in [
        "/items/0/price",
        "/items/0/sale",
        "/payment/amount",
        "/items/0/status",
    ] {
        wide = with(wide, field, json!(i64::MAX));
    }
    wide = with(wide, "/date_created", json!(long));
    place(run, &wide).await;
    for item in 40..44 {
        run.buy(i64::MAX, item).await;
    }
    let model = model();
    let of = |uid: &str| address_of(run, uid);
    vec![
        ("start", address(run, "/")),
        ("empty", address(run, "/orders")),
        ("found", of(model["order_uid"].as_str().unwrap())),
        ("wide", of(&"W".repeat(100))),
        ("unknown", of(&"M".repeat(100))),
        ("impossible", of(&"x".repeat(3_000))),
        ("sale", address(run, "/sale")),
        ("log", address(run, "/log")),
    ]
}

#[tokio::test]
async fn nothing_is_wider_than_the_screen() {
    let world = World::new("narrow").await;
    let mut process = world.start(["process"]).await;
    let run = world.start(["api"]).await;
    let mut browser = Browser::open().await;
    let pages = pages(&run).await;
    world.caught_up("orders").await;
    // What is behind takes room, too.
    process.terminate().await;
    let junk = Raw::value("junk").into_partition(0);
    world.append_all("clicks", vec![junk; 12_345]).await;
    eventually("the page shows it", async || {
        let page = run.get("/log").await.body;
        page.contains("12,345 records, ").then_some(())
    })
    .await;
    for width in WIDTHS {
        browser.resize(width, 740).await;
        for (name, page) in &pages {
            browser.goto(page).await;
            browser.value(OPEN_DETAILS).await;
            browser.picture(&format!("{width}-{name}")).await;
            // Numbers as long as these are scrolled in their own place, where there is a table.
            let may_scroll = *name == "wide" && width > WIDTHS[0];
            let widths = format!("({WIDTHS_OF_ALL})({may_scroll})");
            let widths = browser.value(&widths).await;
            assert_eq!(widths["page"], width, "{name}");
            assert_eq!(widths["outside"], json!([]), "{name} at {width}");
        }
    }
    browser.forgive("Failed to load resource").await;
    browser.close().await;
}

/// The width of the page, and what reaches out of it or has more in it than it shows. What only screen readers are to
/// meet is cut off by itself.
const WIDTHS_OF_ALL: &str = "(mayScroll) => {
    const root = document.documentElement;
    const isCut = e => e.scrollWidth > e.clientWidth + 1 && e.tagName !== 'INPUT' && getComputedStyle(e).display !== 'inline';
    const isOutside = ({left, right}) => left < 0 || right > root.clientWidth;
    const exempt = mayScroll ? '.skip, .unseen, thead, .wide' : '.skip, .unseen, thead';
    const outside = [...document.body.querySelectorAll('*')].filter(e => !e.closest(exempt))
        .filter(e => isCut(e) || isOutside(e.getBoundingClientRect()));
    return {page: root.scrollWidth, outside: outside.map(e => e.outerHTML.slice(0, 120))};
}";

#[tokio::test]
async fn text_can_be_read_by_day_and_by_night() {
    let world = World::new("contrast").await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    let pages = pages(&run).await;
    let mut papers = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for (name, page) in &pages {
            browser.goto(page).await;
            browser.value(OPEN_DETAILS).await;
            browser.picture(&format!("{scheme}-{name}")).await;
            let contrasts = browser.value(CONTRASTS).await;
            let contrasts = contrasts.as_array().unwrap();
            assert!(contrasts.len() > 5, "{contrasts:?}");
            let weak = |found: &&Value| found["contrast"].as_f64().unwrap() < CONTRAST_MIN;
            let weak: Vec<_> = contrasts.iter().filter(weak).collect();
            assert_eq!(weak, [] as [&Value; 0], "{scheme} {name}");
        }
        let paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]";
        papers.push(browser.value(paper).await.as_i64().unwrap());
    }
    assert!(papers[0] > 200 && papers[1] < 50, "{papers:?}");
    browser.forgive("Failed to load resource").await;
    browser.close().await;
}

/// Of each element with a text of its own: the contrast of its colour with what is behind it (WCAG 2.2).
const CONTRASTS: &str = "(() => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = e => {
        const colour = channels(getComputedStyle(e).backgroundColor);
        return colour[3] === 0 && e.parentElement ? behind(e.parentElement) : colour;
    };
    const hasText = e => [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
    return [...document.body.querySelectorAll('*')].filter(hasText).filter(e => e.checkVisibility()).map(e => {
        const [light, dark] = [luminance(channels(getComputedStyle(e).color)), luminance(behind(e))].sort((a, b) => b - a);
        return {text: e.innerText.slice(0, 40), contrast: (light + 0.05) / (dark + 0.05)};
    });
})()";
