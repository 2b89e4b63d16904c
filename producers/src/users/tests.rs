//! Files of profiles, good and bad.

use schemas::event::{Event, summary};

use super::*;

/// What came of each row, with its line and its text as it came.
fn rows(text: &[u8], format: Format) -> Result<Vec<(String, String)>, ReadError> {
    let mut rows = Rows::new(text, format)?;
    let mut found = Vec::new();
    while let Some(row) = rows.read()? {
        let told = match row {
            Ok(set) => format!("{}|{}|{}", set.user_id, set.deeplink, set.promo_message),
            Err(bad) => format!("{}: {}", bad.line, summary(&bad.faults)),
        };
        found.push((told, String::from_utf8_lossy(rows.row()).into_owned()));
    }
    Ok(found)
}

fn told(text: impl AsRef<[u8]>, format: Format) -> Vec<String> {
    let found = rows(text.as_ref(), format).unwrap().into_iter();
    found.map(|(told, _)| told).collect()
}

fn csv(text: impl AsRef<[u8]>) -> Vec<String> {
    told(text, Format::Csv)
}

#[test]
fn rows_of_csv_are_profiles_whatever_the_order_of_the_columns() {
    let text =
        "promo_message, user_id ,deeplink\r\nhello,ann,app://a\r\n\"a, \"\"b\"\"\r\nc\",bob,\r\n";
    assert_eq!(csv(text), ["ann|app://a|hello", "bob||a, \"b\"\r\nc"]);
    let text = "\u{feff}user_id,deeplink,promo_message\nann,,\n";
    assert_eq!(csv(text), ["ann||"]);
    let text = "\u{feff}\"user_id\",deeplink,promo_message\nann,,x";
    assert_eq!(
        csv(text),
        ["ann||x"],
        "quoted names, and no end of the last line"
    );
    assert_eq!(csv("user_id,deeplink,promo_message\n"), [] as [&str; 0]);
}

#[test]
fn bad_rows_are_named_by_line_and_field_and_kept_as_they_came() {
    let text = "user_id,deeplink,promo_message\n\nann,x,y\n\n\nann b,x,y\nbob,\"x\n\ny\",\ncay,x\n\n\"dan\nd\",\"\",y\nå,x,y\r\neve,x,y\n";
    let found = rows(text.as_bytes(), Format::Csv).unwrap();
    let wanted = [
        ("ann|x|y", "ann,x,y"),
        (
            "6: user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -",
            "ann b,x,y",
        ),
        ("bob|x\n\ny|", "bob,\"x\n\ny\","),
        ("10: has 2 fields, not 3", "cay,x"),
        (
            "12: user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -",
            "\"dan\nd\",\"\",y",
        ),
        (
            "14: user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -",
            "å,x,y",
        ),
        ("eve|x|y", "eve,x,y"),
    ];
    let wanted = wanted.map(|(told, row)| (told.to_owned(), row.to_owned()));
    assert_eq!(found, wanted);
    let text = b"user_id,deeplink,promo_message\nann,\xff,a\0\n";
    assert_eq!(
        csv(text),
        ["2: deeplink is not UTF-8 text; promo_message must not have the character U+0000"]
    );
    // What was kept can be read again, under its head.
    let mut again = b"user_id,deeplink,promo_message\n".to_vec();
    again.extend(
        found
            .iter()
            .flat_map(|(_, row)| format!("{row}\n").into_bytes()),
    );
    assert_eq!(csv(again).len(), found.len());
}

#[test]
fn the_columns_have_to_be_those_of_a_profile() {
    let fault = |head: &str| match rows(head.as_bytes(), Format::Csv) {
        Err(error @ ReadError::Head(_)) => error.to_string(),
        other => panic!("{head}: {other:?}"),
    };
    assert!(fault("user_id,deeplink\n").ends_with("promo_message is missing"));
    assert!(fault("").ends_with("user_id is missing"));
    assert!(fault("user_id,deeplink,promo_message,age\n").ends_with("\"age\" is unknown"));
    assert!(fault("user_id,deeplink,promo_message,user_id").ends_with("user_id is there twice"));
    assert!(fault("ann,app://a,hello\n").ends_with("\"ann\" is unknown"));
}

#[test]
fn lines_of_json_are_profiles_and_bad_ones_are_named() {
    let good = r#"{"user_id":"ann","deeplink":"app://a","promo_message":"h\u00e9"}"#;
    let text = format!(
        "\u{feff}{good}\r\n\n  \n{{\"user_id\":\"a b\",\"deeplink\":1,\"age\":7}}\n{{oops\n[]\n{good}"
    );
    let wanted = [
        "ann|app://a|hé",
        "4: deeplink must be a string, not a number; promo_message is missing; age is unknown; user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -",
        "5: is not JSON: key must be a string, column 2",
        "6: must be an object, not an array",
        "ann|app://a|hé",
    ];
    assert_eq!(told(text, Format::Ndjson), wanted);
    assert_eq!(told("", Format::Ndjson), [] as [&str; 0]);
}

#[test]
fn a_row_that_does_not_end_is_told_by_its_line_and_takes_no_memory() {
    let endless = "x".repeat(4 * ROW_BYTES_MAX);
    let head = "user_id,deeplink,promo_message\nann,a,b\n";
    let not_closed = format!("{head}bob,\"{}", "line\n".repeat(ROW_BYTES_MAX));
    for (text, format) in [
        (not_closed, Format::Csv),
        (format!("{head}{endless}"), Format::Csv),
        (format!("\n\n{endless}"), Format::Ndjson),
    ] {
        let mut rows = Rows::new(text.as_bytes(), format).unwrap();
        let error = loop {
            match rows.read() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("read to the end"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReadError::TooLong(3)), "{error}");
        assert!(rows.row().len() <= ROW_BYTES_MAX + 1);
    }
}

#[test]
fn the_largest_profile_fits_into_a_row() {
    let text = "\u{1}".repeat(65_536);
    let escaped = r"\u0001".repeat(65_536);
    let row = format!(r#"{{"user_id":"ann","deeplink":"","promo_message":"{escaped}"}}"#);
    assert_eq!(told(row, Format::Ndjson), [format!("ann||{text}")]);
    let quotes = "\"".repeat(65_537);
    let row = format!("user_id,deeplink,promo_message\nann,,\"{quotes}{quotes}\"\n");
    assert_eq!(
        csv(row),
        ["2: deeplink and promo_message have more than 65536 bytes together"]
    );
}

#[test]
fn a_format_is_known_by_the_name_or_else_by_the_look() {
    for (name, first, format) in [
        ("users.csv", "{", Format::Csv),
        ("users.CSV", "{", Format::Csv),
        ("users.ndjson", "user_id", Format::Ndjson),
        ("users.jsonl", "", Format::Ndjson),
        ("-", " \n\u{feff}{", Format::Csv),
        ("-", "\u{feff} \n{", Format::Ndjson),
        ("users", "user_id,", Format::Csv),
    ] {
        assert_eq!(
            Format::of(Path::new(name), first.as_bytes()),
            format,
            "{name}"
        );
    }
}

#[test]
fn samples_are_valid_varied_and_the_same_for_the_same_seed() {
    let made: Vec<_> = samples(1_000, 7).collect();
    assert!(made.iter().all(|event| event.faults().is_empty()));
    assert_eq!(made, samples(1_000, 7).collect::<Vec<_>>());
    assert_ne!(made, samples(1_000, clock::chance()).collect::<Vec<_>>());
    assert_eq!(made[0].user_id(), "sample-1");
    assert_eq!(samples(1_000, 7).len(), 1_000);
}
