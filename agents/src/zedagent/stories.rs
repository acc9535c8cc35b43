//! zedagent's stories: what a controller does, and what becomes of it on the node.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use holdfast_persist::Disk;
use holdfast_pubsub::{Change, Mailbox};
use holdfast_types::*;
use prost::Message;

use super::testing::*;
use super::testing_node::*;
use crate::wire::config::{self as wire, ConfigResponse, EdgeDevConfig};
use crate::wire::info::ZInfoApp;

#[test]
fn the_first_configuration_is_kept_published_and_announced() {
    let mut full = config([with_volume(app(APP_A, "1"), V1, 0)]);
    full.volumes.push(blank_volume(V1, 0));
    full.content_info.push(content_tree(TREE));
    full.datastores.push(datastore(STORE));
    let mut node = Node::new(controller_with(full)).start();

    node.expect_versions(&[(APP_A, "1")]);
    assert_eq!(node.told(), ["+1", "!"]);
    assert_eq!(node.bench.rows::<VolumeConfig>().len(), 1);
    assert_eq!(node.bench.rows::<ContentTreeConfig>().len(), 1);
    assert_eq!(node.bench.rows::<DatastoreConfig>().len(), 1);
    let status = node.status();
    assert_eq!((status.source, status.config_hash.as_str()), (ConfigSource::Controller, "h1"));
    assert_eq!((status.controller_error, status.pending_reports), (None, 0));
    assert!(node.saved().is_some());
    assert_eq!(node.controller.own_report().holdfast.unwrap().config_hash, "h1");
}

#[test]
fn before_any_configuration_is_known_nothing_is_announced() {
    let controller = controller_with(config([app(APP_A, "1")]));
    controller.go_away();
    let mut node = Node::new(controller).start();
    node.pass(Duration::from_secs(60));
    assert_eq!(node.told(), [""; 0]);
    assert_eq!(node.status().source, ConfigSource::None);
    assert_eq!(
        node.error(),
        "the controller does not answer: cannot reach http://controller.example/config: connection refused"
    );

    node.controller.come_back();
    node.pass(A_POLL);
    assert_eq!(node.told(), ["+1", "!"]);
    assert_eq!(node.error(), "");
}

#[test]
fn a_node_boots_from_what_it_saved_when_the_controller_is_away() {
    let node = Node::new(controller_with(config([app(APP_A, "1"), app(APP_B, "4")]))).start();
    let received_at = node.status().config_received_at;
    node.controller.go_away();
    let node = node.cut_power();
    node.bench.clock.advance(Duration::from_secs(3600));
    let mut node = node.start();
    node.expect_versions(&[(APP_A, "1"), (APP_B, "4")]);
    assert_eq!(node.told(), ["+1", "+4", "!"]);
    let status = node.status();
    assert_eq!((status.source, status.config_hash.as_str()), (ConfigSource::Saved, "h1"));
    assert_eq!(status.config_received_at, received_at);
    assert!(node.error().contains("does not answer"));

    node.controller.come_back();
    node.controller.edit(|state| state.asked_with.clear());
    node.pass(A_POLL);
    assert_eq!(node.controller.edit(|state| state.asked_with[0].clone()), "h1", "it says what it has");
    assert_eq!((node.status().source, node.error().as_str()), (ConfigSource::Controller, ""));
    assert_eq!(node.told(), [""; 0], "announced once");
}

/// Cut before any call of the disk while a configuration is taken, and after the last: the node boots with the old or with the new one.
#[test]
fn a_cut_while_a_configuration_is_taken_leaves_the_old_one_or_the_new_one() {
    let whole_calls = {
        let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
        let before = node.bench.disk.call_count();
        node.controller.send(config([app(APP_A, "2"), app(APP_B, "2")]), "h2");
        node.pass(A_POLL);
        node.bench.disk.call_count() - before
    };
    let mut outcomes = BTreeSet::new();
    for cut in 1..=whole_calls + 1 {
        let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
        node.controller.send(config([app(APP_A, "2"), app(APP_B, "2")]), "h2");
        node.bench.disk.cut_power_at(cut);
        // The agent ends at the failed write; the steps up to there are the same.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.pass(A_POLL)));
        node.controller.go_away();
        let node = node.cut_power().start();
        outcomes.insert(node.versions().len());
        match node.versions().len() {
            1 => node.expect_versions(&[(APP_A, "1")]),
            _ => node.expect_versions(&[(APP_A, "2"), (APP_B, "2")]),
        }
    }
    assert_eq!(outcomes, BTreeSet::from([1, 2]), "both were seen");
}

