//! From publish to handler across tasks, on a node with nothing else to do.
//!
//! ```text
//!   pacer ── event ─▶ speaker ── publishes the time ─▶ listener: now - that time        agents of a real node
//!         ── message ▶ task ──── sends the time ─────▶ task: now - that time            tokio's mpsc, 2 workers
//!         ── unpark ─▶ thread ── leaves the time ────▶ thread: now - that time          std's park and unpark
//! ```
//!
//! The three take turns in blocks. Between two exchanges there is a pause of 1 to 2 ms, in which all of them sleep: what
//! is measured begins when the first of two is awake. A message between two tasks need not wake any thread: tokio lets the
//! receiver run next on the sender's, be it an agent or a bare task. Plain threads say what it would cost otherwise.
//!
//! The listener is woken by the bus's own way (mailbox, waker, the agent's task), the clock is the node's.
//!
//! Deliberately absent: a load (`delay.rs`) and durability (`durable.rs`).

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_agents::node;
use holdfast_agents::runtime::{Agent, Ctx, JobContext, NoJob, NodeBuilder, Poster, RunningNode, Wiring};
use holdfast_persist::{PersistLayout, RealDisk};
use holdfast_pubsub::{Change, Durability, Topic};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::figures::{Figure, quantile, sorted};
use crate::real_machine::open_services;

const BLOCKS: usize = 10;
const EXCHANGES_PER_BLOCK: usize = 200;
/// The first block of each is not counted.
const WARM_UP_BLOCKS: usize = 1;
const SHORTEST_PAUSE: Duration = Duration::from_micros(1_000);
const PAUSES: u64 = 1_000;
const ANSWERED_AT_MOST: Duration = Duration::from_secs(5);
const STOP_GRACE: Duration = Duration::from_secs(5);
const NANOS_PER_MICRO: f64 = 1e3;

/// The node keeps its files below `root`, an empty directory. 2,000 exchanges of each kind: about ten seconds.
pub fn measure(root: &Path) -> anyhow::Result<Vec<Figure>> {
    let runtime = node::runtime()?;
    let measured = runtime.block_on(async {
        let (node, agents) = start_agents(root)?;
        node.synced().await;
        let plain_threads = PlainThreads::start()?;
        // The pacer sleeps as a thread does: not on a worker, which the tasks are to have for themselves.
        let tasks = start_tasks();
        let exchanges = [agents, tasks, plain_threads.exchange()];
        let measured = tokio::task::spawn_blocking(move || take_turns(&exchanges)).await?;
        plain_threads.stop();
        let stopped = node.stop(STOP_GRACE).await;
        ensure!(stopped.stuck_agents.is_empty(), "agents that did not end: {:?}", stopped.stuck_agents);
        measured
    });
    runtime.shutdown_timeout(STOP_GRACE);
    let [bus, channel, threads] = measured?;
    Ok(vec![
        bus.figure("bus: publish to handler, idle node, p50", 0.5)
            .compared_to(CHANNEL, channel.at(0.5))
            .at_most(10.0),
        bus.figure("bus: publish to handler, idle node, p99", 0.99)
            .compared_to(CHANNEL, channel.at(0.99))
            .at_most(50.0),
        threads.figure("two plain threads: unpark to awake, p50", 0.5),
        threads.figure("two plain threads: unpark to awake, p99", 0.99),
    ])
}

const CHANNEL: &str = "a raw tokio mpsc between two tasks";

/// Latencies in µs, block by block.
struct Latencies {
    blocks: Vec<Vec<f64>>,
}

impl Latencies {
    fn at(&self, part: f64) -> f64 {
        quantile(&sorted(&self.blocks.concat()), part)
    }

    /// The quantile of all, and the least and the most of the blocks' own.
    fn figure(&self, name: &str, part: f64) -> Figure {
        let of_blocks =
            sorted(&self.blocks.iter().map(|block| quantile(&sorted(block), part)).collect::<Vec<_>>());
        let spread = [of_blocks[0], of_blocks[of_blocks.len() - 1]];
        Figure::with_spread(name, "µs", self.at(part), spread)
    }
}

/// What is paced: `begin` has the first of two say the time to the second, who puts down how old it is; false when
/// the first is gone.
struct Exchange {
    begin: Box<dyn Fn() -> bool + Send>,
    heard: Heard,
}

/// What the listening end has put down, in µs.
#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<f64>>>);

impl Heard {
    fn put_down(&self, latency: Duration) {
        self.lock().push(latency.as_nanos() as f64 / NANOS_PER_MICRO);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<f64>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn take_turns(exchanges: &[Exchange; 3]) -> anyhow::Result<[Latencies; 3]> {
    let mut measured = [(); 3].map(|()| Latencies { blocks: Vec::new() });
    for block in 0..WARM_UP_BLOCKS + BLOCKS {
        for (exchange, latencies) in exchanges.iter().zip(&mut measured) {
            let heard = take_block(exchange)?;
            if block >= WARM_UP_BLOCKS {
                latencies.blocks.push(heard);
            }
        }
    }
    Ok(measured)
}

fn take_block(exchange: &Exchange) -> anyhow::Result<Vec<f64>> {
    for number in 0..EXCHANGES_PER_BLOCK {
        ensure!((exchange.begin)(), "nobody is there to begin an exchange");
        thread::sleep(SHORTEST_PAUSE + Duration::from_micros(number as u64 * 617 % PAUSES));
        let deadline = Instant::now() + ANSWERED_AT_MOST;
        // The next begins only when this one was heard: two changes of one row would melt.
        while exchange.heard.lock().len() <= number {
            ensure!(Instant::now() < deadline, "an exchange was not heard within {ANSWERED_AT_MOST:?}");
            thread::sleep(SHORTEST_PAUSE);
        }
    }
    Ok(std::mem::take(&mut *exchange.heard.lock()))
}

/// The speaker's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Spoken {
    /// By the node's clock, when the speaker handled its event.
    at: Duration,
}

impl Topic for Spoken {
    const NAME: &'static str = "Spoken";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = &'static str;
    fn key(&self) -> &'static str {
        "speaker"
    }
}

