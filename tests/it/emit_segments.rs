//! Segments from the command line: a request, and the verdict that the projection has stored.

use serde_json::{Value, json};

use crate::world::{Output, World};

/// Runs `millrace emit` with these words and `--json`, and gives what it printed.
async fn emit(world: &World, words: &str, status: i32) -> Value {
    let output = emit_raw(world, &format!("{words} --json"), status).await;
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn emit_raw(world: &World, words: &str, status: i32) -> Output {
    let line = format!("emit {words}");
    let output = world
        .millrace(&line.split(' ').collect::<Vec<_>>(), "")
        .await;
    assert_eq!(output.status, status, "{words}: {output:?}");
    output
}

#[tokio::test]
async fn requests_are_told_what_the_projection_has_decided() {
    let world = World::new("emit_segments").await;
    let mut folds = world.start(["process", "--only", "segments"]).await;
    let created = emit(&world, "segment --slug A --key k1", 0).await;
    assert_eq!(created["verdict"], "created");
    assert_eq!(
        (&created["slug"], &created["key"]),
        (&json!("A"), &json!("k1"))
    );
    assert_eq!(created["replayed"], false);
    let place = format!("{}/0@0", world.topic("segments"));
    assert_eq!(created["position"], place);
    let again = emit(&world, "segment --slug A --key k1", 0).await;
    assert_eq!(
        (&again["verdict"], &again["replayed"]),
        (&json!("created"), &json!(true))
    );
    let exists = emit(&world, "segment --slug A", 1).await;
    assert_eq!(exists["verdict"], "exists");
    let reused = emit(&world, "segment --slug A --delete --key k1", 1).await;
    assert_eq!(reused["verdict"], "key_reused");
    emit(&world, "segment --slug -B", 0).await;

    let changed = emit(
        &world,
        "membership --user-id 7 --add A,-B --ttl-days 0.5",
        0,
    )
    .await;
    assert_eq!(changed["added"], json!(["-B", "A"]));
    let changed = emit(&world, "membership --user-id 7 --del A --add -B", 0).await;
    assert_eq!(
        (&changed["added"], &changed["removed"]),
        (&json!([]), &json!(["A"]))
    );
    let unknown = emit(&world, "membership --user-id 7 --add Y --del Z", 1).await;
    assert_eq!(unknown["unknown"], json!(["Y", "Z"]));
    let told = emit_raw(&world, "membership --user-id 7 --add Y", 1).await;
    assert!(told.stderr.contains("no segment Y"), "{told:?}");
    let told = emit_raw(&world, "segment --slug A --delete", 0).await;
    assert!(
        told.stdout.starts_with("segment A deleted, position "),
        "{told:?}"
    );
    folds.terminate().await;
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn what_is_not_sent_is_said_so() {
    let world = World::new("emit_no_segments").await;
    let dry = emit(&world, "segment --slug A --dry-run", 0).await;
    assert_eq!(dry["SegmentCreateRequested"]["slug"], "A");
    let both = emit_raw(&world, "membership --user-id 7 --add A --del A", 2).await;
    assert!(both.stderr.contains("nothing was sent"), "{both:?}");
    let closed = [("DATABASE_URL", "postgres://millrace@127.0.0.1:1/millrace")];
    let without = world
        .millrace_with(&["emit", "segment", "--slug", "A"], "", &closed)
        .await;
    assert_eq!(without.status, 1, "{without:?}");
    assert!(without.stderr.contains("127.0.0.1:1"), "{without:?}");
    assert_eq!(world.ends("segments").await, [0]);
}
