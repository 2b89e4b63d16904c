//! How pages and what they load are sent.

use reqwest::Method;

use super::place;
use crate::{
    samples::model,
    world::{World, http::Answer},
};

const PAGES: [(&str, u16); 7] = [
    ("/", 200),
    ("/orders", 200),
    ("/orders?uid=b563feb7b2b84b6test", 200),
    ("/orders?uid=", 400),
    ("/orders?uid=a&uid=b", 400),
    ("/orders?uid=nobody", 404),
    ("/sale", 200),
];
const ASSETS: [(&str, &str); 6] = [
    ("style.css", "text/css; charset=utf-8"),
    ("icon.svg", "image/svg+xml"),
    ("fetch.js", "text/javascript; charset=utf-8"),
    ("home.js", "text/javascript; charset=utf-8"),
    ("orders.js", "text/javascript; charset=utf-8"),
    ("sale.js", "text/javascript; charset=utf-8"),
];

#[tokio::test]
async fn a_page_may_do_nothing_but_what_comes_from_its_own_server() {
    let world = World::new("served").await;
    let run = world.start(["run"]).await;
    place(&run, &model()).await;
    for (path, status) in PAGES {
        let answer = run.get(path).await;
        assert_eq!(answer.status, status, "{answer:?}");
        must_be_a_page(&answer);
        let head = run.send(run.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.body.as_str()), (status, ""), "{path}");
        must_be_a_page(&head);
        assert_eq!(
            head.header("content-length"),
            answer.body.len().to_string(),
            "{path}"
        );
        let post = run.send(run.request(Method::POST, path)).await;
        post.problem(405, "method_not_allowed");
    }
}

fn must_be_a_page(answer: &Answer) {
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    assert_eq!(answer.header("content-security-policy"), policy);
}

#[tokio::test]
async fn a_browser_loads_an_asset_once_and_again_only_if_it_is_another() {
    let world = World::new("assets").await;
    let run = world.start(["run"]).await;
    for (name, kind) in ASSETS {
        let path = format!("/assets/{name}");
        let first = run.get(&path).await;
        assert_eq!(first.status, 200, "{first:?}");
        assert_eq!(first.header("content-type"), kind);
        assert_eq!(first.header("cache-control"), "no-cache");
        let tag = first.header("etag");
        let lists = [
            tag.to_owned(),
            format!("\"other\", W/{tag}"),
            "*".to_owned(),
        ];
        for list in lists {
            let request = run.request(Method::GET, &path);
            let again = run.send(request.header("if-none-match", &list)).await;
            assert_eq!((again.status, again.body.as_str()), (304, ""), "{list}");
            assert_eq!(again.header("etag"), tag);
        }
        let request = run.request(Method::GET, &path);
        let changed = run.send(request.header("if-none-match", "\"other\"")).await;
        assert_eq!((changed.status, changed.body), (200, first.body));
    }
    for path in ["/assets/", "/assets/none.js", "/assets/..%2fmod.rs"] {
        run.get(path).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn nobody_has_to_guess_what_an_answer_is() {
    let world = World::new("nosniff").await;
    let run = world.start(["run"]).await;
    for (method, path, status) in [
        (Method::GET, "/", 200),
        (Method::GET, "/assets/style.css", 200),
        (Method::GET, "/livez", 200),
        (Method::GET, "/metrics", 200),
        (Method::GET, "/v1/banners/counter/1", 204),
        (Method::GET, "/order", 400),
        (Method::GET, "/nothing", 404),
        (Method::DELETE, "/order", 405),
        // It does not say that it is JSON.
        (Method::POST, "/v1/orders", 415),
    ] {
        let answer = run.send(run.request(method, path)).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
}
