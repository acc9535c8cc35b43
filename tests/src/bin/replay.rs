//! `replay`: runs the workload of one seed again and steps through its first violation, or through one cut of one's
//! choice: who handles what, each call to a device, and what changed in each record and image.

use std::process::ExitCode;

use clap::Parser;
use holdfast_tests::world::explore::{Bases, Show, explore_numbered};

/// Runs the workload of a seed again and shows what happens
#[derive(Debug, Parser)]
#[command(name = "replay", version)]
struct Arguments {
    #[arg(long)]
    seed: u64,
    /// How many violations to show, shortest first
    #[arg(long, default_value_t = 1)]
    show: usize,
    /// Show this cut, whatever came of it; 0 is the run without one
    #[arg(long)]
    cut: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What the agents log, on demand: RUST_LOG=info.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let bases = match Bases::new() {
        Ok(bases) => bases,
        Err(violation) => {
            eprintln!("nothing can be deployed: {}", violation.what);
            return ExitCode::FAILURE;
        }
    };
    let show = arguments.cut.map_or(Show::Violations, Show::Cut);
    let mut outcome = explore_numbered(&bases, arguments.seed, show);
    outcome.failures.sort_by_key(|failure| failure.trace.len());
    for failure in outcome.failures.iter().take(arguments.show) {
        tell(&failure.story, &failure.trace);
        println!("  {}\n", failure.violation.what);
    }
    if let Some((story, trace)) = &outcome.shown {
        tell(story, trace);
    }
    println!(
        "seed={} cuts={} violations={} trace_hash={:016x}",
        arguments.seed,
        outcome.cuts,
        outcome.failures.len(),
        outcome.trace_hash
    );
    if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(story: &str, trace: &[String]) {
    println!("{story}");
    trace.iter().for_each(|line| println!("    {line}"));
}
