//! `bench`: the figures of [`holdfast_tests::bench`], as one table and as JSON. `make bench` builds and calls it.

#![allow(clippy::disallowed_methods, reason = "writes the figures down")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Parser, Subcommand};
use holdfast_tests::bench::figures::{Figure, Report};
use holdfast_tests::bench::qcow2_cost::{self, Plan};
use holdfast_tests::bench::{
    app_work, bus_latency, criterion, cuts, delay, durable, footprint, plot, quiet, start,
};

/// Measures what Holdfast costs, beside what it cannot do without
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Arguments {
    /// Where cargo puts what it builds; bench.json goes there
    #[arg(long, default_value = "target")]
    target: PathBuf,
    /// Where files are measured: on a real disk, please
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// When this run's criterion benches began, in seconds since 1970: older results do not count
    #[arg(long)]
    since: Option<u64>,
    /// Where the plot of the storage tool's cost goes; without it, none is drawn
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Only measurements whose name holds this text
    #[arg(long)]
    only: Option<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// A node on this persist directory with simulated guests, to be looked at from outside
    #[command(hide = true)]
    Node { persist: PathBuf },
}

/// Rounds of what takes seconds each.
const ROUNDS: usize = 3;
/// Downtimes of each kind.
const DOWNTIMES: usize = 15;
const IDLE: Duration = Duration::from_secs(60);
const UNDER_LOAD: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.role {
        Some(Role::Node { persist }) => start::run_node(persist.clone()),
        None => bench(&arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(&arguments.directory)
        .with_context(|| format!("no room in {}", arguments.directory.display()))?;
    let (below, release) = (folder.path(), arguments.target.join("release"));
    let machine = quiet::machine();
    let mut report = Report { machine: machine.clone(), ..Report::default() };
    let mut run = |name: &str, measure: &mut dyn FnMut() -> anyhow::Result<Vec<Figure>>| {
        if arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            eprintln!("bench: {name}");
            let before = report.figures.len();
            report.add(name, measure());
            // Told at once: what is measured is not lost with what comes after it.
            report.figures[before..]
                .iter()
                .for_each(|figure| eprintln!("  {}: {} {}", figure.name, figure.value, figure.unit));
        }
    };
    run("bus", &mut || criterion::measure(&arguments.target, since(arguments)?));
    run("bus latency", &mut || bus_latency::measure(&inside(below, "latency")?));
    run("durable publish", &mut || {
        quiet::disk(below).and_then(|()| durable::measure(&inside(below, "durable")?))
    });
    run("downtime", &mut || quiet::disk(below).and_then(|()| app_work::measure(below, DOWNTIMES)));
    run("delay", &mut || quiet::disk(below).and_then(|()| delay::measure(below, UNDER_LOAD)));
    run("start, 100 apps", &mut || start::measure(below, &start::HUNDRED, ROUNDS));
    run("start, 1,000 apps", &mut || start::measure(below, &start::THOUSAND, ROUNDS));
    run("binary", &mut || footprint::binary_size(&release.join("holdfast")));
    run("idle node", &mut || footprint::idle_node(&release.join("holdfast"), IDLE));
    run("simulation", &mut || cuts::measure(&release.join("soak"), ROUNDS));
    run("qcow2", &mut || qcow2(below, &machine, arguments.plot.as_deref()));
    print!("{report}");
    let path = arguments.target.join("bench.json");
    let json = serde_json::to_vec_pretty(&report)?;
    std::fs::write(&path, json).with_context(|| format!("{} cannot be written", path.display()))
}

fn since(arguments: &Arguments) -> anyhow::Result<SystemTime> {
    let seconds = arguments.since.context("not told when the criterion benches began (--since)")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn inside(below: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let directory = below.join(name);
    std::fs::create_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
    Ok(directory)
}

fn qcow2(below: &Path, machine: &str, plot: Option<&Path>) -> anyhow::Result<Vec<Figure>> {
    let costs = qcow2_cost::measure(below, &Plan::full())?;
    if let Some(plot) = plot {
        let caption = format!("{}; {machine}; median of {} rounds, least and most", costs.tool, costs.rounds);
        plot::draw(&costs, &caption, plot)?;
    }
    Ok(costs.figures())
}
