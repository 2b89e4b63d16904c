//! The segments once more, from the contract: who is in which segment is a list that is written anew at every request,
//! and whatever happens to a membership is noted when it happens.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Tables, YEAR_10000_MS};
use crate::world::{World, avro::Reader, log::Record};

const SEGMENTS: &str = include_str!("../../../schemas/avro/segments.avsc");
const DAY_MS: i64 = 86_400_000;
const DRIFT_MAX_MS: i64 = 30_000;

macro_rules! ms {
    ($column:literal) => {
        concat!("(extract(epoch FROM ", $column, ") * 1000)::bigint")
    };
}

pub(super) const QUERIES: [(&str, &str); 4] = [
    (
        "segments.segments",
        concat!(
            "SELECT json_build_array(life) AS key, json_build_object('slug', slug, 'created_at', ",
            ms!("created_at"),
            ", 'deleted_offset', deleted_offset, 'deleted_at', ",
            ms!("deleted_at"),
            ") AS row FROM segments.segments"
        ),
    ),
    (
        "segments.memberships",
        concat!(
            r#"SELECT json_build_array(user_id, life, "offset") AS key,
            json_build_object('is_renewal', is_renewal, 'added_at', "#,
            ms!("added_at"),
            ", 'expires_at', ",
            ms!("expires_at"),
            ", 'ended_offset', ended_offset, 'ended_at', ",
            ms!("ended_at"),
            ", 'ending', ending) AS row FROM segments.memberships"
        ),
    ),
    (
        "segments.verdicts",
        concat!(
            r#"SELECT json_build_array(key) AS key, json_build_object('offset', "offset", 'verdict',
            verdict, 'added', added, 'removed', removed, 'unknown', unknown, 'at', "#,
            ms!("at"),
            ") AS row FROM segments.verdicts"
        ),
    ),
    (
        "segments.log_time",
        concat!(
            "SELECT json_build_array() AS key, json_build_object('last_at', ",
            ms!("last_at"),
            ") AS row FROM segments.log_time"
        ),
    ),
];

/// What happened to a membership: when, to whom, in which segment, and what.
pub type Happened = (i64, i64, String, &'static str);

/// A segment that is there.
#[derive(Debug)]
struct Segment {
    life: i64,
    /// By user: where the user was put in last, until when, and the row of that.
    members: BTreeMap<i64, (i64, Option<i64>, Value)>,
    row: Value,
}

#[derive(Default)]
struct Office {
    now: i64,
    /// By slug.
    segments: BTreeMap<String, Segment>,
    /// By key.
    answers: BTreeMap<String, Value>,
    happened: Vec<Happened>,
}

impl World {
    pub(super) async fn fold_segments(&self, tables: &mut Tables) {
        self.segments_until(tables, i64::MAX).await;
    }

    /// What happened to memberships up to before an offset of the log, and by a time (milliseconds since 1970), sorted.
    pub async fn memberships_until(&self, offset: i64, at_ms: i64) -> Vec<Happened> {
        let mut office = self.segments_until(&mut Tables::default(), offset).await;
        office.expire(at_ms);
        office.happened.sort();
        office.happened
    }

    /// Every verdict that was given, by key.
    pub async fn segment_verdicts(&self) -> BTreeMap<String, Value> {
        let office = self.segments_until(&mut Tables::default(), i64::MAX).await;
        office.answers
    }

    async fn segments_until(&self, tables: &mut Tables, until: i64) -> Office {
        let mut office = Office::default();
        let mut reader = Reader::new(self, "segments", SEGMENTS);
        for record in self.read_topic("segments").await {
            if record.offset >= until {
                break;
            }
            let event = reader.read(record.value.as_deref()).await;
            match event.and_then(checked) {
                Ok(event) => office.request(tables, &record, &event),
                Err(reason) => tables.dead("segments", &record, reason),
            }
        }
        for (key, answer) in &office.answers {
            tables.put("segments.verdicts", &json!([key]), answer);
        }
        office
    }
}

/// The rules that a single request has to keep.
fn checked(event: Value) -> Result<Value, &'static str> {
    let list = |field: &str| -> Vec<String> {
        serde_json::from_value(event[field].clone()).unwrap_or_default()
    };
    let mut slugs = [list("add"), list("del")].concat();
    slugs.extend(event["slug"].as_str().map(str::to_owned));
    let named = slugs.len();
    let is_plain = |slug: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        (1..=100).contains(&slug.len()) && slug.chars().all(is_plain)
    };
    let are_plain = slugs.iter().all(is_plain);
    slugs.sort();
    slugs.dedup();
    let key = event["key"].as_str().unwrap();
    let is_valid = are_plain
        && (1..=1_000).contains(&named)
        && slugs.len() == named
        && event["user_id"].as_i64().unwrap_or(0) >= 0
        && (1..=36_500 * DAY_MS).contains(&event["ttl_ms"].as_i64().unwrap_or(1))
        && (0..YEAR_10000_MS).contains(&event["requested_at"].as_i64().unwrap())
        && (1..=255).contains(&key.len())
        && key.chars().all(|c| ('!'..='~').contains(&c));
    if is_valid { Ok(event) } else { Err("invalid") }
}

