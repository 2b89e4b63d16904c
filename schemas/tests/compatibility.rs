//! Every version of every schema against every other, as the registry will judge them: `avro/history` holds the
//! versions that have been released, `avro/<domain>.avsc` the one that this build writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
use std::{collections::BTreeMap, fs, path::Path};

use apache_avro::{Schema, schema_compatibility::SchemaCompatibility};
use schemas::topics::{Compatibility, TOPICS, Topic};

/// The released versions of a topic's schema, oldest first.
fn history(topic: &Topic) -> Vec<Schema> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("avro/history");
    let mut versions = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let parts: Vec<_> = name.split('.').collect();
        if let [domain, version, "avsc"] = parts[..]
            && domain == topic.name
        {
            let text = fs::read_to_string(&path).unwrap();
            let schema = Schema::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            versions.insert(version.parse::<u32>().unwrap(), schema);
        }
    }
    let numbers: Vec<_> = versions.keys().copied().collect();
    let wanted: Vec<_> = (1..).take(numbers.len()).collect();
    assert_eq!(
        numbers, wanted,
        "versions of {} must be 1, 2, 3, …",
        topic.name
    );
    versions.into_values().collect()
}

#[test]
fn the_newest_released_version_is_the_one_that_is_written() {
    for topic in TOPICS {
        let history = history(topic);
        let newest = history.last().map(Schema::canonical_form);
        assert_eq!(
            newest,
            Some((topic.schema)().canonical_form()),
            "{0}.avsc was changed: add it to avro/history as {0}.{1}.avsc",
            topic.name,
            history.len() + 1
        );
    }
}

#[test]
fn every_version_reads_what_its_readers_need() {
    for topic in TOPICS {
        let history = history(topic);
        for (older, old) in history.iter().enumerate() {
            for (newer, new) in history.iter().enumerate().skip(older) {
                let pair = format!("{} {} and {}", topic.name, older + 1, newer + 1);
                SchemaCompatibility::can_read(old, new)
                    .unwrap_or_else(|e| panic!("{pair}: the newer cannot read the older: {e}"));
                if topic.compatibility == Compatibility::FullTransitive {
                    SchemaCompatibility::can_read(new, old)
                        .unwrap_or_else(|e| panic!("{pair}: the older cannot read the newer: {e}"));
                }
            }
        }
    }
}
