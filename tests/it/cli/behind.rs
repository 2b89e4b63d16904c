//! `millrace lag` and `dead-letters`: what is behind, and what could not be folded.

use serde_json::json;

use crate::world::{Raw, World};

#[tokio::test]
async fn what_could_not_be_folded_and_what_is_behind_can_be_seen() {
    let world = World::new("letters").await;
    world.start(["process"]).await.terminate().await;
    let lag = world
        .millrace(&["lag", "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(lag["total"]["records"], 0);
    let (partition, offset) = world
        .append_raw("clicks", Raw::value("junk\u{1b}[31m").into_partition(4))
        .await;
    world
        .millrace(&["emit", "click", "--banner", "1", "--count", "500"], "")
        .await
        .lines();
    let lag = world
        .millrace(&["lag", "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(lag["total"]["records"], 501, "{lag}");
    let none = world.millrace(&["dead-letters", "--json"], "").await;
    assert_eq!(none.lines(), [""; 0]);

    let _folds = world.start(["process"]).await;
    world.caught_up("clicks").await;
    let lag = world
        .millrace(&["lag", "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(
        (&lag["total"]["records"], &lag["total"]["seconds"]),
        (&json!(0), &json!(0.0))
    );
    assert!(world.millrace(&["lag"], "").await.lines().len() > 8);
    let position = format!("{}/{partition}@{offset}", world.topic("clicks"));
    let letters = world
        .millrace(&["dead-letters", "--json"], "")
        .await
        .json_lines();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&letters[0]["position"], &letters[0]["reason"]),
        (&json!(position), &json!("not_framed"))
    );
    let others = world
        .millrace(&["dead-letters", "--projection", "orders", "--json"], "")
        .await;
    assert_eq!(others.lines().len(), 0);
    let listed = world.millrace(&["dead-letters"], "").await;
    assert!(
        listed.stdout.contains(&position) && listed.stdout.contains("not_framed"),
        "{listed:?}"
    );
    let shown = world
        .millrace(&["dead-letters", "show", &position], "")
        .await;
    assert!(
        shown.stdout.contains("not_framed") && shown.stdout.contains("junk"),
        "{shown:?}"
    );
    assert!(
        !shown.stdout.contains('\u{1b}'),
        "junk reaches the terminal: {shown:?}"
    );
    let good = format!("{}/0@0", world.topic("clicks"));
    let good = world.millrace(&["dead-letters", "show", &good], "").await;
    assert_eq!(good.status, 1, "{good:?}");
}
