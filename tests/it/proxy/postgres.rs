//! Rules for Postgres: a transaction can be held before any of its statements, or between its commit and the answer.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{oneshot, watch};

use super::{Rules, Verdict, Way, len_at, number_at};

/// What the first message says of the protocol, <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
const VERSION_3_0: i32 = 196_608;
const BEGIN: &str = "BEGIN";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// Where in a transaction it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Before this statement, which may be `BEGIN` or `COMMIT`: all before it are answered.
    Before(Arc<str>),
    /// After `COMMIT` was sent: its answer is kept back.
    CommitUnanswered,
}

/// Holds transactions, and remembers the longest.
#[derive(Default)]
pub struct Transactions {
    wanted: Mutex<Vec<Wanted>>,
    longest: Mutex<HashMap<String, Vec<Arc<str>>>>,
}

struct Wanted {
    application: String,
    place: Place,
    caught: oneshot::Sender<Held>,
}

/// A transaction that is held, its connection mute in both directions. Dropped, it goes on.
pub struct Held {
    fate: oneshot::Sender<Verdict>,
    has_spoken: watch::Receiver<bool>,
}

impl Held {
    /// It goes on as if nothing had been.
    pub fn let_go(self) {
        // The process may have gone.
        let _ = self.fate.send(Verdict::Pass);
    }

    /// Its connection is lost.
    pub fn cut(self) {
        let _ = self.fate.send(Verdict::Cut);
    }

    /// Waits until Postgres says something that is kept back: that it has committed, or that it ends the session. At once
    /// if it had ended it before.
    pub async fn spoken_to(&mut self) {
        // Fails if the connection has gone.
        let _ = self.has_spoken.wait_for(|has_spoken| *has_spoken).await;
    }
}

impl Transactions {
    /// Waits for a transaction of this application that comes to this place, and holds it there.
    pub async fn hold(&self, application: &str, place: Place) -> Held {
        let (caught, held) = oneshot::channel();
        let wanted = Wanted {
            application: application.to_owned(),
            place,
            caught,
        };
        locked(&self.wanted).push(wanted);
        held.await.expect("the proxy outlives those who wait")
    }

    /// Each place in the longest transaction that this application has committed so far.
    pub fn places(&self, application: &str) -> Vec<Place> {
        let longest = locked(&self.longest);
        let statements = longest.get(application).into_iter().flatten();
        let before = statements.map(|statement| Place::Before(Arc::clone(statement)));
        before.chain([Place::CommitUnanswered]).collect()
    }

    /// Whoever waits for a transaction to come here.
    fn take(&self, told: &Told, place: &Place) -> Option<Wanted> {
        let mut wanted = locked(&self.wanted);
        let is_it = |wanted: &Wanted| {
            wanted.application == told.application
                && wanted.place == *place
                && !wanted.caught.is_closed()
        };
        let at = wanted.iter().position(is_it)?;
        Some(wanted.swap_remove(at))
    }

    fn remember(&self, told: &Told) {
        let mut longest = locked(&self.longest);
        let known = longest.entry(told.application.clone()).or_default();
        if told.transaction.len() > known.len() {
            known.clone_from(&told.transaction);
        }
    }

    /// Takes note of a message, and gives who wants the transaction held at it.
    fn note(&self, talk: &Talk, message: &[u8]) -> Option<Wanted> {
        let mut told = locked(&talk.told);
        if !told.has_begun {
            told.begin(message);
            return None;
        }
        let statement = told.executes(message)?;
        if &*statement == BEGIN {
            told.transaction.clear();
        } else if told.transaction.is_empty() {
            return None; // outside of any transaction
        }
        told.transaction.push(Arc::clone(&statement));
        let is_commit = &*statement == COMMIT;
        let ends = is_commit || &*statement == ROLLBACK;
        let mut wanted = self.take(&told, &Place::Before(statement));
        if is_commit {
            self.remember(&told);
            wanted = wanted.or_else(|| self.take(&told, &Place::CommitUnanswered));
        }
        if ends {
            told.transaction.clear();
        }
        wanted
    }
}

