//! What else may go wrong beside the power: a closed set of faults, and when each strikes.
//!
//! ```text
//!   plan(kind, after, for so many) ─▶ Faults ──opportunity──▶ strikes? ─▶ fired[kind] + 1 ─▶ the device, guest, controller fails
//! ```
//!
//! A fault is counted in opportunities of its own kind: device calls, steps of the tool, starts of a guest, questions to
//! the controller, steps of the node. All of it is a value in [`Ground`](super::ground::Ground), hence a part of every
//! moment: whoever goes back to a moment goes back to the same faults. Every strike is counted where it happens, so that a
//! fault which never fires is noticed.
//!
//! Deliberately absent: what a fault does. That is with the device it strikes (`tap.rs`, `guests.rs`, `controller.rs`,
//! `mod.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// In every injected error's text: a node that ends with it is started again, with any other it is broken.
pub const INJECTED: &str = "(injected)";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// ENOSPC at a call that changes something; over several calls only at those that take room.
    NoSpace,
    /// EIO at a call that changes something.
    Io,
    /// EIO at a call that reads.
    ReadIo,
    /// The image tool fails by itself, before it has done anything.
    Tool,
    /// The hypervisor does not start a guest.
    GuestRefuses,
    /// A guest's process comes up and never answers, and is given up.
    GuestHangs,
    /// A guest dies right after its start.
    GuestDiesAtStart,
    /// A guest dies at any time.
    GuestDies,
    /// A guest ignores the power button.
    GuestDeaf,
    /// The same configuration again, under another hash.
    Duplicate,
    /// An older configuration after a newer one.
    Stale,
    /// A report arrives, and the answer to it does not.
    LostReply,
    /// The controller cannot be reached.
    LinkLoss,
    /// The wall clock jumps, forward and back in turn.
    ClockJump,
    /// The node's process is killed; guests live on and the disk keeps everything.
    ServiceRestart,
}

pub const KINDS: [FaultKind; 15] = [
    FaultKind::NoSpace,
    FaultKind::Io,
    FaultKind::ReadIo,
    FaultKind::Tool,
    FaultKind::GuestRefuses,
    FaultKind::GuestHangs,
    FaultKind::GuestDiesAtStart,
    FaultKind::GuestDies,
    FaultKind::GuestDeaf,
    FaultKind::Duplicate,
    FaultKind::Stale,
    FaultKind::LostReply,
    FaultKind::LinkLoss,
    FaultKind::ClockJump,
    FaultKind::ServiceRestart,
];

