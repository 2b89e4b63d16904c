//! `millrace emit user`: profiles from files of any shape, good and bad, and many of them.

use std::{fmt::Write as _, fs, path::PathBuf};

use serde_json::{Value, json};
use tokio::time::Duration;

use crate::{
    users::{of, profile},
    world::{Process, World, eventually_within},
};

const HEAD: &str = "user_id,deeplink,promo_message";

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(world: &World) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&world.database);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn profiles_come_one_by_one_from_files_and_from_nowhere() {
    let world = World::new("emitusers").await;
    let folder = Folder::new(&world);
    let run = world.start(["run"]).await;
    let emit = async |args: &[&str], stdin: &str| {
        let args = [&["emit", "user"], args].concat();
        world.millrace(&args, stdin).await
    };
    let one = emit(
        &["--id", "ann", "--deeplink", "app://one", "--promo", "one"],
        "",
    )
    .await;
    assert!(
        one.lines()[0].starts_with("1 profile appended, position "),
        "{one:?}"
    );
    assert_eq!(one.lines()[1], "GET /v1/users?user_id=ann");
    let csv = folder.file("a.csv", &format!("{HEAD}\nbob,app://two,two\n"));
    let two = emit(&["--file", &csv], "").await;
    assert!(two.lines()[0].starts_with("1 profile appended"), "{two:?}");
    let line = r#"{"user_id":"cay","deeplink":"app://three","promo_message":"three"}"#;
    let ndjson = folder.file("a.ndjson", &format!("{line}\n"));
    emit(&["--file", &ndjson], "").await.lines();
    emit(&["--file", "-"], &line.replace("cay", "dan"))
        .await
        .lines();
    let eve = format!("{HEAD}\neve,app://three,three\n");
    let last = emit(&["--file", "-", "--json"], &eve).await;
    let outcome = &last.json_lines()[0];
    assert_eq!(
        (&outcome["appended"], &outcome["unknown"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(outcome.get("skipped"), None);
    let sample = ["--sample", "2000", "--seed", "3"];
    emit(&sample, "").await.lines();
    world.must_be_what_the_log_says().await;
    for (id, word) in [
        ("ann", "one"),
        ("bob", "two"),
        ("cay", "three"),
        ("dan", "three"),
        ("eve", "three"),
    ] {
        run.get(&of(id)).await.must_have(id, &profile(word));
    }
    let rows = world.sql("SELECT count(*) FROM users.users").await;
    assert_eq!(rows[0]["count"], 2_005);
    let records = world.read_topic("users").await;
    assert!(
        records
            .iter()
            .all(|record| record.headers.contains_key("ce_id"))
    );

    // What a dry run prints can be sent, and is what would have been.
    let ends = world.ends("users").await;
    let dry = emit(&[&sample[..], &["--dry-run"]].concat(), "").await;
    assert_eq!(dry.json_lines().len(), 2_000);
    let counted = emit(&["--file", "-", "--dry-run"], &dry.stdout).await;
    assert_eq!(counted.lines(), ["2,000 profiles would be sent"]);
    assert_eq!(world.ends("users").await, ends);
    for line in dry.json_lines().iter().step_by(400) {
        let id = line["user_id"].as_str().unwrap();
        run.get(&of(id)).await.must_have(id, line);
    }
    emit(&["--id", "a b", "--deeplink", "", "--promo", ""], "")
        .await
        .failed(2, &["user_id must be 1 to 20"]);
}

#[tokio::test]
async fn a_file_with_bad_rows_is_told_by_line_and_field_and_none_of_it_is_sent() {
    let world = World::new("badusers").await;
    let folder = Folder::new(&world);
    let emit = async |args: &[&str], text: &str| {
        let args = [&["emit", "user", "--file"], args].concat();
        world.millrace(&args, text).await
    };
    let rows = format!("{HEAD}\nann,a,b\n\na b,a,\"b\n\"\nbob,a\ncay,a,b\n");
    emit(&["-"], &rows).await.failed(
        1,
        &[
            "stdin:4: user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -",
            "stdin:6: has 2 fields, not 3",
            "stdin has 2 bad rows; nothing was sent",
        ],
    );
    let csv = folder.file("users.csv", &rows);
    emit(&[&csv], "")
        .await
        .failed(1, &["users.csv:4: user_id must be", "2 bad rows"]);
    emit(&["-"], "{\"user_id\":\"a\"}\nnonsense\n")
        .await
        .failed(1, &["stdin:1: deeplink is missing", "stdin:2: is not JSON"]);
    let mut many = format!("{HEAD}\n");
    for _ in 0..1_000 {
        many.push_str("a b,,\n");
    }
    emit(&["-"], &many)
        .await
        .failed(1, &["stdin:21:", "and 980 bad rows more", "1,000 bad rows"]);
    for (text, words) in [
        ("", "user_id is missing"),
        ("ann,a,b\n", "the first line has to name the columns"),
        (HEAD, "stdin has no profiles"),
        (
            "{\"user_id\":\"a\",\"deeplink\":\"\",\"promo_message\":\"\"",
            "is not JSON",
        ),
    ] {
        emit(&["-"], text).await.failed(1, &[words]);
    }
    let endless = format!("{HEAD}\nann,a,\"{}", "b\n".repeat(1 << 20));
    emit(&["-"], &endless)
        .await
        .failed(1, &["line 2", "is a quote not closed?"]);
    emit(&["/does/not/exist.csv"], "")
        .await
        .failed(1, &["cannot read /does/not/exist.csv"]);
    assert_eq!(folder.names(), ["users.csv"]);
    assert_eq!(world.ends("users").await, [0; 8]);
}

#[tokio::test]
async fn bad_rows_that_are_skipped_are_written_aside_and_can_be_mended() {
    let world = World::new("skipusers").await;
    let folder = Folder::new(&world);
    let emit = async |args: &[&str]| {
        let args = [&["emit", "user", "--file"], args].concat();
        world.millrace(&args, "").await
    };
    let good = "ann,app://a,\"a\n, b\"\n";
    let csv = folder.file(
        "users.csv",
        &format!("{HEAD}\n{good}b b,\"x\ny\",z\r\ncay,c,c\n"),
    );
    let dry = emit(&[&csv, "--skip-bad", "--dry-run"]).await;
    assert_eq!(dry.lines(), ["2 profiles would be sent, without 1 bad row"]);
    assert_eq!(folder.names(), ["users.csv"]);

    let sent = emit(&[&csv, "--skip-bad"]).await;
    assert!(
        sent.lines()[0].starts_with("2 profiles appended"),
        "{sent:?}"
    );
    let aside = folder.path("users.bad.csv");
    assert!(
        sent.stderr.contains("users.csv:4: user_id must be"),
        "{sent:?}"
    );
    assert!(
        sent.stderr.contains(&format!("written to {aside}")),
        "{sent:?}"
    );
    let kept = fs::read_to_string(&aside).unwrap();
    assert_eq!(kept, format!("{HEAD}\nb b,\"x\ny\",z\n"));

    // Once more: what was kept is not overwritten.
    let again = emit(&[&csv, "--skip-bad", "--json"]).await;
    let outcome = &again.json_lines()[0];
    assert_eq!(
        (&outcome["appended"], &outcome["skipped"]),
        (&json!(2), &json!(1))
    );
    let second = folder.path("users.bad-2.csv");
    assert_eq!(outcome["bad_rows"], Value::from(second));

    folder.file("users.bad.csv", &kept.replace("b b", "b_b"));
    emit(&[&aside]).await.lines();
    let lines = folder.file("users.ndjson", "oops\n");
    emit(&[&lines, "--skip-bad"])
        .await
        .failed(1, &["has no profiles; nothing was sent"]);
    assert_eq!(
        fs::read_to_string(folder.path("users.bad.ndjson")).unwrap(),
        "oops\n"
    );

    let run = world.start(["run"]).await;
    world.must_be_what_the_log_says().await;
    let text = json!({"deeplink": "x\ny", "promo_message": "z"});
    run.get(&of("b_b")).await.must_have("b_b", &text);
    let text = json!({"deeplink": "app://a", "promo_message": "a\n, b"});
    run.get(&of("ann")).await.must_have("ann", &text);
}

const MANY: usize = 200_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_profiles_are_imported_folded_and_served() {
    let world = World::new("import").await;
    let folder = Folder::new(&world);
    let mut text = format!("{HEAD}\n");
    for n in 0..MANY {
        writeln!(text, "user-{n},app://{n},\"promo, {n}\"").unwrap();
    }
    let csv = folder.file("users.csv", &text);
    let mut run = world.start(["run"]).await;
    let emitted = world.millrace(&["emit", "user", "--file", &csv], "").await;
    assert!(
        emitted.lines()[0].starts_with("200,000 profiles appended"),
        "{emitted:?}"
    );
    eventually_within(
        Duration::from_secs(120),
        "all of them are folded",
        async || {
            let rows = world.sql("SELECT count(*) FROM users.users").await;
            (rows[0]["count"] == MANY).then_some(())
        },
    )
    .await;
    let other = world.start(["api"]).await;
    for process in [&run, &other] {
        must_serve(process, (0..MANY).step_by(MANY / 500)).await;
    }
    run.terminate().await;
    world.must_be_what_the_log_says().await;
}

async fn must_serve(process: &Process, numbers: impl Iterator<Item = usize>) {
    for n in numbers {
        let id = format!("user-{n}");
        let wanted =
            json!({"deeplink": format!("app://{n}"), "promo_message": format!("promo, {n}")});
        process.get(&of(&id)).await.must_have(&id, &wanted);
    }
}