/// Found by the World, drawn seed 9601: a snapshot that the newer configuration had asked for was dropped on the older one's
/// word (I3).
#[test]
fn a_configuration_read_after_a_kill_cannot_be_taken_back_by_a_cut() {
    let newer = Node::new(controller_with(config([app(APP_A, "2")]))).start();
    let bytes = newer.bench.disk.read(&newer.bench.layout.last_config_file()).unwrap();

    let node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    let (disk, saved) = (&node.bench.disk, node.bench.layout.last_config_file());
    let temporary = saved.with_file_name(".tmp~lastconfig");
    disk.create_new(&temporary, &bytes, 0o600).unwrap();
    disk.sync_file(&temporary).unwrap();
    disk.rename(&temporary, &saved).unwrap();
    node.controller.go_away();
    let node = node.killed().start();
    node.expect_versions(&[(APP_A, "2")]);
    node.cut_power().start().expect_versions(&[(APP_A, "2")]);
}

/// Found by the real kills: nothing was written over it while the controller was away, so it stayed.
#[test]
fn what_is_left_of_a_configuration_cut_off_while_it_was_saved_goes_at_the_next_start() {
    let node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    let temporary = node.bench.layout.checkpoint_dir().join(".tmp~lastconfig");
    node.bench.disk.create_new(&temporary, b"half of", 0o600).unwrap();
    node.bench.disk.sync_dir(&node.bench.layout.checkpoint_dir()).unwrap();
    node.controller.go_away();
    let node = node.cut_power();
    assert!(node.bench.disk.metadata(&temporary).unwrap().is_some(), "it survived the cut");
    let node = node.start();
    node.expect_versions(&[(APP_A, "1")]);
    assert_eq!(node.bench.disk.metadata(&temporary).unwrap(), None);
}

#[test]
fn only_what_changed_is_told_and_what_is_gone_goes() {
    let third = "cccccccc-0000-4000-8000-00000000000c";
    let mut node =
        Node::new(controller_with(config([app(APP_A, "1"), app(APP_B, "2"), app(third, "3")]))).start();
    node.told();
    node.controller.send(config([app(APP_A, "1"), app(APP_B, "5")]), "h2");
    node.pass(A_POLL);
    assert_eq!(node.told(), ["~5", "-3"]);
}

/// Removals go the other way round: an application before its volumes, those before their content.
#[test]
fn what_is_needed_comes_first_and_goes_last() {
    #[derive(Debug, PartialEq)]
    enum Seen {
        App(bool),
        Volume(bool),
        Tree(bool),
        Store(bool),
    }
    fn row<T>(change: Change<T>) -> Option<bool> {
        match change {
            Change::Created(_) => Some(true),
            Change::Deleted(_) => Some(false),
            _ => None,
        }
    }
    let mut full = config([app(APP_A, "1")]);
    full.volumes.push(blank_volume(V1, 0));
    full.content_info.push(content_tree(TREE));
    full.datastores.push(datastore(STORE));
    let mut node = Node::new(controller_with(full));
    let seen: Mailbox<Option<Seen>> = Mailbox::new();
    seen.subscribe::<AppInstanceConfig>(node.bench.bus(), |change| row(change).map(Seen::App));
    seen.subscribe::<VolumeConfig>(node.bench.bus(), |change| row(change).map(Seen::Volume));
    seen.subscribe::<ContentTreeConfig>(node.bench.bus(), |change| row(change).map(Seen::Tree));
    seen.subscribe::<DatastoreConfig>(node.bench.bus(), |change| row(change).map(Seen::Store));
    let take = || std::iter::from_fn(|| seen.try_recv()).flatten().collect::<Vec<_>>();

    node = node.start();
    assert_eq!(take(), [Seen::Store(true), Seen::Tree(true), Seen::Volume(true), Seen::App(true)]);
    node.controller.send(config([]), "h2");
    node.pass(A_POLL);
    assert_eq!(take(), [Seen::App(false), Seen::Volume(false), Seen::Tree(false), Seen::Store(false)]);
}

