//! What a node shares on the machine the tests run on: real disk, clock, chance and threads.

use std::io;
use std::sync::Arc;

use holdfast_agents::runtime::{
    BlockingPool, Commits, JobLimits, Outside, Services, SystemClock, SystemEntropy,
};
use holdfast_persist::{Disk, PersistLayout, RealDisk};

/// Small, as the tests' volumes are.
const RESERVE_SIZE_BYTES: u64 = 64 * 1024;

/// The persist directory is prepared. Fails as [`Services::open`] does: when there is no reserve to be had. `read_only`
/// is why the node may change nothing, if so. Jobs and commits run on the tokio runtime this is called in.
pub fn open_services(layout: PersistLayout, read_only: Option<String>) -> io::Result<Services> {
    open_services_on(Arc::new(RealDisk), layout, read_only)
}

/// The same, on another disk.
pub fn open_services_on(
    disk: Arc<dyn Disk>,
    layout: PersistLayout,
    read_only: Option<String>,
) -> io::Result<Services> {
    let pool = BlockingPool::new();
    Services::open(Outside {
        disk,
        layout,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        executor: pool.clone(),
        limits: JobLimits::default(),
        commits: Commits::Beside(pool),
        reserve_size_bytes: RESERVE_SIZE_BYTES,
        read_only,
    })
}
