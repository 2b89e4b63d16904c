//! `millrace emit order`: orders from a file, or made up.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use producers::{clock, orders};
use schemas::{event::summary, orders::OrderPlaced};

use super::{Told, send};
use crate::{
    cli::{Connection, EmitOrder},
    output,
};

/// The date of sample orders that are made from a seed: 2026-01-01T00:00:00Z.
const SEEDED_AT: i64 = 1_767_225_600;

pub(super) async fn emit(connection: &Connection, args: &EmitOrder) -> Result<()> {
    let orders = match (&args.file, args.sample) {
        (Some(file), _) => read_orders(file)?,
        (None, sample) => sample_orders(sample.unwrap_or(1), args.seed),
    };
    let told = Told {
        one: "order",
        total: orders.len(),
        look: match &orders[..] {
            [order] => Some(format!("GET /order?uid={}", query_value(&order.order_uid))),
            _ => None,
        },
        skipped: None,
    };
    if args.manner.dry_run {
        if args.sample.is_none() {
            return told.would_be_sent(args.manner);
        }
        return orders.iter().try_for_each(output::json);
    }
    let sent = send(connection, orders.into_iter(), args.manner).await?;
    let rest = sent.rest(told.total);
    sent.tell(&told, args.manner, || match (args.sample, args.seed) {
        (Some(_), None) => {
            format!("`millrace emit order --sample {rest}` makes up as many new ones")
        }
        _ => "run the same command again: an order that is on the log already changes nothing"
            .to_owned(),
    })
}

fn read_orders(file: &Path) -> Result<Vec<OrderPlaced>> {
    let name = match file.to_str() {
        Some("-") => "stdin".to_owned(),
        _ => file.display().to_string(),
    };
    let mut bytes = Vec::new();
    let read = match name.as_str() {
        "stdin" => io::stdin().lock().read_to_end(&mut bytes).map(drop),
        _ => fs::read(file).map(|read| bytes = read),
    };
    read.with_context(|| format!("cannot read {name}"))?;
    let text = str::from_utf8(&bytes).with_context(|| format!("{name} is not UTF-8 text"))?;
    match orders::read(text) {
        Ok(orders) if orders.is_empty() => bail!("{name} has no orders"),
        Ok(orders) => Ok(orders),
        Err(bad) => {
            for order in &bad {
                output::note(format_args!(
                    "{name}:{}: {}",
                    order.line,
                    summary(&order.faults)
                ));
            }
            let least = if bad.len() == orders::NAMED_MAX {
                "at least "
            } else {
                ""
            };
            bail!(
                "{name} has {least}{}; nothing was sent",
                output::count(bad.len() as u64, "bad order")
            );
        }
    }
}

fn sample_orders(count: usize, seed: Option<u64>) -> Vec<OrderPlaced> {
    let mut chance = clock::generator(seed);
    // The same seed has to give the same orders, to the last field: another order of the same uid is a fault.
    let now = match seed {
        Some(_) => Timestamp::from_second(SEEDED_AT),
        None => Timestamp::from_millisecond(clock::now_ms()),
    };
    let now = now.unwrap_or_default();
    (0..count)
        .map(|_| orders::sample(&mut chance, now))
        .collect()
}

/// A text as it has to be written in the query of a URL.
fn query_value(text: &str) -> String {
    let mut written = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                written.push(char::from(byte));
            }
            byte => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_uid_can_be_pasted_into_a_url() {
        assert_eq!(query_value("b563feb7b2b84b6test"), "b563feb7b2b84b6test");
        assert_eq!(query_value("a b&ü"), "a%20b%26%C3%BC");
    }

    #[test]
    fn the_same_seed_makes_the_same_orders() {
        assert_eq!(sample_orders(3, Some(7)), sample_orders(3, Some(7)));
        assert_ne!(sample_orders(3, None), sample_orders(3, None));
    }
}
