//! What becomes of the effects of a step, and in which order.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_agents::runtime::*;
use holdfast_persist::{Disk, quarantine};
use holdfast_pubsub::{Change, Mailbox};

use crate::toy::*;

#[derive(Debug, PartialEq)]
enum Told {
    Note(Change<Note>),
    Light(Change<Light>),
}

/// Names what the reader is told, markers left out.
fn told(reader: &Mailbox<Told>) -> Vec<String> {
    let all = std::iter::from_fn(|| reader.try_recv());
    let text = |told| match told {
        Told::Note(Change::Deleted(note)) => Some(format!("no {}", note.name)),
        Told::Note(Change::Restarted(times)) => Some(format!("restarted {times}")),
        Told::Note(change) => change.value().map(|note| format!("{} = {}", note.name, note.value)),
        Told::Light(change) => change.value().map(|light| format!("light {}", light.is_on)),
    };
    all.filter_map(text).collect()
}

fn reader(bench: &Bench<Toy>) -> Mailbox<Told> {
    let reader = Mailbox::new();
    reader.subscribe::<Note>(bench.bus(), Told::Note);
    reader.subscribe::<Light>(bench.bus(), Told::Light);
    reader
}

fn everything(record: &str) -> Vec<Action> {
    vec![
        Action::Job(work("copy", "db")),
        Action::Timer { key: "t".into(), after_ms: 10, says: "ring".into() },
        Action::Light(true),
        note("a", 1),
        Action::Record(record.into(), "text".into()),
        note("b", 2),
        Action::Restarted,
    ]
}

