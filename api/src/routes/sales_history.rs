//! Sales that run or ran: how they stand, what was bought, and what became of every request. Before this:
//! `projections/src/sales_history.rs`; pictures are in `api/src/routes/sale_images.rs`.

mod answers;
mod asked;

use std::sync::Arc;

use axum::{Json, extract::State};
use producers::clock;
use projections::{
    projection::Projection,
    sale_attempts, sales,
    sales_history::{self, AsOf, Attempt, Sold, Standing},
};
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    answers::{AttemptsAnswer, ItemsAnswer, SalesAnswer},
    asked::{ByItem, ByPlace, BySale, Page, Sale},
};
use crate::{
    app::Core,
    document::{NotFound, ReadProblems},
    error::ApiError,
    positions::MinPositions,
    sale::stands::SaleStands,
};

/// The routes of the history of sales.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_sales))
        .routes(routes!(get_sale))
        .routes(routes!(list_items))
        .routes(routes!(list_attempts))
}

/// Sales, newest first
///
/// Every sale in which something was requested.
#[utoipa::path(
    get, path = "/v1/sales", tag = "sales", params(Page<BySale>, MinPositions),
    responses((status = 200, description = "The sales.", body = SalesAnswer), ReadProblems)
)]
async fn list_sales(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    page: Page<BySale>,
) -> Result<Json<SalesAnswer>, ApiError> {
    let found: Vec<Standing> = caught_up(&core, &min, [&sales::PROJECTION], || {
        sales_history::sales(&core.pool, page.after, page.limit + 1, clock::now_ms())
    })
    .await?;
    Ok(Json(page.cut(found).into()))
}

/// How a sale stands
///
/// With what is reserved at this moment; of a sale that is over, nothing is.
#[utoipa::path(
    get, path = "/v1/sales/{sale_id}", tag = "sales", params(Sale, MinPositions),
    responses((status = 200, description = "The sale.", body = SaleStands), NotFound, ReadProblems)
)]
async fn get_sale(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    sale: Sale,
) -> Result<Json<SaleStands>, ApiError> {
    let id = sale.known()?;
    let found: Option<Standing> = caught_up(&core, &min, [&sales::PROJECTION], || {
        sales_history::sale(&core.pool, id, clock::now_ms())
    })
    .await?;
    Ok(Json(SaleStands::from(found.ok_or_else(Sale::unknown)?)))
}

/// What was bought in a sale
///
/// By the ids of the items.
#[utoipa::path(
    get, path = "/v1/sales/{sale_id}/items", tag = "sales",
    params(Sale, Page<ByItem>, MinPositions),
    responses((status = 200, description = "The items.", body = ItemsAnswer), NotFound, ReadProblems)
)]
async fn list_items(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    sale: Sale,
    page: Page<ByItem>,
) -> Result<Json<ItemsAnswer>, ApiError> {
    let id = sale.known()?;
    let after = page.after.unwrap_or(-1);
    let found: Option<Vec<Sold>> = caught_up(&core, &min, [&sales::PROJECTION], || {
        sales_history::sold(&core.pool, id, after, page.limit + 1)
    })
    .await?;
    let found = found.ok_or_else(Sale::unknown)?;
    Ok(Json(ItemsAnswer::new(id, page.cut(found))))
}

/// What became of every request of a sale
///
/// By time, also those that were refused. Of a purchase that was refused, user and item are not known. While the sale
/// runs, an attempt may come to be known late, and stand before others that were known earlier.
#[utoipa::path(
    get, path = "/v1/sales/{sale_id}/attempts", tag = "sales",
    params(Sale, Page<ByPlace>, MinPositions),
    responses((status = 200, description = "The attempts.", body = AttemptsAnswer), NotFound, ReadProblems)
)]
async fn list_attempts(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    sale: Sale,
    page: Page<ByPlace>,
) -> Result<Json<AttemptsAnswer>, ApiError> {
    let id = sale.known()?;
    let both: [&'static Projection; 2] = [&sales::PROJECTION, &sale_attempts::PROJECTION];
    let found: Option<Vec<Attempt>> = caught_up(&core, &min, both, || {
        sales_history::attempts(&core.pool, id, page.after, page.limit + 1)
    })
    .await?;
    let found = found.ok_or_else(Sale::unknown)?;
    let topics = both.map(|projection| core.app.topic(projection.of));
    Ok(Json(AttemptsAnswer::new(page.cut(found), &topics)))
}

/// An answer of these projections, once they have come to the places that it has to reflect.
async fn caught_up<T, R: Future<Output = sqlx::Result<AsOf<T>>>, const N: usize>(
    core: &Core,
    min: &MinPositions,
    projections: [&'static Projection; N],
    read: impl Fn() -> R,
) -> Result<T, ApiError> {
    let app = &core.app;
    let deadline = Instant::now() + app.limits.wait;
    let wanted = projections.map(|projection| (projection, min.of(app, projection.of)));
    loop {
        let AsOf { found, reached } = read().await.map_err(|error| ApiError::from_sqlx(&error))?;
        let is_in = |projection: &Projection, place: &(i32, i64)| {
            let is_its = |(name, partition, _): &&(String, i32, i64)| {
                name == projection.name && *partition == place.0
            };
            let next = reached.iter().find(is_its).map(|(_, _, next)| *next);
            next.is_some_and(|next| next > place.1)
        };
        let is_missing = |(projection, places): &&(&'static Projection, Vec<(i32, i64)>)| {
            !places.iter().all(|place| is_in(projection, place))
        };
        let Some((projection, places)) = wanted.iter().find(is_missing) else {
            return Ok(found);
        };
        let watermarks = &app.services.watermarks;
        if watermarks.of(projection).has_reached(places) {
            // The rows say less than was once announced: Postgres has gone back. What it says now has to be learned.
            watermarks.of(projection).forget();
        }
        app.within_log(projection.of, places, deadline).await?;
        let has_come = watermarks.reached(projection, places, deadline).await;
        if !has_come || Instant::now() >= deadline {
            return Err(ApiError::not_caught_up());
        }
    }
}
