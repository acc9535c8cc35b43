//! `replay`: runs the workload of one seed again, with the trace of every violation, or of the run without a cut.

use std::process::ExitCode;

use clap::Parser;
use holdfast_tests::world::explore::{Bases, explore_numbered};

/// Runs the workload of a seed again and shows what happens
#[derive(Debug, Parser)]
#[command(name = "replay", version)]
struct Arguments {
    #[arg(long)]
    seed: u64,
    /// How many violations to show
    #[arg(long, default_value_t = 1)]
    show: usize,
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
    let outcome = explore_numbered(&bases, arguments.seed, true);
    for failure in outcome.failures.iter().take(arguments.show) {
        println!("{}", failure.story);
        failure.trace.iter().for_each(|line| println!("    {line}"));
        println!("  {}\n", failure.violation.what);
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
