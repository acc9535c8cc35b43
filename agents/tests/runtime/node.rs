//! Agents at work: readiness, health, failure, stop. Real time; every wait has a deadline.

#![allow(clippy::disallowed_methods, reason = "a real runtime and real time")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use holdfast_agents::runtime::*;
use holdfast_persist::{MemDisk, PersistLayout};
use holdfast_pubsub::{Publication, Subscription};

use crate::toy::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Rig {
    services: Services,
    disk: MemDisk,
    orders: Publication<Order>,
    heard: Heard,
    given: u32,
}

impl Rig {
    fn new() -> Self {
        let disk = MemDisk::new();
        let layout = PersistLayout::new("/persist");
        layout.prepare(&disk).unwrap();
        let pool = BlockingPool::new();
        let services = Services::open(Outside {
            disk: Arc::new(disk.clone()),
            layout,
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            executor: pool.clone(),
            limits: JobLimits::default(),
            commits: Commits::Beside(pool),
            reserve_size_bytes: 0,
            read_only: None,
        })
        .unwrap();
        let orders = services.bus.publication::<Order>("test").unwrap();
        Rig { services, disk, orders, heard: Heard::default(), given: 0 }
    }

    async fn run(&self, env: DoWork) -> RunningNode {
        let node = NodeBuilder::new(&self.services).agent(Toy::heard_by(&self.heard), env).start().unwrap();
        within(node.synced()).await;
        node
    }

    fn order(&mut self, actions: Vec<Action>) {
        self.given += 1;
        self.orders.publish(Order { number: self.given, actions }).unwrap();
    }

    async fn hears(&self, line: &str) {
        let mut heard = Vec::new();
        within(async {
            loop {
                heard.extend(self.heard.take());
                if heard.iter().any(|one| one == line) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Holds jobs until it is opened, or until they are cancelled.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self, cancelled: impl Fn() -> bool) {
        let mut open = self.open.lock().unwrap();
        while !*open && !cancelled() {
            open = self.changed.wait_timeout(open, Duration::from_millis(5)).unwrap().0;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_travels_through_the_bus_a_job_and_a_timer() {
    let mut rig = Rig::new();
    let node = rig.run(just_end()).await;
    let notes = Subscription::<Note>::of(&rig.services.bus);
    assert!(matches!(within(notes.recv()).await, holdfast_pubsub::Change::Synced));
    let timer = Action::Timer { key: "t".into(), after_ms: 5, says: "ring".into() };
    rig.order(vec![note("a", 1), Action::Job(work("copy", "db")), timer]);
    assert_eq!(within(notes.recv()).await.value().unwrap().value, 1);
    rig.hears("copy done").await;
    assert_eq!(within(node.stop(DEADLINE)).await, Stopped::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_job_does_not_keep_the_agent_from_answering() {
    let mut rig = Rig::new();
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let node = rig.run(Arc::new(move |_, cx| held.pass(|| cx.cancelled()))).await;
    rig.order(vec![Action::Job(work("slow", "db"))]);
    within(async {
        while rig.services.jobs.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(node.stuck_agents(Duration::from_secs(5)), [""; 0]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.open();
    rig.hears("slow done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_answer_is_named() {
    struct Sleeper;
    impl Agent for Sleeper {
        const NAME: &'static str = "sleeper";
        type Event = ();
        type Job = NoJob;
        type Env = ();
        fn wire(_: &mut Wiring<Self>) {}
        fn start(&mut self, cx: &mut Ctx<Self>) {
            cx.timer(TimerKey::new("doze"), Duration::from_millis(1), ());
        }
        fn handle(&mut self, (): (), _: &mut Ctx<Self>) {
            std::thread::sleep(Duration::from_secs(1));
        }
        fn run_job(job: NoJob, (): &(), _: &JobContext<()>) {
            match job {}
        }
    }
    let rig = Rig::new();
    let node = NodeBuilder::new(&rig.services).agent(Sleeper, ()).start().unwrap();
    within(async {
        while node.stuck_agents(Duration::from_millis(50)) != ["sleeper"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_what_runs_and_for_what_its_end_leads_to() {
    let mut rig = Rig::new();
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let node = rig.run(Arc::new(move |_, _| held.pass(|| false))).await;
    rig.order(vec![Action::Job(work("slow", "db")), Action::Job(work("later", "db"))]);
    within(async {
        while rig.services.jobs.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        gate.open();
    });
    assert_eq!(within(node.stop(DEADLINE)).await, Stopped::default());
    assert_eq!(rig.heard.take(), ["slow done"], "handled before the end; what waited was not begun");
    opener.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_grace_is_over_jobs_are_asked_to_end_early() {
    let mut rig = Rig::new();
    let gate = Arc::new(Gate::default());
    let node = rig.run(Arc::new(move |_, cx| gate.pass(|| cx.cancelled()))).await;
    rig.order(vec![Action::Job(work("endless", "db"))]);
    within(async {
        while rig.services.jobs.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(within(node.stop(Duration::from_millis(20))).await, Stopped::default());
    assert_eq!(rig.heard.take(), ["endless cancelled, done"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_durable_write_and_a_panic_are_told_to_who_runs_the_node() {
    let mut rig = Rig::new();
    let mut node = rig.run(just_end()).await;
    rig.disk.cut_power_at(1);
    rig.order(vec![note("a", 1)]);
    assert_eq!(within(node.failed()).await.to_string(), "toy cannot make the row a of Note durable");
    assert_eq!(rig.services.bus.rows::<Note>().len(), 0);

    let mut rig = Rig::new();
    let mut node = rig.run(just_end()).await;
    rig.order(vec![Action::Panic]);
    assert_eq!(within(node.failed()).await.to_string(), "toy panicked: as told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_with_one_topic_do_not_start() {
    let rig = Rig::new();
    let both =
        NodeBuilder::new(&rig.services).agent(Toy::default(), just_end()).agent(Toy::default(), just_end());
    assert_eq!(both.start().unwrap_err().to_string(), "toy cannot publish Note: it belongs to toy");
}
