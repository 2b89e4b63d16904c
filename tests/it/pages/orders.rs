//! The page of the orders, used as people use it.

use serde_json::{Value, json};

use super::{address, address_of, place};
use crate::{
    browser::{Browser, Key},
    samples::{model, order, with},
    world::World,
};

const UID: &str = "b563feb7b2b84b6test";

#[tokio::test]
async fn a_buyer_sees_everything_of_the_model_order() {
    let world = World::new("buyer").await;
    let run = world.start(["run"]).await;
    place(&run, &model()).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    find(&mut browser, UID).await;
    browser.reads(&format!("Order {UID}")).await;
    browser.picture("found").await;
    let text = browser.text().await;
    for shown in [
        "Mascaras",
        "Vivienne Sabo, size 0",
        "USD 4.53",
        "30%",
        "USD 3.17",
        "USD 15.00",
        "USD 0.00",
        "USD 18.17",
        "26 November 2021, 06:22:19 UTC",
        "26 November 2021, 06:22:07 UTC",
        "202",
        "Kiryat Mozkin",
    ] {
        assert!(text.contains(shown), "no {shown} in\n{text}");
    }
    assert!(!text.contains("ab4219087a764ae0btest"), "{text}");
    must_show_all(&mut browser, &model()).await;
    browser.picture("found-with-details").await;
    browser.close().await;
}

#[tokio::test]
async fn every_field_of_an_order_is_on_the_page() {
    let world = World::new("fields").await;
    let run = world.start(["run"]).await;
    // No value of one field could be taken for that of another.
    let mut distinct = model();
    for (n, (pointer, value)) in (0..).zip(leaves(String::new(), &model())) {
        let name = pointer.rsplit('/').next().unwrap();
        let other = match value {
            _ if ["currency", "date_created"].contains(&name) => continue,
            Value::Number(_) => json!(123_456 + 7_919 * n),
            _ => json!(format!("{name}@{n}")),
        };
        distinct = with(distinct, &pointer, other);
    }
    place(&run, &distinct).await;
    let mut browser = Browser::open().await;
    let uid = distinct["order_uid"].as_str().unwrap();
    browser.goto(&address_of(&run, uid)).await;
    must_show_all(&mut browser, &distinct).await;
    browser.close().await;
}

/// Opens what is closed and looks for every value.
async fn must_show_all(browser: &mut Browser, order: &Value) {
    browser.click("summary").await;
    browser
        .reads(order["items"][0]["rid"].as_str().unwrap())
        .await;
    let text = browser.text().await;
    for (pointer, value) in leaves(String::new(), order) {
        let shown = shown(&pointer, &value);
        assert!(text.contains(&shown), "{pointer}: no {shown} in\n{text}");
    }
}

/// Every value of an event and its place.
fn leaves(pointer: String, value: &Value) -> Vec<(String, Value)> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(values) => (0..).map(|at: u32| at.to_string()).zip(values).collect(),
        _ => return vec![(pointer, value.clone())],
    };
    let inner = inner.into_iter();
    inner
        .flat_map(|(name, value)| leaves(format!("{pointer}/{name}"), value))
        .collect()
}

/// A value of an order as the page shows it.
fn shown(pointer: &str, value: &Value) -> String {
    const AMOUNTS: [&str; 6] = [
        "amount",
        "delivery_cost",
        "goods_total",
        "custom_fee",
        "price",
        "total_price",
    ];
    let name = pointer.rsplit('/').next().unwrap();
    match value {
        Value::Number(cents) if AMOUNTS.contains(&name) => {
            let cents = cents.as_i64().unwrap();
            let (whole, part) = (cents / 100, cents % 100);
            match whole / 1_000 {
                0 => format!("USD {whole}.{part:02}"),
                thousands => format!("USD {thousands},{:03}.{part:02}", whole % 1_000),
            }
        }
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => panic!("{pointer}: {other}"),
    }
}

#[tokio::test]
async fn what_cannot_be_found_is_said_with_what_to_do() {
    let world = World::new("notfound").await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    for (uid, headline, advice) in [
        (
            "nobody",
            "There is no order of this uid",
            "Compare it letter by letter",
        ),
        ("", "Which order?", "Enter the uid of an order"),
        ("   ", "Which order?", "Enter the uid of an order"),
        (
            &"x".repeat(101),
            "No order can have this uid",
            "A uid must have at most 100 characters.",
        ),
        (
            &"ж".repeat(5_000),
            "No order can have this uid",
            "A uid must have at most 100 characters.",
        ),
    ] {
        find(&mut browser, uid).await;
        browser.said(headline).await;
        let text = browser.text().await;
        assert!(text.contains(advice), "no {advice} in\n{text}");
        browser.forgive("Failed to load resource").await;
        // The same when it is opened from elsewhere.
        browser.goto(&address_of(&run, uid)).await;
        let text = browser.text().await;
        assert!(text.contains(advice), "no {advice} in\n{text}");
        browser.forgive("Failed to load resource").await;
        if uid == "nobody" {
            browser.picture("unknown").await;
        }
    }
    // It has come meanwhile.
    find(&mut browser, "late").await;
    browser.said("There is no order of this uid").await;
    browser.forgive("404").await;
    place(&run, &order("late")).await;
    browser
        .value("document.querySelector('#result button').focus()")
        .await;
    browser.press(Key::Enter).await;
    browser.said("Order late").await;
    // The button is gone: whoever uses the keyboard goes on at the order.
    assert_eq!(browser.value("document.activeElement.id").await, "result");
    // Copied with the space beside it.
    find(&mut browser, "  late ").await;
    browser.said("Order late").await;
    browser.close().await;
}

