//! The power is cut at every single call of every step, on the fake tool; and real qemu-img is killed at many
//! moments. Afterwards the step is done again, as the intent demands, and the volume is exactly what it should be.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_types::volume::Format;
use holdfast_volumehandlers::qcow2::Qcow2Handler;
use holdfast_volumehandlers::testing::{FakeFixture, Fixture, RealFixture};
use holdfast_volumehandlers::tool::Mend;
use holdfast_volumehandlers::{HandlerCx, SnapshotName, Source, VolumeError, VolumeHandler, VolumeSpec};

const SIZE_BYTES: u64 = 8 << 20;
const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name")
}

fn location(fixture: &dyn Fixture) -> PathBuf {
    fixture.directory().join("db#0.qcow2")
}

fn blank(location: &Path) -> VolumeSpec {
    VolumeSpec {
        location: location.to_path_buf(),
        format: Format::Qcow2,
        source: Source::Blank { size_bytes: SIZE_BYTES },
        max_size_bytes: 0,
        read_only: false,
    }
}

/// A volume with snapshot `old`, durable, and newer content in force.
fn prepared() -> (FakeFixture, PathBuf) {
    let fixture = FakeFixture::new();
    let volume = location(&fixture);
    let handler = fixture.handler();
    handler.create(&blank(&volume), &CX()).expect("created");
    fixture.write(&volume, 1, 1);
    fixture.write(&volume, 2, 2);
    handler.create_snapshot(&volume, &name("old"), &CX()).expect("cut");
    fixture.write(&volume, 1, 9);
    fixture.write(&volume, 3, 9);
    fixture.disk().sync_file(&volume).expect("the guest flushed");
    (fixture, volume)
}

type Step = fn(&dyn VolumeHandler, &Path) -> Result<(), VolumeError>;

fn cut(handler: &dyn VolumeHandler, volume: &Path) -> Result<(), VolumeError> {
    handler.create_snapshot(volume, &name("new"), &CX()).map(drop)
}

fn roll_back(handler: &dyn VolumeHandler, volume: &Path) -> Result<(), VolumeError> {
    handler.rollback_to_snapshot(volume, &name("old"), &BTreeSet::new(), &CX()).map(drop)
}

fn delete(handler: &dyn VolumeHandler, volume: &Path) -> Result<(), VolumeError> {
    handler.delete_snapshot(volume, &name("old"), &CX()).map(drop)
}

/// Cuts the power at each call of the step in turn, and hands what is left to `check`, before and after a redo.
fn at_every_call(step: Step, check: impl Fn(&FakeFixture, &Path, &str), after: impl Fn(&FakeFixture, &Path)) {
    let (fixture, volume) = prepared();
    let begun = fixture.mem_disk().call_count();
    step(fixture.handler().as_ref(), &volume).expect("nothing in the way");
    let calls = fixture.mem_disk().call_count() - begun;
    assert!(calls > 3, "the step is made of calls");
    for call in 1..=calls {
        let (fixture, volume) = prepared();
        fixture.mem_disk().cut_power_at(call);
        step(fixture.handler().as_ref(), &volume).expect_err("the power is gone");
        fixture.mem_disk().crash();
        fixture.fake_tool().forget_holds();
        check(&fixture, &volume, &format!("cut at call {call} of {calls}"));

        let handler = fixture.handler();
        step(handler.as_ref(), &volume).expect("done again");
        handler.repair(&volume, &CX()).expect("repaired");
        fixture.mem_disk().crash();
        after(&fixture, &volume);
        let report = fixture.tool().check(&volume, Mend::Nothing, &CX()).expect("checked");
        assert!(report.is_clean(), "[003] J4, cut at call {call}: {report:?}");
    }
}

fn names(fixture: &FakeFixture, volume: &Path) -> Vec<String> {
    let found = fixture.handler().list_snapshots(volume).expect("listed");
    found.into_iter().map(|snapshot| snapshot.name).collect()
}

#[test]
fn a_snapshot_is_there_or_not_and_the_content_is_as_it_was() {
    let (fixture, volume) = prepared();
    let content = fixture.content(&volume);
    at_every_call(
        cut,
        |fixture, volume, when| {
            assert_eq!(fixture.content(volume), content, "{when}");
            assert_eq!(names(fixture, volume)[0], "holdfast-old", "{when}");
        },
        |fixture, volume| {
            assert_eq!(fixture.content(volume), content);
            assert_eq!(names(fixture, volume), ["holdfast-old", "holdfast-new"], "cut once");
        },
    );
}

