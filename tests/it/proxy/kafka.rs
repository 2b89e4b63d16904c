//! Rules for Kafka: what becomes of the requests that write, and of their acknowledgements.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{Rules, Verdict, Way, len_at, number_at};

/// The key of Produce requests, <https://kafka.apache.org/protocol#protocol_api_keys>.
const PRODUCE: [u8; 2] = 0_i16.to_be_bytes();

/// What goes wrong with writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Acknowledgements are lost; the connection stays.
    NoAcknowledgement,
    /// An acknowledgement is lost together with its connection.
    ConnectionInsteadOfAcknowledgement,
    /// A connection is lost in the middle of a request that writes.
    RequestCutOff,
}

/// Lets writes go wrong.
pub struct Writes {
    fault: Mutex<Fault>,
    lost: AtomicUsize,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            fault: Mutex::new(Fault::None),
            lost: AtomicUsize::new(0),
        }
    }
}

impl Writes {
    /// From now on this goes wrong.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How many requests or acknowledgements were lost.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    fn lose(&self, verdict: Verdict) -> Verdict {
        self.lost.fetch_add(1, Ordering::Relaxed);
        verdict
    }
}

impl Rules for Writes {
    /// The correlation ids of the requests that write.
    type Talk = Mutex<HashSet<i32>>;

    fn message_len(&self, _: &Self::Talk, _: Way, bytes: &[u8]) -> Option<usize> {
        len_at(bytes, 0).map(|len| len + 4)
    }

    async fn judge(&self, talk: &Self::Talk, way: Way, message: &[u8]) -> Verdict {
        let fault = *self.fault.lock().unwrap();
        let mut writes = talk.lock().unwrap();
        match way {
            Way::Up => {
                // Length, key, version, correlation id.
                if message[4..6] == PRODUCE {
                    writes.extend(number_at(message, 8));
                    if fault == Fault::RequestCutOff {
                        return self.lose(Verdict::CutWithin);
                    }
                }
            }
            Way::Down => {
                let acknowledges = number_at(message, 4).is_some_and(|id| writes.remove(&id));
                match fault {
                    Fault::NoAcknowledgement if acknowledges => return self.lose(Verdict::Swallow),
                    Fault::ConnectionInsteadOfAcknowledgement if acknowledges => {
                        return self.lose(Verdict::Cut);
                    }
                    _ => {}
                }
            }
        }
        Verdict::Pass
    }
}

/// The key of Fetch requests.
const FETCH: [u8; 2] = 1_i16.to_be_bytes();

/// Lets readers hear nothing any more: the broker answers everything but requests for records, and those never.
#[derive(Default)]
pub struct Reads {
    is_silent: AtomicBool,
}

impl Reads {
    /// From now on nobody is given records.
    pub fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }
}

impl Rules for Reads {
    type Talk = ();

    fn message_len(&self, (): &(), _: Way, bytes: &[u8]) -> Option<usize> {
        len_at(bytes, 0).map(|len| len + 4)
    }

    async fn judge(&self, (): &(), way: Way, message: &[u8]) -> Verdict {
        let asks = way == Way::Up && message[4..6] == FETCH;
        match asks && self.is_silent.load(Ordering::Relaxed) {
            true => Verdict::Swallow,
            false => Verdict::Pass,
        }
    }
}
