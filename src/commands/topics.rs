//! `millrace topics`: what stands on the log.

use anyhow::{Result, bail};
use producers::topics::{Applied, apply};

use crate::{
    cli::{Connection, Topics, TopicsArgs},
    output,
};

pub async fn topics(connection: &Connection, args: TopicsArgs) -> Result<()> {
    match args.command {
        Some(Topics::Apply { dry_run }) => apply_all(connection, dry_run).await,
        None => Ok(()),
    }
}

async fn apply_all(connection: &Connection, dry_run: bool) -> Result<()> {
    let applied = apply(&connection.kafka(), &connection.registry()?, dry_run).await?;
    let mut differing = 0;
    for (name, applied) in applied {
        match applied {
            Applied::Created if dry_run => output::line(format_args!("{name}: would be created"))?,
            Applied::Created => output::line(format_args!("{name}: created"))?,
            Applied::Unchanged => output::line(format_args!("{name}: as it has to be"))?,
            Applied::Differs(differences) => {
                differing += 1;
                for difference in differences {
                    output::line(format_args!("{name}: {difference}"))?;
                }
            }
        }
    }
    if differing > 0 {
        bail!(
            "{} differing; nothing was altered",
            output::count(differing, "topic")
        );
    }
    Ok(())
}
