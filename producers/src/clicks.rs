//! Clicks for the command line. Before this: `schemas/src/clicks.rs`; next: `processors/src/clicks.rs`.

use schemas::clicks::BannerClicked;

/// `count` clicks on a banner, each stamped by `now_ms` as it is made.
pub fn clicks(
    banner_id: i64,
    count: usize,
    now_ms: impl Fn() -> i64,
) -> impl ExactSizeIterator<Item = BannerClicked> {
    (0..count).map(move |_| BannerClicked {
        banner_id,
        received_at: now_ms(),
    })
}
