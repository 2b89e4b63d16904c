//! Amounts and times as people read them.

use iso_currency::Currency;
use jiff::Timestamp;

/// An amount in minor units of a currency (ISO 4217): `USD 1,234.56`. Of a currency that ISO does not know, nobody knows
/// how many minor units make a whole one.
pub(super) fn money(minor_units: i64, currency: &str) -> String {
    let code = currency.to_ascii_uppercase();
    let exponent = Currency::from_code(&code).and_then(|known| known.exponent());
    match exponent {
        Some(decimals) => format!("{code}\u{a0}{}", decimal(minor_units, decimals.into())),
        None => format!("{} minor units of {code}", decimal(minor_units, 0)),
    }
}

/// A number with its last digits behind a point, and a comma after each three before it.
fn decimal(number: i64, decimals: usize) -> String {
    let digits = format!("{:0width$}", number.unsigned_abs(), width = decimals + 1);
    let (whole, part) = digits.split_at(digits.len() - decimals);
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if decimals > 0 {
        text.push('.');
        text.push_str(part);
    }
    text
}

/// A time: `26 November 2021, 06:22:19 UTC`.
pub(super) fn readable(time: Timestamp) -> String {
    time.strftime("%-d %B %Y, %H:%M:%S UTC").to_string()
}

/// A time of day: `09:00 UTC`, with seconds if it has any.
pub(super) fn clock(time: Timestamp) -> String {
    let pattern = match time.as_second() % 60 {
        0 => "%H:%M UTC",
        _ => "%H:%M:%S UTC",
    };
    time.strftime(pattern).to_string()
}

/// How many: `10,000`.
pub(super) fn count(number: impl Into<i64>) -> String {
    decimal(number.into(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_as_many_decimals_as_its_currency() {
        for (minor_units, currency, text) in [
            (1_817, "USD", "USD 18.17"),
            (0, "USD", "USD 0.00"),
            (5, "eur", "EUR 0.05"),
            (123_456_789, "RUB", "RUB 1,234,567.89"),
            (100_000, "ILS", "ILS 1,000.00"),
            (1_500, "JPY", "JPY 1,500"),
            (1_500, "KWD", "KWD 1.500"),
            (-5, "USD", "USD -0.05"),
            (i64::MAX, "USD", "USD 92,233,720,368,547,758.07"),
            (i64::MIN, "USD", "USD -92,233,720,368,547,758.08"),
        ] {
            assert_eq!(
                money(minor_units, currency).replace('\u{a0}', " "),
                text,
                "{minor_units}"
            );
        }
    }

    #[test]
    fn of_an_unknown_currency_nothing_is_claimed() {
        assert_eq!(money(1_817, "QQQ"), "1,817 minor units of QQQ");
        // Gold has no minor unit.
        assert_eq!(money(1_817, "XAU"), "1,817 minor units of XAU");
    }

    #[test]
    fn a_time_of_day_has_seconds_where_it_needs_them() {
        for (time, text) in [
            ("T10:00:00Z", "10:00 UTC"),
            ("T10:00:07.9Z", "10:00:07 UTC"),
        ] {
            assert_eq!(clock(format!("2026-11-21{time}").parse().unwrap()), text);
        }
        assert_eq!(count(10_000_u32), "10,000");
    }

    #[test]
    fn a_time_is_written_out() {
        let time = "2021-11-26T08:22:19+02:00".parse().unwrap();
        assert_eq!(readable(time), "26 November 2021, 06:22:19 UTC");
    }
}
