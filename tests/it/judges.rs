//! Judges that nobody here wrote: the tools of other people read what Millrace writes, write what it reads, and count
//! what it counts. `docker/tools` installs them; a test fails where its tool is missing.

mod confluent;
pub mod kafka;
mod kcat;
mod promtool;
mod schemathesis;
mod wrk;

use tokio::process::Command;

use crate::world::run_to_end;

/// A tool, to be given its arguments.
///
/// # Panics
/// If it is not installed; the message says how to install it.
async fn tool(name: &str) -> Command {
    let path = path(name).await;
    Command::new(path)
}

/// Where a tool is.
///
/// # Panics
/// As [`tool`].
pub async fn path(name: &str) -> String {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/tools"));
    command.args(["path", name]);
    let asked = run_to_end(command, "").await;
    assert!(asked.status == 0, "{}", asked.stderr.trim());
    asked.stdout.trim().to_owned()
}

/// A script or another file of these tests.
fn file(name: &str) -> String {
    format!("{}/tests/it/judges/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a tool to its end, which has to be a good one, and gives what it printed.
async fn said(command: Command, stdin: impl AsRef<[u8]>) -> String {
    let what = format!("{:?}", command.as_std());
    let output = run_to_end(command, stdin).await;
    assert_eq!(output.status, 0, "{what}: {output:?}");
    output.stdout
}
