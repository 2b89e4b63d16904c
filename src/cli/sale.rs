//! What can be said about the flash sale: its rules, single requests, a crowd.

use clap::Args;
use schemas::sales::{Code, ITEMS_MAX, KEY_CHARS_MAX, is_key};

use super::{how_many, rate};

/// The usual rules, as `SaleRulesSet::default()` has them.
const ITEMS: &str = "10000";
const LIMIT: &str = "10";
const RESERVATION_SECONDS: &str = "60";
const SALE_SECONDS: &str = "3600";

#[derive(Debug, Clone, Copy, Args)]
pub struct EmitSaleRules {
    /// How many items a sale has, 1 to 10000: those from 0 on.
    #[arg(long, value_name = "N", default_value = ITEMS, allow_negative_numbers = true)]
    pub items: i32,
    /// How many items a user may have bought and reserved together in a sale, 1 to 10000.
    #[arg(long, value_name = "N", default_value = LIMIT, allow_negative_numbers = true)]
    pub limit: i32,
    /// How long a reservation holds, 1 to 3600; it ends with its sale at the latest.
    #[arg(long, value_name = "S", default_value = RESERVATION_SECONDS, allow_negative_numbers = true)]
    pub reservation_seconds: i32,
    /// How long a sale lasts: a number that divides 3600. The next one begins with every item unsold.
    #[arg(long, value_name = "S", default_value = SALE_SECONDS, allow_negative_numbers = true)]
    pub sale_seconds: i32,
    /// Sends nothing and prints the event.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints JSON: the rules, their position, from which hour they may hold (holds_from) and from which
    /// at the latest (holds_at_the_latest_from).
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct EmitCheckout {
    /// Who wants the item.
    #[arg(long, value_name = "ID", value_parser = user, allow_negative_numbers = true)]
    pub user: i64,
    /// The item, 0 to 9999; a sale may have fewer.
    #[arg(long, value_name = "ID", value_parser = item, allow_negative_numbers = true)]
    pub item: i32,
    #[command(flatten)]
    pub asking: Asking,
}

#[derive(Debug, Args)]
pub struct EmitPurchase {
    /// The code that the checkout gave.
    #[arg(long, value_name = "UUID", value_parser = code)]
    pub code: Code,
    #[command(flatten)]
    pub asking: Asking,
}

/// How a request is made, and how its verdict is told.
#[derive(Debug, Args)]
pub struct Asking {
    /// Idempotency key: the same command again, with the same key, is given the first verdict.
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub key: Option<String>,
    /// Sends nothing and prints the event.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints the verdict as JSON: verdict, code, expires_at, item_id, user_id, sale_id, position, replayed, trace_id.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct EmitSale {
    /// How many users come: those from 0 on.
    #[arg(long, value_name = "N", value_parser = crowd)]
    pub users: u32,
    /// Requests a second, checkouts and purchases together; whether or not the answers keep up.
    #[arg(long, value_name = "R", value_parser = rate, allow_negative_numbers = true)]
    pub rate: f64,
    /// How many items each user asks for: all users once, then all once more.
    #[arg(long, value_name = "N", default_value = "1", value_parser = crowd)]
    pub each: u32,
    /// They choose from the items below this number; unless told, from all that the running sale has.
    #[arg(long, value_name = "N", value_parser = items, allow_negative_numbers = true)]
    pub items: Option<i32>,
    /// How many in a hundred of those who are given an item buy it.
    #[arg(long, value_name = "P", default_value = "80", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub buy_percent: u8,
    /// The same seed makes the same users ask for the same items, and the same of them want to buy.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Sends nothing and says what would be sent.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints the outcome as JSON: requests, checkouts, purchases, reserved, purchased, refused by reason, void,
    /// not_written, unknown, sales, position, seconds, p50_ms, p99_ms, trace_id, error.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn user(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(user) if user >= 0 => Ok(user),
        _ => Err(format!("must be a whole number from 0 to {}", i64::MAX)),
    }
}

fn item(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(item) if (0..ITEMS_MAX).contains(&item) => Ok(item),
        _ => Err(format!(
            "must be a whole number from 0 to {}",
            ITEMS_MAX - 1
        )),
    }
}

fn items(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(items) if (1..=ITEMS_MAX).contains(&items) => Ok(items),
        _ => Err(format!("must be a whole number from 1 to {ITEMS_MAX}")),
    }
}

fn code(text: &str) -> Result<Code, String> {
    text.parse()
        .map_err(|_| "must be a UUID, as a checkout gives it".to_owned())
}

pub(super) fn key(text: &str) -> Result<String, String> {
    if is_key(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must be 1 to {KEY_CHARS_MAX} visible ASCII characters"
    ))
}

fn crowd(text: &str) -> Result<u32, String> {
    u32::try_from(how_many(text)?).map_err(|_| format!("must be at most {}", u32::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use schemas::sale_rules::SaleRulesSet;

    use crate::cli::{Cli, Command, Emit, EmitArgs};

    #[test]
    fn the_usual_rules_are_those_that_hold_where_none_were_set() {
        let line = "millrace emit sale-rules";
        let Command::Emit(EmitArgs { what }) =
            Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("{line}");
        };
        let Emit::SaleRules(args) = what else {
            panic!("{line}");
        };
        let usual = SaleRulesSet::default();
        assert_eq!(
            [
                args.items,
                args.limit,
                args.reservation_seconds,
                args.sale_seconds
            ],
            [
                usual.items,
                usual.limit,
                usual.reservation_seconds,
                usual.sale_seconds
            ]
        );
    }

    #[test]
    fn requests_that_could_never_be_appended_are_refused() {
        for line in [
            "millrace emit checkout --user -1 --item 1",
            "millrace emit checkout --user 1 --item -1",
            "millrace emit checkout --user 1 --item 10000",
            "millrace emit checkout --user 1",
            "millrace emit checkout --user 1 --item 1 --key=",
            "millrace emit purchase --code 7",
            "millrace emit purchase",
            "millrace emit sale --users 0 --rate 1",
            "millrace emit sale --users 4294967296 --rate 1",
            "millrace emit sale --users 1",
            "millrace emit sale --users 1 --rate 0",
            "millrace emit sale --users 1 --rate 1 --items 0",
            "millrace emit sale --users 1 --rate 1 --items 10001",
            "millrace emit sale --users 1 --rate 1 --buy-percent 101",
            "millrace emit sale-rules --items many",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
