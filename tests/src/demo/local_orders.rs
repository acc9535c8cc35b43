//! Another story on the same stage: whoever stands before the node plans, agrees, rolls back, snapshots and deletes
//! ([000] L7, L8), and the controller hears of it.
//!
//! ```text
//!   boot 1 ── snapshot+update ─▶ boot 2 ── plan: nothing ── rollback by digest ─▶ boot 3 ── snapshot create ─▶ boot 4
//!       ── snapshot delete: no downtime ── restart by the controller ─▶ boot 5, and its data is gone
//! ```

use anyhow::Context;
use serde_json::Value;

use super::deployment::{APP, APP_NAME, DATA, SNAPSHOT};
use super::stage::Stage;
use super::story::Story;
use super::timeline::{Actor, Timeline};

pub fn tell(stage: &mut Stage, timeline: &mut Timeline) -> anyhow::Result<()> {
    let mut story = Story { stage, timeline };
    story.deploy()?;
    story.snapshot_and_update()?;
    let digest = story.plan_a_rollback()?;
    story.nobody_agrees(&digest)?;
    story.roll_back_locally(&digest)?;
    let local = story.create_locally()?;
    story.delete_locally(&local)
}

impl Story<'_> {
    fn plan_a_rollback(&mut self) -> anyhow::Result<String> {
        self.timeline.chapter("3. Somebody at the node plans a rollback");
        let snapshot = SNAPSHOT.to_string();
        let (before, row) = (self.guest_now(), self.row()?);
        self.shell(&["rollback", APP_NAME, &snapshot, "--dry-run"])?;
        let plan = self.json(&["rollback", APP_NAME, &snapshot, "--dry-run"])?;
        let steps: Vec<&str> =
            plan["steps"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let said = |part: &str| steps.iter().any(|step| step.contains(part));
        self.timeline.check(
            "it lists what would be done",
            &format!("{} steps", steps.len()),
            said("stop the guest")
                && said("revert volume")
                && said("put version 1 in force")
                && said("start the guest"),
            "expected stopping, reverting, the version, starting",
        )?;
        let space = plan["space"].as_array().map_or(0, Vec::len);
        self.timeline.check_equal("it tells each volume's space", "holdfast rollback --dry-run", space, 2)?;
        self.same_guest("planning did not disturb the guest", &before)?;
        self.timeline.check(
            "and changed nothing",
            "zedmanager's row",
            row == self.row()?,
            "expected the same row",
        )?;
        Ok(plan["digest"].as_str().context("a digest")?.to_owned())
    }

    fn nobody_agrees(&mut self, digest: &str) -> anyhow::Result<()> {
        let (before, snapshot) = (self.guest_now(), SNAPSHOT.to_string());
        for (words, reason) in [
            (vec!["rollback", APP_NAME, snapshot.as_str()], digest),
            (
                vec!["rollback", APP_NAME, snapshot.as_str(), "--yes", "0123456789abcdef"],
                "nothing was changed",
            ),
            (vec!["snapshot", "delete", APP_NAME, snapshot.as_str(), "--yes", digest], "nothing was changed"),
        ] {
            let said = self
                .stage
                .ask(&words)
                .map_or_else(|error| format!("{error:#}"), |out| format!("done: {out}"));
            self.timeline.check(
                &format!("`holdfast {}` is refused", words.join(" ")),
                &said,
                said.contains("failed") && said.contains(reason),
                reason,
            )?;
        }
        self.same_guest("what nobody agreed to is not done", &before)
    }

    fn roll_back_locally(&mut self, digest: &str) -> anyhow::Result<()> {
        self.timeline.chapter("4. They agree, by the plan's digest");
        let snapshot = SNAPSHOT.to_string();
        let words = ["rollback", APP_NAME, &snapshot, "--yes", digest];
        self.shell(&words)?;
        let boot = self.boot(3)?;
        self.guest_is_back(&boot)?;
        self.reported("1", 1)?;
        let before = self.guest_now();
        self.shell(&words)?;
        let again = self.json(&words)?;
        self.timeline.check_equal(
            "asked once more, the node tells what has come of it",
            "holdfast rollback --yes",
            format!(
                "operation {}, {}, repeated {}",
                again["operation"], again["state"], again["is_repeated"]
            ),
            "operation 3, \"done\", repeated true".to_owned(),
        )?;
        self.same_guest("and does not do it again", &before)
    }

    fn create_locally(&mut self) -> anyhow::Result<String> {
        self.timeline.chapter("5. They make a snapshot of their own");
        self.shell(&["snapshot", "create", APP_NAME, "--dry-run"])?;
        let plan = self.json(&["snapshot", "create", APP_NAME, "--dry-run"])?;
        let digest = plan["digest"].as_str().context("a digest")?.to_owned();
        let local = plan["snapshot"].as_str().context("an id")?.to_owned();
        self.shell(&["snapshot", "create", APP_NAME, "--yes", &digest])?;
        self.boot(4)?;
        let available = |stage: &Stage| {
            let app = stage.report()?;
            let is_whole =
                |it: &&holdfast_agents::wire::info::ZInfoSnapshot| it.snap_err.is_none() && it.id == local;
            app.snapshots.iter().find(is_whole).map(|it| it.config_version.clone())
        };
        let waited =
            self.stage.until(self.timeline, "the snapshot to be reported", |stage| Ok(available(stage)));
        let heard = available(self.stage).unwrap_or_default();
        self.timeline.check_equal("the controller heard of it", "newest report", heard.as_str(), "1")?;
        waited?;
        self.shell(&["snapshots"])?;
        Ok(local)
    }

    fn delete_locally(&mut self, local: &str) -> anyhow::Result<()> {
        self.timeline.chapter("6. They give it up again");
        let before = self.guest_now();
        let plan = self.json(&["snapshot", "delete", APP_NAME, local, "--dry-run"])?;
        let downtime = plan["downtime"].as_str().unwrap_or_default();
        self.timeline.check_equal("deleting needs no downtime", "the plan", downtime, "none")?;
        let digest = plan["digest"].as_str().context("a digest")?.to_owned();
        self.shell(&["snapshot", "delete", APP_NAME, local, "--yes", &digest])?;
        self.same_guest("deleting did not disturb the guest", &before)?;
        self.timeline.say(Actor::Controller, "orders: restart the application");
        self.stage.orders().restart()?;
        self.boot(5)?;
        self.gone("the snapshot's directory", self.stage.layout.snapshots_dir().join(local))?;
        let left = self.stage.snapshots_in(&self.stage.volume(DATA, 1))?;
        let is_left = left.iter().any(|name| name.contains(local));
        self.timeline.check(
            "nothing of it is left in the data volume",
            &format!("{left:?}"),
            !is_left,
            "gone",
        )?;
        Ok(())
    }

    fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.stage.ask(&[&["--json"], words].concat())?)?)
    }

    fn row(&self) -> anyhow::Result<Value> {
        self.stage.json(&self.stage.layout.row_file("zedmanager", "AppInstanceState", &APP))
    }
}
