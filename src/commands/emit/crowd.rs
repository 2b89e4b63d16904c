//! `millrace emit sale`: a crowd comes to the sale. Its requests go out at a fixed rate, whether or not the verdicts
//! keep up, and these are read from the log as every other process does. Nothing that is kept grows with the crowd.

mod follower;
mod latencies;
mod outcome;
mod run;

use anyhow::{Context, Result, bail};
use producers::{
    append::Profile,
    clock,
    sales::{Crowd, Stamp},
    trace::Trace,
    writer::Context as Origin,
};
use schemas::sales::SaleEvent;

use self::{
    follower::{Follower, Heard},
    run::Run,
};
use crate::{
    cli::{Connection, EmitSale},
    output,
};

pub(super) async fn come(connection: &Connection, args: &EmitSale) -> Result<()> {
    let crowd = |items| Crowd {
        users: args.users,
        each: args.each,
        items,
        buy_percent: args.buy_percent,
    };
    if args.dry_run {
        return would_come(args, crowd(1).wish_count());
    }
    let writer = super::writer::<SaleEvent>(connection, Profile::Interactive).await?;
    let mut follower = Follower::start(connection)?;
    let Heard::Started { items, rules_seen } = follower.next().await? else {
        bail!("the log of the sale was not read from its window on");
    };
    let origin = Origin {
        trace: Some(Trace::start()),
    };
    // The way there and back is proved before the first request: that takes longest, and is none of the sale's time.
    let barrier = Stamp::now(rules_seen);
    let appended = writer.append(&barrier.barrier(), &origin).await;
    appended.context("nobody has come: try again")?;
    let rules_seen = follower.has_passed(barrier.nonce, rules_seen).await?;

    let crowd = crowd(args.items.unwrap_or(items));
    let wishes = crowd.wishes(clock::generator(args.seed));
    let wishes = (wishes, crowd.wish_count());
    let run = Run::new(&writer, origin, wishes, args.rate, rules_seen);
    run.drive(&mut follower).await.tell(args.json)
}

fn would_come(args: &EmitSale, checkouts: u64) -> Result<()> {
    if args.json {
        return output::json(&serde_json::json!({ "would_append_checkouts": checkouts }));
    }
    output::line(format_args!(
        "{} of {} would be sent, and purchases with {} in 100 of the codes that they give, {} a second together",
        output::count(checkouts, "checkout"),
        output::count(u64::from(args.users), "user"),
        args.buy_percent,
        args.rate
    ))
}
