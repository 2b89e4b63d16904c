//! `millrace emit user`: a profile, profiles from a file, or made up.

mod file;

use std::{cell::RefCell, iter, rc::Rc};

use anyhow::{Result, bail};
use producers::{clock, users};
use schemas::{
    event::{Event, summary},
    users::{UserEvent, UserProfileSet},
};

use self::file::{Checked, Profiles};
use super::{Skipped, Told, send};
use crate::{
    cli::{Connection, EmitUser, WrongUse},
    output,
};

pub(super) async fn emit(connection: &Connection, args: &EmitUser) -> Result<()> {
    match (&args.file, args.sample) {
        (Some(file), _) => emit_file(connection, args, &Profiles::open(file)?).await,
        (None, Some(count)) => {
            let seed = args.seed.unwrap_or_else(clock::chance);
            emit_made(connection, args, users::samples(count, seed)).await
        }
        (None, None) => emit_made(connection, args, iter::once(one(args)?)).await,
    }
}

/// The profile of the arguments.
fn one(args: &EmitUser) -> Result<UserEvent> {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let event = UserEvent::UserProfileSet(UserProfileSet {
        user_id: given(&args.id),
        deeplink: given(&args.deeplink),
        promo_message: given(&args.promo),
    });
    let faults = event.faults();
    if faults.is_empty() {
        return Ok(event);
    }
    Err(WrongUse(summary(&faults)).into())
}

async fn emit_made(
    connection: &Connection,
    args: &EmitUser,
    mut made: impl ExactSizeIterator<Item = UserEvent>,
) -> Result<()> {
    let told = Told {
        one: "profile",
        total: made.len(),
        look: args
            .id
            .as_ref()
            .map(|id| format!("GET /v1/users?user_id={id}")),
        skipped: None,
    };
    if args.manner.dry_run {
        return made.try_for_each(|event| match event {
            UserEvent::UserProfileSet(set) => output::json(&set),
            UserEvent::UserRemoved(_) => Ok(()),
        });
    }
    let sent = send(connection, made, args.manner).await?;
    sent.tell(&told, args.manner, how_to_go_on)
}

fn how_to_go_on() -> String {
    "run the same command again: a profile that is set again stays as it is".to_owned()
}

/// Checks all of a file, then sends it.
async fn emit_file(connection: &Connection, args: &EmitUser, profiles: &Profiles) -> Result<()> {
    let keeps_bad = args.skip_bad && !args.manner.dry_run;
    let Checked { good, bad, aside } = profiles.check(keeps_bad)?;
    let name = profiles.name();
    if bad > 0 && !args.skip_bad {
        let bad = output::count(bad, "bad row");
        bail!("{name} has {bad}; nothing was sent: --skip-bad sends the others");
    }
    let told = Told {
        one: "profile",
        total: good,
        look: None,
        skipped: args.skip_bad.then_some(Skipped {
            rows: bad,
            file: aside,
        }),
    };
    if let Some(Skipped {
        rows: 1..,
        file: Some(file),
    }) = &told.skipped
    {
        let rows = output::count(bad, "bad row");
        output::note(format_args!("{rows} of {name} written to {file}"));
    }
    if good == 0 {
        bail!("{name} has no profiles; nothing was sent");
    }
    if args.manner.dry_run {
        return told.would_be_sent(args.manner);
    }
    let fault = Rc::new(RefCell::new(None));
    let sending = profiles.read_again(good, Rc::clone(&fault))?;
    let sent = send(connection, sending, args.manner).await?;
    if let (Some(fault), None) = (fault.take(), &sent.emitted.error) {
        let appended = output::count(sent.emitted.appended, "profile");
        bail!("{name} changed while it was sent: {fault}; on the log: {appended}");
    }
    sent.tell(&told, args.manner, how_to_go_on)
}
