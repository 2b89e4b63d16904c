//! Pictures of the items of the sales: drawn from sale and item alone, so they are the same for ever. Before this:
//! `schemas/src/sale_items.rs`.

use std::{f64::consts::TAU, fmt::Write as _, sync::Arc};

use axum::{
    extract::Path,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use schemas::{
    sale_items::item_name,
    sales::{ITEMS_MAX, SaleId},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::Core, document::NotFound, error::ApiError};

/// Sides of the picture.
const SIZE: f64 = 320.0;
/// A picture needs nothing, and as a page of its own it may do nothing.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (
        header::CONTENT_TYPE,
        HeaderValue::from_static("image/svg+xml"),
    ),
    (
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    ),
];

/// The route of the pictures.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(image))
}

/// The picture of an item
///
/// Of every item that a sale can have, whether or not there was or will be one at that time. It never changes.
#[utoipa::path(
    get, path = "/sale/images/{sale_id}/{file}", tag = "sales",
    params(
        ("sale_id" = String, Path, description = "The sale.", pattern = "^[0-9]{8}T[0-9]{4}([0-9]{2})?Z$",
            example = "20261121T0900Z"),
        ("file" = String, Path, description = "The item, from 0 to 9999, and `.svg`.",
            pattern = r"^(0|[1-9][0-9]{0,3})\.svg$", example = "7.svg"),
    ),
    responses(
        (
            status = 200, description = "The picture.", body = String, content_type = "image/svg+xml",
            headers(
                ("Cache-Control", description = "It may be kept for ever."),
                ("Content-Security-Policy", description = "It loads nothing."),
            ),
        ),
        NotFound,
    )
)]
async fn image(
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    let found = path.ok().and_then(|Path((sale, file))| which(&sale, &file));
    let Some((sale, item_id)) = found else {
        return Err(ApiError::not_found("there is no such picture"));
    };
    Ok((HEADERS, draw(sale, item_id)).into_response())
}

/// The sale and the item of an address.
fn which(sale: &str, file: &str) -> Option<(SaleId, i32)> {
    let number = file.strip_suffix(".svg")?;
    let item_id: i32 = number.parse().ok()?;
    // One address a picture.
    let is_item = (0..ITEMS_MAX).contains(&item_id) && item_id.to_string() == number;
    Some((sale.parse().ok()?, item_id)).filter(|_| is_item)
}

/// Petals around a middle, in colours of its own, and the name below.
fn draw(sale: SaleId, item_id: i32) -> String {
    let name = item_name(sale, item_id);
    let mut dice = Dice::of(sale, item_id);
    let hue = dice.below(360);
    let petals = 5 + dice.below(8);
    let radius = 26 + dice.below(24);
    let reach = f64::from(52 + dice.below(24));
    let start = TAU * f64::from(dice.below(256)) / 256.0;
    let (middle_x, middle_y) = (SIZE / 2.0, SIZE / 2.0 - 20.0);
    let (light, other) = ((hue + 40) % 360, (hue + 180) % 360);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" role="img"><title>{name}</title><rect width="{SIZE}" height="{SIZE}" fill="hsl({hue},45%,92%)"/>"#
    );
    for petal in 0..petals {
        let angle = start + TAU * f64::from(petal) / f64::from(petals);
        let (x, y) = (
            middle_x + reach * angle.cos(),
            middle_y + reach * angle.sin(),
        );
        // Writing to a text does not fail.
        let _ = write!(
            svg,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="hsl({light},60%,60%)" fill-opacity="0.55"/>"#
        );
    }
    let _ = write!(
        svg,
        r#"<circle cx="{middle_x}" cy="{middle_y}" r="34" fill="hsl({other},55%,45%)"/><text x="{middle_x}" y="292" text-anchor="middle" font-family="sans-serif" font-size="20" fill="hsl({hue},40%,25%)">{name}</text></svg>"#
    );
    svg
}

/// Numbers that are the same in every build (splitmix64), since a picture never changes.
struct Dice(u64);

impl Dice {
    fn of(sale: SaleId, item_id: i32) -> Self {
        let start = sale.starts_at_ms().cast_unsigned();
        Self(start << 14 ^ u64::from(item_id.cast_unsigned()))
    }

    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        u32::try_from(mixed % u64::from(end)).expect("it is below 32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_one_address() {
        assert!(which("20261121T0900Z", "0.svg").is_some());
        assert!(which("20261121T0900Z", "9999.svg").is_some());
        for (sale, file) in [
            ("20261121T0900Z", "10000.svg"),
            ("20261121T0900Z", "-1.svg"),
            ("20261121T0900Z", "+1.svg"),
            ("20261121T0900Z", "01.svg"),
            ("20261121T0900Z", "1"),
            ("20260231T0900Z", "1.svg"),
        ] {
            assert_eq!(which(sale, file), None, "{sale}/{file}");
        }
    }

    #[test]
    fn two_items_look_different_and_one_always_the_same() {
        let sale = "20261121T0900Z".parse().unwrap();
        assert_eq!(draw(sale, 7), draw(sale, 7));
        assert_ne!(draw(sale, 7), draw(sale, 8));
    }
}
