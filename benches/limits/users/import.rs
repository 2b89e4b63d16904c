//! Users onto the log: `millrace emit user --file`, beside `millrace emit click`.
//!
//! Both are whole commands, with the start of a process and of its connections. The file is CSV, and is read twice. A
//! click has no key, no headers and no text, so it is the most that a command could do. Checked after each run: exactly
//! so many records more are on the log.
//!
//! Ten million (a million in a quick look) are sent and folded once, for the misses; what is told of it are rates and the
//! most memory that the command, and `millrace run`, took.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use producers::users::samples;
use schemas::users::UserEvent;
use serde_json::json;
use tokio::{process::Command, time::sleep};

use super::IMPORT;
use crate::{
    emit,
    it::world::{
        Process, World, eventually_within,
        process::{BINARY, forget_environment},
    },
    output,
    run::{Report, Row, Settings, peak_mb, rounded},
};

const COUNT: usize = 1_000_000;
const SEED: u64 = 7;
/// How long folding may take.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// How often it is looked how much memory a command takes.
const LOOK: Duration = Duration::from_millis(20);

/// Measures the row.
///
/// # Errors
/// If a record was lost or written twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_user_import").await;
    let count = settings.amount(COUNT);
    output::note(format_args!("{IMPORT}: writes files and warms up"));
    let (file, warm) = (Csv::write(&world, count)?, Csv::write(&world, count / 10)?);
    import(&world, &warm).await?;
    emit::command(&world, count / 10).await?;
    let row = Row::new(
        IMPORT,
        "users of `millrace emit user --file`",
        "`millrace emit click`",
        Some(0.4),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || Ok(import(&world, &file).await?.rate),
            async || emit::command(&world, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Imports so many samples, and waits until they are folded.
///
/// # Errors
/// If one was lost.
pub async fn fold_samples(
    world: &World,
    run: &Process,
    count: usize,
    report: &mut Report,
) -> Result<()> {
    let file = Csv::write(world, count)?;
    let told = output::grouped(count as u64);
    output::note(format_args!("{IMPORT}: sends and folds {told} users"));
    let began = Instant::now();
    let imported = import(world, &file).await?;
    let query = "SELECT sum(next_offset)::bigint AS n FROM millrace.checkpoints WHERE projection = 'users' AND live";
    eventually_within(PATIENCE, "all users are folded", async || {
        sleep(LOOK).await;
        let rows = world.sql(query).await;
        (usize::try_from(rows[0]["n"].as_i64()?).ok()? >= count).then_some(())
    })
    .await;
    let folded = count as f64 / began.elapsed().as_secs_f64();
    let rows = world.sql("SELECT count(*) AS n FROM users.users").await;
    ensure!(rows[0]["n"] == count, "{} users are there", rows[0]["n"]);
    world.execute("VACUUM ANALYZE users.users").await;
    let run_mb = peak_mb(run);
    report.detail(
        "user-import-once",
        json!({
            "users": count, "sent_per_second": imported.rate, "folded_per_second": folded,
            "command_mb": imported.memory_mb, "run_mb": run_mb,
        }),
    );
    report.note(format!(
        "{told} users: {} sent and {} folded a second, `millrace emit user` took {} MB at most, `millrace run` {run_mb} MB",
        rounded(imported.rate),
        rounded(folded),
        imported.memory_mb
    ));
    Ok(())
}

/// What an import did.
struct Imported {
    /// Users a second.
    rate: f64,
    /// The most memory that the command took.
    memory_mb: u64,
}

async fn import(world: &World, file: &Csv) -> Result<Imported> {
    let before = on_log(world).await;
    let mut command = Command::new(BINARY);
    forget_environment(command.as_std_mut());
    let began = Instant::now();
    let mut child = command
        .args(["emit", "user", "--json", "--file"])
        .arg(&file.path)
        .envs(world.settings())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut memory_mb = 0;
    let status = loop {
        if let Some(kib) = child.id().and_then(peak_memory_kib) {
            memory_mb = kib >> 10;
        }
        tokio::select! {
            status = child.wait() => break status?,
            () = sleep(LOOK) => {}
        }
    };
    let took = began.elapsed();
    ensure!(status.success(), "emit user: {status}");
    let grown = on_log(world).await - before;
    ensure!(
        usize::try_from(grown)? == file.rows,
        "the log has grown by {grown} records, not by {}",
        file.rows
    );
    Ok(Imported {
        rate: file.rows as f64 / took.as_secs_f64(),
        memory_mb,
    })
}

async fn on_log(world: &World) -> i64 {
    world.ends("users").await.iter().sum()
}

fn peak_memory_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A file of samples, which goes when it is dropped.
struct Csv {
    path: PathBuf,
    rows: usize,
}

impl Csv {
    fn write(world: &World, rows: usize) -> Result<Self> {
        let name = format!("{}-{rows}.csv", world.database);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let csv = Self { path, rows };
        let file = File::create(&csv.path).context("a file for users")?;
        let mut file = BufWriter::new(file);
        file.write_all(b"user_id,deeplink,promo_message\n")?;
        let mut line = String::new();
        for event in samples(rows, SEED) {
            if let UserEvent::UserProfileSet(set) = event {
                line.clear();
                writeln!(
                    line,
                    "{},{},\"{}\"",
                    set.user_id, set.deeplink, set.promo_message
                )?;
                file.write_all(line.as_bytes())?;
            }
        }
        file.flush()?;
        Ok(csv)
    }
}

impl Drop for Csv {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
