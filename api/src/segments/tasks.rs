//! Reports by their tasks. A task is its report, written down and signed: any process can tell it from one that somebody
//! made up, and nothing has to be kept.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use projections::segment_reports::Report;
use sha2::Sha256;

/// What is signed begins with this: nothing else that is signed with the same secret does.
const ABOUT: &[u8] = b"millrace segment report 1\n";
/// Four numbers of eight bytes.
const REPORT_BYTES: usize = 32;
/// As much of the signature as cannot be guessed.
const SIGNATURE_BYTES: usize = 16;
/// The characters of a task's id.
pub const TASK_CHARS: usize = (REPORT_BYTES + SIGNATURE_BYTES) / 3 * 4;
/// In place of a user.
const EVERYBODY: i64 = -1;

/// Signs and reads the ids of tasks.
pub struct Tasks(Hmac<Sha256>);

impl Tasks {
    /// Tasks about this topic, signed with this secret.
    pub fn new(secret: &[u8], topic: &str) -> Self {
        let mut signature = Hmac::new_from_slice(secret).expect("a secret of any length is taken");
        signature.update(ABOUT);
        signature.update(topic.as_bytes());
        signature.update(b"\n");
        Self(signature)
    }

    /// The id of the task to make this report.
    pub fn id(&self, report: &Report) -> String {
        let user_id = report.user_id.unwrap_or(EVERYBODY);
        let numbers = [report.from_ms, user_id, report.next_offset, report.until_ms];
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(i64::to_be_bytes).collect();
        let signature = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&signature[..SIGNATURE_BYTES]);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The report of a task; none if nobody here has given this id.
    pub fn report(&self, id: &str) -> Option<Report> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(id).ok()?;
        if bytes.len() != REPORT_BYTES + SIGNATURE_BYTES {
            return None;
        }
        let (report, signature) = bytes.split_at(REPORT_BYTES);
        let signed = self.0.clone().chain_update(report);
        signed.verify_truncated_left(signature).ok()?;
        let number = |index: usize| {
            let bytes = report[8 * index..][..8].try_into();
            i64::from_be_bytes(bytes.expect("eight bytes are eight bytes"))
        };
        Some(Report {
            from_ms: number(0),
            user_id: Some(number(1)).filter(|user_id| *user_id != EVERYBODY),
            next_offset: number(2),
            until_ms: number(3),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPORT: Report = Report {
        from_ms: 1_795_251_600_000,
        user_id: Some(7),
        next_offset: 41,
        until_ms: 1_795_251_660_000,
    };

    #[test]
    fn an_id_is_of_its_installation() {
        let here = Tasks::new(b"secret", "shop.segments");
        let id = here.id(&REPORT);
        assert_eq!(id.len(), TASK_CHARS);
        assert_eq!(here.report(&id), Some(REPORT));
        for other in [
            Tasks::new(b"another", "shop.segments"),
            Tasks::new(b"secret", "other.segments"),
        ] {
            assert_eq!(other.report(&id), None);
        }
    }

    #[test]
    fn an_id_has_one_spelling_and_no_character_of_it_may_change() {
        let tasks = Tasks::new(b"secret", "segments");
        let id = tasks.id(&REPORT);
        for at in 0..id.len() {
            for other in ["A", "B", "_", "=", ""] {
                let mut forged = id.clone();
                forged.replace_range(at..=at, other);
                assert!(forged == id || tasks.report(&forged).is_none(), "{forged}");
            }
        }
        for forged in ["", "A", &format!("{id}="), &format!("{id}AAAA"), &id[4..]] {
            assert_eq!(tasks.report(forged), None, "{forged}");
        }
    }

    proptest! {
        #[test]
        fn a_task_is_its_report(
            from_ms: i64,
            user_id in prop::option::of(0..i64::MAX),
            next_offset: i64,
            until_ms: i64,
        ) {
            let tasks = Tasks::new(b"secret", "segments");
            let report = Report { from_ms, user_id, next_offset, until_ms };
            prop_assert_eq!(tasks.report(&tasks.id(&report)), Some(report));
        }

        #[test]
        fn what_somebody_made_up_is_no_task(id in "[A-Za-z0-9_-]{64}") {
            prop_assert_eq!(Tasks::new(b"secret", "segments").report(&id), None);
        }
    }
}
