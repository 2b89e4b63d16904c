//! `millrace emit click`.

use anyhow::Result;
use producers::{clicks, clock};

use super::{Told, send};
use crate::cli::{Connection, EmitClick};

pub(super) async fn emit(connection: &Connection, args: &EmitClick) -> Result<()> {
    let clicks = clicks::clicks(args.banner, args.count, clock::now_ms);
    let told = Told {
        one: "click",
        total: args.count,
        look: None,
        skipped: None,
    };
    if args.manner.dry_run {
        return told.would_be_sent(args.manner);
    }
    let sent = send(connection, clicks, args.manner).await?;
    let rest = sent.rest(args.count);
    sent.tell(&told, args.manner, || {
        format!(
            "`millrace emit click --banner {} --count {rest}` sends the rest; a click is counted each time it is on the log",
            args.banner
        )
    })
}
