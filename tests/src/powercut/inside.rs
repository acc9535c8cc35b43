//! What runs in the inner machine: the real node, and beside it the warden that looks at its files for the host.
//!
//! The node is the service's own ([`holdfast_agents::node`]): persist directory, API, four agents, `qemu-img`, HTTP to the
//! controller. Only its guests are simulated, and they write. The warden's eyes are `real_kills::inspect`: it reads files
//! and asks no agent. Both end with the machine; a node that ends by itself ends the machine, which the host takes ill.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use holdfast_agents::domainmgr::vmm::Accel;
use holdfast_agents::node;
use holdfast_agents::settings::{LogFormat, Settings, ZfsChoice};
use holdfast_persist::PersistLayout;
use holdfast_types::DeviceId;

use super::lines::{FromInside, Line, ToInside};
use super::marking_vmm::MarkingVmm;
use crate::real_kills::DEVICE;
use crate::real_kills::inspect::{self, Persist, Volumes};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
const RESERVE_BYTES: u64 = 64 * 1024;

/// Runs until the power goes, or the node ends by itself.
pub fn run(host: SocketAddr, controller: String, persist: PathBuf, volumes: Volumes) -> anyhow::Result<()> {
    let layout = PersistLayout::new(&persist);
    let scratch = "/tmp/scratch.raw".into();
    let mut looked_at = Persist { layout, scratch, volumes, may_leak: false };
    let mut line = Line::new(TcpStream::connect(host).context("no way to the host")?)?;
    let (hit, phase) = inspect::under_way(&looked_at).map_err(anyhow::Error::msg)?;
    line.say(&FromInside::Hello { hit, phase })?;
    watch_over(&mut line, &mut looked_at, true)?;
    std::thread::spawn(move || {
        if let Err(error) = watch_over(&mut line, &mut looked_at, false) {
            eprintln!("warden: {error:#}");
        }
    });
    let settings = Settings {
        persist,
        controller,
        device: DeviceId(DEVICE),
        socket: "/run/holdfast.sock".into(),
        accelerator: Accel::Tcg,
        zfs: ZfsChoice::Auto,
        poll_interval: POLL_INTERVAL,
        guest_shutdown: Duration::from_secs(60),
        drain: Duration::from_secs(1),
        reserve_bytes: RESERVE_BYTES,
        max_failed_starts: 0,
        // Transitions come on the bus as well as in the log; once is enough on a slow console.
        log: "info,holdfast_agents::api=warn".to_owned(),
        log_format: LogFormat::Text,
    };
    node::run_on(settings, Some(Arc::new(MarkingVmm::new(host)))).context("the node")
}

/// Answers the host until it says `Begin`, if that is what it may say.
fn watch_over(line: &mut Line, persist: &mut Persist, until_begin: bool) -> anyhow::Result<()> {
    loop {
        let verdict = match line.hear()? {
            Some(ToInside::Begin) if until_begin => return Ok(()),
            Some(ToInside::Promises(model)) => inspect::expect_promises(persist, &model),
            Some(ToInside::Look { model, rollback_counter, may_leak }) => {
                persist.may_leak = may_leak;
                inspect::expect_contents(persist, &model, rollback_counter, false)
                    .and_then(|()| inspect::expect_no_orphans(persist, &model))
            }
            other => bail!("the host says {other:?}"),
        };
        line.say(&FromInside::Verdict(verdict))?;
    }
}