#[test]
fn a_deletion_leaves_the_content_as_it_was() {
    let (fixture, volume) = prepared();
    let content = fixture.content(&volume);
    at_every_call(
        delete,
        |fixture, volume, when| assert_eq!(fixture.content(volume), content, "{when}"),
        |fixture, volume| {
            assert_eq!(fixture.content(volume), content);
            assert!(names(fixture, volume).is_empty());
        },
    );
}

#[test]
fn a_rollback_applied_again_gives_the_snapshot_also_after_a_torn_one() {
    let (fixture, volume) = prepared();
    let before = fixture.content(&volume);
    roll_back(fixture.handler().as_ref(), &volume).expect("rolled back");
    let wanted = fixture.content(&volume);
    let torn = std::cell::Cell::new(0);
    at_every_call(
        roll_back,
        |fixture, volume, _| {
            let content = fixture.content(volume);
            if content != before && content != wanted {
                torn.set(torn.get() + 1);
            }
            assert_eq!(names(fixture, volume), ["holdfast-old"]);
        },
        |fixture, volume| assert_eq!(fixture.content(volume), wanted, "[003] J3"),
    );
    assert!(torn.get() > 0, "the fake tears, or this test tells nothing");
}

/// Also what the guest wrote last and did not flush: what is kept leads to nothing that a cut may take away.
#[test]
fn a_rollback_that_was_cut_anywhere_is_undone() {
    let safe = |handler: &dyn VolumeHandler, volume: &Path| {
        handler.create_safety_snapshot(volume, &name("safety-old"), &name("old"), &CX())
    };
    for tables in [true, false] {
        for call in 1.. {
            let (fixture, volume) = prepared();
            if !tables {
                fixture.fake_tool().keep_no_tables();
            }
            fixture.write(&volume, 4, 7);
            let before = fixture.content(&volume);
            safe(fixture.handler().as_ref(), &volume).expect("safe");
            fixture.mem_disk().cut_power_at(call);
            let done = roll_back(fixture.handler().as_ref(), &volume);
            fixture.mem_disk().crash();
            fixture.fake_tool().forget_holds();
            let (handler, back) = (fixture.handler(), name("safety-old"));
            handler.rollback_to_snapshot(&volume, &back, &BTreeSet::new(), &CX()).expect("undone");
            fixture.mem_disk().crash();
            assert_eq!(fixture.content(&volume), before, "tables {tables}, cut at call {call}");
            handler.delete_snapshot(&volume, &back, &CX()).expect("tidied");
            handler.repair(&volume, &CX()).expect("repaired");
            fixture.mem_disk().crash();
            assert_eq!(names(&fixture, &volume), ["holdfast-old"]);
            assert_eq!(fixture.content(&volume), before, "tables {tables}, cut at call {call}");
            if done.is_ok() {
                assert!(call > 3, "the rollback is made of calls");
                break;
            }
        }
    }
}

/// The first try kept tables; the second found no room for that, and cut inside: then the tables are of another image.
#[test]
fn what_an_earlier_try_kept_is_not_what_a_later_one_falls_back_to() {
    let (fixture, volume) = prepared();
    let before = fixture.content(&volume);
    let (handler, safety) = (fixture.handler(), name("safety-old"));
    let make_safe = || handler.create_safety_snapshot(&volume, &safety, &name("old"), &CX()).expect("safe");
    make_safe();
    fixture.fake_tool().keep_no_tables();
    make_safe();
    for _ in 0..2 {
        roll_back(handler.as_ref(), &volume).expect("rolled back");
        handler.rollback_to_snapshot(&volume, &safety, &BTreeSet::new(), &CX()).expect("undone");
        assert_eq!(fixture.content(&volume), before);
    }
    assert_eq!(names(&fixture, &volume), ["holdfast-old", "holdfast-safety-old"], "one, and inside");
}