/// What is known of a connection.
pub struct Talk {
    told: Mutex<Told>,
    /// Answers are kept back.
    is_mute: watch::Sender<bool>,
    /// The server has said something that is kept back, or has ended.
    has_spoken: watch::Sender<bool>,
    has_ended: AtomicBool,
    /// Decides on answers that are kept back after the request went on.
    unanswered: Mutex<Option<oneshot::Receiver<Verdict>>>,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            told: Mutex::default(),
            is_mute: watch::Sender::new(false),
            has_spoken: watch::Sender::new(false),
            has_ended: AtomicBool::new(false),
            unanswered: Mutex::default(),
        }
    }
}

#[derive(Default)]
struct Told {
    has_begun: bool,
    application: String,
    /// Prepared statements by their names.
    prepared: HashMap<String, Arc<str>>,
    /// The statements of the transaction so far; none outside of one.
    transaction: Vec<Arc<str>>,
}

impl Told {
    /// Reads the message that opens a session; one that asks for encryption comes before it.
    fn begin(&mut self, message: &[u8]) {
        if number_at(message, 4) != Some(VERSION_3_0) {
            return;
        }
        self.has_begun = true;
        let mut words = message[8..].split(|byte| *byte == 0).map(text);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if name == "application_name" {
                self.application = value;
            }
        }
    }

    /// The statement that a message begins to execute, if it does.
    fn executes(&mut self, message: &[u8]) -> Option<Arc<str>> {
        let mut words = message[5..].split(|byte| *byte == 0).map(text);
        match message[0] {
            b'Q' => words.next().map(Arc::from),
            b'P' => {
                let (name, sql) = (words.next()?, words.next()?);
                self.prepared.insert(name, Arc::from(sql));
                None
            }
            // A bind: portal, then statement.
            b'B' => self.prepared.get(&words.nth(1)?).cloned(),
            _ => None,
        }
    }
}

impl Rules for Transactions {
    type Talk = Talk;

    fn message_len(&self, talk: &Talk, way: Way, bytes: &[u8]) -> Option<usize> {
        match way {
            Way::Up if locked(&talk.told).has_begun => len_at(bytes, 1).map(|len| len + 1),
            Way::Up => len_at(bytes, 0),
            // Nobody asks what the answers are.
            Way::Down => (!bytes.is_empty()).then_some(bytes.len()),
        }
    }

    async fn judge(&self, talk: &Talk, way: Way, message: &[u8]) -> Verdict {
        match way {
            Way::Up => self.judge_request(talk, message).await,
            Way::Down => judge_answer(talk).await,
        }
    }

    fn ended(&self, talk: &Talk, way: Way) {
        if way == Way::Down {
            talk.has_ended.store(true, Ordering::SeqCst);
            talk.has_spoken.send_replace(true);
        }
    }
}

impl Transactions {
    async fn judge_request(&self, talk: &Talk, message: &[u8]) -> Verdict {
        let Some(wanted) = self.note(talk, message) else {
            return Verdict::Pass;
        };
        talk.has_spoken.send_replace(false);
        // Whichever comes second sees the first.
        if talk.has_ended.load(Ordering::SeqCst) {
            talk.has_spoken.send_replace(true);
        }
        talk.is_mute.send_replace(true);
        let (fate, decided) = oneshot::channel();
        let held = Held {
            fate,
            has_spoken: talk.has_spoken.subscribe(),
        };
        if wanted.place == Place::CommitUnanswered {
            *locked(&talk.unanswered) = Some(decided);
            // If nobody waits any more, nobody decides: the answer goes on.
            let _ = wanted.caught.send(held);
            return Verdict::Pass;
        }
        let _ = wanted.caught.send(held);
        let verdict = decided.await.unwrap_or(Verdict::Pass);
        talk.is_mute.send_replace(false);
        verdict
    }
}

async fn judge_answer(talk: &Talk) -> Verdict {
    if !*talk.is_mute.borrow() {
        return Verdict::Pass;
    }
    talk.has_spoken.send_replace(true);
    let unanswered = locked(&talk.unanswered).take();
    if let Some(decided) = unanswered {
        let verdict = decided.await.unwrap_or(Verdict::Pass);
        talk.is_mute.send_replace(false);
        return verdict;
    }
    let mut is_mute = talk.is_mute.subscribe();
    // The sender is the connection's own.
    let _ = is_mute.wait_for(|is_mute| !is_mute).await;
    Verdict::Pass
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
