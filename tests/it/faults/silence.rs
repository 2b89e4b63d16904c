//! Postgres falls silent.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    proxy::{Proxy, Rules, Verdict, Way},
    users::of,
    world::{World, eventually},
};

/// Rules for a server that falls silent, as a machine without power does: nothing is refused, and nothing answered.
#[derive(Default)]
struct Silence {
    /// How many connections there were when it fell silent; those never hear of it again.
    silent: AtomicUsize,
    connections: AtomicUsize,
}

impl Silence {
    fn fall(&self) {
        let so_far = self.connections.load(Ordering::SeqCst);
        self.silent.store(so_far, Ordering::SeqCst);
    }
}

impl Rules for Silence {
    /// The number of the connection.
    type Talk = OnceLock<usize>;

    fn message_len(&self, _: &Self::Talk, _: Way, bytes: &[u8]) -> Option<usize> {
        (!bytes.is_empty()).then_some(bytes.len())
    }

    async fn judge(&self, talk: &Self::Talk, _: Way, _: &[u8]) -> Verdict {
        let number = talk.get_or_init(|| self.connections.fetch_add(1, Ordering::SeqCst));
        if *number < self.silent.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        Verdict::Pass
    }
}

#[tokio::test]
async fn a_postgres_that_falls_silent_under_queries_keeps_no_connection_from_its_successor() {
    let world = World::new("silent").await;
    let silence = Arc::new(Silence::default());
    let server = world.servers.postgres_address();
    let proxy = Proxy::start("127.0.0.1:0", &server, Arc::clone(&silence)).await;
    let by_proxy = world
        .database_url()
        .replace(&server, &proxy.address.to_string());
    let settings = [
        ("DATABASE_URL", &*by_proxy),
        ("MILLRACE_THREADS", "1"),
        ("PG_MAX_CONNS", "1"),
        ("MILLRACE_WAIT_MS", "500"),
    ];
    let mut api = world.spawn(&["api"], &settings);
    api.ready().await;
    // Nobody has asked for any of them before, so each is a query.
    let mut uids = 0..;
    let mut ask = async || {
        let uid = uids.next().unwrap();
        api.get(&format!("/order?uid=silent-{uid}")).await.status
    };
    for _ in 0..20 {
        assert_eq!(ask().await, 404);
    }
    silence.fall();
    assert_eq!(ask().await, 503);
    let user = api.get(&of("silent")).await;
    user.must_refuse(500, "internal error");
    eventually("its successor answers", async || {
        (ask().await == 404).then_some(())
    })
    .await;
    api.get(&of("silent")).await.must_refuse(404, "not found");
}
