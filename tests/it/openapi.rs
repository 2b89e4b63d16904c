//! The document of the API, and the page that shows it.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::{
    sales_history::{Shop, name},
    world::{Process, World, http::Answer},
};

const METHODS: [&str; 8] = [
    "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

#[tokio::test]
async fn every_address_knows_the_methods_that_the_document_lists_and_no_others() {
    let world = World::new("methods").await;
    let run = world.start(["run"]).await;
    let shop = Shop::open(&world).await;
    let sale = name(shop.append(vec![shop.checkout(7, 3)]).await[0].sale);
    world.caught_up("sales").await;
    let task = run.get("/report?date=2026-01-01+00:00").await.json();
    let report = format!("/reports/{}.csv", task["task_id"].as_str().unwrap());
    let document = run.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    let document = document.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let mut listed: BTreeSet<_> = operations
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        if listed.contains("GET") {
            listed.insert("HEAD".to_owned());
        }
        let path = path
            .replace("{banner_id}", "7")
            .replace("{user_id}", "ann")
            .replace("{sale_id}", &sale)
            .replace("/reports/{file}", &report)
            .replace("{file}", "3.svg");
        must_know(&run, &path, &listed).await;
    }
    // The page is for people: the document does not list it.
    let get = ["GET", "HEAD"].map(str::to_owned).into();
    for path in ["/swagger", "/swagger/", "/swagger/swagger-ui.css"] {
        must_know(&run, path, &get).await;
    }
}

/// An unknown method is refused with a list of those that are known (RFC 9110, 15.5.6).
async fn must_know(run: &Process, path: &str, listed: &BTreeSet<String>) {
    for method in METHODS {
        let what = format!("{method} {path}");
        let method: Method = method.parse().unwrap();
        let request = run.request(method.clone(), path);
        if listed.contains(method.as_str()) {
            // Not to its end: a stream has none.
            let status = request.send().await.unwrap().status().as_u16();
            assert!(
                status < 500 && status != 404 && status != 405,
                "{what}: {status}"
            );
            continue;
        }
        let answer = run.send(request).await;
        if method == Method::HEAD {
            assert_eq!(answer.status, 405, "{what}");
        } else {
            answer.problem(405, "method_not_allowed");
        }
        let allowed = answer.header("allow").split(',');
        let allowed: BTreeSet<_> = allowed.map(|method| method.trim().to_owned()).collect();
        assert_eq!(allowed, *listed, "{what}");
    }
}

#[tokio::test]
async fn every_part_of_the_document_is_described() {
    let world = World::new("described").await;
    let run = world.start(["run"]).await;
    let document = run.get("/openapi.json").await.json();
    let mut ids = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{what}");
            assert!(operation["tags"][0].is_string(), "{what}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{what}: a second {id}");
            for part in operation["parameters"].as_array().into_iter().flatten() {
                assert!(part["description"].is_string(), "{what}: {part}");
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "{name}: {schema}");
    }
    let order = &document["components"]["schemas"]["Order"];
    assert_eq!(order["examples"][0], crate::samples::model());
}

#[tokio::test]
async fn swagger_shows_the_document_and_asks_no_other_host() {
    let world = World::new("swagger").await;
    let run = world.start(["run"]).await;
    let page = run.get("/swagger").await;
    assert_eq!(page.status, 200);
    must_be_confined(&page);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(!page.body.contains("<script>"), "{}", page.body);
    let files = links(&page.body);
    for needed in [
        "swagger-ui-bundle.js",
        "swagger-ui.css",
        "swagger-initializer.js",
    ] {
        assert!(files.contains(needed), "no {needed} in {files:?}");
    }
    for name in files {
        let (_, kind) = name.rsplit_once('.').unwrap();
        let kind = match kind {
            "js" => "text/javascript",
            "css" => "text/css",
            "png" => "image/png",
            other => panic!("{name}: a link to {other}"),
        };
        let request = run.request(Method::GET, &format!("/swagger/{name}"));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
        assert_eq!(response.headers()["content-type"], kind, "{name}");
        assert!(!response.bytes().await.unwrap().is_empty(), "{name}");
    }
    let settings = run.get("/swagger/swagger-initializer.js").await.body;
    assert!(settings.contains(r#""url": "/openapi.json""#), "{settings}");
    assert!(!settings.contains("://"), "{settings}");
    for unknown in [
        "/swagger/nothing.js",
        "/swagger/../Cargo.toml",
        "/swagger/a/b",
    ] {
        run.get(unknown).await.problem(404, "not_found");
    }
}

/// Only what comes from here is loaded, and no script stands in a page.
fn must_be_confined(page: &Answer) {
    let policy = page.header("content-security-policy");
    let rules: Vec<_> = policy.split(';').map(str::trim).collect();
    assert!(rules.contains(&"default-src 'none'"), "{policy}");
    assert!(rules.contains(&"script-src 'self'"), "{policy}");
    assert!(!policy.contains("//") && !policy.contains('*'), "{policy}");
}

/// What a page links to: files beside it, by their names.
fn links(page: &str) -> BTreeSet<&str> {
    let quoted = |attribute: &'static str| {
        let after = page.split(attribute).skip(1);
        after.map(|rest| rest.split('"').next().unwrap())
    };
    let links = quoted("href=\"").chain(quoted("src=\""));
    links
        .map(|link| {
            let name = link.strip_prefix("./").unwrap_or(link);
            assert!(!name.contains(['/', ':']), "a link to elsewhere: {link}");
            name
        })
        .collect()
}

/// Schemathesis (`tests/it/judges/schemathesis.rs`) sees no 503: the servers are well.
#[tokio::test]
async fn what_a_process_without_a_database_answers_is_documented() {
    let world = World::new("documented").await;
    let mut run = world.spawn(
        &["run"],
        &[("DATABASE_URL", "postgres://millrace@127.0.0.1:1/none")],
    );
    run.listening().await;
    let document = run.get("/openapi.json").await.json();
    let answer = run.get("/order?uid=a").await;
    let problem = answer.problem(503, "database_unavailable");
    let listed = reasons(&document["paths"]["/order"]["get"]["responses"]["503"]);
    assert!(
        listed.contains(&problem["reason"].as_str().unwrap()),
        "{listed:?}"
    );
    assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
    run.terminate().await;
}

/// The reasons that a response lists.
fn reasons(response: &Value) -> Vec<&str> {
    let schema = &response["content"]["application/problem+json"]["schema"];
    let reasons = schema["allOf"][1]["properties"]["reason"]["enum"].as_array();
    reasons
        .unwrap()
        .iter()
        .map(|r| r.as_str().unwrap())
        .collect()
}
