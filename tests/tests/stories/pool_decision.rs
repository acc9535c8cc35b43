//! The decision table of guarded rollback on real OpenZFS ([000] L1–L6): each case that `tests/decision.rs` tells of fake
//! storage comes out the same here, in the same words. `make zfs-test` runs this in its guest.
//!
//! A refusal leaves every byte, snapshot and hold where it was (I16, I7) and the guest alone.

use std::fs;
use std::path::PathBuf;

use holdfast_agents::settings::ZfsChoice;
use holdfast_persist::PersistLayout;
use holdfast_tests::controller::DeviceConfig;
use holdfast_tests::decision::{self, BLOCKERS, Expected, Put, Put::*, STATES, expected};
use holdfast_tests::story::*;
use holdfast_types::{AppId, AppInstanceState, FORCE_ROLLBACK, Topic};

/// What strangers have made in one case, for them to take away, and how many things it were.
#[derive(Default)]
struct Strangers {
    last: u32,
    take_away: Vec<(PathBuf, Vec<String>)>,
}

struct Table {
    story: Story,
    devices: [PathBuf; 2],
    /// All that they hold, which a refusal must not change.
    content: [Vec<u8>; 2],
}

impl Table {
    /// Both volumes of a running application, and snapshot 1 of them. None where there is no pool.
    fn begin() -> Option<Table> {
        let story = Story::begin_on_pool(ZfsChoice::Auto)?.with_app();
        let devices = [story.image(IMAGE, 1), story.image(DATA, 1)];
        let content = read(&devices);
        let table = Table { story, devices, content };
        table.snapshot_now(1);
        Some(table)
    }

    fn snapshot_now(&self, n: u8) {
        self.story.edit(|device| {
            device.app(APP).request_snapshot(snapshot(n), SnapshotType::Immediate);
        });
        self.story.expect_available(n, "1");
        self.story.expect_running("1");
    }

    fn pool(&self) -> &PoolDisk {
        self.story.pool.as_ref().expect("on a pool")
    }

    fn row(&self) -> AppInstanceState {
        let layout = PersistLayout::new(self.story.persist());
        let file = layout.row_file("zedmanager", AppInstanceState::NAME, &AppId(APP));
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// Until the node has come to the end of what was ordered last.
    fn settled(&self, order: impl FnOnce(&mut DeviceConfig) -> u32) -> AppInstanceState {
        let mut counter = 0;
        self.story.edit(|device| counter = order(device));
        let mut row = self.row();
        self.story.until("the rollback to be done or refused", || {
            row = self.row();
            row.rollback_counter == counter && row.operation.is_none()
        });
        row
    }

    fn expect_content_untouched(&self, case: &str) {
        assert!(read(&self.devices) == self.content, "{case}: content was changed");
    }

    fn put(&self, put: Put, strangers: &mut Strangers) {
        let (Unmanaged(n) | Clone(n) | Hold(n) | Unknown(n)) = put else { return };
        let device = &self.devices[usize::from(n) - 1];
        let operate = |words: &[&str]| self.pool().operate(device, words);
        strangers.last += 1;
        let number = strangers.last;
        let taken_away_by = match put {
            Managed => return,
            Unmanaged(_) => {
                let snapshot = format!("%@daily-{number}");
                operate(&["snapshot", &snapshot]);
                vec!["destroy".to_owned(), snapshot]
            }
            Clone(_) => {
                let target = self.pool().snapshots(device).swap_remove(0);
                let clone = self.pool().beside(&format!("clone-{number}"));
                operate(&["clone", &format!("%@{target}"), &clone]);
                vec!["destroy".to_owned(), clone]
            }
            Hold(_) => {
                let newest = self.pool().snapshots(device).pop().expect("one at least");
                let snapshot = format!("%@{newest}");
                operate(&["hold", "backup", &snapshot]);
                vec!["release".to_owned(), "backup".to_owned(), snapshot]
            }
            Unknown(_) => {
                let (snapshot, bookmark) = (format!("%@daily-{number}"), format!("%#daily-{number}"));
                operate(&["snapshot", &snapshot]);
                operate(&["bookmark", &snapshot, &bookmark]);
                operate(&["destroy", &snapshot]);
                vec!["destroy".to_owned(), bookmark]
            }
        };
        strangers.take_away.push((device.clone(), taken_away_by));
    }

    /// The last first: a snapshot goes after its hold.
    fn strangers_leave(&self, strangers: Strangers) {
        // What a rollback has destroyed is gone already.
        for (device, words) in strangers.take_away.into_iter().rev() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words[1].strip_prefix("%@") {
                Some(snapshot) if !self.pool().snapshots(&device).iter().any(|name| name == snapshot) => {}
                _ => self.pool().operate(&device, &words),
            }
        }
    }

    fn put_all(&self, puts: &[Put]) -> Strangers {
        let mut strangers = Strangers::default();
        puts.iter().for_each(|put| self.put(*put, &mut strangers));
        strangers
    }

