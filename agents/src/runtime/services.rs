//! What all agents of a node share: the bus, the disk, time, chance, the job scheduler, the mode.

use std::io;
use std::sync::Arc;

use holdfast_persist::{Disk, PersistLayout, Reserve, ReserveState};
use holdfast_pubsub::{Bus, DiskRows};

use super::commit::Commits;
use super::jobs::{JobExecutor, JobLimits, JobScheduler};
use super::mode::ModeCell;
use super::seams::{Clock, Entropy};

/// The outside world of a node, real or simulated.
#[derive(Debug, Clone)]
pub struct Outside {
    pub disk: Arc<dyn Disk>,
    pub layout: PersistLayout,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub executor: Arc<dyn JobExecutor>,
    pub limits: JobLimits,
    pub commits: Commits,
    /// Size of the ballast for a full disk; 0 for none.
    pub reserve_size_bytes: u64,
    /// Why the node may change nothing, if so.
    pub read_only: Option<String>,
}

/// One node's shared parts; clones are the same node.
#[derive(Debug, Clone)]
pub struct Services {
    pub bus: Bus,
    pub disk: Arc<dyn Disk>,
    pub layout: PersistLayout,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub jobs: Arc<JobScheduler>,
    pub mode: Arc<ModeCell>,
    pub(super) commits: Commits,
    pub(super) reserve: Option<Arc<Reserve>>,
}

impl Services {
    /// The persist directory is prepared ([`PersistLayout::prepare`]). Makes the reserve if there is room; a full
    /// disk is no error here, the node comes up in the mode `NoSpace`.
    pub fn open(outside: Outside) -> io::Result<Self> {
        let Outside {
            disk,
            layout,
            clock,
            entropy,
            executor,
            limits,
            commits,
            reserve_size_bytes,
            read_only,
        } = outside;
        let reserve = match reserve_size_bytes {
            0 => None,
            size_bytes => Some(Arc::new(Reserve::with_size(&layout, size_bytes))),
        };
        if let Some(reserve) = reserve.as_ref().filter(|_| read_only.is_none()) {
            reserve.ensure(&*disk)?;
        }
        let rows = DiskRows::new(Arc::clone(&disk), &layout, reserve.clone());
        let bus = Bus::new(Some(Arc::new(rows)));
        let jobs = JobScheduler::new(Arc::clone(&clock), executor, limits);
        let mode = Arc::new(ModeCell::new(reserve.clone(), read_only));
        Ok(Services { bus, disk, layout, clock, entropy, jobs, mode, commits, reserve })
    }

    /// Brings the reserve back if there is room again. To be called now and then; cheap while it is held. An
    /// error is logged: the next call tries again.
    pub fn check_space(&self) {
        if let Some(reserve) = &self.reserve {
            match reserve.try_restore(&*self.disk) {
                Ok(ReserveState::Held | ReserveState::Spent) => {}
                Err(error) => tracing::warn!(%error, "the reserve cannot be brought back"),
            }
            self.mode.refresh();
        }
    }
}
