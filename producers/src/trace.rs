//! Traces: an id that a request brings along or is given, that stands in the headers of what it writes, and in every
//! line that is logged about either. [W3C Trace Context](https://www.w3.org/TR/trace-context/), version 00.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

use crate::clock;

/// The header that says which trace a request or a record belongs to.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what other systems want to know again about the trace.
pub const TRACESTATE: &str = "tracestate";

/// Length of a `traceparent` of version 00, and the least of every later version.
const LENGTH: usize = 55;
/// The last version is not a version.
const NO_VERSION: u8 = 0xff;
const SAMPLED: u8 = 0x01;
/// The most of a `tracestate` that is passed on: members and bytes.
const MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 512;
/// The longest key, and the longest value, of a member.
const WORD_BYTES_MAX: usize = 256;

/// What belongs together, from the first request to the last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

/// One step of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(NonZeroU64);

/// A step of a trace, as it is told to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// This step.
    pub span: SpanId,
    is_sampled: bool,
    state: Option<String>,
}

impl Trace {
    /// The first step of a new trace. Whoever comes next may record it: the log lines do, too.
    pub fn start() -> Self {
        Self {
            id: TraceId(clock::chance()),
            span: SpanId(clock::chance()),
            is_sampled: true,
            state: None,
        }
    }

