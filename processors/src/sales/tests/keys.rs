//! A key makes a repetition harmless: it gets the first verdict.

use super::*;

#[test]
fn a_repeated_checkout_gets_the_first_code() {
    given([checkout("ann", 7).key("k")])
        .when(checkout("ann", 7).key("k").at(SECOND))
        .then_again(reserved(code(0), MINUTE))
        .when(checkout("ann", 7).key("k").at(59 * MINUTE))
        .then_again(reserved(code(0), MINUTE));
}

#[test]
fn a_repeated_checkout_gets_the_first_refusal() {
    given([checkout("ann", 7), checkout("bob", 7).key("k")])
        .when(checkout("bob", 7).key("k").at(2 * MINUTE))
        .then_again(refused(Refused::ItemReserved))
        .when(checkout("bob", 7))
        .then(reserved(code(3), 3 * MINUTE));
}

#[test]
fn a_repetition_reserves_nothing() {
    under(rules(9, 1, 60, 3_600))
        .given([checkout("ann", 7).key("k")])
        .given([checkout("ann", 7).key("k").at(2 * MINUTE)])
        .when(checkout("bob", 7))
        .then(reserved(code(2), 3 * MINUTE))
        .when(checkout("ann", 8))
        .then(reserved(code(3), 3 * MINUTE));
}

#[test]
fn a_key_with_another_item_is_refused_and_forgets_nothing() {
    given([checkout("ann", 7).key("k")])
        .when(checkout("ann", 8).key("k"))
        .then(refused(Refused::KeyReused))
        .when(checkout("ann", 8).key("k"))
        .then(refused(Refused::KeyReused))
        .when(checkout("ann", 7).key("k"))
        .then_again(reserved(code(0), MINUTE));
}

#[test]
fn the_key_of_a_checkout_is_the_users() {
    given([checkout("ann", 7).key("k")])
        .when(checkout("bob", 8).key("k"))
        .then(reserved(code(1), MINUTE));
}

#[test]
fn a_repeated_checkout_of_an_item_that_there_is_not_gets_the_first_refusal() {
    under(rules(3, 2, 60, 3_600))
        .given([checkout("ann", 3).key("k")])
        .when(checkout("ann", 3).key("k"))
        .then_again(refused(Refused::NoSuchItem));
}

#[test]
fn the_key_of_a_checkout_is_forgotten_with_its_sale() {
    given([checkout("ann", 7).key("k")])
        .when(checkout("ann", 8).key("k").at(60 * MINUTE))
        .then(reserved(code_in(60 * MINUTE, 1), 61 * MINUTE));
}

#[test]
fn a_repeated_purchase_gets_the_first_verdict() {
    given([checkout("ann", 7), purchase(code(0)).key("k")])
        .when(purchase(code(0)).key("k").at(2 * MINUTE))
        .then_again(bought(7, "ann"))
        .when(purchase(code(0)))
        .then(refused(Refused::CodeUsed));
}

#[test]
fn a_repeated_purchase_gets_the_first_refusal() {
    given([checkout("ann", 7), purchase(code(0))])
        .given([purchase(code(0)).key("k")])
        .when(purchase(code(0)).key("k"))
        .then_again(refused(Refused::CodeUsed));
}

#[test]
fn another_key_is_another_purchase() {
    given([checkout("ann", 7), purchase(code(0)).key("k")])
        .when(purchase(code(0)).key("other"))
        .then(refused(Refused::CodeUsed));
}

#[test]
fn the_key_of_a_purchase_is_the_codes() {
    given([checkout("ann", 7), checkout("ann", 8)])
        .given([purchase(code(0)).key("k")])
        .when(purchase(code(1)).key("k"))
        .then(bought(8, "ann"));
}

#[test]
fn a_checkout_and_a_purchase_may_have_the_same_key() {
    given([checkout("ann", 7).key("k")])
        .when(purchase(code(0)).key("k"))
        .then(bought(7, "ann"));
}

#[test]
fn a_repeated_purchase_is_known_in_the_sale_after_that_of_its_code() {
    given([checkout("ann", 7), purchase(code(0)).key("k")])
        .when(purchase(code(0)).key("k").at(60 * MINUTE))
        .then_again(bought(7, "ann"))
        .when(purchase(code(0)).key("k").at(120 * MINUTE - 1))
        .then_again(bought(7, "ann"))
        .when(purchase(code(0)).key("k").at(120 * MINUTE))
        .then(refused(Refused::CodeExpired));
}

#[test]
fn a_purchase_that_came_in_the_sale_after_is_known_as_long() {
    given([checkout("ann", 7), purchase(code(0))])
        .given([purchase(code(0)).key("k").at(60 * MINUTE)])
        .when(purchase(code(0)).key("k"))
        .then_again(refused(Refused::CodeUsed))
        .when(purchase(code(0)).key("k").at(120 * MINUTE))
        .then(refused(Refused::CodeExpired));
}

#[test]
fn the_key_of_a_purchase_is_forgotten_when_a_sale_was_skipped() {
    given([checkout("ann", 7), purchase(code(0)).key("k")])
        .when(purchase(code(0)).key("k").at(120 * MINUTE))
        .then(refused(Refused::CodeExpired));
}

#[test]
fn keys_are_counted_until_they_are_forgotten() {
    let (mut sales, book) = (Sales::default(), RuleBook::default());
    let mut counts = Vec::new();
    let hour = |hour: i64| NINE + hour * HOUR_MS;
    let requests = [
        (checkout("ann", 1).key("k"), hour(0)),
        (purchase(code(0)).key("k"), hour(0)),
        (purchase(code(0)).key("k"), hour(0)),
        (purchase(code(0)).key("k"), hour(1)),
        (checkout("ann", 1), hour(2)),
    ];
    for (offset, (request, at_ms)) in (0..).zip(requests) {
        let record = request.record(offset, at_ms, 0);
        let had_key = sales.has_key(&record.event);
        sales.fold(&record, &book).unwrap();
        counts.push((had_key, sales.key_count()));
    }
    // The key of a checkout goes with its sale, that of a purchase with the sale after.
    let wanted = [(false, 1), (false, 2), (true, 2), (true, 1), (false, 0)];
    assert_eq!(counts, wanted);
}
