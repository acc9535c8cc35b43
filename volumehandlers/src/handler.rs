//! The trait that every volume backend implements, and the values it speaks in.
//!
//! ```text
//!            create                create_snapshot(n)
//!   nothing ───────▶ volume ◀─────────────────────────▶ volume with snapshot n
//!      ▲               │         delete_snapshot(n)         │ rollback_to_snapshot(n): content := n's,
//!      └───────────────┘                                    └─▶ n stays, newer ones too
//!           destroy
//! ```
//!
//! Every step is idempotent: called again after a success it answers [`Ensured::Unchanged`] (a rollback does its
//! work again, [003] J3), called again after a failure or a crash it finishes. Names come from the caller's
//! intent, so that the second try finds what the first one made.
//!
//! One caller per volume at a time; different volumes may be worked on at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

pub use holdfast_types::Space;
use holdfast_types::error::Timestamp;
use holdfast_types::volume::Format;
use holdfast_types::{AgreedSnapshot, Blocker};

use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::name::SnapshotName;

/// A volume backend. Object-safe and synchronous; see the module for the rules that all methods keep.
pub trait VolumeHandler: Send + Sync + Debug {
    /// The name in records (`RecordedMeta::handler`): `qcow2`, `file`, later `zvol`.
    fn name(&self) -> &'static str;

    fn capabilities(&self) -> Capabilities;

    /// Makes the volume exist, whole and durable, at `spec.location`. The directory must be there.
    ///
    /// Found there and as asked for (format, size): `Unchanged`. After an error or a crash nothing has the
    /// volume's name; an unfinished temporary may lie beside it, which the next call replaces.
    fn create(&self, spec: &VolumeSpec, cx: &HandlerCx<'_>) -> Result<Ensured<VolumeFacts>, VolumeError>;

    /// Makes the volume not exist, durably, with its snapshots and an unfinished temporary of it. A missing one
    /// is `Unchanged`. A volume in use by another process is refused.
    fn destroy(&self, volume: &Path, cx: &HandlerCx<'_>) -> Result<Ensured<()>, VolumeError>;

    /// The volumes of this backend that lie in the directory, and unfinished ones, sorted by path. A missing
    /// directory holds none. Reads names only.
    fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError>;

    /// What the volume is now. Also answers while a guest uses it; the numbers are then a moment's.
    fn facts(&self, volume: &Path) -> Result<VolumeFacts, VolumeError>;

    /// Would this be possible? Reads only ([003] B3). Answers with what it needs, as [`VolumeHandler::space`] does. The first
    /// reason against it is the error; too little space is one.
    fn preflight(&self, volume: &Path, preflight: &Preflight) -> Result<Space, VolumeError>;

    /// What the step needs at most, and what is free for it ([000] L8). Reads only, also while a guest runs. A deletion needs
    /// nothing, so that a full disk can always be freed.
    fn space(&self, volume: &Path, action: &Action) -> Result<Space, VolumeError>;

    /// Everything that stands in the way of a rollback to `to`, as storage orders it ([000] L3); nothing on a backend where
    /// newer snapshots do not block (L4). `leaving` will be gone by then, and blocks only where it cannot go. Reads only, also
    /// while a guest runs. What cannot be read is an error, never "nothing".
    fn blockers(
        &self,
        volume: &Path,
        to: &SnapshotName,
        leaving: &BTreeSet<SnapshotName>,
    ) -> Result<Vec<Blocker>, VolumeError>;

    /// Cuts a snapshot of that name; durable after `Ok`. There already: `Unchanged`, with what was found.
    ///
    /// A crash in the middle leaves the volume's content as it was, with or without the snapshot, and maybe
    /// leaked space, which [`VolumeHandler::repair`] frees.
    fn create_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<SnapshotMeta>, VolumeError>;

    /// Cuts a snapshot of that name for the case that a rollback to `to`, which comes next, has to be undone: to roll back to it
    /// gives the content of now, however far the rollback to `to` came. For nothing else, and no longer than until something else
    /// changes the volume, so that a backend may do with less than a snapshot. Durable after `Ok`; there already, it may be cut
    /// afresh, which is right only before that rollback begins. It is listed and deleted as any other, and in the end goes by
    /// [`VolumeHandler::drop_safety_snapshot`].
    ///
    /// A crash in the middle leaves what one in [`VolumeHandler::create_snapshot`] leaves.
    fn create_safety_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        _to: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        self.create_snapshot(volume, name, cx).map(drop)
    }

    /// Deletes a safety snapshot when the rollback is over, done or undone, and gives back the room that it has freed, if it can. To one
    /// that was given up in the middle this must not be done: [`VolumeHandler::delete_snapshot`] leaves room as it is.
    fn drop_safety_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        self.delete_snapshot(volume, name, cx).map(drop)
    }

