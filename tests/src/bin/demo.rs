//! `make demo`: the whole story of one application on a real node with a real guest, live. See `holdfast_tests::demo`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Parser;
use holdfast_tests::demo::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Shows on a real guest: deploy, snapshot, upgrade, roll back, kill -9, delete.
#[derive(Debug, Parser)]
struct Arguments {
    /// The `holdfast` program; without this, the one that was built beside this program.
    #[arg(long, value_name = "PATH")]
    holdfast: Option<PathBuf>,

    /// Leave the working folder (persist directory, logs, images) for a look afterwards.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match options(arguments) {
        Ok(options) => {
            let outcome = demo::run(&options);
            println!("\ndemo: {} checks passed, {} failed", outcome.passed, outcome.failed);
            if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn options(arguments: Arguments) -> anyhow::Result<Options> {
    let beside =
        || demo::holdfast_beside_us().context("there is no `holdfast` beside this program: build it first");
    let holdfast = arguments.holdfast.map_or_else(beside, Ok)?;
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Ok(Options { holdfast, colour, keep: arguments.keep, interrupted: interrupted_by_signals()? })
}

/// A flag that SIGINT, SIGTERM and SIGHUP set: the story then puts everything away before it ends.
fn interrupted_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("cannot listen to signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
    };
    let set = flag.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
                _ = signals.2.recv() => {}
            }
        });
        set.store(true, Ordering::Relaxed);
    })?;
    Ok(flag)
}
