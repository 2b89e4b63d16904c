//! Every way to lie about a history.

use super::*;

/// The same answer as if it had come without the log, while this one was waited for.
fn local(answer: &Answer) -> Answer {
    Answer {
        position: None,
        ..answer.clone()
    }
}

#[track_caller]
fn must_find(history: &History, answers: &[Answer], lie: &str) {
    let lies = history.lies(answers);
    assert!(
        lies.iter().any(|found| found.contains(lie)),
        "{lie:?} is not among {lies:?}"
    );
}

#[test]
fn a_sale_that_nobody_got_is_found() {
    let mut answers = truth(&simple());
    answers[1].status = 200;
    answers[1].said = code_of(1);
    must_find(
        &simple(),
        &answers,
        "the log says Refused(\"item_reserved\")",
    );
}

#[test]
fn another_reason_is_found() {
    let mut answers = truth(&simple());
    answers[1].said = "item_sold".to_owned();
    must_find(
        &simple(),
        &answers,
        "the log says Refused(\"item_reserved\")",
    );
}

#[test]
fn another_status_than_that_of_the_reason_is_found() {
    let mut answers = truth(&simple());
    answers[1].status = 422;
    must_find(
        &simple(),
        &answers,
        "the log says Refused(\"item_reserved\")",
    );
}

#[test]
fn a_refusal_of_what_was_granted_is_found() {
    let mut answers = truth(&simple());
    answers[2].status = 409;
    answers[2].said = "code_used".to_owned();
    must_find(&simple(), &answers, "the log says Purchased");
}

#[test]
fn another_code_than_that_of_the_log_is_found() {
    let mut answers = truth(&simple());
    answers[0].said = code_of(1);
    must_find(&simple(), &answers, "the log says Reserved");
}

#[test]
fn a_success_without_a_record_is_found() {
    let mut answers = truth(&simple());
    answers[0].position = None;
    must_find(&simple(), &answers, "is no answer to a request");
    answers[0].position = Some(99);
    must_find(&simple(), &answers, "there is no such record");
}

#[test]
fn a_failure_of_the_server_is_found() {
    let mut answers = truth(&simple());
    answers[0].status = 500;
    must_find(&simple(), &answers, "is no answer to a request");
}

#[test]
fn the_position_of_somebody_elses_record_is_found() {
    let mut answers = truth(&simple());
    answers[1].position = Some(0);
    must_find(&simple(), &answers, "the record asks for");
    let mut answers = truth(&simple());
    answers[3].position = Some(1);
    must_find(&simple(), &answers, "so did");
}

#[test]
fn an_unknown_outcome_may_be_either() {
    let mut answers = truth(&simple());
    for answer in &mut answers {
        (answer.status, answer.position) = (503, None);
        answer.said = "outcome_unknown".to_owned();
    }
    answers[0].status = 0;
    answers[0].said = String::new();
    must_be_true(&simple(), &answers);
    let only_the_first = history([(0, checkout(ANN, 1))]);
    must_be_true(&only_the_first, &answers);
}

#[test]
fn a_request_that_was_not_applied_and_is_on_the_log_is_found() {
    let mut answers = truth(&simple());
    for status in [503, 429] {
        answers[2].status = status;
        answers[2].position = None;
        answers[2].said = ["not_applied", "overloaded"][usize::from(status == 429)].to_owned();
        must_find(&simple(), &answers, "but there is [2]");
    }
}

#[test]
fn a_request_that_was_not_applied_and_came_again_is_no_lie() {
    let mut answers = truth(&simple());
    let mut first = local(&answers[2]);
    (first.status, first.said) = (503, "not_applied".to_owned());
    answers.push(first.clone());
    must_be_true(&simple(), &answers);
    // A third one, of which nobody knows what became, may be the one on the log.
    answers[2].position = None;
    answers[2].status = 0;
    must_be_true(&simple(), &answers);
}

#[test]
fn an_unknown_outcome_of_later_hides_no_lie_of_before() {
    let mut answers = truth(&simple());
    let mut later = local(&answers[1]);
    (later.status, later.said) = (503, "outcome_unknown".to_owned());
    // Asked for when the last record was known.
    let newest = answers
        .iter()
        .map(|answer| answer.answered_at)
        .max()
        .unwrap();
    let after = |ms| newest + Duration::from_millis(ms);
    (later.asked_at, later.answered_at) = (after(1), after(2));
    answers.push(later);
    must_be_true(&simple(), &answers);
    answers[1].position = None;
    (answers[1].status, answers[1].said) = (503, "not_applied".to_owned());
    must_find(&simple(), &answers, "but there is [1]");
}

#[test]
fn a_request_that_was_not_applied_at_a_position_is_void_there() {
    let mut answers = truth(&simple());
    (answers[0].status, answers[0].said) = (503, "not_applied".to_owned());
    must_find(&simple(), &answers, "the log says Reserved");
}

#[test]
fn answers_out_of_order_are_found() {
    let mut answers = truth(&simple());
    let (first, last) = (answers[1].clone(), answers[3].clone());
    (answers[1].asked_at, answers[1].answered_at) = (last.asked_at, last.answered_at);
    (answers[3].asked_at, answers[3].answered_at) = (first.asked_at, first.answered_at);
    must_find(&simple(), &answers, "3 was known before");
}

