//! A disk runs full, and is given room again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use rand::RngExt;

use super::{
    load::{Fate, Fates, Load, answers_were_true},
    random,
    servers::{Turn, servers_to_kill},
};
use crate::world::World;

/// How much the disks of these tests hold: enough for what is there before they are filled.
const DISK_MIB: u32 = 64;
/// Larger than any disk of a test.
const FILLER_BYTES: u64 = 1 << 30;

/// A disk of its own, in memory, in the place of a folder. What is on it goes when it is dropped.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts it. Where that is not allowed it says so, for everybody to see: the test is not run.
    fn mount(folder: &Path, test: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={DISK_MIB}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .output()
            .unwrap();
        if mounted.status.success() {
            let folder = folder.to_owned();
            return Some(Self { folder });
        }
        let why = String::from_utf8_lossy(&mounted.stderr);
        // Not by a macro: what those print is shown only if the test fails.
        let _ = writeln!(
            io::stderr(),
            "NOT RUN: {test}: no disk of its own: {}",
            why.trim()
        );
        None
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Leaves so many bytes.
    fn fill_but(&self, bytes: u64) {
        let mut filler = File::create(self.filler()).unwrap();
        let full = io::copy(
            &mut io::Read::take(io::repeat(1), FILLER_BYTES),
            &mut filler,
        );
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let taken = filler.metadata().unwrap().len();
        filler.set_len(taken.saturating_sub(bytes)).unwrap();
    }

    /// Gives all the room back.
    fn free(&self) {
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.filler())
            .unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failure a server may still be there.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.folder)
            .status();
    }
}

#[tokio::test]
async fn when_kafkas_disk_is_full_nothing_acknowledged_is_lost_and_all_goes_on_once_there_is_room()
{
    let turn = servers_to_kill().await;
    turn.kill("kafka").await;
    let Some(disk) = SmallDisk::mount(&turn.folder("kafka"), "when_kafkas_disk_is_full") else {
        return;
    };
    // It must not outlive its disk; the next turn finds the log that is below.
    let _killed = turn.kill_at_the_end("kafka");
    turn.start("kafka").await;
    kafkas_disk_is_full(&turn, &disk).await;
}

async fn kafkas_disk_is_full(turn: &Turn, disk: &SmallDisk) {
    let world = World::on(turn.servers(), "full_log").await;
    let mut run = world.start(["run"]).await;
    let (clicks, orders) = (Load::of_clicks(&run, 16), Load::of_orders(&run, 2));
    let mut random = random("full_log");
    clicks
        .acknowledged_more(random.random_range(100..1_000))
        .await;
    disk.fill_but(random.random_range(0..200_000));
    clicks.failed_more(16).await;
    orders.failed_more(2).await;
    // It has given up its log: a start is what brings it back. Before there is room again: Kafka writes behind what it
    // wrote in part, acknowledges it, and cuts it off when it starts.
    turn.kill("kafka").await;
    disk.free();
    turn.start("kafka").await;
    clicks.acknowledged_more(200).await;
    orders.acknowledged_more(5).await;
    run.ready_again().await;
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    let [clicks, orders] = [clicks, orders].map(refusals_in_doubt);
    answers_were_true(&world, &clicks, &orders).await;
    run.terminate().await;
}

/// A broker whose disk fails refuses what it may have written already, and librdkafka takes it at its word.
fn refusals_in_doubt(mut fates: Fates) -> Fates {
    for fate in fates.values_mut() {
        if *fate == Fate::NotApplied {
            *fate = Fate::Unknown;
        }
    }
    fates
}

#[tokio::test]
async fn when_postgres_disk_is_full_writes_go_on_and_the_tables_catch_up_once_there_is_room() {
    let turn = servers_to_kill().await;
    let folder = turn.folder("tablespace");
    let Some(disk) = SmallDisk::mount(&folder, "when_postgres_disk_is_full") else {
        return;
    };
    turn.give_to_postgres(&folder);
    let servers = turn.servers();
    servers
        .administer(&format!(
            "CREATE TABLESPACE small LOCATION '{}'",
            folder.display()
        ))
        .await;
    let world = World::on(turn.servers(), "full_table").await;
    servers
        .administer(&format!(
            "ALTER DATABASE {} SET TABLESPACE small",
            world.database
        ))
        .await;
    postgres_disk_is_full(&world, &disk).await;
    drop(world);
    servers.administer("DROP TABLESPACE small").await;
}

async fn postgres_disk_is_full(world: &World, disk: &SmallDisk) {
    let mut run = world.start(["run"]).await;
    let (clicks, orders) = (Load::of_clicks(&run, 8), Load::of_orders(&run, 2));
    let mut random = random("full_table");
    clicks
        .acknowledged_more(random.random_range(100..1_000))
        .await;
    disk.fill_but(random.random_range(0..200_000));
    run.not_ready_since("No space left on device").await;
    clicks.acknowledged_more(500).await;
    orders.acknowledged_more(5).await;
    disk.free();
    run.ready_again().await;
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(world, &clicks, &orders).await;
    run.terminate().await;
}
