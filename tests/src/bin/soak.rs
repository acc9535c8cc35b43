//! `soak`: cuts the power of simulated nodes, many times a second, and says whether one promise was ever broken.
//!
//! Seeds below the size of the enumeration are its workloads, in order; the others draw a long workload of their own.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use holdfast_tests::world::explore::{Bases, Failure, Outcome, explore_numbered};

/// A simulated node is many small short-lived values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Cuts the power of simulated nodes and checks what becomes of them
#[derive(Debug, Parser)]
#[command(name = "soak", version)]
struct Arguments {
    /// Stop after this many distinct cuts
    #[arg(long, default_value_t = 100_000)]
    cuts: u64,
    /// Stop after this many seconds, whatever was reached; 0 for no limit
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many threads; 0 for one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Go on after a violation, up to this many
    #[arg(long, default_value_t = 1)]
    violations: usize,
}

#[derive(Debug, Default)]
struct Totals {
    cuts: u64,
    repeated: u64,
    workloads: u64,
    last_seed: u64,
    failures: Vec<(u64, Failure)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bases = match Bases::new() {
        Ok(bases) => bases,
        Err(violation) => {
            eprintln!("nothing can be deployed: {}", violation.what);
            return ExitCode::FAILURE;
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if arguments.threads == 0 { cores } else { arguments.threads };
    let started = Instant::now();
    let (next, enough, totals) =
        (AtomicU64::new(arguments.seed), AtomicBool::new(false), Mutex::new(Totals::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !enough.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let outcome = explore_numbered(&bases, seed, false);
                    let mut totals = totals.lock().expect("no holder panics");
                    add(&mut totals, seed, outcome);
                    let is_late = arguments.seconds > 0 && started.elapsed().as_secs() >= arguments.seconds;
                    if is_late
                        || totals.cuts >= arguments.cuts
                        || totals.failures.len() >= arguments.violations
                    {
                        enough.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().expect("no holder panics");
    report(&arguments, &totals, started.elapsed().as_secs_f64())
}

fn add(totals: &mut Totals, seed: u64, outcome: Outcome) {
    totals.cuts += outcome.cuts;
    totals.repeated += outcome.repeated;
    totals.workloads += 1;
    totals.last_seed = totals.last_seed.max(seed);
    totals.failures.extend(outcome.failures.into_iter().map(|failure| (seed, failure)));
}

fn report(arguments: &Arguments, totals: &Totals, seconds: f64) -> ExitCode {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (seed, failure) in &totals.failures {
        let what = failure.violation.what.as_str();
        let count = kinds.entry(what).or_default();
        *count += 1;
        if *count == 1 {
            eprintln!("seed {seed}: {}\n  {what}\n  replay --seed {seed}", failure.story);
        }
    }
    println!(
        "cuts={} violations={} workloads={} seeds={}..{} seconds={seconds:.1} cuts_per_second={:.0}",
        totals.cuts,
        totals.failures.len(),
        totals.workloads,
        arguments.seed,
        totals.last_seed,
        totals.cuts as f64 / seconds
    );
    if totals.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
