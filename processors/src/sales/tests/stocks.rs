//! How a sale stands at a time, which changes nothing.

use super::*;

#[track_caller]
fn must_have(stock: Stock, starts_at_ms: i64, sold: u32, reserved: u32) {
    let found = (stock.sale.starts_at_ms() - NINE, stock.sold, stock.reserved);
    assert_eq!(found, (starts_at_ms, sold, reserved));
}

#[test]
fn before_the_first_request_the_newest_rules_are_shown() {
    let stock = under(rules(9, 2, 10, 600)).stock(25 * MINUTE);
    must_have(stock, 20 * MINUTE, 0, 0);
    assert_eq!(stock.ends_at_ms, NINE + 30 * MINUTE);
    assert_eq!(stock.rules, rules(9, 2, 10, 600));
}

#[test]
fn what_is_bought_and_reserved_is_counted() {
    let story = given([checkout("ann", 7), checkout("bob", 8), purchase(code(0))]);
    must_have(story.stock(0), 0, 1, 1);
}

#[test]
fn lapsed_reservations_are_not_counted() {
    let story = given([checkout("ann", 7), checkout("bob", 8).at(5)]);
    must_have(story.stock(MINUTE - 1), 0, 0, 2);
    must_have(story.stock(MINUTE), 0, 0, 1);
    must_have(story.stock(MINUTE + 5), 0, 0, 0);
}

#[test]
fn what_was_bought_does_not_lapse() {
    let story = given([checkout("ann", 7), checkout("bob", 8), purchase(code(0))]);
    must_have(story.stock(MINUTE), 0, 1, 0);
}

#[test]
fn an_earlier_time_is_that_of_the_log() {
    let story = given([checkout("ann", 7), checkout("bob", 8).at(MINUTE)]);
    must_have(story.stock(-60 * MINUTE), 0, 0, 1);
}

#[test]
fn a_new_interval_is_shown_with_the_rules_of_its_hour() {
    let story = under(rules(9, 2, 10, 600))
        .given([checkout("ann", 7)])
        .set(rules(5, 1, 20, 300));
    must_have(story.stock(10 * MINUTE - 1), 0, 0, 0);
    let stock = story.stock(10 * MINUTE);
    must_have(stock, 10 * MINUTE, 0, 0);
    assert_eq!(stock.rules, rules(9, 2, 10, 600));
}

#[test]
fn a_new_hour_is_shown_with_the_newest_rules() {
    let story = under(rules(9, 2, 10, 600))
        .given([checkout("ann", 7)])
        .set(rules(5, 1, 20, 300));
    let stock = story.stock(66 * MINUTE);
    must_have(stock, 65 * MINUTE, 0, 0);
    assert_eq!(stock.rules, rules(5, 1, 20, 300));
}

#[test]
fn looking_changes_nothing() {
    let story = given([checkout("ann", 7), purchase(code(0)), checkout("bob", 8)]);
    let before = story.sales.digest();
    for at_ms in [0, MINUTE, 60 * MINUTE, 600 * MINUTE] {
        story.stock(at_ms);
    }
    assert_eq!(story.sales.digest(), before);
    must_have(story.stock(0), 0, 1, 1);
}

#[test]
fn what_a_user_has_bought_is_counted_in_the_running_sale() {
    let story = given([checkout("ann", 7), checkout("ann", 8), purchase(code(0))]);
    assert_eq!(story.sales.bought_by(id("ann")), 1);
    assert_eq!(story.sales.bought_by(id("bob")), 0);
    let story = story.given([checkout("bob", 8).at(60 * MINUTE)]);
    assert_eq!(story.sales.bought_by(id("ann")), 0);
}
