//! `soak`: cuts the power of simulated nodes, many times a second, and says whether one promise was ever broken.
//!
//! Seeds below the size of the enumeration are its workloads, in order; as many again are the same ones with second cuts;
//! the others draw a long workload of their own. What the other ranges of seeds are is in `world/explore.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use holdfast_tests::world::explore::{Bases, Failure, LENGTH, Outcome, Show, enumerated, explore_numbered};
use holdfast_tests::world::faults::{Fired, KINDS};

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
    /// Instead of going on until there are enough cuts, explore so many seeds, and each once more to compare the traces
    #[arg(long)]
    twice: Option<u64>,
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
    fired: Fired,
    fault_runs: u64,
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
    if let Some(seeds) = arguments.twice {
        return twice(arguments.seed..arguments.seed + seeds, threads, &bases);
    }
    println!(
        "enumeration: {0} workloads of up to {LENGTH} operations, cut everywhere (seeds 0..{1}), and cut again in each \
         recovery (seeds {0}..{2})",
        enumerated(),
        enumerated() - 1,
        2 * enumerated() - 1
    );
    let started = Instant::now();
    let (next, enough, totals) =
        (AtomicU64::new(arguments.seed), AtomicBool::new(false), Mutex::new(Totals::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !enough.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let outcome = explore_numbered(&bases, seed, Show::Nothing);
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
    report(&arguments, &totals, started.elapsed().as_secs_f64(), &bases)
}

/// Everything again: the same seed must give the same trace, all recoveries included. The first time counts as any other cut.
fn twice(seeds: Range<u64>, threads: usize, bases: &Bases) -> ExitCode {
    let (next, found) = (AtomicU64::new(seeds.start), Mutex::new((Totals::default(), 0)));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let first = explore_numbered(bases, seed, Show::Nothing);
                    let again = explore_numbered(bases, seed, Show::Nothing).trace_hash;
                    let mut found = found.lock().expect("no holder panics");
                    if first.trace_hash != again {
                        eprintln!("seed {seed}: two runs, two traces");
                        found.1 += 1;
                    }
                    add(&mut found.0, seed, first);
                }
            });
        }
    });
    let (totals, different) = found.into_inner().expect("no holder panics");
    tell_failures(&totals, bases);
    println!(
        "twice={} different={different} cuts={} violations={} seeds={}..{}",
        seeds.end - seeds.start,
        totals.cuts,
        totals.failures.len(),
        seeds.start,
        seeds.end - 1
    );
    if different == 0 && totals.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(totals: &mut Totals, seed: u64, outcome: Outcome) {
    totals.cuts += outcome.cuts;
    totals.repeated += outcome.repeated;
    totals.workloads += 1;
    totals.last_seed = totals.last_seed.max(seed);
    totals.fault_runs += outcome.fault_runs;
    for (kind, count) in &outcome.fired {
        *totals.fired.entry(*kind).or_default() += count;
    }
    totals.failures.extend(outcome.failures.into_iter().map(|failure| (seed, failure)));
}

/// Each kind once, and the shortest trace of the first seed.
fn tell_failures(totals: &Totals, bases: &Bases) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (seed, failure) in &totals.failures {
        let what = failure.violation.what.as_str();
        let count = kinds.entry(what).or_default();
        *count += 1;
        if *count == 1 {
            eprintln!("seed {seed}: {}\n  {what}\n  replay --seed {seed}", failure.story);
        }
    }
    if let Some((seed, _)) = totals.failures.first() {
        tell_shortest(bases, *seed);
    }
}

fn report(arguments: &Arguments, totals: &Totals, seconds: f64, bases: &Bases) -> ExitCode {
    tell_failures(totals, bases);
    let count_of = |kind| totals.fired.get(kind).copied().unwrap_or(0);
    let fired: Vec<String> = KINDS.iter().map(|kind| format!("{kind}={}", count_of(kind))).collect();
    println!("faults: runs={} {}", totals.fault_runs, fired.join(" "));
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

/// The seed once more, with the trace of its shortest failure.
fn tell_shortest(bases: &Bases, seed: u64) {
    let failures = explore_numbered(bases, seed, Show::Violations).failures;
    let Some(failure) = failures.iter().min_by_key(|failure| failure.trace.len()) else {
        return eprintln!("seed {seed} breaks nothing the second time: the simulation is not deterministic");
    };
    eprintln!("the shortest of its {} failing traces: {}", failures.len(), failure.story);
    failure.trace.iter().for_each(|line| eprintln!("    {line}"));
    eprintln!("  {}", failure.violation.what);
}