#[tokio::test]
async fn hostile_text_is_text() {
    const HOSTILE: &str = r#"</title></textarea><script>window.hacked=1</script><img src=x onerror="window.hacked=2"><svg onload=alert(3)>'"><a href="javascript:alert(4)">{{7*7}}&lt;b&gt;"#;
    let world = World::new("hostile").await;
    let run = world.start(["run"]).await;
    let mut hostile = model();
    let texts = leaves(String::new(), &model());
    let texts = texts.iter().filter(|(_, value)| value.is_string());
    for (pointer, _) in texts.filter(|(pointer, _)| pointer != "/payment/currency") {
        let text = match pointer.as_str() {
            // As much as a uid may have.
            "/order_uid" => HOSTILE.chars().take(100).collect(),
            "/delivery/email" => format!("@{HOSTILE}"),
            _ => HOSTILE.to_owned(),
        };
        hostile = with(hostile, pointer, json!(text));
    }
    place(&run, &hostile).await;
    let uid = hostile["order_uid"].as_str().unwrap();
    let mut browser = Browser::open().await;
    // By the script, and as the server sends it; an order that is there, and one that is not.
    browser.goto(&address(&run, "/orders")).await;
    find(&mut browser, uid).await;
    browser.said(&format!("Order {uid}")).await;
    must_be_harmless(&mut browser, HOSTILE).await;
    browser.goto(&address_of(&run, uid)).await;
    must_be_harmless(&mut browser, HOSTILE).await;
    let unknown = &HOSTILE[20..110];
    find(&mut browser, unknown).await;
    browser.said("There is no order of this uid").await;
    must_be_harmless(&mut browser, unknown).await;
    browser.forgive("404").await;
    browser.goto(&address_of(&run, unknown)).await;
    must_be_harmless(&mut browser, unknown).await;
    browser.forgive("404").await;
    browser.close().await;
}

/// The text is there to be read, and made nothing else of the page than it is.
async fn must_be_harmless(browser: &mut Browser, text: &str) {
    browser.reads(text).await;
    let elements = "[...document.querySelectorAll('script, img, svg, iframe, object, base')].map(e => e.getAttribute('src'))";
    assert_eq!(
        browser.value(elements).await,
        json!(["/assets/orders.js", "/assets/icon.svg"])
    );
    assert_eq!(browser.value("typeof window.hacked").await, "undefined");
    let handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(name => name.startsWith('on'))";
    assert_eq!(browser.value(handlers).await, json!([]));
    let schemes = "[...new Set([...document.links].map(link => link.protocol))]";
    assert_eq!(browser.value(schemes).await, json!(["http:"]));
}

#[tokio::test]
async fn a_script_that_came_in_all_the_same_is_not_run() {
    let world = World::new("policy").await;
    let run = world.start(["run"]).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    let inject = "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.hacked=1\">');
        const script = document.createElement('script');
        script.textContent = 'window.hacked=2';
        document.body.append(script)";
    browser.value(inject).await;
    browser
        .forgive("violates the following Content Security Policy directive")
        .await;
    assert_eq!(browser.value("typeof window.hacked").await, "undefined");
    browser.close().await;
}