    /// Makes the volume's content and size equal the snapshot's, durably; the snapshot stays, and so do newer
    /// ones. Always does the work again, and says `Changed`.
    ///
    /// Where newer ones block, exactly those in `agreed` are destroyed, in the same step: by name and id, none with a name
    /// of this node's, none that is held or cloned. Anything else in the way is [`VolumeError::Blocked`], and nothing has
    /// changed ([000] L7). One that is gone already is fine. Elsewhere nothing is ever destroyed.
    ///
    /// In place: a crash in the middle leaves content that is neither, until it is called again ([003] J3).
    fn rollback_to_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        agreed: &BTreeSet<AgreedSnapshot>,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError>;

    /// Makes no snapshot of that name exist, durably and confirmed by listing. None there (or no volume):
    /// `Unchanged`.
    ///
    /// A crash in the middle leaves the content as it was and maybe leaked space.
    fn delete_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError>;

    /// Makes a fresh volume at `to`, whole and durable, with the snapshot's content ([004] M2): what a backend offers that
    /// cannot revert in place, and only such a one; the others answer [`VolumeError::Unsupported`]. `to` lies in the directory
    /// of `volume`. Neither the volume nor the snapshot is touched, and the volume may be gone. There already and of the
    /// snapshot's size: `Unchanged`; so it is not for a volume that is in force.
    ///
    /// A crash in the middle leaves nothing at `to`, and maybe an unfinished temporary, which the next call replaces.
    fn clone_from_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        to: &Path,
        parameters: &Parameters,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError>;

    /// Gives all snapshots of one volume to another, which was cloned from one of them: afterwards they are listed there, and
    /// the first can be destroyed alone ([004] M2). Durable after `Ok`; a crash in the middle has given some of them, and the
    /// next call gives the rest. [`VolumeError::Unsupported`] where [`VolumeHandler::clone_from_snapshot`] is.
    fn adopt_snapshots(&self, from: &Path, to: &Path) -> Result<Ensured<()>, VolumeError>;

    /// Refuses parameters that this backend does not know, or whose values it does not take ([004] M5). One that reverts in
    /// place knows none.
    fn check_parameters(&self, volume: &Path, parameters: &Parameters) -> Result<(), VolumeError> {
        match parameters.keys().next() {
            None => Ok(()),
            Some(key) => Err(VolumeError::Parameter {
                volume: volume.to_path_buf(),
                key: key.clone(),
                reason: format!("the handler {} knows no parameters", self.name()),
            }),
        }
    }

    /// All snapshots in the volume, also foreign ones, in the order storage made them.
    fn list_snapshots(&self, volume: &Path) -> Result<Vec<FoundSnapshot>, VolumeError>;

    /// The verbs for several volumes at once, where the backend has them ([`Capabilities::atomic_group`]).
    fn group(&self) -> Option<&dyn VolumeGroup> {
        None
    }

    /// Makes the volume sound after a crash: space that leaked is freed and reported ([003] J4), an unfinished
    /// temporary beside it is removed. Damage that cannot be mended without losing content is
    /// [`VolumeError::Corrupt`], and the content is left as it is.
    ///
    /// Call it after an interrupted rollback was applied again, not before: half of an applied table may look
    /// like damage.
    fn repair(&self, volume: &Path, cx: &HandlerCx<'_>) -> Result<Ensured<Repaired>, VolumeError>;
}

/// Verbs on several volumes of one application that all lie in one pool: each happens to all of them, or to none, in one
/// step that a crash cannot divide. An error names the volume that stood in the way, and nothing was changed.
///
/// An empty group is no error and does nothing. A volume is in a group once.
pub trait VolumeGroup {
    /// As [`VolumeHandler::create_snapshot`]; the metas come in the order of `group`. Where some of the snapshots are there
    /// and others are not (they were made apart, or somebody removed one), none of them was ever acknowledged as a group:
    /// they go, and all are cut afresh.
    fn create_snapshots(
        &self,
        group: &[GroupMember],
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<Vec<SnapshotMeta>>, VolumeError>;

    /// As [`VolumeHandler::rollback_to_snapshot`], with each member's [`GroupMember::agreed`], once per `token`: the token is kept with the volumes in the same step, and
    /// where all of them bear it, this rollback has happened already and the answer is `Unchanged`.
    ///
    /// So a caller who asks again after a crash and gets an error knows that nothing was reverted, now or before; except for
    /// [`VolumeError::Unknown`], after which only asking again tells.
    fn rollback_to_snapshots(
        &self,
        group: &[GroupMember],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError>;

    /// As [`VolumeHandler::delete_snapshot`].
    fn delete_snapshots(&self, group: &[GroupMember], cx: &HandlerCx<'_>)
    -> Result<Ensured<()>, VolumeError>;
}

/// A volume in a group, and its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupMember {
    pub volume: PathBuf,
    pub name: SnapshotName,
    /// For a rollback: the newer snapshots that may be destroyed.
    pub agreed: BTreeSet<AgreedSnapshot>,
}

impl Action {
    /// A rollback for which nothing leaves and nothing is agreed to.
    pub fn rollback(to: &SnapshotName) -> Self {
        Action::Rollback { to: to.clone(), leaving: BTreeSet::new(), agreed: BTreeSet::new() }
    }
}

impl GroupMember {
    /// With nothing agreed to.
    pub fn new(volume: &Path, name: &SnapshotName) -> Self {
        GroupMember { volume: volume.to_path_buf(), name: name.clone(), agreed: BTreeSet::new() }
    }
}

/// An operator's wishes to a backend, by name ([004] M5, `driver_params`).
pub type Parameters = BTreeMap<String, String>;

/// What a backend can do at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub snapshot: bool,
    /// [004] M2: a rollback gives back the same volume, at the same place.
    pub revert_in_place: bool,
    /// Several volumes in one step, all or nothing.
    pub atomic_group: bool,
    /// Newer snapshots stand in the way of a rollback to an older one.
    pub newer_snapshots_block: bool,
}

/// What an idempotent step found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured<T> {
    /// It was so already; nothing was touched.
    Unchanged(T),
    Changed(T),
}

impl<T> Ensured<T> {
    pub fn into_inner(self) -> T {
        match self {
            Ensured::Unchanged(value) | Ensured::Changed(value) => value,
        }
    }

