//! How small the node is, and how little it does when there is nothing to do.
//!
//! ```text
//!   release binary ─▶ MiB
//!   holdfast node, nothing deployed ─▶ ready ─▶ settled ─▶ windows of 10 s: processor, wake-ups, memory
//! ```
//!
//! The node is the real program with its default settings, so it asks its controller (in the measuring process) every ten
//! seconds; it is started on TCG, so that it boots no guest to try KVM. A wake-up is a context switch of any of its threads.
//! The threads are looked at each second, because what a thread did that has ended is nowhere to be read.
//!
//! Deliberately absent: a node with applications, which `start.rs` measures with the same process and the same looks.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use uuid::Uuid;

use super::figures::Figure;
use super::node_process::{self, NodeProcess, NodeSettings};
use crate::controller::Server;

/// Bytes in a MiB.
const MIB: f64 = 1048576.0;
const MOST_BINARY_MIB: f64 = 15.0;
const MOST_RESIDENT_MIB: f64 = 16.0;
const MOST_CPU_PERCENT: f64 = 0.1;
const MOST_WAKE_UPS_PER_SECOND: f64 = 5.0;

const DEVICE: Uuid = Uuid::from_u128(0x6f1d_2c1e_0c1b_4a53_9d0e_5b7a_1f3c_9a05);
const READY_WITHIN: Duration = Duration::from_secs(30);
/// After this the first configuration is handled, and what only a start needs is done.
const SETTLE_FOR: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// As long as the node's own rounds: each window holds one question to the controller.
const WINDOW: Duration = Duration::from_secs(10);

/// The size of the program as it is installed.
pub fn binary_size(holdfast: &Path) -> anyhow::Result<Vec<Figure>> {
    let size_bytes = fs::metadata(holdfast).with_context(|| format!("no {}", holdfast.display()))?.len();
    let figure = Figure::new("release binary, stripped", "MiB", &[size_bytes as f64 / MIB]);
    Ok(vec![figure.at_most(MOST_BINARY_MIB)])
}

/// What an idle process did while it was watched.
#[derive(Debug, Default)]
pub struct Idle {
    pub watched: Duration,
    pub cpu_seconds: f64,
    /// By thread name.
    pub woken: BTreeMap<String, u64>,
    /// Of each window: per cent of a core, wake-ups per second, MiB.
    windows: Vec<[f64; 3]>,
}

/// A node without applications, watched for `watched` (rounded up to windows of ten seconds).
pub fn idle_node(holdfast: &Path, watched: Duration) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::Builder::new().prefix("holdfast-idle-").tempdir()?;
    let controller = Server::for_test(None);
    controller.edit_config(DEVICE, |_| {}).context("the controller cannot be given a configuration")?;
    let settings = NodeSettings {
        holdfast: holdfast.to_owned(),
        persist: folder.path().join("persist"),
        controller: controller.url(),
        device: DEVICE,
        flags: Vec::new(),
    };
    let mut node = node_process::start(&settings)?;
    node.until_ready(READY_WITHIN)?;
    std::thread::sleep(SETTLE_FOR);
    if controller.core().latest(DEVICE).is_ok_and(|reports| reports.is_empty()) {
        bail!(
            "the node is ready and has reported nothing: it is idle for another reason than having nothing to do"
        );
    }
    Ok(watch(&mut node, watched)?.figures())
}

/// Watches a process that is left alone meanwhile.
pub fn watch(node: &mut NodeProcess, watched: Duration) -> anyhow::Result<Idle> {
    let mut idle = Idle::default();
    let rounds = watched.as_secs().div_ceil(WINDOW.as_secs()).max(1);
    for _ in 0..rounds {
        let (cpu_before, mut woken) = (node_process::cpu_seconds(node.pid())?, 0);
        let began = Instant::now();
        let mut seen = node_process::wake_ups(node.pid())?;
        while began.elapsed() < WINDOW {
            std::thread::sleep(LOOK_EVERY.min(WINDOW.saturating_sub(began.elapsed())));
            node.must_live()?;
            let now = node_process::wake_ups(node.pid())?;
            for (name, switches) in node_process::woken_between(&seen, &now) {
                *idle.woken.entry(name).or_insert(0) += switches;
                woken += switches;
            }
            seen = now;
        }
        let took = began.elapsed();
        let cpu = node_process::cpu_seconds(node.pid())? - cpu_before;
        let seconds = took.as_secs_f64();
        let resident_mib = node_process::resident_mib(node.pid())?;
        idle.windows.push([100.0 * cpu / seconds, woken as f64 / seconds, resident_mib]);
        idle.watched += took;
        idle.cpu_seconds += cpu;
    }
    Ok(idle)
}

impl Idle {
    /// Processor and wake-ups over the whole time, memory as the median; the spread is that of the windows.
    pub fn figures(&self) -> Vec<Figure> {
        let seconds = self.watched.as_secs_f64();
        let woken = self.woken.values().sum::<u64>() as f64;
        let of_windows =
            |which: usize| -> Vec<f64> { self.windows.iter().map(|window| window[which]).collect() };
        let over_all = |name: &str, unit, value, which| {
            let spread = Figure::new(name, unit, &of_windows(which)).spread;
            Figure::with_spread(name, unit, value, spread)
        };
        vec![
            over_all("idle node: processor", "% of a core", 100.0 * self.cpu_seconds / seconds, 0)
                .at_most(MOST_CPU_PERCENT),
            over_all("idle node: wake-ups", "/s", woken / seconds, 1).at_most(MOST_WAKE_UPS_PER_SECOND),
            Figure::new("idle node: resident memory", "MiB", &of_windows(2)).at_most(MOST_RESIDENT_MIB),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_whole_time_and_their_spread_of_its_windows() {
        let idle = Idle {
            watched: Duration::from_secs(20),
            cpu_seconds: 0.03,
            woken: BTreeMap::from([("holdfast".to_owned(), 80), ("zedagent".to_owned(), 40)]),
            windows: vec![[0.2, 2.0, 9.0], [0.1, 10.0, 9.5]],
        };
        let [cpu, woken, resident] = &idle.figures()[..] else { panic!("three figures") };
        assert_eq!((cpu.value, cpu.spread, cpu.met), (0.15, [0.1, 0.2], Some(false)));
        assert_eq!((woken.value, woken.spread, woken.met), (6.0, [2.0, 10.0], Some(false)));
        assert_eq!((resident.spread, resident.met), ([9.0, 9.5], Some(true)));
    }

    #[test]
    fn a_binary_that_is_not_there_is_named() {
        let error = binary_size(Path::new("/nowhere/holdfast")).expect_err("it is not there");
        assert!(format!("{error:#}").contains("/nowhere/holdfast"));
    }

    /// `HOLDFAST_BENCH_BINARY=target/release/holdfast cargo test -p holdfast-tests --lib idle -- --ignored --nocapture`
    #[test]
    #[ignore = "watches a release binary for some seconds"]
    fn an_idle_node_is_watched() {
        let binary =
            std::env::var_os("HOLDFAST_BENCH_BINARY").expect("HOLDFAST_BENCH_BINARY names the program");
        let seconds =
            std::env::var("HOLDFAST_BENCH_SECONDS").map_or(20, |text| text.parse().expect("seconds"));
        let figures = idle_node(Path::new(&binary), Duration::from_secs(seconds)).expect("watched");
        println!("{figures:#?}");
        assert_eq!(figures.len(), 3);
    }
}
