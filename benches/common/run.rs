//! How a row is measured and told: pairs in turns, a table for people, a file for programs, a chart where one is asked for.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use producers::clock;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{chart, it::world::Process, output};

/// The most memory that a process of Millrace should take, with the caches that it has unless told.
const RUN_MB_MAX: u64 = 150;

/// Measures until it is done or interrupted.
pub async fn until_done(measuring: impl Future<Output = Result<()>>) -> ExitCode {
    let measured = tokio::select! {
        measured = measuring => measured,
        interrupted = interrupted() => interrupted,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// What was made on the servers goes when the world is dropped.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    bail!("interrupted")
}

/// A program that measures: `make bench` or `make bench-peers`.
#[derive(Debug)]
pub struct Bench {
    /// Its name, as in the file's.
    pub name: &'static str,
    /// What its ratios say.
    pub about: &'static str,
    /// Every row, in the order in which they are measured.
    pub rows: &'static [&'static str],
    /// Those of a quick look.
    pub quick_rows: &'static [&'static str],
}

/// What to measure, and for how long.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The rows.
    pub rows: Vec<String>,
    /// Pairs of a row.
    pub pairs: usize,
    /// Seconds of one side of a pair, where a load is held for a time.
    pub seconds: u64,
    /// Less of everything: shows that it works, not how fast.
    pub quick: bool,
}

impl Settings {
    /// As the environment has them.
    ///
    /// # Errors
    /// If one of them is wrong.
    pub fn from_env(bench: &Bench) -> Result<Self> {
        let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name, otherwise: u64| match given(name) {
            None => Ok(otherwise),
            Some(text) => {
                let number = text.parse().ok().filter(|number| *number > 0);
                number.with_context(|| format!("{name}={text}: must be a whole number from 1"))
            }
        };
        let quick = given("BENCH_QUICK").is_some_and(|value| value != "0");
        let rows = match given("BENCH") {
            Some(names) => named(&names, bench.rows)?,
            None if quick => owned(bench.quick_rows),
            None => owned(bench.rows),
        };
        Ok(Self {
            rows,
            pairs: usize::try_from(number("BENCH_PAIRS", if quick { 3 } else { 5 })?)?,
            seconds: number("BENCH_SECONDS", if quick { 1 } else { 3 })?,
            quick,
        })
    }

    /// How long a row may take that holds a load for a time.
    pub fn lasting(&self) -> Duration {
        // Two sides of a pair, three times, and as much again to warm up and check.
        Duration::from_secs(self.seconds) * u32::try_from(self.pairs).unwrap_or(u32::MAX) * 12
    }

    /// An amount of work, or a tenth of it for a quick look.
    pub fn amount(&self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }
}

/// The rows of these names; `sale` is all of the sale, `user` all of the users.
fn named(names: &str, known: &[&str]) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for name in names.split(',').map(str::trim) {
        let group = format!("{name}-");
        let of_name = |row: &&&str| **row == name || row.starts_with(&group);
        let found: Vec<_> = known.iter().filter(of_name).copied().collect();
        let all = known.join(", ");
        ensure!(!found.is_empty(), "BENCH={name}: the rows are {all}");
        rows.extend(owned(&found));
    }
    Ok(rows)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().copied().map(str::to_owned).collect()
}

/// What a row compares.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What Millrace does, with its unit.
    pub millrace: &'static str,
    /// What it is compared with.
    pub beside: &'static str,
    /// The ratio that is wanted; it decides nothing.
    pub target: Option<f64>,
    /// Units a second of Millrace and of the other, in the order in which they were measured.
    pub pairs: Vec<(f64, f64)>,
}

impl Row {
    /// A row to be measured.
    pub fn new(
        name: impl Into<String>,
        millrace: &'static str,
        beside: &'static str,
        target: Option<f64>,
    ) -> Self {
        Self {
            name: name.into(),
            millrace,
            beside,
            target,
            pairs: Vec::new(),
        }
    }

