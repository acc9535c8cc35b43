//! The story, chapter by chapter: what is ordered, and what guest, images and reports then show.
//!
//! ```text
//!   boot 1 ── snapshot+update ─▶ boot 2 ── roll back ─▶ boot 3 ── restart ─▶ boot 4 ── roll back ─▶ boot 5
//!   version 1                    version 2              version 1            version 1              version 1
//!       ── roll back, kill -9 ─▶ boot 6 ── service restarted, snapshot dropped ── restart ─▶ boot 7 ── deleted
//! ```
//!
//! The guest counts its boots on both disks, so that each boot proves which state of the disks it found.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use uuid::Uuid;

use super::console::Boot;
use super::deployment::{APP, APP_NAME, DATA, IMAGE, SNAPSHOT, make_image};
use super::stage::Stage;
use super::timeline::{Actor, Timeline};
use crate::guest::{BOOTS_LINE, LAST_VERSION_LINE, PAYLOAD_LINE, VERSION_LINE};

/// Several polls of the node fit in.
const A_WHILE: Duration = Duration::from_millis(1500);

const IMAGE_KEYS: [&str; 2] = ["version", "boots"];
const DATA_KEYS: [&str; 3] = ["boots", "last-version", "payload"];

/// Tells it all; ends at the first thing that is not as it should be.
pub fn tell(stage: &mut Stage, timeline: &mut Timeline) -> anyhow::Result<()> {
    let mut story = Story { stage, timeline };
    story.deploy()?;
    story.snapshot_and_update()?;
    story.roll_back()?;
    story.roll_back_again()?;
    story.kill_in_the_middle()?;
    story.restart_the_service()?;
    story.delete_the_snapshot()?;
    story.delete_the_application()
}

pub(super) struct Story<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) timeline: &'a mut Timeline,
}

/// What tells whether a guest was disturbed.
pub(super) struct GuestNow {
    processes: Vec<u32>,
    boots: usize,
}

impl GuestNow {
    fn words(&self) -> String {
        format!("processes {:?}, {} boots so far", self.processes, self.boots)
    }
}

