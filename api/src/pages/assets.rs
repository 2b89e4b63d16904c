//! What pages load beside their text: styles, scripts and the icon.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{app::Core, error::ApiError};

/// One file: its name, its type, its text.
type Asset = (&'static str, &'static str, &'static str);

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const ASSETS: &[Asset] = &[
    ("style.css", CSS, include_str!("style.css")),
    ("icon.svg", SVG, include_str!("icon.svg")),
    ("fetch.js", JAVASCRIPT, include_str!("fetch.js")),
    ("home.js", JAVASCRIPT, include_str!("home.js")),
    ("log.js", JAVASCRIPT, include_str!("log.js")),
    ("orders.js", JAVASCRIPT, include_str!("orders.js")),
    ("sale.js", JAVASCRIPT, include_str!("sale.js")),
];

/// The route of the assets.
pub fn router() -> Router<Arc<Core>> {
    Router::new().route("/assets/{name}", get(serve))
}

async fn serve(Path(name): Path<String>, asked: HeaderMap) -> Response {
    let Some((_, kind, text)) = ASSETS.iter().find(|(known, ..)| *known == name) else {
        return ApiError::not_found("there is no such asset").into_response();
    };
    let tag = tag(text);
    // A browser keeps its copy, and asks each time: the next build may have another under the same name.
    let headers = [
        (header::ETAG, tag.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    if has(&asked, &tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, *kind)], *text).into_response()
}

/// A tag of this content. Builds of another compiler may choose another: then it is sent once more.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// Whether the one who asks has it already (RFC 9110, 13.1.2).
fn has(asked: &HeaderMap, tag: &str) -> bool {
    let lists = asked.get_all(header::IF_NONE_MATCH);
    let mut tags = lists
        .iter()
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|known| known.trim().trim_start_matches("W/"));
    tags.any(|known| known == "*" || known == tag)
}
