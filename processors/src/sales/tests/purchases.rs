//! What a code is good for.

use super::*;

#[test]
fn whoever_has_the_code_buys_for_whom_it_was_reserved() {
    given([checkout("ann", 7)])
        .when(purchase(code(0)).at(30 * SECOND))
        .then(bought(7, "ann"))
        .then_at(30 * SECOND, 0);
}

#[test]
fn a_reservation_is_bought_in_its_last_millisecond() {
    given([checkout("ann", 7).at(5)])
        .when(purchase(code(0)).at(MINUTE + 4))
        .then(bought(7, "ann"));
}

#[test]
fn a_reservation_is_bought_no_more_at_its_end() {
    given([checkout("ann", 7).at(5)])
        .when(purchase(code(0)).at(MINUTE + 5))
        .then(refused(Refused::CodeExpired))
        .when(checkout("bob", 7))
        .then(reserved(code(2), 2 * MINUTE + 5));
}

#[test]
fn a_lapsed_code_stays_lapsed_whoever_has_the_item_now() {
    given([checkout("ann", 7), checkout("bob", 7).at(MINUTE)])
        .when(purchase(code(0)))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code(1)))
        .then(bought(7, "bob"))
        .when(purchase(code(0)))
        .then(refused(Refused::CodeExpired));
}

#[test]
fn a_code_buys_once() {
    given([checkout("ann", 7), purchase(code(0))])
        .when(purchase(code(0)))
        .then(refused(Refused::CodeUsed))
        .when(purchase(code(0)).at(30 * MINUTE))
        .then(refused(Refused::CodeUsed));
}

#[test]
fn a_purchase_at_the_end_of_the_sale_is_too_late() {
    given([checkout("ann", 7).at(60 * MINUTE - 1)])
        .when(purchase(code(0)).at(60 * MINUTE))
        .then(refused(Refused::CodeExpired))
        .then_at(60 * MINUTE, 60 * MINUTE)
        .when(checkout("bob", 7))
        .then(reserved(code_in(60 * MINUTE, 2), 61 * MINUTE));
}

#[test]
fn a_purchase_opens_the_next_sale_as_a_checkout_does() {
    under(rules(9, 9, 60, 3_600))
        .given([checkout("ann", 7)])
        .set(rules(5, 5, 60, 600))
        .when(purchase(code(0)).at(60 * MINUTE))
        .then(refused(Refused::CodeExpired))
        .when(checkout("ann", 6))
        .then(refused(Refused::NoSuchItem));
}
