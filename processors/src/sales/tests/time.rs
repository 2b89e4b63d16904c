//! What moves the time of the log, and when a new sale begins.

use super::*;

#[test]
fn half_a_minute_of_difference_counts() {
    given([])
        .when(checkout("ann", 7).drifting(30_000))
        .then(reserved(code(0), MINUTE))
        .when(checkout("ann", 8).drifting(-30_000))
        .then(reserved(code(1), MINUTE));
}

#[test]
fn more_than_half_a_minute_of_difference_is_void() {
    given([])
        .when(checkout("ann", 7).drifting(30_001))
        .then_void()
        .when(checkout("ann", 7).drifting(-30_001))
        .then_void()
        .when(checkout("bob", 7))
        .then(reserved(code(2), MINUTE));
}

#[test]
fn times_at_the_ends_of_the_numbers_are_void() {
    given([])
        .when(checkout("ann", 7).drifting(i64::MIN))
        .then_void()
        .when(checkout("ann", 7).drifting(i64::MAX - NINE))
        .then_void();
}

#[test]
fn a_void_purchase_buys_nothing_and_keeps_no_key() {
    given([checkout("ann", 7)])
        .when(purchase(code(0)).key("k").drifting(30_001))
        .then_void()
        .when(purchase(code(0)).key("k"))
        .then(bought(7, "ann"));
}

#[test]
fn a_void_request_moves_no_time() {
    let story = given([checkout("ann", 7)])
        .when(checkout("bob", 8).at(90 * MINUTE).drifting(30_001))
        .then_void();
    assert_eq!(story.sales.last_ms(), Some(NINE));
    story
        .when(checkout("bob", 7).at(MINUTE - 1))
        .then(refused(Refused::ItemReserved))
        .then_at(MINUTE - 1, 0);
}

#[test]
fn a_barrier_moves_no_time() {
    let story = given([checkout("ann", 7)]).when(barrier().at(90 * MINUTE));
    assert_eq!(story.passed, Some(Ok(Passed::Barrier)));
    assert_eq!(story.sales.last_ms(), Some(NINE));
    story
        .when(checkout("bob", 7).at(MINUTE - 1))
        .then(refused(Refused::ItemReserved))
        .then_at(MINUTE - 1, 0);
}

#[test]
fn barriers_and_void_requests_leave_the_state_as_it_is() {
    let story = given([checkout("ann", 7)]);
    let before = story.sales.digest();
    let story = story
        .when(barrier().at(MINUTE))
        .when(checkout("bob", 7).at(MINUTE).drifting(30_001));
    assert_eq!(story.sales.digest(), before);
}

#[test]
fn the_time_of_the_log_does_not_go_back() {
    given([checkout("ann", 7).at(10 * MINUTE)])
        .when(checkout("bob", 8).at(MINUTE))
        .then(reserved(code(1), 11 * MINUTE))
        .then_at(10 * MINUTE, 0)
        .when(checkout("bob", 7).at(MINUTE))
        .then(refused(Refused::ItemReserved));
}

#[test]
fn the_clock_may_go_back_behind_the_start_of_the_sale() {
    given([checkout("ann", 7), checkout("bob", 8).at(60 * MINUTE)])
        .when(checkout("cid", 8).at(0))
        .then(refused(Refused::ItemReserved))
        .then_at(60 * MINUTE, 60 * MINUTE);
}

#[test]
fn a_request_is_void_by_the_stamp_of_its_record_not_by_the_time_of_the_log() {
    given([checkout("ann", 7).at(10 * MINUTE)])
        .when(checkout("bob", 8).at(MINUTE).drifting(9 * MINUTE))
        .then_void();
}

#[test]
fn sales_follow_each_other_inside_an_hour() {
    under(rules(1, 1, 10, 600))
        .given([checkout("ann", 0).at(5)])
        .given([purchase(code(0))])
        .when(checkout("ann", 0).at(10 * MINUTE - 1))
        .then(refused(Refused::SoldOut))
        .then_at(10 * MINUTE - 1, 0)
        .when(checkout("ann", 0).at(10 * MINUTE))
        .then(reserved(code_in(10 * MINUTE, 3), 10 * MINUTE + 10 * SECOND))
        .then_at(10 * MINUTE, 10 * MINUTE);
}

#[test]
fn a_sale_begins_at_the_hour_whoever_comes_first() {
    given([checkout("ann", 7)])
        .when(checkout("bob", 7).at(60 * MINUTE + 5))
        .then(reserved(code_in(60 * MINUTE, 1), 61 * MINUTE + 5))
        .then_at(60 * MINUTE + 5, 60 * MINUTE);
}

#[test]
fn a_sale_begins_where_its_interval_does_after_a_long_silence() {
    under(rules(9, 9, 10, 600))
        .given([checkout("ann", 7)])
        .when(checkout("bob", 7).at(25 * MINUTE))
        .then_at(25 * MINUTE, 20 * MINUTE)
        .when(checkout("bob", 7).at(24 * 60 * MINUTE + 1))
        .then_at(24 * 60 * MINUTE + 1, 24 * 60 * MINUTE);
}
