//! What can be said about generations of tables: make a new one, go back to an old one, compare.

use clap::{ArgGroup, Args, builder::PossibleValuesParser};
use processors::{replay::What, runtime};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["dry_run", "rollback", "drop_old", "new_log"]))]
pub struct ReplayArgs {
    /// The projection.
    #[arg(value_name = "PROJECTION", value_parser = PossibleValuesParser::new(runtime::names()))]
    pub projection: String,
    /// Builds and compares, and changes nothing: tells what would be other rows.
    #[arg(long)]
    pub dry_run: bool,
    /// Makes the generation live again that was live before, once it has caught up with a fold of its version.
    #[arg(long)]
    pub rollback: bool,
    /// Removes the generations that were live before.
    #[arg(long)]
    pub drop_old: bool,
    /// Takes another log in place of the one that the tables were made from: a topic that was made anew, or another
    /// cluster. Positions that were told before mean nothing then.
    #[arg(long)]
    pub new_log: bool,
    #[command(flatten)]
    pub manner: Building,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The projections; all of them without it.
    #[arg(value_name = "PROJECTION", value_parser = PossibleValuesParser::new(runtime::names()))]
    pub projections: Vec<String>,
    #[command(flatten)]
    pub manner: Building,
}

/// How tables are built, and how the outcome is told.
#[derive(Debug, Clone, Copy, Args)]
pub struct Building {
    /// The most memory for what is gathered before it is written, in MiB.
    #[arg(
        long,
        env = "MILLRACE_REPLAY_MEMORY",
        value_name = "MIB",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub memory: u32,
    /// Prints JSON, for programs: what was built from how many records, what took how long in seconds, and for each
    /// table how many rows it has, and were added, removed and changed, by column, with examples.
    #[arg(long)]
    pub json: bool,
}

impl ReplayArgs {
    /// What is to be done.
    pub fn what(&self) -> What {
        match self {
            Self { dry_run: true, .. } => What::DryRun,
            Self { rollback: true, .. } => What::Rollback,
            Self { drop_old: true, .. } => What::DropOld,
            Self { new_log: true, .. } => What::Adopt,
            _ => What::Replay,
        }
    }
}