    pub fn is_changed(&self) -> bool {
        matches!(self, Ensured::Changed(_))
    }
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    pub location: PathBuf,
    /// What it is stored as; [`crate::stored_format`] says what content becomes.
    pub format: Format,
    pub source: Source,
    /// Size for the guest in bytes; 0: the source's own. An image is grown to it, never shrunk.
    pub max_size_bytes: u64,
    pub read_only: bool,
}

/// What a volume's first content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Zeros.
    Blank { size_bytes: u64 },
    /// A downloaded image, verified by the caller to be what was asked for, and not trusted beyond that.
    Image { path: PathBuf, format: Format },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeFacts {
    /// The guest's size, in bytes.
    pub virtual_size_bytes: u64,
    /// What the file takes on storage, its snapshots included.
    pub allocated_bytes: u64,
}

/// Something in a volume directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVolume {
    /// Where the volume is or would be; an unfinished one has another name on disk.
    pub location: PathBuf,
    pub format: Format,
    /// The remains of a creation that was cut off. [`VolumeHandler::destroy`] of `location` removes it.
    pub unfinished: bool,
    /// Length of the file, in bytes.
    pub file_size_bytes: u64,
}

/// A question about a step that is not to be done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    pub action: Action,
    /// Our own guest has (or may have) the volume open. Its lock is then no refusal, and what only a quiet image
    /// tells (is it sound?) is not asked.
    pub guest_may_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    CreateSnapshot,
    Rollback {
        to: SnapshotName,
        /// Snapshots that will be gone before the rollback: these do not stand in its way.
        leaving: BTreeSet<SnapshotName>,
        /// Snapshots that the rollback may destroy: neither do these.
        agreed: BTreeSet<AgreedSnapshot>,
    },
    DeleteSnapshot {
        name: SnapshotName,
    },
    /// [`VolumeHandler::clone_from_snapshot`].
    Clone {
        from: SnapshotName,
    },
}

/// Refuses early what would run out of room late.
pub fn sufficient(space: Space, volume: &Path) -> Result<Space, VolumeError> {
    let Space { needed_bytes, free_bytes } = space;
    match space.is_enough() {
        true => Ok(space),
        false => Err(VolumeError::NoSpace { volume: volume.to_path_buf(), needed_bytes, free_bytes }),
    }
}

/// A snapshot that was made or found by [`VolumeHandler::create_snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    pub name: SnapshotName,
    /// Storage's own id of it.
    pub id: String,
    /// When storage cut it.
    pub created_at: Timestamp,
    /// The guest's size of the volume when it was cut, in bytes.
    pub size_bytes: u64,
}

/// A snapshot as storage lists it. The name is as found and may be one that no [`SnapshotName`] can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    pub name: String,
    pub id: String,
    pub created_at: Timestamp,
    /// The guest's size of the volume when it was cut, in bytes; `None` in very old images, which do not keep it.
    pub size_bytes: Option<u64>,
    /// Size of a saved machine state in it, in bytes; zero for all of ours.
    pub vm_state_size_bytes: u64,
}

/// What [`VolumeHandler::repair`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repaired {
    pub leaked_clusters: u64,
    pub removed_temporary: bool,
}