#[derive(Debug)]
struct Speak;

struct Speaker;

impl Agent for Speaker {
    const NAME: &'static str = "speaker";
    type Event = Speak;
    type Job = NoJob;
    type Env = ();

    fn wire(wiring: &mut Wiring<Self>) {
        wiring.owns::<Spoken>();
    }

    fn start(&mut self, _cx: &mut Ctx<Self>) {}

    fn handle(&mut self, Speak: Speak, cx: &mut Ctx<Self>) {
        cx.publish(Spoken { at: cx.elapsed() });
    }

    fn run_job(job: NoJob, (): &(), _cx: &JobContext<Speak>) -> Speak {
        match job {}
    }
}

struct Listener {
    heard: Heard,
}

impl Agent for Listener {
    const NAME: &'static str = "listener";
    type Event = Change<Spoken>;
    type Job = NoJob;
    type Env = ();

    fn wire(wiring: &mut Wiring<Self>) {
        wiring.reads::<Spoken>(|change| change);
    }

    fn start(&mut self, _cx: &mut Ctx<Self>) {}

    fn handle(&mut self, change: Change<Spoken>, cx: &mut Ctx<Self>) {
        if let Some(spoken) = change.current() {
            self.heard.put_down(cx.elapsed().saturating_sub(spoken.at));
        }
    }

    fn run_job(job: NoJob, (): &(), _cx: &JobContext<Change<Spoken>>) -> Change<Spoken> {
        match job {}
    }
}

fn start_agents(root: &Path) -> anyhow::Result<(RunningNode, Exchange)> {
    let layout = PersistLayout::new(root);
    layout.prepare(&RealDisk)?;
    let services = open_services(layout, None)?;
    let heard = Heard::default();
    let mut speaker: Option<Poster<Speak>> = None;
    let node = NodeBuilder::new(&services)
        .agent_heard_through(Speaker, (), &mut speaker)
        .agent(Listener { heard: heard.clone() }, ())
        .start()?;
    let speaker = speaker.context("the speaker was wired")?;
    Ok((node, Exchange { begin: Box::new(move || speaker.post(Speak)), heard }))
}

/// Both end with the runtime.
fn start_tasks() -> Exchange {
    let heard = Heard::default();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let (speak, mut spoken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(()) = begun.recv().await {
            if speak.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let put_down = heard.clone();
    tokio::spawn(async move {
        while let Some(at) = spoken.recv().await {
            put_down.put_down(at.elapsed());
        }
    });
    Exchange { begin: Box::new(move || begin.send(()).is_ok()), heard }
}

/// Two threads that sleep until they are unparked, and nothing between them but a lock.
struct PlainThreads {
    speaker: JoinHandle<()>,
    listener: JoinHandle<()>,
    begun: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    heard: Heard,
}

impl PlainThreads {
    fn start() -> anyhow::Result<Self> {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let spoken: Arc<Mutex<Option<Instant>>> = Arc::default();
        let heard = Heard::default();
        let take = {
            let spoken = Arc::clone(&spoken);
            move || spoken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
        };
        let put_down = heard.clone();
        let listener = spawn(&stop, move || {
            if let Some(at) = take() {
                put_down.put_down(at.elapsed());
            }
        })?;
        let (is_begun, to_wake) = (Arc::clone(&begun), listener.thread().clone());
        let speaker = spawn(&stop, move || {
            if is_begun.swap(false, Ordering::SeqCst) {
                let now = Instant::now();
                *spoken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(now);
                to_wake.unpark();
            }
        })?;
        Ok(PlainThreads { speaker, listener, begun, stop, heard })
    }

    fn exchange(&self) -> Exchange {
        let (begun, speaker) = (Arc::clone(&self.begun), self.speaker.thread().clone());
        let begin = move || {
            begun.store(true, Ordering::SeqCst);
            speaker.unpark();
            true
        };
        Exchange { begin: Box::new(begin), heard: self.heard.clone() }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for ended in [self.speaker, self.listener] {
            ended.thread().unpark();
            ended.join().expect("it does not panic");
        }
    }
}

/// A thread that looks whenever it is woken.
fn spawn(stop: &Arc<AtomicBool>, look: impl Fn() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let stop = Arc::clone(stop);
    let run = move || {
        while !stop.load(Ordering::SeqCst) {
            look();
            thread::park();
        }
    };
    thread::Builder::new().spawn(run).context("there is no room for a thread")
}
