//! An agent that does what it is told: each order row names the effects of one step.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_agents::runtime::*;
use holdfast_pubsub::{Change, DamagedRow, Durability, Topic};
use serde::{Deserialize, Serialize};

/// What the toy is to do, in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub number: u32,
    pub actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    Note(String, u32),
    Forget(String),
    Light(bool),
    Record(PathBuf, String),
    RemoveTree(PathBuf),
    Quarantine(PathBuf),
    Job(Work),
    Cancel(Work),
    Timer { key: String, after_ms: u64, says: String },
    CancelTimer(String),
    Restarted,
    Panic,
}

/// A durable row of the toy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub name: String,
    pub value: u32,
}

/// A volatile row of the toy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Light {
    pub is_on: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub name: String,
    pub object: String,
    pub storage: bool,
}

macro_rules! topic {
    ($type:ident, $durability:ident, $key:ty, $of:expr) => {
        impl Topic for $type {
            const NAME: &'static str = stringify!($type);
            const DURABILITY: Durability = Durability::$durability;
            type Key = $key;
            fn key(&self) -> $key {
                #[allow(clippy::redundant_closure_call)]
                ($of)(self)
            }
        }
    };
}
topic!(Order, Volatile, u32, |order: &Order| order.number);
topic!(Note, Persistent, String, |note: &Note| note.name.clone());
topic!(Light, Volatile, String, |_: &Light| "light".to_string());

impl Job for Work {
    fn id(&self) -> JobId {
        JobId::new(&self.name)
    }
    fn object(&self) -> String {
        self.object.clone()
    }
    fn backend(&self) -> Backend {
        if self.storage { Backend::Storage } else { Backend::Network }
    }
    fn deadline(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }
}

#[derive(Debug)]
pub enum Event {
    Order(Change<Order>),
    Done(String),
    Progress(String),
    Timer(String),
    Mode(NodeMode),
}

/// What the toy's jobs do; by default they just end.
pub type DoWork = Arc<dyn Fn(&Work, &JobContext<Event>) + Send + Sync>;

pub fn just_end() -> DoWork {
    Arc::new(|_, _| {})
}

/// Everything the toy heard of, in order; shared with the test.
#[derive(Debug, Default, Clone)]
pub struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    pub fn say(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[derive(Debug, Default)]
pub struct Toy {
    pub heard: Heard,
    pub damaged: Vec<DamagedRow>,
}

impl Toy {
    pub fn heard_by(heard: &Heard) -> Self {
        Toy { heard: heard.clone(), damaged: Vec::new() }
    }
}

impl Agent for Toy {
    const NAME: &'static str = "toy";
    type Event = Event;
    type Job = Work;
    type Env = DoWork;

    fn wire(wiring: &mut Wiring<Self>) {
        wiring.reads::<Order>(Event::Order);
        wiring.owns::<Note>();
        wiring.owns::<Light>();
    }

    fn start(&mut self, cx: &mut Ctx<Self>) {
        for note in cx.rows::<Note>() {
            self.heard.say(format!("knew {} = {}", note.name, note.value));
        }
        self.damaged = cx.damaged_rows().to_vec();
    }

    fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
        match event {
            Event::Order(change) => {
                if let Some(order) = change.current() {
                    order.actions.iter().for_each(|action| act(action, cx));
                }
            }
            Event::Done(name) => self.heard.say(format!("{name} done")),
            Event::Progress(text) => self.heard.say(text),
            Event::Timer(text) => self.heard.say(format!("{text} at {} ms", cx.elapsed().as_millis())),
            Event::Mode(mode) => self.heard.say(format!("mode {mode}")),
        }
    }

    fn run_job(work: Work, env: &DoWork, cx: &JobContext<Event>) -> Event {
        env(&work, cx);
        Event::Done(if cx.cancelled() { format!("{} cancelled,", work.name) } else { work.name })
    }

    fn mode_changed(mode: &NodeMode) -> Option<Event> {
        Some(Event::Mode(mode.clone()))
    }
}

fn act(action: &Action, cx: &mut Ctx<Toy>) {
    match action.clone() {
        Action::Note(name, value) => {
            cx.publish(Note { name: name.clone(), value });
            assert_eq!(cx.get::<Note>(&name).unwrap().value, value, "its own last word is known at once");
        }
        Action::Forget(name) => cx.unpublish::<Note>(&name),
        Action::Light(is_on) => cx.publish(Light { is_on }),
        Action::Record(path, text) => cx.write_record(path, text),
        Action::RemoveTree(path) => cx.remove_tree(path),
        Action::Quarantine(path) => cx.quarantine(path, "it looked at me strangely"),
        Action::Job(work) => cx.job(work),
        Action::Cancel(work) => cx.cancel_job(&work.id()),
        Action::Timer { key, after_ms, says } => {
            cx.timer(TimerKey(key), Duration::from_millis(after_ms), Event::Timer(says));
        }
        Action::CancelTimer(key) => cx.cancel_timer(&TimerKey(key)),
        Action::Restarted => cx.signal_restarted::<Note>(),
        Action::Panic => panic!("as told"),
    }
}

pub fn note(name: &str, value: u32) -> Action {
    Action::Note(name.to_string(), value)
}

pub fn work(name: &str, object: &str) -> Work {
    Work { name: name.to_string(), object: object.to_string(), storage: true }
}

/// A bench with a started toy, and what it hears.
pub fn started() -> (Bench<Toy>, Heard) {
    let heard = Heard::default();
    let mut bench = Bench::new(Toy::heard_by(&heard), just_end());
    bench.start();
    (bench, heard)
}

/// Gives the toy its next order and lets it act.
pub fn order(bench: &mut Bench<Toy>, actions: Vec<Action>) -> Result<(), Fatal> {
    let number = bench.bus().rows::<Order>().len() as u32;
    bench.publish_only(Order { number, actions });
    bench.try_settle()
}
