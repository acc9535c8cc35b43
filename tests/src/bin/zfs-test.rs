//! `zfs-test`: runs tests on real OpenZFS, inside a guest, and says how they went.
//!
//! Builds the guest (once) and the tests it is told of, boots, passes on what they say, and ends non-zero if one fails. On a
//! machine where OpenZFS's modules cannot be built it says why it skips, and ends well; `--required` makes that a failure.

#![allow(clippy::disallowed_methods, reason = "it measures real time and drives real processes")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use holdfast_tests::zfs_guest::ZfsGuest;
use holdfast_tests::zfs_guest::trial::Trial;

/// Test targets that mean something on ZFS, and what goes to each; the longest first. What tests fakes needs no guest.
const TRIALS: [(&str, &str); 5] = [
    // ZFS volumes by each way to speak to ZFS.
    ("zvol_real", "zfs_command"),
    ("zvol_real", "--skip the_fake --skip zfs_command"),
    // Whole nodes. One story after the other: beside each other they keep devices from appearing in time.
    ("stories", "pool:: --skip by_the_zfs_command --test-threads=1"),
    // The qcow2 suite with its images on a ZFS file system.
    ("conformance", "--skip the_fake"),
    // Pools of their own, which they bring into trouble.
    ("zvol_real_trouble", "--test-threads=1"),
];

/// What takes longer than everybody should wait for.
const MORE_TRIALS: [(&str, &str); 2] = [
    // What stands in the way of a rollback, case by case.
    ("stories", "pool_decision:: --test-threads=1"),
    // The same as by the library, so it comes second.
    ("stories", "by_the_zfs_command --test-threads=1"),
];

/// Runs tests on real OpenZFS, inside guests
#[derive(Debug, Parser)]
#[command(name = "zfs-test", version)]
struct Arguments {
    /// Of all in the workspace, the test targets to run; without it, all that are about ZFS
    #[arg(long = "test")]
    tests: Vec<String>,
    /// In place of the usual tests those that take longer: the decision table, the long chain by the command
    #[arg(long, conflicts_with = "tests")]
    more: bool,
    /// Goes to cargo: features the tests are built with
    #[arg(long)]
    features: Option<String>,
    /// How long the guests may take, in seconds; alone on a machine they need a fraction of that
    #[arg(long, default_value_t = 1500)]
    seconds: u64,
    /// So many guests run beside each other; without it, as many as there are processors
    #[arg(long)]
    guests: Option<usize>,
    /// `tcg`, or `kvm` where that is known to work
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// Fail where the guest cannot be built, in place of skipping
    #[arg(long)]
    required: bool,
    /// Goes to each test binary, in place of what usually does
    #[arg(last = true)]
    test_arguments: Vec<String>,
}

impl Arguments {
    /// Test targets, and what goes to each.
    fn chosen(&self) -> Vec<(String, String)> {
        let trials: &[(&str, &str)] = if self.more { &MORE_TRIALS } else { &TRIALS };
        let owned = |(test, arguments): &(&str, &str)| ((*test).to_owned(), (*arguments).to_owned());
        let usual: Vec<(String, String)> = trials.iter().map(owned).collect();
        if self.tests.is_empty() && self.test_arguments.is_empty() {
            return usual;
        }
        let is_wanted = |test: &String| self.tests.is_empty() || self.tests.contains(test);
        if self.test_arguments.is_empty() {
            let unusual = self.tests.iter().filter(|test| usual.iter().all(|(known, _)| known != *test));
            let unusual: Vec<_> = unusual.map(|test| (test.clone(), String::new())).collect();
            return usual.into_iter().filter(|(test, _)| is_wanted(test)).chain(unusual).collect();
        }
        let mut tests = self.tests.clone();
        if tests.is_empty() {
            tests = usual.into_iter().map(|(test, _)| test).collect();
            tests.dedup();
        }
        tests.into_iter().map(|test| (test, self.test_arguments.join(" "))).collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("zfs-test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let guest = match ZfsGuest::ensure() {
        Ok(guest) => guest,
        Err(why) => return skip(arguments, &why.to_string()),
    };
    if let Err(why) = &guest.zfs {
        return skip(arguments, why);
    }
    let trials = build(arguments)?;
    let scratch = tempfile::tempdir()?;
    let started = Instant::now();
    let failed = run_all(arguments, &guest, &trials, scratch.path())?;
    println!(
        "zfs-test: guests={} failed={} seconds={:.1}",
        trials.len(),
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("failed, or not come to an end: {}", failed.join(", "))
}

/// Each trial in a guest of its own, some of them at once. Returns those that failed.
fn run_all(
    arguments: &Arguments,
    guest: &ZfsGuest,
    trials: &[Trial],
    scratch: &Path,
) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_secs(arguments.seconds);
    let at_once =
        arguments.guests.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let left = Mutex::new(trials.iter().enumerate());
    let next = || left.lock().expect("no holder panics").next();
    let one_after_another = || -> anyhow::Result<Vec<String>> {
        let mut failed = Vec::new();
        while let Some((number, trial)) = next() {
            // Lines of several guests are mixed: each says whose it is.
            let heard = |line: &str| println!("{}| {line}", number + 1);
            let scratch = scratch.join(number.to_string());
            if trial.run(guest, &scratch, &arguments.accelerator, deadline, heard)? != Some(0) {
                failed.push(format!("{} {}", trial.name, trial.arguments));
            }
        }
        Ok(failed)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..at_once.clamp(1, trials.len())).map(|_| scope.spawn(one_after_another)).collect();
        let mut failed = Vec::new();
        for worker in workers {
            failed.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(failed)
    })
}

fn skip(arguments: &Arguments, why: &str) -> anyhow::Result<ExitCode> {
    if arguments.required {
        bail!("there is no guest with OpenZFS: {why}");
    }
    println!("zfs-test: skipped: {why}");
    Ok(ExitCode::SUCCESS)
}

/// Has cargo build the tests, with the features of the whole workspace, so that nothing is built twice.
fn build(arguments: &Arguments) -> anyhow::Result<Vec<Trial>> {
    let chosen = arguments.chosen();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    if let Some(features) = &arguments.features {
        cargo.args(["--features", features]);
    }
    for (test, _) in &chosen {
        cargo.args(["--test", test]);
    }
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("cargo ends with {}", output.status);
    }
    let messages = String::from_utf8(output.stdout)?;
    let built: BTreeMap<String, PathBuf> = messages.lines().filter_map(executable).collect();
    let trial = |(name, arguments): (String, String)| {
        let binary = built.get(&name).with_context(|| format!("cargo built no {name}"))?;
        Ok(Trial { binary: binary.clone(), name, arguments })
    };
    chosen.into_iter().map(trial).collect()
}

/// A test's name and executable, if this line of cargo's is about one.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?.to_owned();
    let is_test = message["profile"]["test"] == true;
    Some((name, PathBuf::from(message["executable"].as_str().filter(|_| is_test)?)))
}
