//! `--watch`: progress bars for what takes long, until it is over.
//!
//! The node is asked again every [`PAUSE`]: progress is state, not an event. Bars go to standard error, and only if
//! it is a terminal; what they come to is printed to standard output, one line each.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use crate::api::documents::{OperationDocument, VolumeDocument};

use super::client::Client;
use super::query::understood;
use super::{CommandError, tables};

const PAUSE: Duration = Duration::from_millis(400);

/// Watches until nothing runs; fails if one of those that were seen running failed.
pub async fn operations(client: &Client, path: &str) -> Result<(), CommandError> {
    let mut seen: BTreeMap<String, bool> = BTreeMap::new();
    let look = |all: &[OperationDocument]| {
        let mut shown = Vec::new();
        for operation in all {
            let label = format!("{} {} {}", operation.app_name, operation.kind, operation.number);
            let is_running = operation.state == "running";
            if is_running || seen.contains_key(&label) {
                seen.insert(label.clone(), operation.state == "failed");
                let at = if is_running { operation.phase.clone() } else { operation.state.clone() };
                let error = operation.error.as_ref().map(|error| error.message.clone());
                let percent = operation.progress_percent;
                shown.push(Shown { label, at, percent, is_over: !is_running, error });
            }
        }
        shown
    };
    watch(client, path, "no operation runs", look).await?;
    match seen.values().filter(|failed| **failed).count() {
        0 => Ok(()),
        1 => Err(CommandError::Failed("an operation failed".to_string())),
        count => Err(CommandError::Failed(format!("{count} operations failed"))),
    }
}

/// Watches until no volume is being made.
pub async fn volumes(client: &Client, path: &str) -> Result<(), CommandError> {
    let mut seen: BTreeMap<String, bool> = BTreeMap::new();
    let look = |all: &[VolumeDocument]| {
        let mut shown = Vec::new();
        for volume in all {
            let label = tables::volume_label(volume);
            let is_over = volume.state == "CREATED_VOLUME" || volume.error.is_some();
            if !is_over || seen.contains_key(&label) {
                seen.insert(label.clone(), volume.error.is_some());
                let percent = (!is_over).then_some(volume.progress_percent);
                let error = volume.error.as_ref().map(|error| error.message.clone());
                shown.push(Shown { label, at: volume.state.clone(), percent, is_over, error });
            }
        }
        shown
    };
    watch(client, path, "no volume is being made", look).await?;
    match seen.values().any(|failed| *failed) {
        false => Ok(()),
        true => Err(CommandError::Failed("a volume could not be made".to_string())),
    }
}

/// One line of what is watched.
struct Shown {
    label: String,
    at: String,
    percent: Option<u8>,
    is_over: bool,
    error: Option<String>,
}

async fn watch<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    nothing: &str,
    mut look: impl FnMut(&[T]) -> Vec<Shown>,
) -> Result<(), CommandError> {
    let bars = MultiProgress::new();
    let mut open: BTreeMap<String, ProgressBar> = BTreeMap::new();
    let mut saw_any = false;
    loop {
        let all: Vec<T> = understood(&client.get(path).await?)?;
        let shown = look(&all);
        saw_any |= !shown.is_empty();
        for line in &shown {
            match line.is_over {
                false => show(&bars, &mut open, line),
                true => finish(&mut open, line)?,
            }
        }
        // What is not listed any more went away without an end of its own: a volume that was destroyed.
        open.retain(|label, bar| {
            let listed = shown.iter().any(|line| line.label == *label);
            if !listed {
                bar.finish_and_clear();
            }
            listed
        });
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if !saw_any {
        writeln!(std::io::stdout(), "{nothing}")?;
    }
    Ok(())
}

fn show(bars: &MultiProgress, open: &mut BTreeMap<String, ProgressBar>, line: &Shown) {
    let bar = open.entry(line.label.clone()).or_insert_with(|| {
        let bar = bars.add(ProgressBar::new(100));
        bar.set_prefix(line.label.clone());
        bar
    });
    bar.set_style(style(line.percent.is_some()));
    bar.set_message(line.at.clone());
    match line.percent {
        Some(percent) => bar.set_position(u64::from(percent)),
        None => bar.tick(),
    }
}

fn finish(open: &mut BTreeMap<String, ProgressBar>, line: &Shown) -> Result<(), CommandError> {
    let Some(bar) = open.remove(&line.label) else { return Ok(()) };
    bar.finish_and_clear();
    let error = line.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    writeln!(std::io::stdout(), "{}  {}{error}", line.label, line.at)?;
    Ok(())
}

fn style(measured: bool) -> ProgressStyle {
    let template = match measured {
        true => "{prefix:32} {bar:30} {pos:>3}% {msg} {elapsed}",
        false => "{prefix:32} {spinner} {msg} {elapsed}",
    };
    ProgressStyle::with_template(template).expect("the template is fixed and right")
}