/// The World's seed 1000054: the copy was removed, the directory could not be synced, the next try found nothing to remove, and a cut
/// brought it back.
#[test]
fn what_is_dropped_stays_away_whichever_call_failed_first() {
    let (safety, mut calls) = (name("safety-old"), 4);
    let mut failed = 0;
    for call in 1.. {
        let (fixture, volume) = prepared();
        let handler = fixture.handler();
        handler.create_safety_snapshot(&volume, &safety, &name("old"), &CX()).expect("safe");
        let begun = fixture.mem_disk().call_count();
        fixture.mem_disk().fail_at(call, io::ErrorKind::Other);
        match handler.drop_safety_snapshot(&volume, &safety, &CX()) {
            Ok(()) => calls = fixture.mem_disk().call_count() - begun,
            Err(error) => {
                failed += 1;
                assert_eq!(error.volume(), volume, "call {call} failed: {error}");
                handler.drop_safety_snapshot(&volume, &safety, &CX()).expect("dropped");
            }
        }
        fixture.mem_disk().crash();
        assert_eq!(names(&fixture, &volume), ["holdfast-old"], "call {call} failed");
        if call > calls {
            break;
        }
    }
    assert!(failed > 3, "{failed} failures were told");
}

/// What leaks may be in use again when the tables are put back.
#[test]
fn leaks_are_not_mended_while_a_rollback_may_be_undone() {
    let (fixture, volume) = prepared();
    let (handler, safety) = (fixture.handler(), name("safety-old"));
    handler.create_safety_snapshot(&volume, &safety, &name("old"), &CX()).expect("safe");
    fixture.leak(&volume);
    assert_eq!(handler.repair(&volume, &CX()).expect("looked").into_inner().leaked_clusters, 0);
    handler.drop_safety_snapshot(&volume, &safety, &CX()).expect("dropped");
    assert!(handler.repair(&volume, &CX()).expect("mended").into_inner().leaked_clusters > 0);
}