    /// One case from the order to the end, as it stands in the golden file; what is in the way is there.
    fn decide(&mut self, state: &str, puts: &[Put], has_tag: bool) -> String {
        let case = format!("{state:?} {puts:?} {has_tag}");
        let expected = expected(state, puts, has_tag, true);
        let (listed, row_before) = (self.pool().listed(), self.row());
        let starts = self.story.guest_starts();
        let row = self.settled(|device| {
            let app = device.app(APP).ha_state(state).untag(FORCE_ROLLBACK).roll_back(snapshot(1));
            let app = if has_tag { app.tag(FORCE_ROLLBACK) } else { app };
            app.rollback_counter()
        });
        let failure = row.last_failure.map(|failure| failure.error.summary);
        let operations = row.last_operation.0 - row_before.last_operation.0;
        if expected == Expected::Done {
            assert_eq!((failure, operations), (None, 1), "{case}");
            self.story.until("the guest", || self.story.guest_starts() == starts + 1);
            self.story.expect_content(DATA, 1, b'a');
            let after = self.pool().listed();
            let gone = listed.lines().filter(|line| !after.contains(*line));
            let gone: Vec<String> = gone.filter_map(strangers_snapshot).collect();
            self.story.expect_running("1");
            self.story.guest_writes(DATA, 1, b'b');
            self.content = read(&self.devices);
            decision::done(&gone)
        } else {
            let text = failure.unwrap_or_else(|| panic!("{case}: nothing was told"));
            assert_eq!(self.pool().listed(), listed, "{case}");
            if expected == Expected::Blocked {
                self.expect_content_untouched(&case);
            }
            assert_eq!(self.story.guest_starts(), starts, "{case}: the guest was left alone");
            assert_eq!(operations, u64::from(expected == Expected::Blocked), "{case}");
            decision::refused(expected, &text.replace(&self.pool().beside(""), "persist/"))
        }
    }

    /// All cases of these blockers come out as the golden files say. Refusals change nothing, so they come first, one after the
    /// other; what a rollback destroyed is made anew for the next one.
    fn expect_golden(mut self, has_newer: bool) {
        let states = STATES.into_iter().flat_map(|state| [(state, false), (state, true)]);
        for (name, puts) in BLOCKERS.into_iter().filter(|(_, puts)| puts.contains(&Managed) == has_newer) {
            let is_done = |case: &(&str, bool)| expected(case.0, puts, case.1, true) == Expected::Done;
            let (rollbacks, refusals): (Vec<_>, Vec<_>) = states.clone().partition(is_done);
            let mut strangers = self.put_all(puts);
            for (state, has_tag) in refusals {
                self.expect_as_told(state, name, puts, has_tag);
            }
            self.expect_content_untouched(name);
            for (state, has_tag) in rollbacks {
                self.expect_as_told(state, name, puts, has_tag);
                self.strangers_leave(strangers);
                strangers = self.put_all(puts);
            }
            self.strangers_leave(strangers);
        }
    }

    fn expect_as_told(&mut self, state: &str, name: &str, puts: &[Put], has_tag: bool) {
        let outcome = without_times(&self.decide(state, puts, has_tag));
        let entry = decision::entry(&decision::title(name, has_tag), &outcome);
        let golden = without_times(decision::golden_of_zvols(state));
        assert!(golden.contains(&entry), "not in the table of {state:?}:\n{entry}");
    }
}

fn read(devices: &[PathBuf; 2]) -> [Vec<u8>; 2] {
    devices.each_ref().map(|device| fs::read(device).expect("the device can be read"))
}

/// `<pool>/…/<volume>.<generation>@daily-1 …` as the table tells it; None of what is no stranger's snapshot.
fn strangers_snapshot(line: &str) -> Option<String> {
    let name = line.split_whitespace().next()?;
    let (dataset, snapshot) = name.split_once('@')?;
    let volume = dataset.rsplit('/').next()?;
    snapshot.starts_with("daily-").then(|| format!("{volume} {snapshot}"))
}

/// Without what differs between two runs in the names of this node's snapshots: time, and number of the operation.
fn without_times(text: &str) -> String {
    let mut parts = text.split("holdfast-2");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |told, part| {
        let (name, rest) = part.split_at(part.find([')', ',', ';']).expect("names stand in brackets"));
        let id = name.split_once('-').and_then(|(_time, rest)| rest.rsplit_once("-op"));
        let (id, _operation) = id.expect("a name of this node's");
        format!("{told}holdfast-{id}{rest}")
    })
}

#[test]
fn the_decision_table_with_nothing_of_the_nodes_in_the_way() {
    if let Some(table) = Table::begin() {
        table.expect_golden(false);
    }
}

#[test]
fn the_decision_table_with_a_newer_snapshot_of_the_nodes() {
    if let Some(table) = Table::begin() {
        table.snapshot_now(2);
        table.expect_golden(true);
    }
}
