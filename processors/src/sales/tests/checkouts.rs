//! Who gets an item, and until when.

use super::*;

#[test]
fn a_free_item_is_reserved_for_a_minute() {
    given([])
        .when(checkout("ann", 7).at(5))
        .then(reserved(code(0), MINUTE + 5))
        .then_at(5, 0);
}

#[test]
fn a_reserved_item_is_refused_to_everybody() {
    given([checkout("ann", 7)])
        .when(checkout("bob", 7))
        .then(refused(Refused::ItemReserved))
        .when(checkout("ann", 7))
        .then(refused(Refused::ItemReserved));
}

#[test]
fn a_reservation_ends_at_exactly_its_time() {
    given([checkout("ann", 7).at(5)])
        .when(checkout("bob", 7).at(MINUTE + 4))
        .then(refused(Refused::ItemReserved))
        .when(checkout("bob", 7).at(MINUTE + 5))
        .then(reserved(code(2), 2 * MINUTE + 5));
}

#[test]
fn a_reservation_ends_with_its_sale() {
    given([])
        .when(checkout("ann", 7).at(60 * MINUTE - 1))
        .then(reserved(code(0), 60 * MINUTE))
        .when(checkout("bob", 7).at(60 * MINUTE))
        .then(reserved(code_in(60 * MINUTE, 1), 61 * MINUTE));
}

#[test]
fn a_reservation_may_end_when_its_sale_does_by_itself() {
    given([])
        .when(checkout("ann", 7).at(59 * MINUTE))
        .then(reserved(code(0), 60 * MINUTE))
        .when(checkout("bob", 8).at(59 * MINUTE - 1))
        .then(reserved(code(1), 60 * MINUTE));
}

#[test]
fn a_sold_item_stays_sold() {
    given([checkout("ann", 7), purchase(code(0))])
        .when(checkout("bob", 7))
        .then(refused(Refused::ItemSold))
        .when(checkout("bob", 7).at(59 * MINUTE))
        .then(refused(Refused::ItemSold));
}

#[test]
fn an_item_that_the_sale_does_not_have_is_refused() {
    under(rules(3, 2, 60, 3_600))
        .when(checkout("ann", 3))
        .then(refused(Refused::NoSuchItem))
        .when(checkout("ann", 2))
        .then(reserved(code(1), MINUTE))
        .when(checkout("ann", i32::MAX))
        .then(refused(Refused::NoSuchItem))
        .when(checkout("ann", -1))
        .then(refused(Refused::NoSuchItem));
}

#[test]
fn the_limit_counts_what_is_reserved() {
    under(rules(9, 2, 60, 3_600))
        .given([checkout("ann", 0), checkout("ann", 1)])
        .when(checkout("ann", 2))
        .then(refused(Refused::UserLimit))
        .when(checkout("bob", 2))
        .then(reserved(code(3), MINUTE));
}

#[test]
fn the_limit_counts_what_is_bought() {
    under(rules(9, 2, 60, 3_600))
        .given([checkout("ann", 0), purchase(code(0))])
        .given([checkout("ann", 1), purchase(code(2))])
        .when(checkout("ann", 2).at(59 * MINUTE))
        .then(refused(Refused::UserLimit));
}

#[test]
fn the_limit_counts_what_is_bought_and_reserved_together() {
    under(rules(9, 2, 60, 3_600))
        .given([checkout("ann", 0), purchase(code(0)), checkout("ann", 1)])
        .when(checkout("ann", 2))
        .then(refused(Refused::UserLimit));
}

#[test]
fn a_lapsed_reservation_counts_no_longer() {
    under(rules(9, 1, 60, 3_600))
        .given([checkout("ann", 0)])
        .when(checkout("ann", 1).at(MINUTE - 1))
        .then(refused(Refused::UserLimit))
        .when(checkout("ann", 1).at(MINUTE))
        .then(reserved(code(2), 2 * MINUTE));
}

#[test]
fn one_lapsed_reservation_of_two_frees_one() {
    under(rules(9, 2, 60, 3_600))
        .given([checkout("ann", 0), checkout("ann", 1).at(SECOND)])
        .when(checkout("ann", 2).at(MINUTE))
        .then(reserved(code(2), 2 * MINUTE))
        .when(checkout("ann", 3))
        .then(refused(Refused::UserLimit));
}

#[test]
fn what_was_bought_does_not_lapse() {
    under(rules(9, 1, 60, 3_600))
        .given([checkout("ann", 0), purchase(code(0)).at(MINUTE - 1)])
        .when(checkout("ann", 1).at(2 * MINUTE))
        .then(refused(Refused::UserLimit))
        .when(checkout("bob", 0))
        .then(refused(Refused::ItemSold));
}

#[test]
fn everything_is_sold_out_when_everything_is_bought_not_before() {
    under(rules(2, 1, 60, 3_600))
        .given([checkout("ann", 0), checkout("bob", 1), purchase(code(0))])
        .when(checkout("cid", 1))
        .then(refused(Refused::ItemReserved))
        .given([purchase(code(1))])
        .when(checkout("cid", 1))
        .then(refused(Refused::SoldOut))
        .when(checkout("ann", 0))
        .then(refused(Refused::SoldOut))
        .when(checkout("cid", 2))
        .then(refused(Refused::NoSuchItem));
}

#[test]
fn a_refusal_counts_nothing() {
    under(rules(9, 1, 60, 3_600))
        .given([checkout("ann", 0), checkout("bob", 0), checkout("bob", 0)])
        .when(checkout("bob", 1))
        .then(reserved(code(3), MINUTE));
}

#[test]
fn the_next_sale_has_everything_again_for_everybody() {
    under(rules(1, 1, 60, 3_600))
        .given([checkout("ann", 0), purchase(code(0))])
        .when(checkout("ann", 0).at(60 * MINUTE))
        .then(reserved(code_in(60 * MINUTE, 2), 61 * MINUTE));
}
