//! Swagger UI at `/swagger/`: it shows the document of the API. All its files are in the binary.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::Path,
    http::{HeaderName, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use tracing::error;
use utoipa_swagger_ui::Config;

use crate::error::ApiError;

/// Scripts and styles of our own alone. Swagger UI puts styles into elements and pictures into its style sheet.
const POLICY: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Without the validator, which would be asked at its own address.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::from("/openapi.json")
        .use_base_layout()
        .validator_url("none");
    Arc::new(config)
});

/// The routes of Swagger UI.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // The page names its files beside itself: only with the slash are they below it.
    let page = get(|| async { file(Path("index.html".to_owned())).await });
    Router::new()
        .route(
            "/swagger",
            get(|| async { Redirect::permanent("/swagger/") }),
        )
        .route("/swagger/", page)
        .route("/swagger/{file}", get(file))
}

async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let file = utoipa_swagger_ui::serve(&name, Arc::clone(&CONFIG)).map_err(|error| {
        error!(%error, name, "a file of Swagger UI could not be made");
        ApiError::internal()
    })?;
    let file = file.ok_or_else(|| ApiError::not_found("Swagger UI has no such file"))?;
    let content_type = [(header::CONTENT_TYPE, file.content_type)];
    Ok((content_type, [POLICY], file.bytes).into_response())
}
