//! What can be said about segments and who is in them.

use clap::Args;
use schemas::segments::{SLUG_CHARS_MAX, is_slug, ttl_ms};

use super::sale::{key, user};

#[derive(Debug, Args)]
pub struct EmitSegment {
    /// Its name: 1 to 100 letters, digits, _ and -.
    #[arg(long, value_name = "SLUG", value_parser = slug, allow_hyphen_values = true)]
    pub slug: String,
    /// Deletes it, and ends every membership.
    #[arg(long)]
    pub delete: bool,
    #[command(flatten)]
    pub requesting: Requesting,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("lists").required(true).multiple(true).args(["add", "del"]))]
pub struct EmitMembership {
    /// The user.
    #[arg(long, value_name = "ID", value_parser = user, allow_negative_numbers = true)]
    pub user_id: i64,
    /// Segments to be in, with commas between; who is in already has the time that is given now.
    #[arg(long, value_name = "SLUGS", value_parser = slug, value_delimiter = ',', allow_hyphen_values = true)]
    pub add: Vec<String>,
    /// Segments not to be in, with commas between.
    #[arg(long, value_name = "SLUGS", value_parser = slug, value_delimiter = ',', allow_hyphen_values = true)]
    pub del: Vec<String>,
    /// For how many days the user is in the segments of --add, also parts of a day; without it, until taken out.
    #[arg(long = "ttl-days", value_name = "DAYS", value_parser = days, requires = "add", allow_negative_numbers = true)]
    pub ttl_ms: Option<i64>,
    #[command(flatten)]
    pub requesting: Requesting,
}

/// How a request is made, and how its verdict is told.
#[derive(Debug, Args)]
pub struct Requesting {
    /// Idempotency key: the same command again, with the same key, is given the first verdict for 24 hours. Unless told,
    /// a new one.
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub key: Option<String>,
    /// Sends nothing and prints the event.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints the verdict as JSON: verdict, slug, user_id, added, removed, unknown, key, position, replayed, trace_id.
    #[arg(long)]
    pub json: bool,
}

fn slug(text: &str) -> Result<String, String> {
    if is_slug(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must be 1 to {SLUG_CHARS_MAX} letters, digits, _ and -"
    ))
}

/// Gives milliseconds.
fn days(text: &str) -> Result<i64, String> {
    let days = text.parse().ok().and_then(ttl_ms);
    days.ok_or_else(|| "must be a number of days, larger than 0 and 36500 at most".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command, Emit, EmitArgs};

    #[test]
    fn requests_that_could_never_be_appended_are_refused() {
        for line in [
            "millrace emit segment",
            "millrace emit segment --slug a;b",
            "millrace emit segment --slug A --key=",
            "millrace emit membership --user-id 1",
            "millrace emit membership --add A",
            "millrace emit membership --user-id -1 --add A",
            "millrace emit membership --user-id 1 --add A,,B",
            "millrace emit membership --user-id 1 --del A --ttl-days 1",
            "millrace emit membership --user-id 1 --add A --ttl-days 0",
            "millrace emit membership --user-id 1 --add A --ttl-days -1",
            "millrace emit membership --user-id 1 --add A --ttl-days long",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn segments_are_listed_with_commas_or_one_by_one() {
        let line = "millrace emit membership --user-id 1 --add A,-B --add C --del D --ttl-days 0.5";
        let Command::Emit(EmitArgs { what }) =
            Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("{line}");
        };
        let Emit::Membership(args) = what else {
            panic!("{line}");
        };
        assert_eq!(args.add, ["A", "-B", "C"]);
        assert_eq!(args.del, ["D"]);
        assert_eq!(args.ttl_ms, Some(43_200_000));
    }
}