#[test]
fn the_same_configuration_again_is_neither_written_nor_told() {
    let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    node.told();
    let writes = node.bench.disk.call_count();
    // A controller that keeps no hashes sends everything every time.
    node.controller.send(config([app(APP_A, "1")]), "");
    node.pass(A_POLL * 3);
    assert_eq!(node.told(), [""; 0]);
    let written_once_for_the_hash = node.bench.disk.call_count();
    node.pass(A_POLL * 3);
    assert_eq!(node.bench.disk.call_count(), written_once_for_the_hash);
    assert!(written_once_for_the_hash > writes);
}

/// The controller is right whatever it sent before: that an older counter never acts is zedmanager's to see ([003] A4).
#[test]
fn an_older_configuration_is_obeyed_like_any_other() {
    let mut node = Node::new(controller_with(config([app(APP_A, "2")]))).start();
    node.controller.send(config([app(APP_A, "1")]), "h0");
    node.pass(A_POLL);
    node.expect_versions(&[(APP_A, "1")]);
}

/// [003] A9
#[test]
fn a_configuration_that_does_not_decode_leaves_the_last_good_one_in_force_and_is_reported() {
    let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    let saved = node.saved();
    node.controller.send_bytes(b"<html>502 Bad Gateway</html>");
    node.pass(A_POLL);
    node.expect_versions(&[(APP_A, "1")]);
    assert_eq!(node.saved(), saved);
    assert!(
        node.error().starts_with("the controller's configuration cannot be read: 28 bytes"),
        "{}",
        node.error()
    );
    let own = node.controller.own_report().holdfast.unwrap();
    assert_eq!(own.config_hash, "h1");
    let since = own.config_error.clone().unwrap().timestamp;

    node.pass(A_POLL * 2);
    let later = node.controller.own_report().holdfast.unwrap();
    assert_eq!(later.config_error.unwrap().timestamp, since, "the same error is not news");

    node.controller.send(config([app(APP_A, "2")]), "h2");
    node.pass(A_POLL);
    node.expect_versions(&[(APP_A, "2")]);
    assert_eq!(node.error(), "");
    assert_eq!(node.controller.own_report().holdfast.unwrap().config_error, None);
}

#[test]
fn a_configuration_for_another_device_or_none_at_all_is_not_taken() {
    let mut other = config([]);
    other.id.as_mut().unwrap().uuid = APP_A.into();
    let nobody = EdgeDevConfig::default();
    let cases = [
        (ConfigResponse { config: Some(other), config_hash: "x".into() }, "it is for the device \"aaaaaaaa-"),
        (ConfigResponse { config: Some(nobody), config_hash: "x".into() }, "it is for the device \"\""),
        (ConfigResponse { config: None, config_hash: "x".into() }, "the answer holds none"),
        (ConfigResponse::default(), "the answer holds none"),
    ];
    for (response, expected) in cases {
        let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
        node.controller.send_bytes(&response.encode_to_vec());
        node.pass(A_POLL);
        node.expect_versions(&[(APP_A, "1")]);
        assert!(node.error().contains(expected), "{}", node.error());
        // The controller comes to its senses.
        node.controller.send(config([app(APP_A, "1")]), "h1");
        node.pass(A_POLL);
        assert_eq!(node.error(), "");
    }
}

#[test]
fn a_read_only_node_keeps_what_it_has_takes_nothing_new_and_says_so() {
    let node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    let saved = node.saved();
    node.controller.send(config([]), "h2");
    let mut node = node.come_up_read_only("it failed 5 times").start();
    node.pass(A_POLL);
    node.expect_versions(&[(APP_A, "1")]);
    assert_eq!(node.saved(), saved);
    assert!(node.error().contains("the node is read-only: it failed 5 times"), "{}", node.error());
    let own = node.controller.own_report().holdfast.unwrap();
    assert_eq!((own.state.as_str(), own.config_hash.as_str()), ("read-only", "h1"));
}

