//! The schema registry, and the schemas in it.

use anyhow::Result;
use projections::schema_ids::Met;
use schemas::{codec, registry::Registry};

use super::{Report, timed};
use crate::commands::schemas::check_registered;

/// Whether it answers.
pub(super) async fn check(registry: &Registry, prefix: &str, report: &mut Report) -> Result<bool> {
    let (asked_ms, time) = timed(registry.time()).await;
    match time {
        Err(error) => {
            report.failed("registry", error)?;
            return Ok(false);
        }
        Ok(time) => {
            report.ok("registry", "answers")?;
            if let Some(time) = time {
                // Whole seconds.
                let said_ms = time.as_millisecond();
                report.clock("the registry", asked_ms, said_ms..=said_ms + 999)?;
            }
        }
    }
    check_registered(registry, prefix, report).await?;
    Ok(true)
}

/// Whether ids that folds have met mean today what they meant then: another registry would give them other schemas.
pub(super) async fn check_ids(registry: &Registry, met: &[Met], report: &mut Report) -> Result<()> {
    const CHECK: &str = "schema ids";
    for Met {
        subject,
        schema_id,
        fingerprint,
    } in met
    {
        let text = match registry.schema(*schema_id).await {
            Ok(text) => text,
            Err(error) => return report.failed(CHECK, error),
        };
        if text.as_deref().and_then(codec::fingerprint_of).as_ref() != Some(fingerprint) {
            return report.failed(
                CHECK,
                format_args!(
                    "id {schema_id} of {subject} meant another schema when it was first met: the registry lost its data or is another one; point MILLRACE_REGISTRY_URL at the one that wrote this log"
                ),
            );
        }
    }
    report.ok(
        CHECK,
        format_args!("{} met so far, with the meaning that they had", met.len()),
    )
}
