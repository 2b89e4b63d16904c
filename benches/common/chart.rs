//! The newest ratios of every row as a picture, from the files that both benches leave.
//!
//! It is drawn on a card of its own, which is dark where the reader's system is: so it can be read on any page.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    output,
    run::{median, range, ratios},
};

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 24.0;
const LINE: f64 = 24.0;
/// Where the columns begin: what a row is compared with, the bars, the numbers.
const BESIDE: f64 = 170.0;
const BARS: f64 = 410.0;
const NUMBERS: f64 = 720.0;
/// The largest ratio of a linear scale.
const LINEAR_MAX: f64 = 1.5;
const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.head { font-size: 15px; font-weight: 600 }
.small { font-size: 12px; fill: #59636e }
.card { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #d1d9e0 }
.reached { fill: #2f7de1 }
.below { fill: #d9822b }
.range { stroke: #1f2328 }
.target { stroke: #1a7f37; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.card { fill: #151b23; stroke: #3d444d }
.grid { stroke: #3d444d }
.range { stroke: #e6edf3 }
.target { stroke: #3fb950 }
}
";

/// Rows that stand beside less or more of the same work have names that begin so, and a panel of that name.
const GROWTH: &str = "growth";

/// What is drawn below one another: a bench or [`GROWTH`], what the ratios say, and how they are laid out.
const PANELS: [(&str, &str, Scale); 3] = [
    (
        "limits",
        "Beside the limits of the machine: 1 is all that it can do",
        Scale::Linear,
    ),
    (
        GROWTH,
        "Beside less work, more partitions or one process: 1 is as fast",
        Scale::Doubling,
    ),
    (
        "peers",
        "Beside what one would pick instead: above 1 Millrace is faster",
        Scale::Doubling,
    ),
];

/// Draws the newest full measurement of each row in a folder.
///
/// # Errors
/// If there is none, or a file cannot be read or written.
pub fn draw(folder: &Path, chart: &Path) -> Result<()> {
    let files = read(folder)?;
    let newest = files.last().context("no row was measured at full length")?;
    let mut rows: BTreeMap<(&str, &str), &Measured> = BTreeMap::new();
    let of_this_machine = files.iter().filter(|file| file.machine == newest.machine);
    for file in of_this_machine {
        for row in &file.rows {
            let is_growth = row.name.starts_with(GROWTH);
            let panel = if is_growth { GROWTH } else { &file.bench };
            rows.insert((panel, row.name.as_str()), row);
        }
    }
    let (mut body, mut y) = (String::new(), MARGIN);
    for (name, heading, scale) in PANELS {
        let of_panel = rows.iter().filter(|((of, _), _)| *of == name);
        let of_panel: Vec<_> = of_panel.map(|(_, row)| *row).collect();
        if !of_panel.is_empty() {
            y = panel(&mut body, y, heading, scale, &of_panel)?;
        }
    }
    let day = newest.started_at.split('T').next().unwrap_or_default();
    let about = format!(
        "Medians of pairs measured in turns, with their range (thin) and target (green). {}, {day}.",
        newest.machine
    );
    text(&mut body, "small", MARGIN, y, &about)?;
    let height = y + MARGIN;
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="Ratios of make bench and make bench-peers">
<style>{STYLE}</style>
<rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="8"/>
{body}</svg>
"#,
        WIDTH - 1.0,
        height - 1.0
    );
    fs::write(chart, svg).with_context(|| format!("cannot write {}", chart.display()))?;
    output::line(format_args!("chart: {}", chart.display()))
}

/// What a run has left.
#[derive(Deserialize)]
struct File {
    bench: String,
    started_at: String,
    machine: String,
    settings: Length,
    rows: Vec<Measured>,
}

#[derive(Deserialize)]
struct Length {
    quick: bool,
}

#[derive(Deserialize)]
struct Measured {
    name: String,
    beside: String,
    target: Option<f64>,
    pairs: Vec<(f64, f64)>,
}

/// The files of full length, the newest last. What is no such file is none of ours.
fn read(folder: &Path) -> Result<Vec<File>> {
    let mut files: Vec<File> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        files.extend(serde_json::from_str(&text).ok());
    }
    files.retain(|file| !file.settings.quick && !file.rows.is_empty());
    files.sort_by(|one, other| one.started_at.cmp(&other.started_at));
    Ok(files)
}

/// How ratios are laid out between the ends of the bars.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// From 0 on; a bar ends at the edge where its ratio lies far beyond 1.
    Linear,
    /// From 1 to both sides, each step twice the one before.
    Doubling,
}

impl Scale {
    /// Where bars begin.
    fn base(self) -> f64 {
        match self {
            Self::Linear => 0.0,
            Self::Doubling => 1.0,
        }
    }

    /// What is marked, from the first to the last that is needed for these ratios.
    fn marks(self, least: f64, most: f64) -> Vec<f64> {
        let mut marks = vec![self.base()];
        let most = match self {
            Self::Linear => most.clamp(1.0, LINEAR_MAX),
            Self::Doubling => most.max(1.0),
        };
        while marks[marks.len() - 1] < most {
            let last = marks[marks.len() - 1];
            marks.push(match self {
                Self::Linear => last + 0.25,
                Self::Doubling => last * 2.0,
            });
        }
        while matches!(self, Self::Doubling) && least > 0.0 && marks[0] > least {
            marks.insert(0, marks[0] / 2.0);
        }
        marks
    }

    /// Where a ratio lies, in pixels.
    fn place(self, ratio: f64, marks: &[f64]) -> f64 {
        let on_scale = |ratio: f64| match self {
            Self::Linear => ratio,
            Self::Doubling => ratio.log2(),
        };
        let (first, last) = (on_scale(marks[0]), on_scale(marks[marks.len() - 1]));
        let part = (on_scale(ratio) - first) / (last - first).max(f64::EPSILON);
        BARS + part.clamp(0.0, 1.0) * (NUMBERS - MARGIN - BARS)
    }
}

/// Draws a panel from this height on; gives where the next one begins.
fn panel(
    body: &mut String,
    top: f64,
    heading: &str,
    scale: Scale,
    rows: &[&Measured],
) -> Result<f64> {
    let all = rows.iter().flat_map(|row| ratios(&row.pairs));
    let (least, most) = range(all.chain(rows.iter().filter_map(|row| row.target)));
    ensure!(most.is_finite(), "a rate is missing: {heading}");
    let marks = scale.marks(least, most);
    let first = top + 2.0 * LINE;
    let bottom = first + rows.len() as f64 * LINE;
    text(body, "head", MARGIN, top + 14.0, heading)?;
    for mark in &marks {
        let x = scale.place(*mark, &marks);
        line(body, "grid", (x, first), (x, bottom))?;
        text(body, "small", x - 8.0, first - 6.0, &mark.to_string())?;
    }
    for (row, y) in rows
        .iter()
        .zip((0..).map(|row| first + f64::from(row) * LINE))
    {
        bar(body, y, scale, &marks, row)?;
    }
    Ok(bottom + LINE)
}

fn bar(body: &mut String, y: f64, scale: Scale, marks: &[f64], row: &Measured) -> Result<()> {
    let ratio = median(ratios(&row.pairs));
    let (least, most) = range(ratios(&row.pairs));
    let place = |ratio| scale.place(ratio, marks);
    let (from, to) = (
        place(ratio.min(scale.base())),
        place(ratio.max(scale.base())),
    );
    let class = match row.target {
        Some(target) if ratio < target => "below",
        _ => "reached",
    };
    let width = (to - from).max(1.0);
    writeln!(
        body,
        r#"<rect class="{class}" x="{from:.1}" y="{:.1}" width="{width:.1}" height="14"/>"#,
        y + 5.0
    )?;
    let middle = y + 12.0;
    line(body, "range", (place(least), middle), (place(most), middle))?;
    if let Some(target) = row.target {
        let x = place(target);
        line(body, "target", (x, y + 2.0), (x, y + 22.0))?;
    }
    let baseline = y + 16.5;
    text(body, "", MARGIN, baseline, &row.name)?;
    text(body, "small", BESIDE, baseline, &row.beside)?;
    let numbers = format!("{ratio:.2}  ({least:.2}–{most:.2})");
    text(body, "", NUMBERS, baseline, &numbers)
}

fn line(body: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) -> Result<()> {
    writeln!(
        body,
        r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
        from.0, from.1, to.0, to.1
    )?;
    Ok(())
}

fn text(body: &mut String, class: &str, x: f64, y: f64, words: &str) -> Result<()> {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        body,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{words}</text>"#
    )?;
    Ok(())
}
