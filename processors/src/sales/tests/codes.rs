//! Codes that buy nothing, and what is said of them.

use super::*;

const FORGED: &str = "00000000-0000-4000-8000-000000000000";

/// Sales of a minute.
fn short() -> SaleRulesSet {
    rules(9, 9, 10, 60)
}

#[test]
fn a_code_that_nobody_was_given_is_unknown() {
    given([checkout("ann", 7)])
        .when(purchase(code(1)))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn a_code_with_another_secret_is_unknown() {
    let guessed = Code::new(SaleId::starting_at_ms(NINE), 0, nonce(0) + 1);
    given([checkout("ann", 7)])
        .when(purchase(guessed))
        .then(refused(Refused::CodeUnknown))
        .when(purchase(code(0)))
        .then(bought(7, "ann"));
}

#[test]
fn a_uuid_that_is_no_code_is_unknown() {
    given([checkout("ann", 7)])
        .when(purchase(FORGED.parse().unwrap()))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn the_code_of_a_refused_checkout_is_unknown() {
    given([checkout("ann", 7), checkout("bob", 7)])
        .when(purchase(code(1)))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn a_code_of_the_future_is_unknown() {
    given([checkout("ann", 7)])
        .when(purchase(code_in(60 * MINUTE, 0)))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn codes_of_the_previous_sale_are_remembered() {
    let previous = [checkout("ann", 1), purchase(code(0)), checkout("ann", 2)];
    given(previous)
        .when(purchase(code(0)).at(60 * MINUTE))
        .then(refused(Refused::CodeUsed))
        .when(purchase(code(2)))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code(9)))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn codes_of_the_previous_sale_are_remembered_inside_an_hour() {
    under(short())
        .given([checkout("ann", 1), purchase(code(0)), checkout("ann", 2)])
        .when(purchase(code(0)).at(MINUTE))
        .then(refused(Refused::CodeUsed))
        .when(purchase(code(2)).at(2 * MINUTE - 1))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code(9)))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn a_code_that_is_older_than_the_previous_sale_is_expired_whatever_it_was() {
    under(short())
        .given([checkout("ann", 1), purchase(code(0)), checkout("ann", 2)])
        .given([checkout("bob", 1).at(MINUTE)])
        .when(purchase(code(0)).at(2 * MINUTE))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code(2)))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code(9)))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code_in(MINUTE, 3)))
        .then(refused(Refused::CodeExpired))
        .when(purchase(code_in(MINUTE, 9)))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn the_previous_sale_is_the_interval_directly_before_used_or_not() {
    under(short())
        .given([checkout("ann", 1), purchase(code(0))])
        .when(purchase(code(0)).at(2 * MINUTE))
        .then(refused(Refused::CodeExpired));
}

#[test]
fn a_code_of_a_previous_interval_that_nobody_used_is_expired() {
    under(short())
        .given([checkout("ann", 1)])
        .when(purchase(code_in(MINUTE, 0)).at(2 * MINUTE))
        .then(refused(Refused::CodeExpired));
}

#[test]
fn a_code_between_the_starts_of_two_sales_is_unknown() {
    under(short())
        .given([checkout("ann", 1)])
        .when(purchase(code_in(30 * SECOND, 0)).at(MINUTE))
        .then(refused(Refused::CodeUnknown));
}

#[test]
fn the_sale_before_the_hour_is_the_previous_one_of_the_first_in_it() {
    under(short())
        .given([checkout("ann", 1).at(59 * MINUTE)])
        .given([purchase(code_in(59 * MINUTE, 0))])
        .set(rules(9, 9, 10, 1_800))
        .when(purchase(code_in(59 * MINUTE, 0)).at(60 * MINUTE))
        .then(refused(Refused::CodeUsed));
}
