//! The schema registry, and the schemas in it.

use anyhow::Result;
use projections::schema_ids::Met;
use schemas::{
    codec,
    registry::{Registry, RegistryError},
    topics::{TOPICS, Topic, subject},
};

use super::{Report, timed};
use crate::output;

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
    for topic in TOPICS {
        let subject = subject(&topic.full_name(prefix));
        let check = format!("schema {subject}");
        match judge(registry, topic, &subject).await {
            Ok(Judged::Good(found)) => report.ok(check, found)?,
            Ok(Judged::Doubtful(found)) => report.warning(check, found)?,
            Ok(Judged::Bad(found)) => report.failed(check, found)?,
            Err(error) => report.failed(check, error)?,
        }
    }
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

enum Judged {
    Good(String),
    Doubtful(String),
    Bad(String),
}

/// Whether this build can read every version of a schema, has its own among them, and is safe from worse to come.
async fn judge(registry: &Registry, topic: &Topic, subject: &str) -> Result<Judged, RegistryError> {
    let mut own = None;
    let versions = registry.versions(subject).await?;
    if versions.is_empty() {
        return Ok(Judged::Bad(
            "nothing is registered: run `millrace topics apply`".to_owned(),
        ));
    }
    for &version in &versions {
        let (id, text) = registry.version(subject, version).await?;
        if registry.schema(id).await?.is_none() {
            return Ok(Judged::Bad(format!(
                "version {version} has id {id}, and the registry does not know that id: it has lost data; restore it"
            )));
        }
        match codec::is_own(topic, &text) {
            Ok(is_own) => own = own.or_else(|| is_own.then_some((version, id))),
            Err(why) => {
                return Ok(Judged::Bad(format!(
                    "version {version}, id {id}, cannot be read by this build ({why}): deploy the build that registered it"
                )));
            }
        }
    }
    let wanted = topic.compatibility.as_str();
    let demanded = registry.demanded(subject).await?;
    let demanded = demanded.as_deref().unwrap_or("not set");
    if demanded != wanted {
        return Ok(Judged::Bad(format!(
            "compatibility is {demanded}, should be {wanted}, or a version may come that breaks readers: run `millrace topics apply`"
        )));
    }
    let count = output::count(versions.len() as u64, "version");
    Ok(match own {
        Some((version, id)) => Judged::Good(format!(
            "{count}, all of them readable; this build writes version {version}, id {id}; {wanted}"
        )),
        None => Judged::Doubtful(format!(
            "{count}, and this build's is not among them: it registers it when it first writes, or `millrace topics apply` does"
        )),
    })
}
