//! Answers from a cache of Millrace beside those of somebody else, asked for by the same wrk over as many connections.

use anyhow::{Result, ensure};

use crate::{
    it::world::{Process, http::Answer},
    run::{Report, Row, Settings, peak_mb},
    tools::{Turns, wrk},
};

/// Connections of the client.
pub const CONNECTIONS: i64 = 64;
/// Headers that differ from one answer to the next.
pub const OF_THE_MOMENT: [&str; 2] = ["date", "traceresponse"];

/// Hits of a cache, and other look-ups.
pub type Reads = (i64, i64);

/// What is asked for.
pub struct Hits {
    /// The keys.
    pub turns: Turns,
    /// What Millrace calls the cache.
    pub cache: &'static str,
}

impl Hits {
    /// Asks both for a while before it counts.
    ///
    /// # Errors
    /// If a request failed.
    pub async fn warm_up(&self, urls: [&str; 2]) -> Result<()> {
        for url in urls {
            wrk(url, CONNECTIONS, 1, self.turns).await?;
        }
        Ok(())
    }

    /// Measures what Millrace answers at this path beside what it answers at the other one, and adds the row.
    ///
    /// # Errors
    /// If an answer was not from the cache.
    pub async fn measure_beside(
        &self,
        settings: &Settings,
        report: &mut Report,
        row: Row,
        run: &Process,
        paths: [&str; 2],
    ) -> Result<()> {
        let urls = paths.map(|path| format!("http://{}{path}", run.address()));
        let urls = urls.each_ref().map(String::as_str);
        self.warm_up(urls).await?;
        let (row, _) = self.measure(settings, row, run, urls).await?;
        report.took(&row.name, peak_mb(run));
        report.add(row);
        Ok(())
    }

    /// Measures Millrace's answers beside those of the other address; gives how many the other one gave, too.
    ///
    /// # Errors
    /// If an answer of Millrace was not from its cache.
    pub async fn measure(
        &self,
        settings: &Settings,
        row: Row,
        run: &Process,
        [ours, theirs]: [&str; 2],
    ) -> Result<(Row, i64)> {
        let before = cache_reads(run, self.cache).await;
        let (mut by_us, mut by_them) = (0, 0);
        let row = row
            .alternate(
                settings.pairs,
                async || {
                    let asked = wrk(ours, CONNECTIONS, settings.seconds, self.turns).await?;
                    by_us += asked.answers;
                    Ok(asked.rate())
                },
                async || {
                    let asked = wrk(theirs, CONNECTIONS, settings.seconds, self.turns).await?;
                    by_them += asked.answers;
                    Ok(asked.rate())
                },
            )
            .await?;
        must_be_hits(before, cache_reads(run, self.cache).await, by_us)?;
        Ok((row, by_them))
    }
}

/// So many answers between two counts were hits, and nothing else was read.
///
/// # Errors
/// If they were not.
pub fn must_be_hits(before: Reads, after: Reads, answers: i64) -> Result<()> {
    let (hits, others) = (after.0 - before.0, after.1 - before.1);
    ensure!(
        hits >= answers && others == 0,
        "{answers} answers had {hits} hits and {others} reads of Postgres"
    );
    Ok(())
}

/// A constant answer differs from this one in nothing that costs.
///
/// # Errors
/// If it does.
pub fn must_be_alike(answer: &Answer, constant: &Answer) -> Result<()> {
    let lasting = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        for name in OF_THE_MOMENT {
            headers.remove(name);
        }
        headers
    };
    let (headers, others) = (lasting(answer), lasting(constant));
    ensure!(
        headers == others && answer.body.len() == constant.body.len(),
        "the constant answer is another: {others:?} of {} bytes, {headers:?} of {}",
        constant.body.len(),
        answer.body.len()
    );
    Ok(())
}

/// Hits of a cache, and other look-ups.
pub async fn cache_reads(run: &Process, cache: &str) -> Reads {
    let label = format!("cache=\"{cache}\"");
    let metrics = run.get("/metrics").await.body;
    let mut reads = (0, 0);
    for line in metrics.lines() {
        if !line.starts_with("millrace_cache_reads_total{") || !line.contains(&label) {
            continue;
        }
        let count = line.rsplit(' ').next().and_then(|count| count.parse().ok());
        match line.contains(r#""hit""#) {
            true => reads.0 += count.unwrap_or(0),
            false => reads.1 += count.unwrap_or(0),
        }
    }
    reads
}
