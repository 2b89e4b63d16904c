//! `millrace topics apply`: what is missing is made, what differs is told.

use crate::{
    samples::model,
    world::{Servers, World},
};

#[tokio::test]
async fn topics_that_are_missing_are_named_with_what_to_do() {
    let world = World::without_topics(Servers::default(), "missing").await;
    let apply = "run `millrace topics apply`";
    let (clicks, orders) = (world.topic("clicks"), world.topic("orders"));
    let click = world
        .millrace(&["emit", "click", "--banner", "1"], "")
        .await;
    click.failed(1, &[&format!("topic {clicks} does not exist"), apply]);
    let order = world
        .millrace(&["emit", "order", "--file", "-"], &model().to_string())
        .await;
    order.failed(1, &[&format!("topic {orders} does not exist"), apply]);
    // By its full name: `orders` may be the topic of an installation without a prefix.
    let tail = world.millrace(&["topics", "tail", &orders], "").await;
    tail.failed(1, &[&orders, "millrace topics apply"]);

    for (args, what) in [
        (&["topics", "apply", "--dry-run"][..], "would be created"),
        (&["topics", "apply"], "created"),
        (&["topics", "apply"], "as it has to be"),
    ] {
        let said = world.millrace(args, "").await;
        let of_each = world.topics().into_iter();
        let of_each: Vec<_> = of_each.map(|topic| format!("{topic}: {what}")).collect();
        assert_eq!(said.lines(), of_each, "{args:?}");
    }
    assert_eq!(world.ends("orders").await, [0; 8]);
    world.drop_topics().await;
}

#[tokio::test]
async fn a_topic_that_is_not_as_it_has_to_be_is_told_and_left_alone() {
    let world = World::without_topics(Servers::default(), "differs").await;
    world.create_topic("clicks", 3, &[]).await;
    let applied = world.millrace(&["topics", "apply"], "").await;
    applied.failed(1, &["nothing was altered"]);
    assert!(
        applied.stdout.contains("has 3 partitions, needs 8"),
        "{applied:?}"
    );
    assert_eq!(world.ends("clicks").await, [0; 3]);
    let click = world
        .millrace(&["emit", "click", "--banner", "1"], "")
        .await;
    click.failed(1, &["has 3 partitions where 8 are needed"]);
    world.drop_topics().await;
}