#[tokio::test]
async fn an_order_has_an_address_and_the_way_back_leads_to_the_one_before() {
    let world = World::new("address").await;
    let run = world.start(["run"]).await;
    for uid in ["first", "second & third"] {
        place(&run, &order(uid)).await;
    }
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    find(&mut browser, "first").await;
    browser.said("Order first").await;
    let first = browser.value("location.href").await;
    assert_eq!(first, address_of(&run, "first"));
    find(&mut browser, "second & third").await;
    browser.said("Order second & third").await;
    // Asked once more, it is no further step.
    browser.press(Key::Enter).await;
    browser.said("Order second & third").await;

    browser.value("history.back()").await;
    browser.said("Order first").await;
    assert_eq!(browser.value("location.href").await, first);
    assert_eq!(browser.value("uid.value").await, "first");
    assert_eq!(
        browser.value("document.title").await,
        "Order first – Millrace"
    );
    browser.value("history.back()").await;
    browser.said("Find an order").await;
    assert_eq!(browser.value("uid.value").await, "");
    assert_eq!(browser.value("result.innerText").await, "");
    browser.value("history.forward()").await;
    browser.said("Order first").await;

    // Away and back, and from elsewhere.
    browser.goto(&address(&run, "/")).await;
    browser.value("history.back()").await;
    browser.reads("Order first").await;
    browser.goto(first.as_str().unwrap()).await;
    let text = browser.text().await;
    assert!(text.contains("Order first"), "{text}");
    assert_eq!(browser.value("uid.value").await, "first");
    assert_eq!(
        browser.value("document.title").await,
        "Order first – Millrace"
    );
    browser.close().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_told_and_the_order_is_found_when_it_is_back() {
    let world = World::new("away").await;
    let mut run = world.start(["run"]).await;
    place(&run, &model()).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    run.kill();
    find(&mut browser, UID).await;
    browser.said("Millrace does not answer").await;
    browser.picture("away").await;
    let mut again = world.spawn(&["run"], &[("MILLRACE_LISTEN", run.address())]);
    again.ready().await;
    browser.click("#result button").await;
    browser.said(&format!("Order {UID}")).await;
    browser.forgive("net::ERR_").await;
    browser.close().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_read_now_is_not_said_to_be_absent() {
    let world = World::new("unavailable").await;
    let none = "postgres://millrace@127.0.0.1:1/none";
    let mut run = world.spawn(&["run"], &[("DATABASE_URL", none)]);
    run.listening().await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    find(&mut browser, UID).await;
    browser.said("Orders cannot be looked up just now").await;
    browser.picture("unavailable").await;
    let page = address_of(&run, UID).replace(&address(&run, ""), "");
    let answer = run.get(&page).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), "1");
    let section = "document.querySelector('#result section')";
    browser.value(&format!("{section}.id = 'former'")).await;
    browser.click("#result button").await;
    browser.until("!document.getElementById('former')").await;
    browser.said("Orders cannot be looked up just now").await;
    browser.forgive("503").await;
    browser.close().await;
}

#[tokio::test]
async fn the_page_works_without_its_script() {
    let world = World::new("noscript").await;
    let run = world.start(["run"]).await;
    place(&run, &model()).await;
    let mut browser = Browser::open().await;
    browser.run_scripts(false).await;
    browser.goto(&address(&run, "/orders")).await;
    find(&mut browser, UID).await;
    browser.reads(&format!("Order {UID}")).await;
    assert_eq!(browser.value("location.href").await, address_of(&run, UID));
    find(&mut browser, "nobody").await;
    browser.reads("There is no order of this uid").await;
    browser.value("document.body.id = 'former'").await;
    browser.click("#result button").await;
    browser.until("document.body?.id === ''").await;
    browser.reads("There is no order of this uid").await;
    browser.forgive("404").await;
    browser.close().await;
}

#[tokio::test]
async fn the_page_can_be_used_by_keyboard_and_by_ear() {
    let world = World::new("keyboard").await;
    let run = world.start(["run"]).await;
    place(&run, &model()).await;
    let mut browser = Browser::open().await;
    browser.goto(&address(&run, "/orders")).await;
    assert_eq!(browser.value("document.documentElement.lang").await, "en");
    assert_eq!(browser.value("uid.labels[0].innerText").await, "Order uid");
    let focused = "(e => e.id || e.innerText)(document.activeElement)";
    for expected in [
        "Skip to the content",
        "Millrace",
        "Orders",
        "Sale",
        "Log",
        "uid",
    ] {
        browser.press(Key::Tab).await;
        assert_eq!(browser.value(focused).await, expected);
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(browser.value(outline).await, "solid", "{expected}");
    }
    browser.type_over(UID).await;
    browser.press(Key::Tab).await;
    assert_eq!(browser.value(focused).await, "Find");
    browser.press(Key::Space).await;
    browser.said(&format!("Order {UID}")).await;
    assert_eq!(
        browser
            .value("said.role || said.getAttribute('role')")
            .await,
        "status"
    );
    browser.press(Key::Tab).await;
    assert_eq!(
        browser.value("document.activeElement.tagName").await,
        "SUMMARY"
    );
    browser.press(Key::Enter).await;
    browser
        .until("document.querySelector('details').open")
        .await;
    let once = "[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, at, all) => all.indexOf(id) !== at)";
    assert_eq!(browser.value(once).await, json!([]), "ids are there once");
    // On a narrow screen the table looks otherwise, and is one all the same.
    for width in [1_000, 360] {
        browser.resize(width, 800).await;
        let roles = browser.roles().await;
        for role in [
            "main",
            "navigation",
            "search",
            "table",
            "row",
            "columnheader",
            "cell",
        ] {
            assert!(roles.contains(role), "{width}: no {role} in {roles:?}");
        }
    }
    browser.close().await;
}

/// Looks for an order by the form.
async fn find(browser: &mut Browser, uid: &str) {
    browser
        .value("document.getElementById('uid').focus()")
        .await;
    browser.type_over(uid).await;
    browser.press(Key::Enter).await;
}

impl Browser {
    /// Waits until a screen reader has been told this.
    async fn said(&mut self, text: &str) {
        self.until(&format!("said.textContent === {}", json!(text)))
            .await;
        assert_eq!(self.value("result.ariaBusy").await, "false");
    }
}