    /// Measures Millrace and the other in turns. Each gives units a second, after it has checked that none was lost.
    ///
    /// # Errors
    /// The first of either.
    pub async fn alternate(
        mut self,
        pairs: usize,
        mut millrace: impl AsyncFnMut() -> Result<f64>,
        mut beside: impl AsyncFnMut() -> Result<f64>,
    ) -> Result<Self> {
        for turn in 1..=pairs {
            let pair = (millrace().await?, beside().await?);
            output::note(format_args!(
                "{} {turn}/{pairs}: {} beside {} a second, {:.3}",
                self.name,
                rounded(pair.0),
                rounded(pair.1),
                pair.0 / pair.1
            ));
            self.pairs.push(pair);
        }
        Ok(self)
    }

    /// Median of what Millrace did, in units a second.
    pub fn rate(&self) -> f64 {
        median(self.pairs.iter().map(|(millrace, _)| *millrace))
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        ratios(&self.pairs)
    }
}

/// How long something took, from when it was due.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// What else went on.
    pub load: String,
    /// From what to what.
    pub what: &'static str,
    /// The middle one, in milliseconds.
    pub p50_ms: f64,
    /// All but one of a hundred took no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    /// Sums up times.
    pub fn of(load: &str, what: &'static str, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            let place = (times.len() * part).div_ceil(100).saturating_sub(1);
            times
                .get(place)
                .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        Self {
            load: load.to_owned(),
            what,
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }

    /// The medians of several of the same.
    pub fn typical(latencies: &[Self]) -> Self {
        let of = |ms: fn(&Self) -> f64| median(latencies.iter().map(ms));
        Self {
            load: latencies[0].load.clone(),
            what: latencies[0].what,
            p50_ms: of(|latency| latency.p50_ms),
            p99_ms: of(|latency| latency.p99_ms),
            max_ms: of(|latency| latency.max_ms),
        }
    }
}

/// Everything that was measured.
pub struct Report {
    bench: &'static Bench,
    settings: Settings,
    started_at: Timestamp,
    rows: Vec<Row>,
    failed: Vec<String>,
    latencies: Vec<Latency>,
    /// By row, the most memory that a `millrace run` or `millrace process` took in it, in MiB.
    run_mb: BTreeMap<String, u64>,
    notes: Vec<String>,
    details: serde_json::Map<String, Value>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(bench: &'static Bench, settings: &Settings) -> Self {
        Self {
            bench,
            settings: settings.clone(),
            started_at: Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default(),
            rows: Vec::new(),
            failed: Vec::new(),
            latencies: Vec::new(),
            run_mb: BTreeMap::new(),
            notes: Vec::new(),
            details: serde_json::Map::new(),
        }
    }

    /// Adds a row that was measured.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds latencies.
    pub fn add_latencies(&mut self, latencies: Vec<Latency>) {
        self.latencies.extend(latencies);
    }

    /// Tells how much memory a `millrace run` or `millrace process` took in a row, in MiB; the most of several counts.
    pub fn took(&mut self, row: &str, run_mb: u64) {
        let most = self.run_mb.entry(row.to_owned()).or_default();
        *most = run_mb.max(*most);
    }

    /// Adds a line below the table.
    pub fn note(&mut self, line: String) {
        output::note(&line);
        self.notes.push(line);
    }

    /// Adds raw numbers to the file.
    pub fn detail(&mut self, name: &str, value: Value) {
        self.details.insert(name.to_owned(), value);
    }