impl Story<'_> {
    pub(super) fn deploy(&mut self) -> anyhow::Result<()> {
        self.timeline
            .chapter("1. Deploy version 1: an image volume from a content tree, and a blank data volume");
        self.stage.orders().nothing()?;
        self.stage.start_node(self.timeline)?;
        let image = make_image(&self.stage.files(), 1)?;
        self.orders(&format!(
            "deploy {APP_NAME}, version 1, from {} (sha256 {:.12}...)",
            image.name, image.sha256
        ));
        self.stage.orders().deploy(&image, &self.stage.guest)?;

        let boot = self.boot(1)?;
        self.guest_runs(&boot, "1")?;
        self.found(&boot, "image", "the guest found a fresh image", "version=1 boots=none")?;
        self.found(
            &boot,
            "data",
            "the guest found a blank data disk",
            "boots=none last-version=none payload=none",
        )?;
        self.timeline.check_equal(
            "the guest counted its first boot on both",
            "console",
            format!("image {}, data {}", boot.wrote("image", &["boots"]), boot.wrote("data", &["boots"])),
            "image boots=1, data boots=1".into(),
        )?;
        self.reported("1", 0)?;
        self.image_holds("the image volume is version 1's", IMAGE, 1, "guest-version=1 boots=1")?;
        self.data_holds("the data volume has what the guest wrote", "boots=1 last-version=1 payload=none")?;
        self.shell(&["status"])?;
        self.shell(&["apps"])
    }

    pub(super) fn snapshot_and_update(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter(
            "2. Ask for a snapshot with the update to version 2: image replaced by a purge, data kept",
        );
        let image = make_image(&self.stage.files(), 2)?;
        self.orders(&format!("take a snapshot at the update to version 2, whose image is {}", image.name));
        self.stage.orders().snapshot_and_update(&image)?;

        let boot = self.boot(2)?;
        self.guest_runs(&boot, "2")?;
        self.found(&boot, "image", "the guest found version 2's fresh image", "version=2 boots=none")?;
        self.found(&boot, "data", "the guest found version 1's data", "boots=1 last-version=1 payload=none")?;
        self.timeline.check_equal(
            "version 2 changed the data",
            "console",
            boot.wrote("data", &DATA_KEYS),
            "boots=2 last-version=2 payload=written-by-2".into(),
        )?;
        self.reported("2", 1)?;
        self.image_holds("version 1's image is kept in its place", IMAGE, 1, "guest-version=1 boots=1")?;
        self.data_holds(
            "the data volume has version 2's data",
            "boots=2 last-version=2 payload=written-by-2",
        )?;
        self.snapshot_holds("the snapshot in it has version 1's", "boots=1 last-version=1 payload=none")?;
        self.records_are_whole()?;
        self.shell(&["snapshots"])
    }

    fn roll_back(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter("3. Roll back");
        self.orders("roll back to the snapshot");
        self.stage.orders().roll_back()?;
        let boot = self.boot(3)?;
        self.guest_is_back(&boot)?;
        self.reported("1", 1)?;
        self.gone("version 2's image", self.stage.volume(IMAGE, 2))
    }

    fn roll_back_again(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter("4. Version 1 runs on, then roll back to the same snapshot a second time");
        self.orders("restart the application");
        self.stage.orders().restart()?;
        let boot = self.boot(4)?;
        self.found(&boot, "image", "version 1 counts on, on its image", "version=1 boots=2")?;
        self.found(&boot, "data", "and on its data", "boots=2 last-version=1 payload=none")?;

        self.orders("roll back to the same snapshot");
        self.stage.orders().roll_back()?;
        let boot = self.boot(5)?;
        self.guest_is_back(&boot)?;
        self.reported("1", 1)?;
        self.snapshot_holds("the snapshot is what it was", "boots=1 last-version=1 payload=none")
    }

    fn kill_in_the_middle(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter("5. Roll back a third time, and kill -9 the node in the middle");
        self.orders("roll back to the same snapshot");
        self.stage.orders().roll_back()?;
        let hit = self.stage.kill_node_while_it_reverts(self.timeline)?;
        self.timeline.say(Actor::Hand, &format!("kill -9: the node is gone, its storage intent says {hit}"));
        self.killed_in_the_middle()?;

        self.stage.start_node(self.timeline)?;
        let boot = self.boot(6)?;
        self.guest_is_back(&boot)?;
        self.reported("1", 1)?;
        self.gone("volumemgr's intent", self.stage.intent_file())?;
        self.timeline.check_equal(
            "no helper snapshot is left in the data volume",
            "qemu-img info, number of snapshots",
            self.stage.snapshots_in(&self.stage.volume(DATA, 1))?.len(),
            1,
        )?;
        self.snapshot_holds("the snapshot is what it was", "boots=1 last-version=1 payload=none")
    }

    /// What the disk says between the kill and the next start.
    fn killed_in_the_middle(&mut self) -> anyhow::Result<()> {
        self.timeline.check_equal(
            "no guest ran while its volumes were reverted",
            "QEMU processes",
            self.stage.guest_processes(),
            Vec::new(),
        )?;
        let row = self.stage.json(&self.stage.layout.row_file("zedmanager", "AppInstanceState", &APP))?;
        let operation = |key: &str| row["Operation"][key].as_str().unwrap_or("none").to_owned();
        self.timeline.check_equal(
            "the kill hit an unfinished rollback",
            "operation in zedmanager's row",
            format!("{}, {}", operation("Kind"), operation("Phase")),
            "Rollback, RevertingVolumes".into(),
        )?;
        Ok(())
    }

    fn restart_the_service(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter("6. Restart the service: the guest is not touched");
        let before = self.guest_now();
        self.timeline.say(Actor::Hand, "SIGTERM to the node");
        let code = self.stage.terminate_node()?;
        self.timeline.check_equal("the node ended in order", "exit code", code.unwrap_or(-1), 0)?;
        self.same_guest("the guest runs on without a node", &before)?;
        self.stage.start_node(self.timeline)?;
        self.same_guest("the new node took the guest over as it is", &before)?;
        let app = self.asked_app()?;
        self.timeline.check_equal(
            "and knows it",
            "holdfast --json apps db, the guest's process",
            app["guest"]["process_id"].to_string(),
            before.processes.first().map(u32::to_string).unwrap_or_default(),
        )?;
        self.reported("1", 1)
    }

    fn delete_the_snapshot(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter("7. Delete the snapshot");
        let before = self.guest_now();
        self.orders("the snapshot is not listed any more");
        self.stage.orders().drop_snapshot()?;
        self.reported("1", 0)?;
        self.same_guest("deleting did not disturb the guest", &before)?;
        self.orders("restart the application");
        self.stage.orders().restart()?;
        let boot = self.boot(7)?;
        self.found(&boot, "data", "the data is as the guest left it", "boots=2 last-version=1 payload=none")?;
        self.gone("the snapshot's directory", self.stage.layout.snapshot_dir(&SNAPSHOT))?;
        for (name, volume) in [("image", IMAGE), ("data", DATA)] {
            self.timeline.check_equal(
                &format!("no snapshot is left in the {name} volume"),
                "qemu-img info, snapshots",
                self.stage.snapshots_in(&self.stage.volume(volume, 1))?,
                Vec::new(),
            )?;
        }
        self.shell(&["snapshots"])
    }

    fn delete_the_application(&mut self) -> anyhow::Result<()> {
        self.timeline.chapter("8. Delete the application");
        self.orders("no application, no volumes, no content any more");
        self.stage.orders().remove_everything()?;
        // Waited for, then checked: a check shows what is there if the wait was in vain.
        let waited = self.stage.until(self.timeline, "everything to go", |stage| {
            Ok((stage.leftovers().is_empty() && stage.guest_processes().is_empty()).then_some(()))
        });
        self.timeline.check_equal(
            "no guest is left",
            "QEMU processes",
            self.stage.guest_processes(),
            Vec::new(),
        )?;
        self.timeline.check_equal(
            "nothing is left in the persist directory: no volume, snapshot, download, domain or row",
            "files beside the node's own",
            self.stage.leftovers(),
            Vec::new(),
        )?;
        waited?;
        self.shell(&["apps"])?;
        self.timeline.say(Actor::Hand, "SIGTERM to the node");
        let code = self.stage.terminate_node()?;
        self.timeline.check_equal("the node ended in order", "exit code", code.unwrap_or(-1), 0)?;
        let left = self.stage.processes();
        self.timeline.check_equal("no process is left", "processes of this demo", left, Vec::new())?;
        Ok(())
    }

    // ---- what is looked at ---------------------------------------------------------------------------------

    /// Waits for the guest's boot number `n`, until it has said and written everything.
    pub(super) fn boot(&mut self, n: usize) -> anyhow::Result<Boot> {
        let what = format!("the guest's boot {n}");
        self.stage.until(self.timeline, &what, |stage| {
            Ok(stage.diary.boots.get(n - 1).filter(|boot| boot.ready).cloned())
        })
    }

    fn guest_runs(&mut self, boot: &Boot, version: &str) -> anyhow::Result<()> {
        let what = format!("the guest runs version {version}, which it read from its image");
        Ok(self.timeline.check_equal(&what, "console, version", boot.version.as_str(), version)?)
    }

    fn found(&mut self, boot: &Boot, role: &str, what: &str, expected: &str) -> anyhow::Result<()> {
        let keys: &[&str] = if role == "image" { &IMAGE_KEYS } else { &DATA_KEYS };
        let found = boot.found(role, keys);
        Ok(self.timeline.check_equal(what, "console, before it wrote", found.as_str(), expected)?)
    }

    /// The guest itself proves that it sees what was there when the snapshot was cut.
    pub(super) fn guest_is_back(&mut self, boot: &Boot) -> anyhow::Result<()> {
        self.guest_runs(boot, "1")?;
        self.found(boot, "image", "the guest found version 1's image as at the cut", "version=1 boots=1")?;
        self.found(
            boot,
            "data",
            "the guest found version 1's data as at the cut",
            "boots=1 last-version=1 payload=none",
        )
    }

    /// Waits for a report of the running version with so many snapshots available.
    pub(super) fn reported(&mut self, version: &str, snapshots: usize) -> anyhow::Result<()> {
        let found = |stage: &Stage| {
            let app = stage.report()?;
            let available = app
                .snapshots
                .iter()
                .filter(|it| it.snap_err.is_none() && it.create_time.is_some() && it.config_version == "1");
            let state = app.state().as_str_name().to_owned();
            let (available, listed, errors) = (available.count(), app.snapshots.len(), app.app_err.len());
            let version = app.app_version;
            Some(format!("{state}, version {version}, snapshots {available} of {listed}, errors {errors}"))
        };
        let expected = format!("RUNNING, version {version}, snapshots {snapshots} of {snapshots}, errors 0");
        let what = format!("a report of version {version} running with {snapshots} snapshots");
        let waited = self.stage.until(self.timeline, &what, |stage| {
            Ok((found(stage).as_ref() == Some(&expected)).then_some(()))
        });
        let with = if snapshots == 0 { "without a snapshot" } else { "with the snapshot of version 1" };
        self.timeline.check_equal(
            &format!("the controller heard that version {version} runs, {with}"),
            "newest report",
            found(self.stage).unwrap_or_default(),
            expected,
        )?;
        waited
    }

    fn image_holds(
        &mut self,
        what: &str,
        volume: Uuid,
        generation: i64,
        expected: &str,
    ) -> anyhow::Result<()> {
        let image = self.stage.volume(volume, generation);
        let found = self.stage.lines_on(&image, None, &[VERSION_LINE, BOOTS_LINE])?;
        Ok(self.timeline.check_equal(what, "the volume's file", found.as_str(), expected)?)
    }

    fn data_holds(&mut self, what: &str, expected: &str) -> anyhow::Result<()> {
        self.data_holds_in(what, "the volume's file", None, expected)
    }

    /// The cut of the data volume, read from the image with `qemu-img`.
    fn snapshot_holds(&mut self, what: &str, expected: &str) -> anyhow::Result<()> {
        let names = self.stage.snapshots_in(&self.stage.volume(DATA, 1))?;
        let name = names.first().context("the data volume holds no snapshot")?.clone();
        self.data_holds_in(what, &format!("snapshot {name} in the volume's file"), Some(&name), expected)
    }

    fn data_holds_in(
        &mut self,
        what: &str,
        witness: &str,
        snapshot: Option<&str>,
        expected: &str,
    ) -> anyhow::Result<()> {
        let lines = [BOOTS_LINE, LAST_VERSION_LINE, PAYLOAD_LINE];
        let found = self.stage.lines_on(&self.stage.volume(DATA, 1), snapshot, &lines)?;
        Ok(self.timeline.check_equal(what, witness, found.as_str(), expected)?)
    }

    fn records_are_whole(&mut self) -> anyhow::Result<()> {
        let layout = &self.stage.layout;
        let files = [
            layout.app_config_file(&SNAPSHOT),
            layout.volumes_snapshot_status_file(&SNAPSHOT),
            layout.snapshot_instance_status_file(&SNAPSHOT),
        ];
        let read = files.iter().map(|path| self.stage.json(path).map(drop)).collect::<Result<Vec<_>, _>>();
        let shows = match &read {
            Ok(read) => format!("{} files of JSON in snapshots/{SNAPSHOT}", read.len()),
            Err(error) => format!("{error:#}"),
        };
        let what = "the snapshot's records are durable";
        Ok(self.timeline.check(what, &shows, read.is_ok(), "expected three files of JSON")?)
    }

    pub(super) fn gone(&mut self, what: &str, path: PathBuf) -> anyhow::Result<()> {
        let waited =
            self.stage.until(self.timeline, &format!("{what} to go"), |_| Ok((!path.exists()).then_some(())));
        let relative = path.strip_prefix(self.stage.layout.root()).unwrap_or(&path).display();
        let shows = format!("{relative} {}", if path.exists() { "is there" } else { "is not there" });
        self.timeline.check(&format!("{what} is gone"), &shows, waited.is_ok(), "expected to go")?;
        waited
    }

    pub(super) fn guest_now(&self) -> GuestNow {
        GuestNow { processes: self.stage.guest_processes(), boots: self.stage.diary.boots.len() }
    }

    /// The same QEMU process, and no boot since.
    pub(super) fn same_guest(&mut self, what: &str, before: &GuestNow) -> anyhow::Result<()> {
        self.stage.rest(self.timeline, A_WHILE)?;
        let now = self.guest_now();
        Ok(self.timeline.check_equal(what, "QEMU", now.words(), before.words())?)
    }

    fn asked_app(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.stage.ask(&["--json", "apps", APP_NAME])?)?)
    }

    // ---- what is said --------------------------------------------------------------------------------------

    fn orders(&self, what: &str) {
        self.timeline.say(Actor::Controller, &format!("orders: {what}"));
    }

    /// Shows what `holdfast <words>` prints.
    pub(super) fn shell(&self, words: &[&str]) -> anyhow::Result<()> {
        let printed = self.stage.ask(words)?;
        self.timeline.say(Actor::Shell, &format!("$ holdfast {}\n{printed}", words.join(" ")));
        Ok(())
    }
}
