//! How a row is measured and told: pairs in turns, a table for people, a file for programs.

use std::{env, fs, path::Path, thread::available_parallelism, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use producers::{clock, kafka::Kafka};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{clicks, emit, folds, it::world::World, latency, orders, output, sale};

/// Every row, in the order in which they are measured: the latency takes its loads from the rates before it.
pub const ROWS: [&str; 11] = [
    clicks::NAME,
    orders::NAME,
    folds::CLICKS,
    folds::ORDERS,
    emit::NAME,
    latency::NAME,
    sale::REFUSALS,
    sale::SETTLED,
    sale::START,
    sale::MEMORY,
    sale::STAMPEDE,
];
/// Those of a quick look.
const QUICK_ROWS: [&str; 3] = [clicks::NAME, orders::NAME, emit::NAME];

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
    pub fn from_env() -> Result<Self> {
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
            Some(names) => named(&names)?,
            None if quick => QUICK_ROWS.map(str::to_owned).into(),
            None => ROWS.map(str::to_owned).into(),
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

/// The rows of these names; `sale` is all of the sale.
fn named(names: &str) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for name in names.split(',').map(str::trim) {
        let group = format!("{name}-");
        let before = rows.len();
        let of_name = |row: &&str| *row == name || row.starts_with(&group);
        rows.extend(ROWS.into_iter().filter(of_name).map(str::to_owned));
        let known = ROWS.join(", ");
        ensure!(rows.len() > before, "BENCH={name}: the rows are {known}");
    }
    Ok(rows)
}

/// What a row compares.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What Millrace does, with its unit.
    pub millrace: &'static str,
    /// What it is compared with.
    pub limit: &'static str,
    /// The ratio that is wanted; it decides nothing.
    pub target: Option<f64>,
    /// Units a second of Millrace and of the limit, in the order in which they were measured.
    pub pairs: Vec<(f64, f64)>,
}

impl Row {
    /// A row to be measured.
    pub fn new(
        name: impl Into<String>,
        millrace: &'static str,
        limit: &'static str,
        target: Option<f64>,
    ) -> Self {
        Self {
            name: name.into(),
            millrace,
            limit,
            target,
            pairs: Vec::new(),
        }
    }

    /// Measures Millrace and the limit in turns. Each gives units a second, after it has checked that none was lost.
    ///
    /// # Errors
    /// The first of either.
    pub async fn alternate(
        mut self,
        pairs: usize,
        mut millrace: impl AsyncFnMut() -> Result<f64>,
        mut limit: impl AsyncFnMut() -> Result<f64>,
    ) -> Result<Self> {
        for turn in 1..=pairs {
            let pair = (millrace().await?, limit().await?);
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
        self.pairs.iter().map(|(millrace, limit)| millrace / limit)
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
}

/// Everything that was measured.
pub struct Report {
    settings: Settings,
    started_at: Timestamp,
    rows: Vec<Row>,
    latencies: Vec<Latency>,
    notes: Vec<String>,
    details: serde_json::Map<String, Value>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            started_at: Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default(),
            rows: Vec::new(),
            latencies: Vec::new(),
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

    /// Writes the file and prints the table.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub fn finish(&self) -> Result<()> {
        let file = self.write()?;
        let machine = machine();
        output::line(format_args!("\n{machine}"))?;
        output::line(
            "Millrace, the load generator, Kafka and Postgres share these cores; a ratio says how near Millrace comes to what they can do at most.",
        )?;
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
        for note in &self.notes {
            output::line(note)?;
        }
        output::line(format_args!("raw numbers: {file}"))
    }

    fn print_rows(&self) -> Result<()> {
        let head = [
            "row", "millrace", "/s", "beside", "/s", "ratio", "range", "target",
        ];
        let mut table = output::table(head);
        for row in &self.rows {
            let (least, most) = row
                .ratios()
                .fold((f64::MAX, f64::MIN), |(least, most), ratio| {
                    (least.min(ratio), most.max(ratio))
                });
            table.add_row([
                row.name.clone(),
                row.millrace.to_owned(),
                rounded(row.rate()),
                row.limit.to_owned(),
                rounded(median(row.pairs.iter().map(|(_, limit)| *limit))),
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
        output::line("wanted: all within 1,000 ms, and 50 ms as a rule when idle\n")
    }

    fn write(&self) -> Result<String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        fs::create_dir_all(&folder)?;
        let name = self.started_at.strftime("%Y%m%dT%H%M%SZ.json").to_string();
        let file = folder.join(name);
        let ratios: Vec<_> = self
            .rows
            .iter()
            .map(|row| json!({ "row": row.name, "median": median(row.ratios()) }))
            .collect();
        let report = json!({
            "started_at": self.started_at.to_string(),
            "machine": machine(),
            "settings": self.settings,
            "rows": self.rows,
            "ratios": ratios,
            "latencies": self.latencies,
            "notes": self.notes,
            "details": self.details,
        });
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file.display().to_string())
    }
}

/// How a client of the row reaches the topics of a world.
pub fn kafka(world: &World) -> Kafka {
    Kafka {
        brokers: world.servers.brokers.clone(),
        prefix: world.prefix.clone(),
        properties: Vec::new(),
    }
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
