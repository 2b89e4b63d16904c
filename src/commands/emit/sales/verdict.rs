//! How the verdict on a request is told: granted, refused, void, or not known.

use anyhow::{Result, bail};
use processors::sales::{DRIFT_MAX_MS, Decision, Passed, Refused, Verdict};
use producers::trace::TraceId;
use schemas::{position::Position, sales::Code};
use serde::Serialize;

use super::OwnRecord;
use crate::{cli::Asking, output};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Checkout { user_id: i64, item_id: i32 },
    Purchase { code: Code },
}

impl Asked {
    /// What to tell where it is not known whether the request counts.
    pub(super) fn unknown(self, why: &str, asking: &Asking) -> String {
        let how_to_go_on = match (&asking.key, self) {
            (Some(_), _) => {
                "the same command with the same --key asks again and gets the one true answer"
            }
            (None, Self::Purchase { .. }) => {
                "ask again: if the answer is code_used, this request or one before has bought it"
            }
            (None, Self::Checkout { .. }) => {
                "if it counts, the item is reserved until it lapses and its code is lost; with --key the same command could be repeated and would get the one true answer"
            }
        };
        format!("it is not known what became of the request: {why}; to go on: {how_to_go_on}")
    }
}

/// What the log says of a request.
pub(super) struct Answer<'a> {
    pub(super) asked: Asked,
    /// By the clock of this machine.
    pub(super) requested_at_ms: i64,
    pub(super) settled: OwnRecord,
    /// The full name.
    pub(super) topic: &'a str,
    pub(super) trace: TraceId,
}

/// The same for programs.
#[derive(Debug, Default, Serialize)]
struct Told {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sale_id: Option<String>,
    position: String,
    replayed: bool,
    trace_id: String,
}

impl Answer<'_> {
    /// Prints it.
    ///
    /// # Errors
    /// Why what was asked for was not granted.
    pub(super) fn tell(&self, as_json: bool) -> Result<()> {
        if as_json {
            output::json(&self.told())?;
        }
        let granted = self.granted()?;
        if as_json {
            return Ok(());
        }
        output::lines(&granted)
    }

    fn told(&self) -> Told {
        let mut told = Told {
            verdict: "void",
            position: self.position(),
            trace_id: self.trace.to_string(),
            ..Told::default()
        };
        match self.asked {
            Asked::Checkout { user_id, item_id } => {
                (told.user_id, told.item_id) = (Some(user_id), Some(item_id));
            }
            Asked::Purchase { code } => told.code = Some(code),
        }
        let Passed::Decided(decision) = self.settled.passed else {
            return told;
        };
        told.verdict = decision.verdict.name();
        told.sale_id = Some(decision.sale.to_string());
        told.replayed = decision.is_replayed;
        match decision.verdict {
            Verdict::Reserved {
                code,
                expires_at_ms,
            } => (told.code, told.expires_at) = (Some(code), Some(output::time(expires_at_ms))),
            Verdict::Purchased { item_id, user_id } => {
                (told.item_id, told.user_id) = (Some(item_id), Some(user_id));
            }
            Verdict::Refused(_) => {}
        }
        told
    }

    fn granted(&self) -> Result<String> {
        let decision = match self.settled.passed {
            Passed::Decided(decision) => decision,
            Passed::Void => bail!("{}", self.void()),
            Passed::Barrier => unreachable!("a barrier asks for nothing"),
        };
        let position = self.position();
        let again = again(decision);
        Ok(match (self.asked, decision.verdict) {
            (_, Verdict::Refused(why)) => bail!("{}", self.refused(why, decision)),
            (_, Verdict::Purchased { item_id, user_id }) => {
                format!("user {user_id} has bought item {item_id}, position {position}{again}\n")
            }
            (
                Asked::Checkout { user_id, item_id },
                Verdict::Reserved {
                    code,
                    expires_at_ms,
                },
            ) => {
                let until = output::time(expires_at_ms);
                format!(
                    "reserved item {item_id} for user {user_id}: code {code}, until {until}, position {position}{again}\nmillrace emit purchase --code {code}\n"
                )
            }
            (Asked::Purchase { .. }, Verdict::Reserved { .. }) => {
                unreachable!("a purchase reserves nothing")
            }
        })
    }

    fn refused(&self, why: Refused, decision: Decision) -> String {
        let sentence = match (self.asked, why) {
            (Asked::Checkout { item_id, .. }, Refused::NoSuchItem) => {
                format!("the sale has no item {item_id}")
            }
            (Asked::Checkout { item_id, .. }, Refused::ItemReserved) => {
                format!("item {item_id} is reserved")
            }
            (Asked::Checkout { item_id, .. }, Refused::ItemSold) => {
                format!("item {item_id} is sold")
            }
            (Asked::Checkout { user_id, .. }, Refused::UserLimit) => format!(
                "user {user_id} has bought and reserved as many items of this sale as one may"
            ),
            (_, Refused::SoldOut) => "every item of this sale is sold".to_owned(),
            (_, Refused::CodeUnknown) => "no reservation has this code".to_owned(),
            (_, Refused::CodeExpired) => "the reservation has lapsed".to_owned(),
            (_, Refused::CodeUsed) => "it was bought with this code already".to_owned(),
            (_, Refused::KeyReused) => "the key came with another request before".to_owned(),
            (Asked::Purchase { .. }, other) => other.name().replace('_', " "),
        };
        format!(
            "refused: {}: {sentence}, sale {}, position {}{}",
            why.name(),
            decision.sale,
            self.position(),
            again(decision)
        )
    }

    /// Its times are too far apart for it to count.
    fn void(&self) -> String {
        format!(
            "void, as if it had not been made: this machine's clock said {} when the request was made, the broker's {} when it came, and they may be {} s apart; set the clocks right and ask again (position {})",
            output::time(self.requested_at_ms),
            output::time(self.settled.timestamp_ms),
            DRIFT_MAX_MS / 1_000,
            self.position()
        )
    }

    fn position(&self) -> String {
        Position {
            topic: self.topic.to_owned(),
            partition: 0,
            offset: self.settled.offset,
        }
        .to_string()
    }
}