    /// The next step of the trace that a request belongs to; `None` if its `traceparent` is none. A `tracestate` that
    /// is not well-formed is left out.
    pub fn carry_on<'a>(
        traceparent: &[u8],
        tracestate: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let parent = Parent::parse(traceparent)?;
        Some(Self {
            id: parent.id,
            span: SpanId(clock::chance()),
            is_sampled: parent.is_sampled,
            state: passed_on(tracestate),
        })
    }

    /// The `traceparent` of what this step causes.
    pub fn traceparent(&self) -> String {
        let flags = u8::from(self.is_sampled) * SAMPLED;
        format!("00-{}-{}-{flags:02x}", self.id, self.span)
    }

    /// The `tracestate` of what this step causes.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl TraceId {
    /// The trace that a `traceparent` names, if it is one.
    pub fn of_traceparent(text: &[u8]) -> Option<Self> {
        Parent::parse(text).map(|parent| parent.id)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

/// What a `traceparent` says.
struct Parent {
    id: TraceId,
    is_sampled: bool,
}

impl Parent {
    /// `00-<32 hex digits, not all 0>-<16 hex digits, not all 0>-<2 hex digits>`. Of a later version the same, and
    /// whatever follows after another dash: what is passed on is of version 00.
    fn parse(text: &[u8]) -> Option<Self> {
        let version = hex(text.get(..2)?)?;
        let is_whole = text.len() == LENGTH;
        let goes_on = version > 0 && text.get(LENGTH) == Some(&b'-');
        let dashes = [2, 35, 52].map(|place| text.get(place) == Some(&b'-'));
        if version == u128::from(NO_VERSION) || dashes != [true; 3] || !(is_whole || goes_on) {
            return None;
        }
        let id = NonZeroU128::new(hex(&text[3..35])?)?;
        // Which step came before is nothing to us, but it has to be one.
        NonZeroU128::new(hex(&text[36..52])?)?;
        let flags = hex(&text[53..LENGTH])?;
        Some(Self {
            id: TraceId(id),
            is_sampled: flags & u128::from(SAMPLED) != 0,
        })
    }
}

/// At most 32 hexadecimal digits, in lower case as the standard has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The `tracestate` of a request, whole members from its beginning as far as they are passed on; `None` if there is
/// none, or one that is not well-formed.
fn passed_on<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut state = String::new();
    for member in headers.flat_map(|header| header.split(|byte| *byte == b',')) {
        let member = str::from_utf8(member).ok()?.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        if !is_member(member) {
            return None;
        }
        let comma = usize::from(!state.is_empty());
        let is_full = state.len() + comma + member.len() > STATE_BYTES_MAX
            || !state.is_empty() && state.matches(',').count() + 1 == MEMBERS_MAX;
        if is_full {
            break;
        }
        state.push_str(&","[..comma]);
        state.push_str(member);
    }
    (!state.is_empty()).then_some(state)
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let in_key = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '*' | '/' | '@')
    };
    let in_value = |c: char| matches!(c, ' '..='~') && c != '=';
    (1..=WORD_BYTES_MAX).contains(&key.len())
        && (1..=WORD_BYTES_MAX).contains(&value.len())
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key.chars().all(in_key)
        && value.chars().all(in_value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn carried_on(traceparent: &str, tracestate: &[&str]) -> Option<Trace> {
        let state = tracestate.iter().map(|header| header.as_bytes());
        Trace::carry_on(traceparent.as_bytes(), state)
    }

    #[test]
    fn a_trace_goes_on_with_a_step_of_its_own() {
        let trace = carried_on(PARENT, &[]).unwrap();
        assert_eq!(trace.id.to_string(), TRACE);
        let told = trace.traceparent();
        assert_eq!(told, format!("00-{TRACE}-{}-01", trace.span));
        assert_ne!(told, PARENT);
        assert_eq!(TraceId::of_traceparent(told.as_bytes()), Some(trace.id));
    }

    #[test]
    fn whether_it_is_sampled_is_for_the_first_step_to_say() {
        for (flags, told) in [("00", "00"), ("01", "01"), ("02", "00"), ("ff", "01")] {
            let parent = format!("{}{flags}", &PARENT[..53]);
            let trace = carried_on(&parent, &[]).unwrap();
            assert!(
                trace.traceparent().ends_with(&format!("-{told}")),
                "{flags}"
            );
        }
        assert!(Trace::start().traceparent().ends_with("-01"));
    }

    #[test]
    fn what_is_no_traceparent_is_not_carried_on() {
        let id = TRACE;
        for text in [
            String::new(),
            "00".to_owned(),
            PARENT[..54].to_owned(),
            format!("{PARENT}-"),
            format!("{PARENT}-more"),
            format!(" {PARENT}"),
            PARENT.to_uppercase(),
            PARENT.replace("00-4", "ff-4"),
            PARENT.replace("00-4", "0g-4"),
            PARENT.replace("00-4", "00_4"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{id}-0000000000000000-01"),
            format!("00-{id}-00f067aa0ba902b7_01"),
            format!("00-{id}-00f067aa0ba902bx-01"),
            format!("00-{id}-00f067aa0ba902b7-0x"),
            format!("00-+{}-00f067aa0ba902b7-01", &id[1..]),
            format!("01-{id}-00f067aa0ba902b7-01x"),
        ] {
            assert_eq!(carried_on(&text, &["a=b"]), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for text in ["01-…-01", "fe-…-01", "cc-…-01-what-the-future-holds"] {
            let text = text.replace('…', &PARENT[3..52]);
            let trace = carried_on(&text, &[]).unwrap();
            assert_eq!(trace.id.to_string(), TRACE, "{text}");
            assert!(trace.traceparent().starts_with("00-"), "{text}");
        }
    }

    #[test]
    fn a_tracestate_is_passed_on_in_whole_members_up_to_a_limit() {
        let passed = |headers: &[&str]| carried_on(PARENT, headers).unwrap().state;
        assert_eq!(passed(&[]), None);
        assert_eq!(passed(&["", " , "]), None);
        assert_eq!(
            passed(&["congo=t61rcWkgMzE, rojo=00f067aa0ba902b7", "t@v-1=a b"]).as_deref(),
            Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7,t@v-1=a b")
        );
        for bad in [
            "a", "=b", "a=", "A=b", "-a=b", "a=b=c", "a=ü", "a=b,c", "a=\u{7f}",
        ] {
            assert_eq!(passed(&[bad]), None, "{bad}");
        }
        let many: Vec<_> = (0..40).map(|n| format!("k{n}=v")).collect();
        let many = passed(&[&many.join(",")]).unwrap();
        assert!(
            many.starts_with("k0=v,") && many.ends_with(",k31=v"),
            "{many}"
        );
        let long = format!("a={0},b={0},c={0}", "x".repeat(200));
        assert_eq!(passed(&[&long]).unwrap(), long[..405]);
    }

    proptest! {
        #[test]
        fn whatever_comes_what_is_passed_on_is_well_formed(
            parent in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..70),
                "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?".prop_map(String::into_bytes),
            ],
            state in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            if let Some(trace) = Trace::carry_on(&parent, [&state[..]].into_iter()) {
                let told = trace.traceparent();
                prop_assert_eq!(told.len(), LENGTH);
                prop_assert_eq!(TraceId::of_traceparent(told.as_bytes()), Some(trace.id));
                prop_assert!(trace.tracestate().is_none_or(|state| state.len() <= STATE_BYTES_MAX));
            }
        }
    }
}