impl Office {
    fn request(&mut self, tables: &mut Tables, record: &Record, event: &Value) {
        let requested_at = event["requested_at"].as_i64().unwrap();
        if (record.timestamp_ms - requested_at).abs() > DRIFT_MAX_MS {
            return;
        }
        let now = self.now.max(record.timestamp_ms);
        self.now = now;
        tables.put("segments.log_time", &json!([]), &json!({ "last_at": now }));
        self.expire(now);
        self.answers
            .retain(|_, answer| answer["at"].as_i64().unwrap() + DAY_MS > now);
        let key = event["key"].as_str().unwrap().to_owned();
        if self.answers.contains_key(&key) {
            return;
        }
        // Two of the three events have the same fields: which it is stands in front of them.
        let branch = record.value.as_ref().unwrap()[5] / 2;
        let slug = event["slug"].as_str().unwrap_or_default();
        let mut answer = match branch {
            0 => self.create(tables, record.offset, slug),
            1 => self.delete(tables, record.offset, slug),
            _ => self.change(tables, record.offset, event),
        };
        for list in ["added", "removed", "unknown"] {
            if answer[list].is_null() {
                answer[list] = json!([]);
            }
        }
        answer["offset"] = record.offset.into();
        answer["at"] = now.into();
        self.answers.insert(key, answer);
    }

    /// Notes what is over by now.
    fn expire(&mut self, now: i64) {
        for (slug, segment) in &mut self.segments {
            let is_over =
                |(_, until, _): &(i64, Option<i64>, Value)| until.is_some_and(|until| until <= now);
            for (user, member) in &mut segment.members {
                // A row stays as it is until somebody touches it.
                if is_over(member) && member.2["is_noted"].is_null() {
                    member.2["is_noted"] = true.into();
                    let happened = (member.1.unwrap(), *user, slug.clone(), "expired");
                    self.happened.push(happened);
                }
            }
        }
    }

    fn create(&mut self, tables: &mut Tables, offset: i64, slug: &str) -> Value {
        if self.segments.contains_key(slug) {
            return json!({ "verdict": "exists" });
        }
        let row = json!({
            "slug": slug, "created_at": self.now, "deleted_offset": null, "deleted_at": null,
        });
        tables.put("segments.segments", &json!([offset]), &row);
        let segment = Segment {
            life: offset,
            members: BTreeMap::new(),
            row,
        };
        self.segments.insert(slug.to_owned(), segment);
        json!({ "verdict": "created" })
    }

    fn delete(&mut self, tables: &mut Tables, offset: i64, slug: &str) -> Value {
        let Some(mut segment) = self.segments.remove(slug) else {
            return json!({ "verdict": "unknown", "unknown": [slug] });
        };
        segment.row["deleted_offset"] = offset.into();
        segment.row["deleted_at"] = self.now.into();
        tables.put("segments.segments", &json!([segment.life]), &segment.row);
        for (user, (_, until, _)) in segment.members {
            if until.is_none_or(|until| until > self.now) {
                let happened = (self.now, user, slug.to_owned(), "segment_deleted");
                self.happened.push(happened);
            }
        }
        json!({ "verdict": "deleted" })
    }

    fn change(&mut self, tables: &mut Tables, offset: i64, event: &Value) -> Value {
        let list = |field: &str| -> Vec<String> {
            let mut list: Vec<String> = serde_json::from_value(event[field].clone()).unwrap();
            list.sort();
            list
        };
        let (add, del) = (list("add"), list("del"));
        let mut unknown = [&add[..], &del].concat();
        unknown.retain(|slug| !self.segments.contains_key(slug));
        unknown.sort();
        if !unknown.is_empty() {
            return json!({ "verdict": "unknown", "unknown": unknown });
        }
        let user = event["user_id"].as_i64().unwrap();
        let until = event["ttl_ms"].as_i64().map(|ttl| self.now + ttl);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for slug in add {
            let before = self.end(tables, offset, (user, &slug), Some(until));
            if before == Some(until) {
                continue;
            }
            let segment = self.segments.get_mut(&slug).unwrap();
            let row = json!({
                "is_renewal": before.is_some(), "added_at": self.now, "expires_at": until,
                "ended_offset": null, "ended_at": null, "ending": null,
            });
            let key = json!([user, segment.life, offset]);
            tables.put("segments.memberships", &key, &row);
            segment.members.insert(user, (offset, until, row));
            if before.is_none() {
                self.happened.push((self.now, user, slug.clone(), "added"));
                added.push(slug);
            }
        }
        for slug in del {
            if self.end(tables, offset, (user, &slug), None).is_some() {
                self.happened
                    .push((self.now, user, slug.clone(), "removed"));
                removed.push(slug);
            }
        }
        json!({ "verdict": "changed", "added": added, "removed": removed })
    }

    /// Ends a membership, to take the user out or to begin another that lasts until then; gives until when the user was
    /// in. One that would last as long as before is left.
    fn end(
        &mut self,
        tables: &mut Tables,
        offset: i64,
        (user, slug): (i64, &str),
        next: Option<Option<i64>>,
    ) -> Option<Option<i64>> {
        let segment = self.segments.get_mut(slug).unwrap();
        let (since, until, mut row) = segment.members.get(&user)?.clone();
        let is_in = until.is_none_or(|until| until > self.now);
        let ending = match next {
            Some(next) if is_in && next == until => return Some(until),
            Some(_) if is_in => "renewed",
            Some(_) => "expired",
            None if is_in => "removed",
            None => return None,
        };
        row.as_object_mut().unwrap().remove("is_noted");
        row["ended_offset"] = offset.into();
        row["ended_at"] = self.now.into();
        row["ending"] = ending.into();
        tables.put(
            "segments.memberships",
            &json!([user, segment.life, since]),
            &row,
        );
        segment.members.remove(&user);
        is_in.then_some(until)
    }
}
