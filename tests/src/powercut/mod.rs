//! Power cuts of a whole machine: a real node in a guest with a disk, whose QEMU is killed at random moments.
//!
//! ```text
//!   host                                              inner machine (QEMU, killed)
//!   rig: orders, life ──▶ controller ◀────HTTP─────── the real node: agents, persist; ext4 and qemu-img, or a pool
//!        │      ▲                                       │ guests: simulated, but what they write is written
//!        │      └── Starting{found} ◀─── supervisor ────┤
//!        ├── Mark{writes} ─────────────▶ (TCP lines) ──▶│
//!        └── Promises, Look ───────────▶ warden: looks at the files, and says what is wrong with them
//! ```
//!
//! What `real_kills` cannot show is shown here: with the machine goes its page cache, so what was not synced is lost, and the
//! file system finds its journal as it was. The virtual disk keeps every write that reached it, in order; what a disk's
//! own cache would lose besides is the World's business.
//!
//! | file | what |
//! |---|---|
//! | `lines` | the messages between the two sides |
//! | `inside` | what runs in the machine: the node, and the warden that looks at its files |
//! | `marking_vmm` | guests that write a mark to all their volumes at each start, and tell what they found |
//! | `life` | what guests may find, and what the volumes and snapshots must hold: pure |
//! | `supervisor` | the host's end of the lines |
//! | `rig` | one disk with one application: orders, cuts, recoveries |
//! | `storage` | what is on the disk: ext4, or a pool |
//! | `tally` | where the cuts fell, how long things take |

pub mod inside;
pub mod life;
pub mod lines;
pub mod marking_vmm;
pub mod rig;
pub mod storage;
pub mod supervisor;
pub mod tally;

/// An application's memory tells the hypervisor its version: so many KiB, and the version on top.
pub use crate::real_kills::orders::MEMORY_BASE_KIB;
