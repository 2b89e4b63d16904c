//! Schemathesis, which makes requests from the document of the API, good ones and bad ones, and holds every answer
//! against it; and the validator of the document itself.

use std::{env, time::Duration};

use super::{file, said, tool};
use crate::{
    sales_history::{Shop, name},
    samples::{model, order},
    users::profile,
    world::{World, run_to_end_within},
};

/// `MILLRACE_SEED` asks other questions.
const SEED: &str = "1";
/// Half a minute on an idle machine.
const SCHEMATHESIS_MAX: Duration = Duration::from_secs(300);
/// The most of a line that is shown where a test fails, in characters: some bodies have a mebibyte.
const LINE_MAX: usize = 500;

#[tokio::test]
async fn the_document_is_openapi() {
    let world = World::new("spec").await;
    let run = world.start(["run"]).await;
    let mut python = tool("python").await;
    python.args(["-m", "openapi_spec_validator", "-"]);
    let document = run.get("/openapi.json").await.body;
    let verdict = said(python, document).await;
    assert!(verdict.contains("OK"), "{verdict}");
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the seed repeats the run")]
async fn every_answer_is_as_the_document_says() {
    let world = World::new("schemathesis").await;
    // It asks about the same few users as fast as it goes.
    let mut run = world.spawn(&["run"], &[("MILLRACE_RATE_PER_USER", "0")]);
    run.ready().await;
    // Something to find, and a place on the log to ask for.
    assert_eq!(run.post("/v1/orders", &model()).await.status, 201);
    let written = run.post("/v1/orders", &order("a")).await;
    run.set("ann", &profile("hello")).await;
    let shop = Shop::open(&world).await;
    let sale = name(shop.sell(7, 3).await.sale);
    world.caught_up("sales").await;
    let seed = env::var("MILLRACE_SEED").unwrap_or_else(|_| SEED.to_owned());
    let mut python = tool("python").await;
    python
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(file("schemathesis.toml"))
        .args(["run", "--no-color", "--seed", &seed])
        .arg(format!("http://{}/openapi.json", run.address()))
        .env("SCHEMATHESIS_HOOKS", file("good_requests.py"))
        .env("MILLRACE_POSITION", written.position())
        .env("MILLRACE_SALE", sale)
        // It keeps notes where it is started.
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = run_to_end_within(SCHEMATHESIS_MAX, python, "").await;
    let brief = |line: &str| line.chars().take(LINE_MAX).collect::<String>();
    let report: Vec<_> = output.stdout.lines().map(brief).collect();
    assert_eq!(
        output.status,
        0,
        "MILLRACE_SEED={seed}\n{}\n{}",
        report.join("\n"),
        output.stderr
    );
    // It would be content with a document of nothing, too.
    let tested = |line: &String| line.contains("passed") && line.contains("generated");
    let cases = report.iter().find(|line| tested(line)).unwrap();
    let count: u32 = cases.split_whitespace().next().unwrap().parse().unwrap();
    assert!(count > 500, "{cases}");
    eprintln!("MILLRACE_SEED={seed}: {}", cases.trim());
    run.terminate().await;
    world.must_be_what_the_log_says().await;
}
