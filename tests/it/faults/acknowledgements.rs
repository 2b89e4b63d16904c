//! The acknowledgements of the broker get lost: what is answered is true all the same, and nothing is written twice.

use std::sync::Arc;

use rand::{RngExt, seq::SliceRandom};

use super::{
    RECOVERY, faults,
    load::{Fate, Load, answers_were_true},
    random,
    servers::servers_to_kill,
    tell,
};
use crate::{
    proxy::{
        Proxy,
        kafka::{Fault, Writes},
    },
    world::{World, eventually_within},
};

/// What goes wrong, and for how long.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// So often: it is over before a write is given up.
    Times(Fault, usize),
    /// Until writes are given up.
    Lasting(Fault),
}

#[tokio::test]
async fn when_acknowledgements_are_lost_the_answers_are_true_and_nothing_is_written_twice() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "unacknowledged").await;
    let [listen, kafka] = turn.proxied_kafka();
    let writes = Arc::new(Writes::default());
    let _proxy = Proxy::start(&listen, &kafka, Arc::clone(&writes)).await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_BROKERS", &listen)]);
    run.ready().await;
    let clicks = Load::of_clicks(&run, 16);
    let orders = Load::of_orders(&run, 2);
    let mut random = random("acknowledgements");
    for _ in 0..faults(1) {
        let mut troubles = [
            Trouble::Times(
                Fault::ConnectionInsteadOfAcknowledgement,
                random.random_range(1..20),
            ),
            Trouble::Times(Fault::RequestCutOff, random.random_range(1..20)),
            Trouble::Lasting(Fault::ConnectionInsteadOfAcknowledgement),
            Trouble::Lasting(Fault::RequestCutOff),
            Trouble::Lasting(Fault::NoAcknowledgement),
        ];
        troubles.shuffle(&mut random);
        for trouble in troubles {
            tell(&format!("{trouble:?}"));
            clicks.acknowledged_more(random.random_range(50..500)).await;
            suffer(trouble, &writes, &clicks).await;
            clicks.acknowledged_more(100).await;
            orders.acknowledged_more(5).await;
        }
    }
    run.ready_again().await;
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(&world, &clicks, &orders).await;
    assert!(clicks.values().any(|fate| *fate == Fate::Unknown));
    run.terminate().await;
}

async fn suffer(trouble: Trouble, writes: &Writes, clicks: &Load) {
    match trouble {
        Trouble::Times(fault, times) => {
            let lost = writes.lost() + times;
            writes.set(fault);
            eventually_within(RECOVERY, &format!("{fault:?} {times} times"), async || {
                (writes.lost() >= lost).then_some(())
            })
            .await;
        }
        Trouble::Lasting(fault) => {
            writes.set(fault);
            clicks.failed_more(16).await;
        }
    }
    writes.set(Fault::None);
}