#[test]
fn answers_at_the_same_time_have_any_order() {
    let mut answers = truth(&simple());
    let end = answers[3].answered_at;
    for answer in &mut answers {
        answer.answered_at = end;
    }
    must_be_true(&simple(), &answers);
}

#[test]
fn a_refusal_without_the_log_is_justified_by_what_was_there() {
    let mut answers = truth(&simple());
    answers.push(local(&answers[1]));
    answers.push(local(&answers[3]));
    must_be_true(&simple(), &answers);
}

#[test]
fn a_refusal_before_anything_was_there_is_found() {
    let history = simple();
    let mut answers = truth(&history);
    let mut early = local(&answers[1]);
    early.asked_at = answers[0].asked_at - Duration::from_millis(9);
    early.answered_at = answers[0].asked_at - Duration::from_millis(8);
    answers.push(early);
    must_find(&history, &answers, "nothing on the log justifies it");
    // Waiting until the reservation may have been there makes it right.
    answers.last_mut().unwrap().answered_at = answers[1].asked_at;
    must_be_true(&history, &answers);
}

#[test]
fn a_refusal_because_of_what_is_long_over_is_found() {
    let history = history([
        (0, checkout(ANN, 1)),
        (1, checkout(BOB, 1)),
        (60_000, checkout(ANN, 0)),
        (60_001, checkout(ANN, 2)),
    ]);
    let mut answers = truth(&history);
    let mut late = local(&answers[1]);
    late.asked_at = answers[3].answered_at + Duration::from_millis(1);
    late.answered_at = answers[3].answered_at + Duration::from_millis(2);
    answers.push(late);
    must_find(&history, &answers, "nothing on the log justifies it");
    // Who asked before anybody had heard of the end is right.
    answers.last_mut().unwrap().asked_at = answers[2].asked_at;
    must_be_true(&history, &answers);
}

#[test]
fn a_refusal_without_the_log_of_what_only_the_log_may_refuse_is_found() {
    let history = simple();
    let mut answers = truth(&history);
    let mut keyed = local(&answers[3]);
    keyed.request = Request::Checkout {
        user_id: BOB,
        item_id: 1,
        key: Some("k".to_owned()),
    };
    answers.push(keyed);
    must_find(&history, &answers, "only the log may say so");
    let mut purchase = local(&answers[2]);
    (purchase.status, purchase.said) = (409, "code_used".to_owned());
    *answers.last_mut().unwrap() = purchase;
    must_find(&history, &answers, "only the log may say so");
}

#[test]
fn a_refusal_without_the_log_that_is_on_the_log_is_found() {
    let history = simple();
    let mut answers = truth(&history);
    answers[3].position = None;
    must_find(&history, &answers, "but there is [3]");
}

/// Everybody is told to have bought, whatever the log says.
fn all_bought(requests: impl IntoIterator<Item = (i64, i64)>) -> (History, Vec<Answer>) {
    let checkouts: Vec<_> = requests
        .into_iter()
        .map(|(user_id, item_id)| (0, checkout(user_id, item_id)))
        .collect();
    let count = i64::try_from(checkouts.len()).unwrap();
    let purchases = (0..count).map(|offset| (1, purchase(offset)));
    let history = history(checkouts.into_iter().chain(purchases));
    let mut answers = truth(&history);
    for (offset, answer) in (0..).zip(&mut answers) {
        answer.status = 200;
        answer.said = match answer.request {
            Request::Checkout { .. } => code_of(offset),
            Request::Purchase { .. } => String::new(),
        };
    }
    (history, answers)
}

#[test]
fn a_sale_that_sold_more_than_it_has_is_found() {
    let (history, answers) = all_bought([(1, 0), (2, 1), (3, 2), (4, 3)]);
    must_find(&history, &answers, "sold 4 of 3 items");
}

#[test]
fn a_user_that_bought_more_than_one_may_is_found() {
    let (history, answers) = all_bought([(ANN, 0), (ANN, 1), (ANN, 2)]);
    must_find(&history, &answers, "user 1 bought 3 of 2");
}

#[test]
fn an_item_that_was_sold_twice_is_found() {
    let (history, answers) = all_bought([(ANN, 0), (BOB, 0)]);
    must_find(&history, &answers, "item 0 was sold before");
}

#[test]
fn a_code_that_was_given_or_bought_twice_is_found() {
    let mut answers = truth(&simple());
    (answers[1].status, answers[1].said) = (200, code_of(0));
    must_find(&simple(), &answers, "so did");
    let twice = history([(0, checkout(ANN, 1)), (1, purchase(0)), (2, purchase(0))]);
    let mut answers = truth(&twice);
    answers[2].status = 200;
    must_find(&twice, &answers, "so did");
}

#[test]
fn a_purchase_of_what_nobody_reserved_is_found() {
    let history = history([(0, checkout(ANN, 1)), (1, purchase(7))]);
    let mut answers = truth(&history);
    answers[1].status = 200;
    must_find(&history, &answers, "nobody reserved it");
}
