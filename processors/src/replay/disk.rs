//! Whether there is room for a second generation, as far as can be told: only of a server on this machine.

use anyhow::{Result, bail};
use projections::{db::Database, generations, projection::Projection};
use sqlx::PgConnection;

/// What a build takes beside its tables: the sorting of keys, and what Postgres logs.
const BESIDE_BYTES: u64 = 64 << 20;

/// Demands room for as much as the live generation takes, and a quarter more.
pub(super) async fn must_have_room(
    connection: &mut PgConnection,
    database: &Database,
    projection: &Projection,
) -> Result<()> {
    let live_bytes = generations::size(connection, projection.name).await?;
    let Some(folder) = generations::data_directory(connection).await? else {
        return Ok(());
    };
    if !database.is_local() {
        return Ok(());
    }
    // A server in a container tells of a folder of its own.
    let Ok(found) = rustix::fs::statvfs(&*folder) else {
        return Ok(());
    };
    let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    let needed_bytes = needed(live_bytes.unsigned_abs());
    if free_bytes < needed_bytes {
        bail!(
            "no room for a second {}: it takes about {} MiB, and {folder} has {} MiB left; `millrace replay --drop-old` removes earlier generations",
            projection.name,
            needed_bytes >> 20,
            free_bytes >> 20
        );
    }
    Ok(())
}

fn needed(live_bytes: u64) -> u64 {
    live_bytes + live_bytes / 4 + BESIDE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_its_kind_and_a_quarter_more_has_to_fit() {
        assert_eq!(needed(0), BESIDE_BYTES);
        assert_eq!(needed(400 << 20), (500 << 20) + BESIDE_BYTES);
    }
}
