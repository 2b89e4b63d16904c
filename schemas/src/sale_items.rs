//! What the items of a sale are called: functions of sale and item, so that nobody has to store or to send them. Before
//! this: [`crate::sales`].

use crate::sales::{ITEMS_MAX, SaleId};

const QUALITIES: [&str; 20] = [
    "Quiet", "Bright", "Gentle", "Bold", "Amber", "Crimson", "Ivory", "Cobalt", "Golden", "Silver",
    "Rustic", "Modern", "Nordic", "Coastal", "Alpine", "Urban", "Classic", "Velvet", "Misty",
    "Sunny",
];
const MATERIALS: [&str; 20] = [
    "Oak", "Linen", "Copper", "Cotton", "Glass", "Leather", "Bamboo", "Marble", "Walnut", "Steel",
    "Ceramic", "Wool", "Birch", "Brass", "Silk", "Cork", "Granite", "Rattan", "Canvas", "Maple",
];
const THINGS: [&str; 25] = [
    "Lamp", "Kettle", "Chair", "Vase", "Clock", "Blanket", "Mug", "Tray", "Stool", "Mirror",
    "Basket", "Teapot", "Shelf", "Bowl", "Cushion", "Notebook", "Backpack", "Candle", "Planter",
    "Speaker", "Rug", "Bench", "Carafe", "Wallet", "Easel",
];

/// The name of an item: no other of its sale has it, and in the next sale it is another.
pub fn item_name(sale: SaleId, item_id: i32) -> String {
    let turn = shuffled(sale, item_id);
    let (thing, rest) = (turn % THINGS.len(), turn / THINGS.len());
    let (material, quality) = (rest % MATERIALS.len(), rest / MATERIALS.len());
    let quality = QUALITIES[quality % QUALITIES.len()];
    format!("{quality} {} {}", MATERIALS[material], THINGS[thing])
}

/// The path of the picture of an item.
pub fn image_path(sale: SaleId, item_id: i32) -> String {
    format!("/sale/images/{sale}/{item_id}.svg")
}

/// A number below [`ITEMS_MAX`] for each of as many items, none twice.
fn shuffled(sale: SaleId, item_id: i32) -> usize {
    // Shares no factor with the number of items, so that a step of it meets each once.
    const STEP: i64 = 6_173;
    let seconds = sale.starts_at_ms() / 1_000;
    let start = seconds.wrapping_mul(2_654_435_761).rem_euclid(1 << 32) >> 8;
    let turn = (i64::from(item_id) * STEP + start).rem_euclid(i64::from(ITEMS_MAX));
    usize::try_from(turn).expect("it is not negative")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_items_of_a_sale_have_one_name() {
        for hour in [0, 7] {
            let sale = SaleId::starting_at_ms(hour * 3_600_000);
            let names: HashSet<_> = (0..ITEMS_MAX).map(|item| item_name(sale, item)).collect();
            assert_eq!(names.len(), 10_000);
        }
    }

    #[test]
    fn a_name_depends_on_sale_and_item_alone() {
        let sale = "20261121T0900Z".parse().unwrap();
        assert_eq!(item_name(sale, 7), item_name(sale, 7));
        assert_ne!(
            item_name(sale, 7),
            item_name("20261121T1000Z".parse().unwrap(), 7)
        );
        assert_eq!(image_path(sale, 7), "/sale/images/20261121T0900Z/7.svg");
    }
}