fn again(decision: Decision) -> &'static str {
    if decision.is_replayed {
        " (the first answer to this key, once more)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use producers::trace::Trace;
    use schemas::sales::SaleId;

    use super::*;

    fn answer(asked: Asked, passed: Passed) -> Answer<'static> {
        Answer {
            asked,
            requested_at_ms: 1_795_251_600_000,
            settled: OwnRecord {
                offset: 12,
                timestamp_ms: 1_795_251_640_000,
                passed,
            },
            topic: "shop.sales",
            trace: Trace::start().id,
        }
    }

    fn decided(verdict: Verdict, is_replayed: bool) -> Passed {
        Passed::Decided(Decision {
            sale: SaleId::starting_at_ms(1_795_251_600_000),
            at_ms: 1_795_251_640_000,
            verdict,
            is_replayed,
        })
    }

    const CHECKOUT: Asked = Asked::Checkout {
        user_id: 3,
        item_id: 7,
    };

    #[test]
    fn a_void_request_is_told_with_both_clocks() {
        let answer = answer(CHECKOUT, Passed::Void);
        let error = answer.granted().unwrap_err().to_string();
        for words in [
            "void",
            "2026-11-21T09:00:00Z",
            "2026-11-21T09:00:40Z",
            "30 s",
            "shop.sales/0@12",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
        assert_eq!(answer.told().verdict, "void");
    }

    #[test]
    fn an_answer_that_was_given_before_is_told_as_such() {
        let refused = Verdict::Refused(Refused::ItemSold);
        for (is_replayed, words) in [(true, "once more"), (false, "shop.sales/0@12")] {
            let answer = answer(CHECKOUT, decided(refused, is_replayed));
            assert_eq!(answer.told().replayed, is_replayed);
            let error = answer.granted().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(error.contains("once more"), is_replayed);
        }
    }

    #[test]
    fn what_is_not_known_is_told_with_how_to_go_on() {
        let asking = |key: Option<&str>| Asking {
            key: key.map(str::to_owned),
            dry_run: false,
            json: false,
        };
        let code = "0192f0c1-2b3c-8d4e-9f50-617283940a1b".parse().unwrap();
        for (asked, key, words) in [
            (CHECKOUT, Some("k"), "same --key"),
            (CHECKOUT, None, "until it lapses"),
            (Asked::Purchase { code }, Some("k"), "same --key"),
            (Asked::Purchase { code }, None, "code_used"),
        ] {
            let told = asked.unknown("timed out", &asking(key));
            assert!(told.contains("not known") && told.contains("timed out"));
            assert!(told.contains(words), "{told}");
        }
    }
}
