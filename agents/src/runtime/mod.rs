//! The runtime of the agents: who calls them, and what becomes of their effects (architecture section 4).
//!
//! ```text
//!   agent.rs     Agent, Job, Wiring: what an agent writes          context.rs  Ctx: what it sees and leaves behind
//!   cell.rs      one agent, one event at a time                    commit.rs   the durable part of a step
//!   jobs.rs      slow work: the scheduler                          job_context.rs  what a job sees, how it ends
//!   timers.rs, poster.rs, mode.rs                                  step_executor.rs  jobs in a test's hand
//!   services.rs  what the agents of a node share                   seams.rs    clock and chance
//!   node.rs      tasks, blocking pool, health, stop                bench.rs    one agent on a test bench
//! ```
//!
//! All but `node.rs` is synchronous and has no task, so that the simulation drives the same code.
//!
//! # Writing an agent
//!
//! * `handle` and `start` are pure: they look at the event, their own state, and the context, and leave effects in
//!   the context. Best is a plain function from values to a `Decision`, with a table test, and a `handle` that
//!   carries the decision out.
//! * After `handle` the effects happen in this order: durable changes in the order staged (a crash leaves a prefix,
//!   so stage the commit point last), then the bus, then jobs, then timers. Then comes the next event.
//! * A failed durable change ends the process; no code of yours sees it. No space is met with the reserve, and
//!   [`Ctx::mode`] then says [`NodeMode::NoSpace`]: refuse new operations, finish and delete as ever.
//! * There is no other start than the start after a crash: `start` reads its rows with [`Ctx::rows`] and issues
//!   again what they say is under way. Job ids derive from object and operation, so nothing runs twice.
//! * Anything that may be slow or fail is a [`Job`]. It runs in `run_job` with the seams in `Env`; it ends with one
//!   event, always, so failure is a value in that event. Ask `cx.should_stop()` where it makes sense.
//! * `Change::Synced` says that you have seen all that existed; `Change::Restarted` that the publisher's set is
//!   complete, so what you have and it has not is to go. Signal it for your own topics likewise.
//!
//! ```
//! use std::time::Duration;
//! use holdfast_agents::runtime::*;
//! use holdfast_pubsub::{Change, Durability, Topic};
//! # use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
//! struct LampConfig { name: String, is_on: bool }
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
//! struct LampStatus { name: String, is_on: bool, error: Option<String> }
//! # impl Topic for LampConfig {
//! #     const NAME: &'static str = "LampConfig";
//! #     const DURABILITY: Durability = Durability::Volatile;
//! #     type Key = String;
//! #     fn key(&self) -> String { self.name.clone() }
//! # }
//! # impl Topic for LampStatus {
//! #     const NAME: &'static str = "LampStatus";
//! #     const DURABILITY: Durability = Durability::Persistent;
//! #     type Key = String;
//! #     fn key(&self) -> String { self.name.clone() }
//! # }
//!
//! /// The seam its jobs use.
//! trait Wires: Send + Sync { fn switch(&self, name: &str, on: bool) -> Result<(), String>; }
//!
//! #[derive(Debug)]
//! enum Event { Config(Change<LampConfig>), Switched { name: String, on: bool, result: Result<(), String> }, Retry(String) }
//!
//! #[derive(Debug, Clone)]
//! struct Switch { name: String, on: bool }
//! impl Job for Switch {
//!     fn id(&self) -> JobId { JobId::new(format_args!("switch {} {}", self.name, self.on)) }
//!     fn object(&self) -> String { self.name.clone() }
//!     fn backend(&self) -> Backend { Backend::Hypervisor }
//!     fn deadline(&self) -> Option<Duration> { Some(Duration::from_secs(5)) }
//! }
//!
//! #[derive(Default)]
//! struct LampManager { wanted: std::collections::BTreeMap<String, bool> }
//!
//! impl Agent for LampManager {
//!     const NAME: &'static str = "lampmanager";
//!     type Event = Event;
//!     type Job = Switch;
//!     type Env = Box<dyn Wires>;
//!
//!     fn wire(wiring: &mut Wiring<Self>) {
//!         wiring.owns::<LampStatus>();
//!         wiring.reads::<LampConfig>(Event::Config);
//!     }
//!
//!     fn start(&mut self, cx: &mut Ctx<Self>) {
//!         for row in cx.rows::<LampStatus>() {
//!             tracing::debug!(lamp = row.name, is_on = row.is_on, "known from before");
//!         }
//!         cx.signal_restarted::<LampStatus>();
//!     }
//!
//!     fn lane(event: &Event) -> Lane {
//!         match event {
//!             Event::Switched { name, .. } | Event::Retry(name) => Lane::object(name),
//!             Event::Config(change) => change.value().map_or(Lane::Agent, |config| Lane::object(&config.name)),
//!         }
//!     }
//!
//!     fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
//!         match event {
//!             Event::Config(change) => {
//!                 if let Some(config) = change.current() {
//!                     self.wanted.insert(config.name.clone(), config.is_on);
//!                     cx.job(Switch { name: config.name.clone(), on: config.is_on });
//!                 }
//!             }
//!             Event::Switched { name, on, result } => {
//!                 if result.is_err() {
//!                     cx.timer(TimerKey::new(&name), Duration::from_secs(10), Event::Retry(name.clone()));
//!                 }
//!                 cx.publish(LampStatus { name, is_on: on && result.is_ok(), error: result.err() });
//!             }
//!             Event::Retry(name) => {
//!                 if let Some(&on) = self.wanted.get(&name) {
//!                     cx.job(Switch { name, on });
//!                 }
//!             }
//!         }
//!     }
//!
//!     fn run_job(job: Switch, wires: &Box<dyn Wires>, _cx: &JobContext<Event>) -> Event {
//!         let result = wires.switch(&job.name, job.on);
//!         Event::Switched { name: job.name, on: job.on, result }
//!     }
//! }
//!
//! // On the bench: jobs and time are in the test's hand.
//! # struct Nothing;
//! # impl Wires for Nothing { fn switch(&self, _: &str, _: bool) -> Result<(), String> { Ok(()) } }
//! let mut bench = Bench::new(LampManager::default(), Box::new(Nothing) as Box<dyn Wires>);
//! bench.start();
//! bench.publish(LampConfig { name: "hall".into(), is_on: true });
//! let failed = Event::Switched { name: "hall".into(), on: true, result: Err("no current".into()) };
//! bench.end_job(|job| job.name == "hall", failed);
//! assert_eq!(bench.row::<LampStatus>(&"hall".into()).unwrap().error.as_deref(), Some("no current"));
//! bench.advance(Duration::from_secs(10));
//! bench.run_jobs();
//! assert!(bench.row::<LampStatus>(&"hall".into()).unwrap().is_on);
//! ```

pub mod agent;
pub mod bench;
pub mod cell;
mod commit;
pub mod context;
pub mod job_context;
pub mod jobs;
pub mod mode;
pub mod node;
mod outgoing;
pub mod poster;
pub mod seams;
pub mod services;
pub mod step_executor;
mod timers;

pub use agent::{Agent, Backend, Job, JobId, Lane, NoJob, TimerKey, Wiring};
pub use bench::Bench;
pub use cell::{AgentCell, Driver, Fatal, Pulse, Step};
pub use commit::{CommitExecutor, CommitRun, Commits};
pub use context::Ctx;
pub use job_context::JobContext;
pub use jobs::{JobExecutor, JobInfo, JobLimits, JobRun, JobScheduler, RunningJob};
pub use mode::{ModeCell, NodeMode};
pub use node::{BlockingPool, NodeBuilder, RunningNode, Stopped};
pub use poster::Poster;
pub use seams::{Clock, Entropy, ManualClock, SeededEntropy, SystemClock, SystemEntropy, Timestamp};
pub use services::{Outside, Services};
pub use step_executor::{StepCommits, StepExecutor};