/// Also where an earlier try has made one, whose place the next one takes.
#[test]
fn a_safety_snapshot_that_was_cut_off_is_made_by_the_next_try() {
    for tried_before in [false, true] {
        for call in 1.. {
            let (fixture, volume) = prepared();
            let before = fixture.content(&volume);
            let safe = |fixture: &FakeFixture| {
                let handler = fixture.handler();
                handler.create_safety_snapshot(&volume, &name("safety-old"), &name("old"), &CX())
            };
            if tried_before {
                safe(&fixture).expect("safe");
            }
            fixture.mem_disk().cut_power_at(call);
            let done = safe(&fixture);
            fixture.mem_disk().crash();
            fixture.fake_tool().forget_holds();
            let when = format!("tried before {tried_before}, cut at call {call}");
            assert_eq!(fixture.content(&volume), before, "{when}");
            safe(&fixture).expect("safe");
            fixture.mem_disk().crash();
            assert_eq!(names(&fixture, &volume), ["holdfast-old", "holdfast-safety-old"], "{when}");
            roll_back(fixture.handler().as_ref(), &volume).expect("rolled back");
            let back = name("safety-old");
            fixture.handler().rollback_to_snapshot(&volume, &back, &BTreeSet::new(), &CX()).expect("undone");
            assert_eq!(fixture.content(&volume), before, "{when}");
            fixture.handler().destroy(&volume, &CX()).expect("destroyed");
            assert!(fixture.disk().list(fixture.directory()).expect("listed").is_empty(), "{when}");
            if done.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn a_creation_that_was_cut_leaves_no_volume_or_a_whole_one() {
    for source in [None, Some(Format::Qcow2), Some(Format::Raw)] {
        let story = |call: Option<usize>| {
            let fixture = FakeFixture::new();
            let mut spec = blank(&location(&fixture));
            if let Some(format) = source {
                let path = fixture.source("image", format, 1 << 20, 5);
                fixture.disk().sync_file(&path).expect("synced");
                spec.source = Source::Image { path, format };
                spec.max_size_bytes = SIZE_BYTES;
            }
            fixture.disk().sync_dir(fixture.directory()).expect("synced");
            let begun = fixture.mem_disk().call_count();
            if let Some(call) = call {
                fixture.mem_disk().cut_power_at(call);
            }
            let made = fixture.handler().create(&spec, &CX());
            assert_eq!(made.is_err(), call.is_some());
            let calls = fixture.mem_disk().call_count() - begun;
            (fixture, spec, calls)
        };
        let (whole, spec, calls) = story(None);
        let wanted = whole.content(&spec.location);
        for call in 1..=calls {
            let (fixture, spec, _) = story(Some(call));
            fixture.mem_disk().crash();
            if fixture.disk().metadata(&spec.location).expect("looked").is_some() {
                assert_eq!(fixture.content(&spec.location), wanted, "whole, cut at call {call}");
            }
            fixture.handler().create(&spec, &CX()).expect("made at last");
            fixture.mem_disk().crash();
            assert_eq!(fixture.content(&spec.location), wanted, "durable, cut at call {call}");
            let found = fixture.handler().inventory(fixture.directory()).expect("listed");
            assert!(found.iter().all(|found| !found.unfinished), "{found:?}");
        }
    }
}

#[test]
fn a_single_failed_call_never_leaves_a_lie() {
    for (step, wanted) in [(cut as Step, 2), (delete, 0), (roll_back, 1)] {
        for call in 1..40 {
            let (fixture, volume) = prepared();
            fixture.mem_disk().fail_at(call, io::ErrorKind::Other);
            let done = step(fixture.handler().as_ref(), &volume);
            // Also what is reported as done is done for good.
            fixture.mem_disk().crash();
            if done.is_ok() {
                assert_eq!(names(&fixture, &volume).len(), wanted, "call {call}");
            }
            step(fixture.handler().as_ref(), &volume).expect("done again");
            fixture.handler().repair(&volume, &CX()).expect("repaired");
            assert_eq!(names(&fixture, &volume).len(), wanted, "call {call}");
        }
    }
}

/// Kills real qemu-img in the middle, at moments that spread over the whole step.
#[test]
fn qemu_img_killed_at_any_moment_leaves_what_can_be_finished() {
    let fixture = match RealFixture::new() {
        Ok(fixture) => fixture,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let volume = location(&fixture);
    let handler = Qcow2Handler::new(fixture.disk(), fixture.tool());
    let spec = VolumeSpec { source: Source::Blank { size_bytes: 64 << 20 }, ..blank(&volume) };
    handler.create(&spec, &CX()).expect("created");
    for mebibyte in (0..64).step_by(4) {
        fixture.write(&volume, mebibyte, 1);
    }
    let old = fixture.content(&volume);
    handler.create_snapshot(&volume, &name("old"), &CX()).expect("cut");

    let mut killed = 0;
    for round in 0..ROUNDS {
        fixture.write(&volume, u64::from(round) * 6, 2);
        let limit = LONGEST * round / ROUNDS;
        let newer = fixture.content(&volume);
        for (step, wanted) in [(CUT, &newer), (DROP, &newer), (BACK, &old)] {
            let stopped = step(&handler, &volume, &CX().with_step_limit(limit));
            killed += u32::from(matches!(stopped, Err(VolumeError::TimedOut { .. })));
            step(&handler, &volume, &CX()).expect("done again");
            handler.repair(&volume, &CX()).expect("repaired");
            let report = fixture.tool().check(&volume, Mend::Nothing, &CX()).expect("checked");
            assert!(report.is_clean(), "[003] J4, round {round}: {report:?}");
            assert!(&fixture.content(&volume) == wanted, "round {round}");
        }
        // And one that is killed and then undone, on content that it was not rolled back to.
        fixture.write(&volume, u64::from(round) * 5, 3);
        let newest = fixture.content(&volume);
        let safety = name("safety-old");
        handler.create_safety_snapshot(&volume, &safety, &name("old"), &CX()).expect("safe");
        let stopped = BACK(&handler, &volume, &CX().with_step_limit(limit));
        killed += u32::from(matches!(stopped, Err(VolumeError::TimedOut { .. })));
        handler.rollback_to_snapshot(&volume, &safety, &BTreeSet::new(), &CX()).expect("undone");
        handler.delete_snapshot(&volume, &safety, &CX()).expect("tidied");
        let report = fixture.tool().check(&volume, Mend::Nothing, &CX()).expect("checked");
        assert!(report.is_clean(), "nothing to repair, round {round}: {report:?}");
        assert!(fixture.content(&volume) == newest, "round {round}");
        BACK(&handler, &volume, &CX()).expect("rolled back");
        let left = handler.list_snapshots(&volume).expect("listed");
        assert_eq!(left.len(), 1, "{left:?}");
    }
    assert!(killed > 0, "nothing was ever killed");
    eprintln!("{killed} of {} steps were killed", 4 * ROUNDS);
}

/// A step on this image takes less than that here.
const LONGEST: Duration = Duration::from_millis(24);
const ROUNDS: u32 = 10;

type Killable = fn(&Qcow2Handler, &Path, &HandlerCx<'_>) -> Result<(), VolumeError>;

const CUT: Killable = |handler, volume, cx| handler.create_snapshot(volume, &name("new"), cx).map(drop);
const DROP: Killable = |handler, volume, cx| handler.delete_snapshot(volume, &name("new"), cx).map(drop);
const BACK: Killable =
    |handler, volume, cx| handler.rollback_to_snapshot(volume, &name("old"), &BTreeSet::new(), cx).map(drop);