    /// Median rate of Millrace in a row, if it was measured.
    pub fn rate(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name);
        row.map(Row::rate)
    }

    /// Tells why a row failed, if it did, and writes the file with what there is: an hour of measuring is not
    /// lost for what comes after it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn row_ended(&mut self, row: &str, measured: Result<()>) -> Result<()> {
        if let Err(error) = measured {
            output::error(&error.context(format!("row {row}")));
            self.failed.push(row.to_owned());
        }
        self.write(&folder()).map(drop)
    }

    /// Writes the file and prints the table.
    ///
    /// # Errors
    /// If one of them cannot be written, or a row failed.
    pub fn finish(&self) -> Result<()> {
        let folder = folder();
        let file = self.write(&folder)?;
        output::line(format_args!("\n{}", machine()))?;
        output::line(self.bench.about)?;
        if self.settings.quick {
            output::line(
                "BENCH_QUICK: too little of everything to say how fast; it shows that the measuring works.",
            )?;
        }
        if !self.rows.is_empty() {
            output::line("")?;
            self.print_rows()?;
        }
        if !self.latencies.is_empty() {
            self.print_latencies()?;
        }
        if !self.run_mb.is_empty() {
            self.print_memory()?;
        }
        for note in &self.notes {
            output::line(note)?;
        }
        output::line(format_args!("raw numbers: {file}"))?;
        if let Ok(chart) = env::var("BENCH_CHART")
            && !chart.is_empty()
        {
            chart::draw(&folder, Path::new(&chart))?;
        }
        let failed = self.failed.join(", ");
        ensure!(failed.is_empty(), "failed: {failed}");
        Ok(())
    }

    fn print_rows(&self) -> Result<()> {
        let head = [
            "row", "millrace", "/s", "beside", "/s", "ratio", "range", "target",
        ];
        let mut table = output::table(head);
        for row in &self.rows {
            let (least, most) = range(row.ratios());
            table.add_row([
                row.name.clone(),
                row.millrace.to_owned(),
                rounded(row.rate()),
                row.beside.to_owned(),
                rounded(median(row.pairs.iter().map(|(_, beside)| *beside))),
                format!("{:.2}", median(row.ratios())),
                format!("{least:.2}–{most:.2}"),
                row.target
                    .map_or_else(String::new, |target| format!("≥ {target}")),
            ]);
        }
        output::align_right(&mut table, &[2, 4, 5, 7]);
        output::print(&table)
    }

    fn print_latencies(&self) -> Result<()> {
        output::line("")?;
        let mut table = output::table(["beside", "from sending to", "p50 ms", "p99 ms", "max ms"]);
        for latency in &self.latencies {
            table.add_row([
                latency.load.clone(),
                latency.what.to_owned(),
                format!("{:.1}", latency.p50_ms),
                format!("{:.1}", latency.p99_ms),
                format!("{:.1}", latency.max_ms),
            ]);
        }
        output::align_right(&mut table, &[2, 3, 4]);
        output::print(&table)?;
        output::line("")
    }

    fn print_memory(&self) -> Result<()> {
        let head = ["row", "`run` or `process` took, MB", "limit", ""];
        let mut table = output::table(head);
        for (row, &run_mb) in &self.run_mb {
            let flag = if run_mb > RUN_MB_MAX { "above" } else { "" };
            table.add_row([
                row.clone(),
                run_mb.to_string(),
                format!("≤ {RUN_MB_MAX}"),
                flag.to_owned(),
            ]);
        }
        output::align_right(&mut table, &[1, 2]);
        output::print(&table)?;
        output::line("")
    }

    fn write(&self, folder: &Path) -> Result<String> {
        fs::create_dir_all(folder)?;
        let time = self.started_at.strftime("%Y%m%dT%H%M%SZ");
        let file = folder.join(format!("{}-{time}.json", self.bench.name));
        let ratios: Vec<_> = self
            .rows
            .iter()
            .map(|row| json!({ "row": row.name, "median": median(row.ratios()) }))
            .collect();
        let report = json!({
            "bench": self.bench.name,
            "started_at": self.started_at.to_string(),
            "machine": machine(),
            "settings": self.settings,
            "rows": self.rows,
            "failed": self.failed,
            "ratios": ratios,
            "latencies": self.latencies,
            "run_mb": self.run_mb,
            "run_mb_max": RUN_MB_MAX,
            "notes": self.notes,
            "details": self.details,
        });
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file.display().to_string())
    }
}

/// The most memory that a process has taken, in MiB.
pub fn peak_mb(process: &Process) -> u64 {
    process.peak_memory_kib() >> 10
}

/// The ratio of each pair.
pub fn ratios(pairs: &[(f64, f64)]) -> impl Iterator<Item = f64> {
    pairs.iter().map(|(millrace, beside)| millrace / beside)
}

/// The least and the most.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(least, most), value| {
        (least.min(value), most.max(value))
    })
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count.is_multiple_of(2) => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// A rate as people read it.
pub fn rounded(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive and far below 2^64"
    )]
    output::grouped(rate.round() as u64)
}

/// Where the files are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")
}

fn machine() -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    format!("{cores} cores, {model}")
}
