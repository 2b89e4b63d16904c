//! Log lines for programs: one JSON object a line, flat.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{Format, Json, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// An event with its fields and those of the spans around it, such as `trace_id`, side by side.
pub struct Lines(Format<Json>);

impl Default for Lines {
    fn default() -> Self {
        let format = Format::default().json().flatten_event(true);
        Self(format.with_current_span(false).with_span_list(false))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for Lines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end().strip_suffix('}').ok_or(fmt::Error)?;
        out.write_str(object)?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            let members = fields.and_then(|f| f.strip_prefix('{')?.strip_suffix('}'));
            if let Some(members) = members.filter(|members| !members.is_empty()) {
                write!(out, ",{members}")?;
            }
        }
        writeln!(out, "}}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing::{error_span, info};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_flat_object_and_says_which_trace_it_belongs_to() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let log = log.json().event_format(Lines::default()).finish();
        tracing::subscriber::with_default(log, || {
            info!(part = "fold", "is \"running\"\nnow");
            let _request = error_span!("request", trace_id = %"4bf9").entered();
            let _nothing = error_span!("empty").entered();
            info!(nothing = Option::<u32>::None, status = 201, "answered");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        let [plain, traced] = &lines[..] else {
            panic!("{text}");
        };
        for line in &lines {
            assert!(
                line["timestamp"].is_string() && line["target"].is_string(),
                "{line}"
            );
            assert_eq!(line["level"], "INFO");
        }
        assert_eq!(
            (&plain["message"], &plain["part"]),
            (&"is \"running\"\nnow".into(), &"fold".into())
        );
        assert_eq!(plain.get("trace_id"), None);
        assert_eq!(
            (&traced["message"], &traced["status"]),
            (&"answered".into(), &201.into())
        );
        assert_eq!(traced["trace_id"], "4bf9");
        assert_eq!(traced.as_object().unwrap().len(), 6, "{traced}");
    }
}
