//! The one binary, `millrace`: a thin dispatch over the crates. The only place that ends the process with a code:
//! 0 done, 1 failed, 2 used wrongly.

#![expect(
    unreachable_pub,
    reason = "a program has no outside: pub is what its other files use"
)]

mod cli;
mod commands;
mod logs;
mod output;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use tikv_jemallocator::Jemalloc;

use crate::{
    cli::{Cli, Command, WrongUse},
    output::ReaderGone,
};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const FAILED: u8 = 1;
const USED_WRONGLY: u8 = 2;
/// For how long questions are waited for that nobody asks any more. One to a broker that does not answer, for each
/// topic, would take minutes.
const LAST_QUESTIONS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return explain(&usage),
    };
    cli.logging.start(cli.command.is_server());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // As in `millrace topics tail orders | head`: whoever read has seen enough.
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            let used_wrongly = error.is::<WrongUse>();
            ExitCode::from(if used_wrongly { USED_WRONGLY } else { FAILED })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let done = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(LAST_QUESTIONS);
    done
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let connection = cli.connection;
    match cli.command {
        Command::Run(args) => commands::serve::run(connection, args).await,
        Command::Api(args) => commands::serve::api(connection, args).await,
        Command::Process(args) => commands::serve::process(connection, args).await,
        Command::Emit(args) => commands::emit::emit(&connection, args.what).await,
        Command::Topics(args) => commands::topics::topics(&connection, args).await,
        Command::Schemas(args) => commands::schemas::schemas(&connection, &args).await,
        Command::Lag(args) => commands::lag::lag(&connection, &args).await,
        Command::Replay(args) => commands::replay::replay(&connection, &args).await,
        Command::Verify(args) => commands::verify::verify(&connection, &args).await,
        Command::Audit(args) => commands::audit::audit(&connection, &args).await,
        Command::Doctor(args) => commands::doctor::doctor(&connection, &args).await,
        Command::DeadLetters(args) => commands::dead_letters::dead_letters(&connection, args).await,
    }
}

/// Help and version are answers; anything else is a wrong use.
fn explain(usage: &clap::Error) -> ExitCode {
    // Nobody is left to be told if this cannot be written.
    let _ = usage.print();
    ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(FAILED))
}