#[test]
fn the_durable_part_is_done_in_the_order_staged_and_the_bus_hears_of_it_in_that_order_too() {
    let (mut bench, heard) = started();
    let reader = reader(&bench);
    let calls_before = bench.disk.call_count();
    order(&mut bench, everything("/persist/snapshots/s1/record.json")).unwrap();
    let renamed: Vec<String> = bench.disk.calls()[calls_before..]
        .iter()
        .filter(|call| call.verb == "rename")
        .map(|call| call.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(renamed, [".tmp~a.json", ".tmp~record.json", ".tmp~b.json"]);
    assert_eq!(told(&reader), ["light true", "a = 1", "b = 2", "restarted 1"]);
    assert_eq!(bench.jobs(), [work("copy", "db")]);
    assert_eq!(bench.file(&PathBuf::from("/persist/snapshots/s1/record.json")).unwrap(), "text");
    bench.advance(Duration::from_millis(10));
    assert_eq!(heard.take(), ["ring at 10 ms"]);
}

#[test]
fn a_cut_at_any_call_leaves_a_prefix_of_the_durable_part_and_nothing_behind_it() {
    let calls_of_step = {
        let (mut bench, _) = started();
        let before = bench.disk.call_count();
        order(&mut bench, everything("/persist/snapshots/s1/record.json")).unwrap();
        bench.disk.call_count() - before
    };
    let mut prefixes = std::collections::BTreeSet::new();
    for cut in 1..=calls_of_step {
        let (mut bench, _) = started();
        let reader = reader(&bench);
        bench.disk.cut_power_at(cut);
        let fatal = order(&mut bench, everything("/persist/snapshots/s1/record.json")).unwrap_err();
        assert!(matches!(fatal, Fatal::NotDurable { agent: "toy", .. }), "{fatal}");
        assert_eq!(told(&reader), [""; 0], "cut {cut}");
        assert_eq!(bench.jobs(), [], "cut {cut}");
        assert_eq!(bench.cell.next_timer(), None, "cut {cut}");

        let bench = bench.cut_power(Toy::default(), just_end());
        let kept = [
            bench.row::<Note>(&"a".into()).is_some(),
            bench.file(&PathBuf::from("/persist/snapshots/s1/record.json")).is_some(),
            bench.row::<Note>(&"b".into()).is_some(),
        ];
        assert!(kept.is_sorted_by(|earlier, later| earlier >= later), "cut {cut}: {kept:?} is no prefix");
        prefixes.insert(kept);
    }
    assert!(prefixes.len() >= 3, "the cuts fell everywhere: {prefixes:?}");
}

#[test]
fn a_failed_durable_change_is_fatal_and_names_what_and_why() {
    let (mut bench, _) = started();
    bench.disk.fail_at(1, ErrorKind::Other);
    let fatal = order(&mut bench, vec![note("a", 1)]).unwrap_err();
    assert_eq!(fatal.to_string(), "toy cannot make the row a of Note durable");
    let source = std::error::Error::source(&fatal).expect("it says why");
    assert!(source.to_string().contains("injected"), "{source}");
}

#[test]
fn rows_come_back_after_a_restart_and_equal_values_are_silent() {
    let (mut bench, _) = started();
    order(&mut bench, vec![note("a", 1), note("b", 2), note("c", 3)]).unwrap();
    order(&mut bench, vec![Action::Forget("b".into()), note("a", 1), Action::Light(true)]).unwrap();

    let heard = Heard::default();
    let mut bench = bench.cut_power(Toy::heard_by(&heard), just_end());
    let reader = reader(&bench);
    bench.start();
    assert_eq!(heard.take(), ["knew a = 1", "knew c = 3"]);
    let calls = bench.disk.call_count();
    order(&mut bench, vec![note("a", 1)]).unwrap();
    assert_eq!(bench.disk.call_count(), calls, "an equal row is not written again");
    assert_eq!(told(&reader), ["a = 1", "c = 3"]);
}

#[test]
fn damaged_rows_are_told_and_the_agent_starts() {
    let (mut bench, _) = started();
    order(&mut bench, vec![note("a", 1), note("b", 2)]).unwrap();
    let damaged = bench.layout.row_file("toy", "Note", &"a");
    bench.disk.truncate(&damaged, 3).unwrap();
    bench.disk.sync_file(&damaged).unwrap();
    let heard = Heard::default();
    let mut bench = bench.cut_power(Toy::heard_by(&heard), just_end());
    bench.start();
    assert_eq!(heard.take(), ["knew b = 2"]);
    assert_eq!(bench.cell.agent().damaged[0].key, "a");
}

#[test]
fn trees_are_removed_and_strange_files_set_aside() {
    let (mut bench, _) = started();
    let (kept, strange) =
        (PathBuf::from("/persist/snapshots/s1"), PathBuf::from("/persist/snapshots/s2/odd.json"));
    let record = |path: PathBuf| Action::Record(path, "{".into());
    order(&mut bench, vec![record(kept.join("a.json")), record(strange.clone())]).unwrap();
    order(&mut bench, vec![Action::RemoveTree(kept.clone()), Action::Quarantine(strange.clone())]).unwrap();
    order(&mut bench, vec![Action::RemoveTree(kept.clone())]).unwrap();
    order(&mut bench, vec![Action::Quarantine("/persist/never/was".into())]).unwrap();
    assert!(bench.disk.metadata(&kept).unwrap().is_none());
    let aside = quarantine::list(&bench.disk, &bench.layout).unwrap();
    assert_eq!(
        (aside[0].original.clone(), aside[0].reason.as_str()),
        (Some(strange), "it looked at me strangely")
    );
}

#[test]
fn a_full_disk_ends_in_the_mode_no_space_and_normal_comes_back_with_the_room() {
    let (mut bench, heard) = started();
    let used = {
        let space = bench.disk.space(std::path::Path::new("/")).unwrap();
        space.total_bytes - space.free_bytes
    };
    bench.disk.set_capacity(used);
    order(&mut bench, vec![note("a", 1)]).unwrap();
    assert_eq!(heard.take(), ["mode no space left on the persist directory"]);
    assert_eq!(bench.services.mode.get(), NodeMode::NoSpace);
    assert_eq!(bench.row::<Note>(&"a".into()).unwrap().value, 1);

    bench.services.check_space();
    assert_eq!(bench.services.mode.get(), NodeMode::NoSpace);
    bench.disk.set_capacity(used + 100_000);
    bench.services.check_space();
    bench.settle();
    assert_eq!(heard.take(), ["mode normal"]);
}

#[test]
fn timers_ring_once_in_order_are_replaced_and_cancelled() {
    let (mut bench, heard) = started();
    let timer =
        |key: &str, after_ms, says: &str| Action::Timer { key: key.into(), after_ms, says: says.into() };
    order(
        &mut bench,
        vec![timer("a", 30, "a"), timer("b", 20, "b"), timer("c", 10, "c"), timer("d", 20, "d")],
    )
    .unwrap();
    order(&mut bench, vec![timer("c", 40, "c again"), Action::CancelTimer("d".into())]).unwrap();
    bench.clock.set_now(Timestamp::default());
    bench.advance(Duration::from_millis(19));
    assert_eq!(heard.take(), [""; 0]);
    bench.advance(Duration::from_secs(1));
    assert_eq!(heard.take(), ["b at 20 ms", "a at 30 ms", "c again at 40 ms"]);
    assert_eq!(bench.cell.next_timer(), None);
}

#[test]
fn an_agent_is_synced_when_it_has_handled_what_existed() {
    let heard = Heard::default();
    let mut bench = Bench::new(Toy::heard_by(&heard), just_end());
    bench.publish_only(Order { number: 1, actions: vec![note("a", 1)] });
    bench.cell.start().unwrap();
    let pulse = bench.cell.pulse();
    bench.publish_only(Order { number: 2, actions: vec![] });
    while !pulse.is_synced() {
        assert_eq!(bench.cell.step().unwrap(), Step::Handled);
    }
    assert!(bench.row::<Note>(&"a".into()).is_some());
    assert!(bench.cell.has_events(), "what came later does not count");
}

#[test]
#[should_panic(expected = "toy does not say in wire() that it owns Order")]
fn publishing_a_topic_of_another_is_a_broken_promise() {
    struct Liar;
    impl Agent for Liar {
        const NAME: &'static str = "toy";
        type Event = ();
        type Job = NoJob;
        type Env = ();
        fn wire(_: &mut Wiring<Self>) {}
        fn start(&mut self, cx: &mut Ctx<Self>) {
            cx.publish(Order { number: 1, actions: vec![] });
        }
        fn handle(&mut self, (): (), _: &mut Ctx<Self>) {}
        fn run_job(job: NoJob, (): &(), _: &JobContext<()>) {
            match job {}
        }
    }
    Bench::new(Liar, ()).start();
}

#[test]
fn a_read_only_node_writes_nothing() {
    let (bench, _) = started();
    let mut bench = Bench::read_only(bench.disk, "it kept failing", Toy::default(), just_end());
    bench.start();
    let calls = bench.disk.call_count();
    order(&mut bench, everything("/persist/snapshots/s1/record.json")).unwrap();
    assert_eq!(bench.disk.call_count(), calls);
    assert_eq!(bench.services.mode.get().to_string(), "read-only: it kept failing");
    assert_eq!(bench.row::<Note>(&"a".into()).unwrap().value, 1, "in memory, until the process ends");
}
