//! Simulated guests whose downtime is taken: from the moment a guest is known to be gone to the order to start it again.
//!
//! ```text
//!   wait_gone ─┬─ gone ─▶ the first of both counts ──── everything Holdfast does ────▶ start is called
//!   on_exit  ──┘
//! ```
//!
//! What the guest itself takes to go down and to boot is in neither end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::domainmgr::vmm::{Domain, DomainExit, OnExit, Presence, VmSpec, Vmm, VmmError, Wait};
use uuid::Uuid;

#[derive(Debug, Clone, Default)]
pub struct TimedVmm {
    guests: SimulatedVmm,
    times: Arc<Mutex<BTreeMap<Uuid, Times>>>,
}

#[derive(Debug, Default)]
struct Times {
    gone_at: Option<Instant>,
    downtimes: Vec<Duration>,
}

impl TimedVmm {
    /// The downtimes of this application since this was last asked, oldest first.
    pub fn take_downtimes(&self, app: Uuid) -> Vec<Duration> {
        let mut times = self.times.lock().expect("no holder panics");
        times.get_mut(&app).map(|times| std::mem::take(&mut times.downtimes)).unwrap_or_default()
    }

    fn is_gone(times: &Mutex<BTreeMap<Uuid, Times>>, app: Uuid) {
        let now = Instant::now();
        let mut times = times.lock().expect("no holder panics");
        times.entry(app).or_default().gone_at.get_or_insert(now);
    }
}

impl Vmm for TimedVmm {
    fn start(&self, spec: &VmSpec, wait: &Wait<'_>) -> Result<Domain, VmmError> {
        let now = Instant::now();
        let mut times = self.times.lock().expect("no holder panics");
        let of_app = times.entry(spec.app).or_default();
        if let Some(gone_at) = of_app.gone_at.take() {
            of_app.downtimes.push(now - gone_at);
        }
        drop(times);
        self.guests.start(spec, wait)
    }

    fn presence(&self, app: Uuid) -> Result<Presence, VmmError> {
        self.guests.presence(app)
    }

    fn list(&self) -> Result<BTreeMap<Uuid, Presence>, VmmError> {
        self.guests.list()
    }

    fn request_shutdown(&self, domain: &Domain) -> Result<(), VmmError> {
        self.guests.request_shutdown(domain)
    }

    fn kill(&self, domain: &Domain) -> Result<(), VmmError> {
        self.guests.kill(domain)
    }

    fn wait_gone(&self, domain: &Domain, wait: &Wait<'_>) -> Result<Option<DomainExit>, VmmError> {
        let gone = self.guests.wait_gone(domain, wait)?;
        if gone.is_some() {
            TimedVmm::is_gone(&self.times, domain.app);
        }
        Ok(gone)
    }

    fn watch(&self, domain: &Domain, on_exit: OnExit) -> Result<(), VmmError> {
        let (times, app) = (Arc::clone(&self.times), domain.app);
        let told = Box::new(move |exit| {
            TimedVmm::is_gone(&times, app);
            on_exit(exit);
        });
        self.guests.watch(domain, told)
    }

    fn forget(&self, app: Uuid) -> Result<(), VmmError> {
        self.guests.forget(app)
    }
}