/// [003] A8
#[test]
fn a_refused_application_runs_on_and_says_why_and_its_neighbour_moves_on() {
    let mut node = Node::new(controller_with(config([app(APP_A, "1"), app(APP_B, "1")]))).start();
    node.publish_status(APP_A, "1", SwState::Running);
    node.told();
    node.controller.send(config([with_snapshots(app(APP_A, "2"), &["../x"]), app(APP_B, "2")]), "h2");
    node.pass(A_POLL);
    node.expect_versions(&[(APP_A, "1"), (APP_B, "2")]);
    assert_eq!(node.told(), ["~2"]);
    assert!(node.status().refused[APP_A].summary.contains("snapshot id \"../x\" is not a UUID"));
    let report = node.controller.app_reports(APP_A).pop().unwrap();
    assert_eq!((report.app_version.as_str(), report.state), ("1", SwState::Running.number()));
    assert_eq!(report.app_err.len(), 1);
    assert_eq!(
        node.controller.own_report().holdfast.unwrap().config_error,
        None,
        "it is told where it belongs"
    );

    // Also after a restart with the controller away: nothing has been deleted.
    node.controller.go_away();
    let mut node = node.cut_power().start();
    node.expect_versions(&[(APP_A, "1"), (APP_B, "2")]);
    assert_eq!(node.told(), ["+1", "+2", "!"]);

    node.controller.come_back();
    node.controller.send(config([app(APP_A, "3"), app(APP_B, "2")]), "h3");
    node.publish_status(APP_A, "1", SwState::Running);
    node.pass(A_POLL);
    node.expect_versions(&[(APP_A, "3"), (APP_B, "2")]);
    assert!(node.status().refused.is_empty());
    assert_eq!(node.controller.app_reports(APP_A).pop().unwrap().app_err, []);
}

#[test]
fn an_application_refused_from_the_beginning_is_reported_and_not_published() {
    let nameless = with_snapshots(app("not-a-uuid", "1"), &[]);
    let mut node = Node::new(controller_with(config([nameless, app(APP_B, "1")]))).start();
    node.expect_versions(&[(APP_B, "1")]);
    assert_eq!(node.told(), ["+1", "!"]);
    let report = node.controller.app_reports("not-a-uuid").pop().unwrap();
    assert_eq!((report.state, report.app_err.len()), (SwState::Error.number(), 1));

    node.controller.send(config([app(APP_B, "1")]), "h2");
    node.pass(A_POLL);
    assert_eq!(node.controller.app_reports("not-a-uuid").pop().unwrap().state, 0, "gone, and said so");
}

#[test]
fn a_refused_content_tree_is_told_by_the_device_and_a_refused_volume_by_the_volume() {
    let mut bad = config([]);
    bad.content_info.push(wire::ContentTree { sha256: "no".into(), ..content_tree(TREE) });
    bad.volumes.push(wire::Volume { maxsizebytes: -4, ..blank_volume(V1, 3) });
    let node = Node::new(controller_with(bad)).start();
    let own = node.controller.own_report().holdfast.unwrap().config_error.unwrap();
    assert!(own.description.contains("sha256 \"no\""), "{}", own.description);
    let volume = node.controller.volume_reports().pop().unwrap();
    assert_eq!((volume.uuid.as_str(), volume.generation_count), (V1, 3));
    assert!(volume.volume_err.unwrap().description.contains("-4 bytes is negative"));
    assert_eq!(node.status().refused.len(), 2);
}

mod a_damaged_checkpoint {
    use super::*;

    fn damaged() -> Node {
        let node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
        let path = node.bench.layout.last_config_file();
        let mut bytes = node.saved().unwrap();
        bytes.truncate(bytes.len() / 2);
        holdfast_persist::crashsafe::durable_replace(&node.bench.disk, &path, &bytes).unwrap();
        node.controller.go_away();
        node.cut_power()
    }

    fn quarantined(node: &Node) -> usize {
        holdfast_persist::quarantine::list(&node.bench.disk, &node.bench.layout).unwrap().len()
    }

    #[test]
    fn is_moved_aside_and_reported_and_nothing_is_announced() {
        let mut node = damaged().start();
        assert_eq!(quarantined(&node), 1);
        assert_eq!(node.told(), [""; 0]);
        assert!(node.error().contains("the saved configuration is damaged"), "{}", node.error());

        // It stays known over a restart.
        let mut node = node.cut_power().start();
        assert!(node.error().contains("the saved configuration is damaged"), "{}", node.error());
        assert_eq!((node.told().len(), quarantined(&node)), (0, 1));

        node.controller.come_back();
        node.pass(A_POLL);
        assert_eq!(node.told(), ["+1", "!"]);
        assert_eq!(node.error(), "");
    }

