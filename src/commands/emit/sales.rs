//! `millrace emit checkout` and `millrace emit purchase`: a request of the sale as an event, and its verdict. The log
//! decides: what is told is what the fold makes of the record, as every other process does.

mod verdict;

use anyhow::{Context, Result, anyhow, bail};
use processors::sales::{Ledger, Passed, RuleBook, window::Window};
use producers::{
    append::Profile,
    sales::Stamp,
    trace::Trace,
    writer::{AppendError, Context as Origin},
};
use schemas::sales::SaleEvent;
use tokio::task::{block_in_place, spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::verdict::{Answer, Asked};
use crate::{
    cli::{Asking, Connection, EmitCheckout, EmitPurchase},
    output,
};

pub(super) async fn checkout(connection: &Connection, args: EmitCheckout) -> Result<()> {
    let asked = Asked::Checkout {
        user_id: args.user,
        item_id: args.item,
    };
    ask(connection, asked, args.asking).await
}

pub(super) async fn purchase(connection: &Connection, args: EmitPurchase) -> Result<()> {
    ask(connection, Asked::Purchase { code: args.code }, args.asking).await
}

async fn ask(connection: &Connection, asked: Asked, asking: Asking) -> Result<()> {
    let event = |stamp: Stamp| match asked {
        Asked::Checkout { user_id, item_id } => {
            stamp.checkout(user_id, item_id, asking.key.clone())
        }
        Asked::Purchase { code } => stamp.purchase(code, asking.key.clone()),
    };
    let mut window = super::window(connection, CancellationToken::new())?;
    if asking.dry_run {
        let rules_seen = block_in_place(|| {
            let mut book = RuleBook::default();
            window.read_rules(&mut book)?;
            anyhow::Ok(book.next_offset())
        })?;
        return output::json(&event(Stamp::now(rules_seen)));
    }
    let writer = super::writer::<SaleEvent>(connection, Profile::Interactive).await?;
    // Read before the request is stamped: it is void if it reaches the log half a minute later.
    let (window, ledger) = spawn_blocking(move || {
        let end = window.end()?;
        let mut ledger = window.ledger_at(end)?;
        window.read_rules(&mut ledger.book)?;
        anyhow::Ok((window, ledger))
    })
    .await??;
    let stamp = Stamp::now(ledger.book.next_offset());
    let trace = Trace::start();
    let trace_id = trace.id;
    let origin = Origin { trace: Some(trace) };
    let offset = match writer.append(&event(stamp), &origin).await {
        Ok(position) => position.map(|position| position.offset),
        Err(AppendError::Unknown(why)) => bail!("{}", asked.unknown(&why, &asking)),
        Err(refusal) => return Err(refusal).context("nothing was asked for: try again"),
    };
    let settling = spawn_blocking(move || settle(window, ledger, stamp.nonce, offset));
    let settled = settling.await?;
    let settled = settled
        .map_err(|error| anyhow!("{}", asked.unknown(&output::with_cause(&error), &asking)))?;
    Answer {
        asked,
        requested_at_ms: stamp.requested_at,
        settled,
        topic: writer.topic(),
        trace: trace_id,
    }
    .tell(asking.json)
}

/// The own record, and what became of it.
#[derive(Debug, Clone, Copy)]
struct OwnRecord {
    offset: i64,
    timestamp_ms: i64,
    passed: Passed,
}

/// Folds the log from where the ledger stands up to the own record. Without an offset the broker has the record and
/// did not tell where.
fn settle(
    mut window: Window,
    mut ledger: Ledger,
    nonce: i64,
    offset: Option<i64>,
) -> Result<OwnRecord> {
    let until = match offset {
        Some(offset) => offset + 1,
        None => window.end()?,
    };
    let mut own = None;
    window.go_on(&mut ledger, until, |record, passed| {
        if record.event.nonce() == nonce {
            own.get_or_insert(OwnRecord {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                passed,
            });
        }
    })?;
    own.context("the log was acknowledged to have the request, and it cannot be found there")
}
