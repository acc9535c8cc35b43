//! The words for editing one application: what it is, its disks, its orders, its snapshots.
//!
//! Each word takes effect at once and hands the edit on, so that a change reads as one sentence. Nothing is checked.

use std::fmt::Display;

use holdfast_agents::wire::config::*;

/// One application, being edited. Each word takes effect at once and hands the edit on.
#[derive(Debug)]
pub struct AppEdit<'a> {
    pub(super) app: &'a mut AppInstanceConfig,
}

impl AppEdit<'_> {
    /// For what the words of this file cannot say.
    pub fn message_mut(&mut self) -> &mut AppInstanceConfig {
        self.app
    }

    pub fn name(self, name: &str) -> Self {
        self.app.displayname = name.into();
        self
    }

    pub fn version(self, version: &str) -> Self {
        self.app.uuidandversion.get_or_insert_default().version = version.into();
        self
    }

    /// The next version: one more when it is a number, else with ".1" behind.
    pub fn bump_version(self) -> Self {
        let current = &self.app.uuidandversion.get_or_insert_default().version;
        let next = match current.parse::<u64>() {
            Ok(number) => (number + 1).to_string(),
            Err(_) => format!("{current}.1"),
        };
        self.version(&next)
    }

    /// Whether the application is to run.
    pub fn activate(self, activate: bool) -> Self {
        self.app.activate = activate;
        self
    }

    pub fn kernel(self, path: impl Display) -> Self {
        self.resources(|resources| resources.kernel = path.to_string())
    }

    pub fn ramdisk(self, path: impl Display) -> Self {
        self.resources(|resources| resources.ramdisk = path.to_string())
    }

    /// The kernel's command line.
    pub fn cmdline(self, arguments: &str) -> Self {
        self.resources(|resources| resources.extraargs = arguments.into())
    }

    pub fn memory_kib(self, memory_kib: u32) -> Self {
        self.resources(|resources| {
            resources.memory = memory_kib;
            resources.maxmem = memory_kib;
        })
    }

    pub fn vcpus(self, vcpus: u32) -> Self {
        self.resources(|resources| {
            resources.vcpus = vcpus;
            resources.maxcpus = vcpus;
        })
    }

    pub fn user_data(self, base64: &str) -> Self {
        self.app.user_data = base64.into();
        self
    }

    pub fn start_delay_seconds(self, delay_seconds: u32) -> Self {
        self.app.start_delay_in_seconds = delay_seconds;
        self
    }

    pub fn ha_state(self, state: &str) -> Self {
        self.app.holdfast.get_or_insert_default().ha_state = state.into();
        self
    }

    pub fn tag(self, tag: &str) -> Self {
        self.app.holdfast.get_or_insert_default().tags.push(tag.into());
        self
    }

    pub fn untag(self, tag: &str) -> Self {
        self.app.holdfast.get_or_insert_default().tags.retain(|held| held != tag);
        self
    }

    fn resources(self, edit: impl FnOnce(&mut VmConfig)) -> Self {
        edit(self.app.fixedresources.get_or_insert_default());
        self
    }

    // ---- volumes -----------------------------------------------------------------------------------------

    /// Attaches a volume as the next disk, or changes the generation of one that is attached.
    pub fn volume(self, volume: impl Display, generation: i64) -> Self {
        let uuid = volume.to_string();
        match self.app.volume_ref_list.iter_mut().find(|reference| reference.uuid == uuid) {
            Some(reference) => reference.generation_count = generation,
            None => self.app.volume_ref_list.push(VolumeRef {
                uuid,
                generation_count: generation,
                mount_dir: String::new(),
            }),
        }
        self
    }

    pub fn detach_volume(self, volume: impl Display) -> Self {
        let uuid = volume.to_string();
        self.app.volume_ref_list.retain(|reference| reference.uuid != uuid);
        self
    }

    // ---- orders ------------------------------------------------------------------------------------------

    /// Orders one more restart.
    pub fn restart(self) -> Self {
        self.app.restart.get_or_insert_default().counter += 1;
        self
    }

    /// Orders one more purge. The volumes' generations are the controller's to raise: see
    /// [`DeviceConfig::regenerate_volume`], which does both.
    pub fn purge(self) -> Self {
        self.app.purge.get_or_insert_default().counter += 1;
        self
    }

    // ---- snapshots ---------------------------------------------------------------------------------------

    /// How many snapshots the application may have ([003] E).
    pub fn max_snapshots(self, maximum: u32) -> Self {
        self.app.snapshot.get_or_insert_default().max_snapshots = maximum;
        self
    }

    /// Asks for a snapshot. The maximum is raised to 1 when none was set; otherwise it stays.
    pub fn request_snapshot(self, snapshot: impl Display, kind: SnapshotType) -> Self {
        let section = self.app.snapshot.get_or_insert_default();
        section.max_snapshots = section.max_snapshots.max(1);
        section.snapshots.push(SnapshotDesc { id: snapshot.to_string(), r#type: kind as i32 });
        self
    }

    /// Takes a snapshot off the list: cancels it when it was not taken yet, else deletes it ([003] A7, D1).
    pub fn drop_snapshot(self, snapshot: impl Display) -> Self {
        let id = snapshot.to_string();
        self.app.snapshot.get_or_insert_default().snapshots.retain(|wanted| wanted.id != id);
        self
    }

    /// Leaves the whole section out, which means an empty list ([003] A1).
    pub fn no_snapshot_section(self) -> Self {
        self.app.snapshot = None;
        self
    }

    /// Orders one more rollback, to this snapshot ([003] A4).
    pub fn roll_back(self, snapshot: impl Display) -> Self {
        let section = self.app.snapshot.get_or_insert_default();
        section.active_snapshot = snapshot.to_string();
        section.rollback_cmd.get_or_insert_default().counter += 1;
        self
    }

    /// The number of the last rollback ordered.
    pub fn rollback_counter(&self) -> u32 {
        self.app
            .snapshot
            .as_ref()
            .and_then(|section| section.rollback_cmd.as_ref())
            .map_or(0, |order| order.counter)
    }
}