    /// The application's last good configuration is lost; its absence must not read as a deletion.
    #[test]
    fn keeps_a_refused_application_from_being_taken_for_deleted() {
        let mut node = damaged().start();
        node.controller.send(config([with_snapshots(app(APP_A, "2"), &["x"]), app(APP_B, "1")]), "h2");
        node.controller.come_back();
        node.pass(A_POLL);
        node.expect_versions(&[(APP_B, "1")]);
        assert_eq!(node.told(), ["+1"], "B starts, and nobody may delete A");

        let mut node = node.cut_power().start();
        assert_eq!(node.told(), ["+1"], "nor after a restart");

        node.controller.send(config([app(APP_A, "3"), app(APP_B, "1")]), "h3");
        node.pass(A_POLL);
        assert_eq!(node.told(), ["+3", "!"]);
    }

    #[test]
    fn that_cannot_be_read_is_left_where_it_is() {
        let node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
        node.controller.go_away();
        let mut node = node.cut_power();
        node.bench.start();
        node.bench.disk.fail_at(1, io::ErrorKind::Other);
        node.bench.run_jobs();
        assert!(node.error().contains("the saved configuration cannot be read"), "{}", node.error());
        assert_eq!((node.told().len(), quarantined(&node)), (0, 0));
        assert!(node.saved().is_some());
    }
}

#[test]
fn polling_slows_down_to_its_interval_while_the_controller_is_away() {
    let controller = controller_with(config([]));
    controller.go_away();
    let mut node = Node::new(controller).start();
    node.pass(Duration::from_secs(100));
    let asked = node.controller.edit(|state| state.asked_with.len());
    assert!((11..=16).contains(&asked), "asked {asked} times in 100 s");
}

#[test]
fn reports_wait_for_the_controller_and_only_the_newest_is_sent() {
    let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    node.controller.go_away();
    for state in [SwState::Installed, SwState::Booting, SwState::Running] {
        node.publish_status(APP_A, "1", state);
        node.pass(Duration::from_secs(20));
    }
    assert!(node.controller.app_reports(APP_A).is_empty());
    assert_eq!(node.status().pending_reports, 1, "the application's; the device's own has not changed");

    node.controller.come_back();
    node.pass(A_POLL);
    let states: Vec<_> = node.controller.app_reports(APP_A).iter().map(|report| report.state).collect();
    assert_eq!(states, [SwState::Running.number()]);
    assert_eq!((node.status().pending_reports, node.error().as_str()), (0, ""));
}

#[test]
fn one_report_that_is_not_taken_holds_up_neither_the_others_nor_the_configuration() {
    let mut node = Node::new(controller_with(config([app(APP_A, "1"), app(APP_B, "1")]))).start();
    node.controller.edit(|state| state.refused_apps.insert(APP_A.into()));
    node.publish_status(APP_A, "1", SwState::Running);
    node.publish_status(APP_B, "1", SwState::Running);
    node.controller.send(config([app(APP_A, "2"), app(APP_B, "2")]), "h2");
    node.pass(A_POLL);
    assert_eq!(node.controller.app_reports(APP_B).len(), 1);
    node.expect_versions(&[(APP_A, "2"), (APP_B, "2")]);
    assert!(node.error().contains("does not take the report about application aaaaaaaa"), "{}", node.error());

    node.controller.edit(|state| state.refused_apps.clear());
    node.pass(Duration::from_secs(60));
    assert_eq!(node.controller.app_reports(APP_A).len(), 1);
    assert_eq!(node.error(), "");
}

#[test]
fn a_deleted_application_has_last_words_and_everything_is_told_again_after_a_restart() {
    let mut node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    node.publish_status(APP_A, "1", SwState::Running);
    node.publish_status(APP_B, "1", SwState::Running);
    node.bench.run_jobs();
    node.bench.unpublish::<AppInstanceStatus>(&id(APP_B));
    node.bench.run_jobs();
    let last = node.controller.app_reports(APP_B).pop().unwrap();
    assert_eq!(last, ZInfoApp { app_id: APP_B.into(), ..Default::default() });

    let mut node = node.cut_power().start();
    node.publish_status(APP_A, "1", SwState::Running);
    node.bench.run_jobs();
    assert_eq!(node.controller.app_reports(APP_A).len(), 2);
}

#[test]
fn the_record_holds_what_the_controller_sent() {
    let node = Node::new(controller_with(config([app(APP_A, "1")]))).start();
    let sent = node.controller.edit(|state| state.body.clone());
    assert!(node.saved().unwrap().starts_with(&sent));
    assert_eq!(node.bench.layout.last_config_file(), Path::new("/persist/checkpoint/lastconfig"));
}
