//! Whose rules hold.

use super::*;

#[test]
fn without_rules_the_usual_ones_hold() {
    given([])
        .when(checkout("ann", 9_999))
        .then(reserved(code(0), MINUTE))
        .when(checkout("ann", 10_000))
        .then(refused(Refused::NoSuchItem));
}

#[test]
fn an_hour_has_the_rules_that_its_first_appender_had_seen() {
    Story::default()
        .set(rules(1, 1, 10, 3_600))
        .set(rules(2, 1, 20, 3_600))
        .set(rules(3, 1, 30, 3_600))
        .when(checkout("ann", 1).rules_seen(2))
        .then(reserved(code(0), 20 * SECOND))
        .when(checkout("bob", 2).rules_seen(3))
        .then(refused(Refused::NoSuchItem));
}

#[test]
fn who_had_seen_no_rules_opens_an_hour_with_the_usual_ones() {
    under(rules(1, 1, 10, 3_600))
        .when(checkout("ann", 7).rules_seen(0))
        .then(reserved(code(0), MINUTE));
}

#[test]
fn rules_hold_for_the_whole_hour() {
    under(rules(2, 1, 10, 600))
        .given([checkout("ann", 0)])
        .set(rules(9, 9, 20, 3_600))
        .when(checkout("ann", 2))
        .then(refused(Refused::NoSuchItem))
        .when(checkout("ann", 2).at(10 * MINUTE))
        .then(refused(Refused::NoSuchItem))
        .when(checkout("ann", 1).at(59 * MINUTE))
        .then(reserved(code_in(50 * MINUTE, 3), 59 * MINUTE + 10 * SECOND))
        .when(checkout("ann", 2).at(60 * MINUTE))
        .then(reserved(code_in(60 * MINUTE, 4), 60 * MINUTE + 20 * SECOND))
        .then_at(60 * MINUTE, 60 * MINUTE);
}

#[test]
fn void_requests_and_barriers_choose_no_rules() {
    Story::default()
        .set(rules(1, 1, 10, 3_600))
        .set(rules(2, 1, 20, 3_600))
        .given([checkout("ann", 0).drifting(30_001).rules_seen(1), barrier()])
        .when(checkout("ann", 1).rules_seen(2))
        .then(reserved(code(2), 20 * SECOND));
}

#[test]
fn a_late_appender_may_bring_old_rules_back_for_an_hour() {
    under(rules(2, 1, 10, 3_600))
        .set(rules(5, 1, 20, 3_600))
        .given([checkout("ann", 4)])
        .when(checkout("ann", 4).at(60 * MINUTE).rules_seen(1))
        .then(refused(Refused::NoSuchItem));
}

#[test]
fn rules_that_were_not_read_yet_leave_the_state_as_it_is() {
    let story = given([checkout("ann", 7)]);
    let before = story.sales.digest();
    let request = checkout("bob", 0).at(60 * MINUTE).rules_seen(1);
    let story = story.when(request);
    assert_eq!(story.passed, Some(Err(RulesMissing { rules_seen: 1 })));
    assert_eq!(story.sales.digest(), before);
    story
        .set(rules(1, 1, 10, 3_600))
        .when(request)
        .then(reserved(code_in(60 * MINUTE, 1), 60 * MINUTE + 10 * SECOND));
}

#[test]
fn nobody_waits_for_rules_inside_an_hour() {
    under(rules(2, 1, 10, 600))
        .given([checkout("ann", 0)])
        .when(checkout("bob", 0).rules_seen(9).at(10 * MINUTE))
        .then(reserved(code_in(10 * MINUTE, 1), 10 * MINUTE + 10 * SECOND));
}

#[test]
fn what_is_no_rule_on_the_topic_is_passed_over() {
    let mut story = under(rules(1, 1, 10, 3_600));
    story.book.pass(5);
    assert_eq!(story.book.next_offset(), 5);
    story
        .when(checkout("ann", 0).rules_seen(5))
        .then(reserved(code(0), 10 * SECOND));
}

#[test]
fn rules_that_are_read_twice_count_once() {
    let mut book = RuleBook::default();
    book.set(3, rules(1, 1, 10, 3_600));
    book.set(3, rules(2, 1, 10, 3_600));
    book.set(1, rules(3, 1, 10, 3_600));
    assert_eq!(book.newest_below(4), Ok(rules(1, 1, 10, 3_600)));
    assert_eq!(book.newest_below(3), Ok(SaleRulesSet::default()));
    assert_eq!(book.newest(), rules(1, 1, 10, 3_600));
}