impl FaultKind {
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::NoSpace => "enospc",
            FaultKind::Io => "eio",
            FaultKind::ReadIo => "read_eio",
            FaultKind::Tool => "tool",
            FaultKind::GuestRefuses => "guest_refuses",
            FaultKind::GuestHangs => "guest_hangs",
            FaultKind::GuestDiesAtStart => "guest_dies_at_start",
            FaultKind::GuestDies => "guest_dies",
            FaultKind::GuestDeaf => "guest_deaf",
            FaultKind::Duplicate => "duplicate",
            FaultKind::Stale => "stale",
            FaultKind::LostReply => "lost_reply",
            FaultKind::LinkLoss => "link_loss",
            FaultKind::ClockJump => "clock_jump",
            FaultKind::ServiceRestart => "service_restart",
        }
    }

    /// Whether an operation may fail for it; every other fault is only to be waited out.
    fn impairs(self) -> bool {
        matches!(self, FaultKind::NoSpace | FaultKind::Io | FaultKind::ReadIo | FaultKind::Tool)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A fault that is planned: after so many opportunities, for so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stretch {
    kind: FaultKind,
    after: u64,
    left: u64,
    is_single: bool,
}

impl Stretch {
    /// It lasts, and it has begun.
    fn fills_the_disk(&self) -> bool {
        self.kind == FaultKind::NoSpace && self.after == 0 && !self.is_single
    }
}

/// How many calls find room in the ballast that was given up.
const SPARE_CALLS: u64 = 200;
/// What is left of a stretch when it goes on into a recovery.
const LASTING_AT_MOST: u64 = 8;

/// How often each kind has fired.
pub type Fired = BTreeMap<FaultKind, u64>;

#[derive(Debug, Clone, Default)]
pub struct Faults {
    planned: Vec<Stretch>,
    fired: [u64; KINDS.len()],
    /// Calls that a device fault could have struck, since the beginning.
    pub device_calls: u64,
    /// An image that the tool goes on failing to apply a snapshot to, and how often.
    refused: Option<(PathBuf, u32)>,
    /// The disk's calls that find room while it is full.
    spare_calls: u64,
    /// What is planned goes on after a power cut, for a bounded number of opportunities.
    pub is_lasting: bool,
    /// What goes on is worn down by whoever measures a full disk as well: a node that looks before it writes would wait for ever.
    looks_wear_down: bool,
    /// An operation may have failed, and its failure may show until the controller has reacted.
    pub has_impaired: bool,
    /// A record may have been taken for damaged, until the next start judges it afresh ([003] H3).
    pub has_read_error: bool,
}

impl Faults {
    /// From the opportunity after the next `after` ones, for `opportunities` of them.
    pub fn plan(&mut self, kind: FaultKind, after: u64, opportunities: u64) {
        self.planned.push(Stretch { kind, after, left: opportunities, is_single: opportunities == 1 });
    }

    /// True while something may strike.
    pub fn is_armed(&self) -> bool {
        !self.planned.is_empty()
    }

    /// An opportunity for this kind; true if it strikes, and then it has fired.
    pub fn strikes(&mut self, kind: FaultKind) -> bool {
        self.strikes_call(kind, true)
    }

    /// An opportunity for `kind` at a call that takes room or does not.
    pub fn strikes_call(&mut self, kind: FaultKind, takes_room: bool) -> bool {
        if self.planned.is_empty() {
            return false;
        }
        let mut struck = false;
        for stretch in self.planned.iter_mut().filter(|stretch| stretch.kind == kind) {
            if stretch.after > 0 {
                stretch.after -= 1;
                continue;
            }
            stretch.left -= 1;
            let is_spared = kind == FaultKind::NoSpace && !stretch.is_single && !takes_room;
            struck |= !is_spared;
        }
        self.planned.retain(|stretch| stretch.left > 0);
        if struck && kind == FaultKind::NoSpace && self.spare_calls > 0 {
            self.spare_calls -= 1;
            return false;
        }
        if struck {
            self.has_fired(kind);
        }
        struck
    }

    /// The tool will fail so often more to apply a snapshot to this image.
    pub fn refuse(&mut self, image: &Path, times: u32) {
        self.refused = Some((image.to_path_buf(), times));
    }

    /// True if an apply to the image is refused, and then it has fired.
    pub fn refuses(&mut self, image: &Path) -> bool {
        let Some((_, left)) = self.refused.as_mut().filter(|(refused, _)| refused == image) else {
            return false;
        };
        *left -= 1;
        if *left == 0 {
            self.refused = None;
        }
        self.has_fired(FaultKind::Tool);
        true
    }

    pub fn has_fired(&mut self, kind: FaultKind) {
        self.fired[kind as usize] += 1;
        self.has_impaired |= kind.impairs();
        self.has_read_error |= kind == FaultKind::ReadIo;
    }

    /// True while the disk is full.
    pub fn is_full(&self) -> bool {
        self.planned.iter().any(Stretch::fills_the_disk)
    }

    /// True while the disk is full, for whoever measures it: what it keeps him from may fail, as if a call had.
    pub fn is_found_full(&mut self) -> bool {
        let is_full = self.is_full();
        self.has_impaired |= is_full;
        if is_full && self.looks_wear_down {
            let full = self.planned.iter_mut().filter(|stretch| stretch.fills_the_disk());
            full.for_each(|stretch| stretch.left -= 1);
            self.planned.retain(|stretch| stretch.left > 0);
        }
        is_full
    }

    /// The ballast is given up: the next calls find room.
    pub fn room_is_made(&mut self) {
        if self.is_full() {
            self.spare_calls = SPARE_CALLS;
        }
    }

    pub fn fired(&self) -> Fired {
        let counts = KINDS.iter().map(|kind| (*kind, self.fired[*kind as usize]));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub fn count_of(&self, kind: FaultKind) -> u64 {
        self.fired[kind as usize]
    }

    /// Nothing strikes any more.
    pub fn stop(&mut self) {
        self.planned.clear();
        self.refused = None;
        self.spare_calls = 0;
    }

    /// A power cut is recovered from: counts begin anew, and faults have stopped unless they last.
    pub fn at_recovery(&mut self) {
        self.fired = Default::default();
        if !self.is_lasting {
            return self.stop();
        }
        for stretch in &mut self.planned {
            stretch.left = stretch.left.min(LASTING_AT_MOST);
        }
        self.looks_wear_down = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_when_planned_and_says_so() {
        let mut faults = Faults::default();
        faults.plan(FaultKind::Io, 2, 2);
        let struck: Vec<bool> = (0..5).map(|_| faults.strikes(FaultKind::Io)).collect();
        assert_eq!(struck, [false, false, true, true, false]);
        assert!(!faults.is_armed());
        assert_eq!(faults.fired(), Fired::from([(FaultKind::Io, 2)]));
    }

    /// An update was refused for a disk that was full when measured, and no call had failed: the World's seed 10934.
    #[test]
    fn a_disk_that_is_found_full_excuses_what_is_refused_for_it() {
        let mut faults = Faults::default();
        assert!(!faults.is_found_full() && !faults.has_impaired);
        faults.plan(FaultKind::NoSpace, 0, 4);
        assert!(faults.is_found_full() && faults.has_impaired);
    }

    #[test]
    fn a_disk_that_is_still_full_after_a_cut_has_room_again_for_who_only_looks() {
        let mut faults = Faults { is_lasting: true, ..Faults::default() };
        faults.plan(FaultKind::NoSpace, 0, 1000);
        assert!((0..2000).all(|_| faults.is_found_full()), "before the cut only calls wear it down");
        faults.at_recovery();
        let looks = (0..2000).take_while(|_| faults.is_found_full()).count() as u64;
        assert_eq!((looks, faults.is_armed()), (LASTING_AT_MOST, false));
    }

    #[test]
    fn a_full_disk_lets_go_of_what_is_deleted_and_finds_room_in_the_ballast() {
        let mut faults = Faults::default();
        faults.plan(FaultKind::NoSpace, 0, 4);
        assert!(faults.is_full());
        assert!(faults.strikes_call(FaultKind::NoSpace, true));
        assert!(!faults.strikes_call(FaultKind::NoSpace, false), "a removal takes no room");
        faults.room_is_made();
        assert!(!faults.strikes_call(FaultKind::NoSpace, true));
        assert_eq!(faults.count_of(FaultKind::NoSpace), 1);
    }
}
