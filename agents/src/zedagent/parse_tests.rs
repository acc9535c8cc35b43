//! The border, refusal by refusal ([003] A8): each row spoils one object and looks at it and at its neighbours.

use holdfast_types::{
    AppGuard, DatastoreKind, Format, Generation, Guard, HaState, SnapshotType, VolumeOrigin,
};

use super::parse::{InForce, Parsed, parse};
use super::testing::*;
use crate::wire::config as wire;

/// Everything right: two applications, two volumes, one of them downloaded.
fn good() -> wire::EdgeDevConfig {
    let mut good = config([
        with_volume(with_snapshots(app(APP_A, "1"), &[S1]), V1, 0),
        with_volume(app(APP_B, "1"), V2, 0),
    ]);
    let mut image = blank_volume(V2, 0);
    image.origin = Some(wire::VolumeContentOrigin { r#type: 2, download_content_tree_id: TREE.into() });
    good.volumes = vec![blank_volume(V1, 0), image];
    good.content_info = vec![content_tree(TREE)];
    good.datastores = vec![datastore(STORE)];
    good
}

fn first(config: &wire::EdgeDevConfig) -> Parsed {
    parse(config, &InForce::default())
}

fn reasons(parsed: &Parsed) -> Vec<String> {
    parsed.refused.iter().map(ToString::to_string).collect()
}

fn version<'a>(parsed: &'a Parsed, app: &str) -> Option<&'a str> {
    parsed.in_force.apps.get(&id(app)).map(|passed| passed.config.version())
}

#[test]
fn a_good_configuration_is_taken_whole() {
    let parsed = first(&good());
    assert_eq!(reasons(&parsed), [""; 0]);
    let app = &parsed.in_force.apps[&id(APP_A)].config;
    assert_eq!(app.snapshot.snapshots[0].id, id(S1));
    assert_eq!(app.snapshot.snapshots[0].kind, SnapshotType::AppUpdate);
    assert_eq!(app.volumes[0].generation, Generation(0));
    assert_eq!(parsed.in_force.volumes.len(), 2);
    let image = parsed.in_force.volumes.values().last().unwrap();
    assert_eq!(image.config.origin, VolumeOrigin::Download { content_tree: id(TREE) });
    let tree = &parsed.in_force.content_trees[&id(TREE)].config;
    assert_eq!(tree.sha256, "ab".repeat(32), "lower-case inside");
    assert_eq!(tree.format, Format::Qcow2);
    assert_eq!(parsed.in_force.datastores[&id(STORE)].config.kind, DatastoreKind::Http);
}

/// [003] A1: no snapshot section is an empty list, and a maximum of 0 is handed on.
#[test]
fn an_absent_snapshot_section_is_an_empty_list() {
    let parsed = first(&config([app(APP_A, "1")]));
    let snapshot = &parsed.in_force.apps[&id(APP_A)].config.snapshot;
    assert!(snapshot.snapshots.is_empty());
    assert_eq!((snapshot.active, snapshot.max_snapshots, snapshot.rollback.counter), (None, 0, 0));

    let parsed = first(&config([with_snapshots(app(APP_A, "1"), &[S1])]));
    let snapshot = &parsed.in_force.apps[&id(APP_A)].config.snapshot;
    assert_eq!((snapshot.max_snapshots, snapshot.snapshots.len()), (0, 1));
}

type Spoil = fn(&mut wire::AppInstanceConfig);

fn snapshot(app: &mut wire::AppInstanceConfig) -> &mut wire::SnapshotConfig {
    app.snapshot.get_or_insert_default()
}

/// What is wrong with application A, and what the refusal says about it.
const APP_REFUSALS: &[(Spoil, &str)] = &[
    (|app| *app = with_snapshots(app.clone(), &["../../etc"]), "snapshot id \"../../etc\" is not a UUID"),
    (|app| *app = with_snapshots(app.clone(), &[""]), "snapshot id \"\" is not a UUID"),
    (
        |app| *app = with_snapshots(app.clone(), &["55555555000040008000000000000001"]),
        "snapshot id \"55555555000040008000000000000001\" is not a UUID",
    ),
    (
        |app| *app = with_snapshots(app.clone(), &[S1]),
        "lists the snapshot 55555555-0000-4000-8000-000000000001 more than once",
    ),
    (|app| snapshot(app).snapshots[0].r#type = 7, "has the unknown type 7"),
    (|app| snapshot(app).snapshots[0].r#type = -1, "has the unknown type -1"),
    (|app| snapshot(app).active_snapshot = "s1".into(), "snapshot id \"s1\" is not a UUID"),
    (|app| app.volume_ref_list[0].uuid = "a/b".into(), "volume id \"a/b\" is not a UUID"),
    (|app| app.volume_ref_list[0].generation_count = -1, "the generation -1 of the volume"),
    (
        |app| *app = with_volume(app.clone(), V1, 1),
        "uses the volume 77777777-0000-4000-8000-000000000001 more",
    ),
];

#[test]
fn a_bad_application_is_refused_and_its_neighbour_is_not() {
    for (spoil, expected) in APP_REFUSALS {
        let mut bad = good();
        spoil(&mut bad.apps[0]);
        bad.apps[1].uuidandversion.as_mut().unwrap().version = "2".into();

        let parsed = first(&bad);
        assert_eq!(version(&parsed, APP_A), None, "refused from the beginning: not in force ({expected})");
        assert_eq!(version(&parsed, APP_B), Some("2"), "{expected}");
        assert_eq!(parsed.in_force.volumes.len(), 2, "{expected}");

        bad.apps[0].uuidandversion.as_mut().unwrap().version = "2".into();
        let before = first(&good()).in_force;
        let parsed = parse(&bad, &before);
        assert_eq!(version(&parsed, APP_A), Some("1"), "the last good one stays ({expected})");
        assert_eq!(parsed.in_force.apps[&id(APP_A)], before.apps[&id(APP_A)]);
        assert_eq!(version(&parsed, APP_B), Some("2"), "{expected}");
        let [reason] = &reasons(&parsed)[..] else { panic!("one refusal: {:?}", parsed.refused) };
        assert!(reason.contains(expected), "{reason}");
        assert!(reason.contains(APP_A) && reason.ends_with("stays in force"), "{reason}");
    }
}

#[test]
fn an_application_without_a_proper_id_is_nobody() {
    let with_slash = format!("{}/{}", &APP_A[..17], &APP_A[18..]);
    for bad_id in ["", "db", "../../../etc/passwd", "{aaaaaaaa-0000-4000-8000-0000000001}", &with_slash] {
        let parsed = first(&config([app(APP_B, "1"), with_id(app(APP_A, "1"), bad_id)]));
        assert_eq!(parsed.in_force.apps.len(), 1);
        assert_eq!(parsed.refused[0].id, bad_id);
        assert!(!parsed.refused[0].keeps_last_good);
    }
    let nameless = wire::AppInstanceConfig::default();
    let parsed = first(&config([nameless, app(APP_B, "1")]));
    assert_eq!((parsed.in_force.apps.len(), parsed.refused.len()), (1, 1));
}

fn with_id(mut app: wire::AppInstanceConfig, uuid: &str) -> wire::AppInstanceConfig {
    app.uuidandversion.as_mut().unwrap().uuid = uuid.into();
    app
}

#[test]
fn a_long_or_unprintable_id_is_shown_short_and_plain() {
    let parsed = first(&config([with_id(app(APP_A, "1"), &format!("a\n\u{1b}[31m{}", "x".repeat(1 << 20)))]));
    let refused = &parsed.refused[0];
    assert!(refused.id.chars().count() <= 65 && !refused.id.contains(char::is_control), "{refused:?}");
    assert!(refused.to_string().chars().count() < 300);
}

/// In whatever case it is written, and also when one of the copies is bad in itself.
#[test]
fn the_same_application_twice_is_refused_once() {
    let before = parse(&config([app(APP_A, "1")]), &InForce::default()).in_force;
    let shouted = with_id(app(APP_A, "3"), &APP_A.to_uppercase());
    let spoiled = with_snapshots(app(APP_A, "3"), &["x"]);
    for twin in [shouted, spoiled, app(APP_A, "2")] {
        let parsed = parse(&config([app(APP_A, "2"), twin, app(APP_B, "2")]), &before);
        assert_eq!(version(&parsed, APP_A), Some("1"));
        assert_eq!(version(&parsed, APP_B), Some("2"));
        let [reason] = &reasons(&parsed)[..] else { panic!("one refusal: {:?}", parsed.refused) };
        assert!(reason.contains("listed more than once"), "{reason}");
    }
}

mod claims {
    use super::*;

    fn listing(a: &[&str], b: &[&str], version: &str) -> wire::EdgeDevConfig {
        config([with_snapshots(app(APP_A, version), a), with_snapshots(app(APP_B, version), b)])
    }

    fn after(first_config: wire::EdgeDevConfig, second: wire::EdgeDevConfig) -> Parsed {
        parse(&second, &first(&first_config).in_force)
    }

    #[test]
    fn a_snapshot_stays_with_the_application_that_had_it() {
        let parsed = after(listing(&[S1], &[], "1"), listing(&[S1], &[S1], "2"));
        assert_eq!((version(&parsed, APP_A), version(&parsed, APP_B)), (Some("2"), Some("1")));
        assert!(reasons(&parsed)[0].contains(&format!("belongs to the application {APP_A}")));

        let parsed = after(listing(&[], &[S1], "1"), listing(&[S1], &[S1], "2"));
        assert_eq!((version(&parsed, APP_A), version(&parsed, APP_B)), (Some("1"), Some("2")));
    }

    #[test]
    fn a_snapshot_new_to_both_is_nobodys() {
        let parsed = after(listing(&[], &[], "1"), listing(&[S1], &[S1], "2"));
        assert_eq!((version(&parsed, APP_A), version(&parsed, APP_B)), (Some("1"), Some("1")));
        assert_eq!(parsed.refused.len(), 2);
        assert_eq!(first(&listing(&[S1], &[S1], "1")).in_force.apps.len(), 0);
    }

    #[test]
    fn a_snapshot_may_move_when_the_one_who_had_it_drops_it() {
        let parsed = after(listing(&[S1], &[], "1"), listing(&[], &[S1], "2"));
        assert_eq!(reasons(&parsed), [""; 0]);
    }

    /// A drops S1 but is refused for another reason, so it still has S1, and B cannot have it.
    #[test]
    fn a_refused_application_keeps_its_snapshots() {
        let parsed = after(listing(&[S1], &[], "1"), listing(&["x"], &[S1], "2"));
        assert_eq!((version(&parsed, APP_A), version(&parsed, APP_B)), (Some("1"), Some("1")));
        assert_eq!(parsed.refused.len(), 2);
    }

    /// B is refused for S1, goes back to listing S2, and so A, which wanted S2, is refused too.
    #[test]
    fn refusals_are_followed_to_the_end() {
        let third = "cccccccc-0000-4000-8000-00000000000c";
        let mut before = listing(&[], &[S2], "1");
        before.apps.push(with_snapshots(app(third, "1"), &[S1]));
        let mut next = listing(&[S2], &[S1], "2");
        next.apps.push(with_snapshots(app(third, "2"), &[S1]));
        let parsed = after(before, next);
        let versions = [APP_A, APP_B, third].map(|app| version(&parsed, app));
        assert_eq!(versions, [Some("1"), Some("1"), Some("2")]);
    }

    #[test]
    fn the_active_snapshot_may_not_be_anothers() {
        let mut next = listing(&[S1], &[], "2");
        snapshot(&mut next.apps[1]).active_snapshot = S1.into();
        let parsed = after(listing(&[S1], &[], "1"), next);
        assert_eq!((version(&parsed, APP_A), version(&parsed, APP_B)), (Some("2"), Some("1")));

        // Unknown to everybody: zedmanager says so, when a rollback to it is asked for.
        let mut unknown = listing(&[S1], &[], "2");
        snapshot(&mut unknown.apps[0]).active_snapshot = S2.into();
        assert_eq!(reasons(&first(&unknown)), [""; 0]);
    }

    #[test]
    fn the_same_configuration_again_gives_the_same_result() {
        let before = first(&listing(&[S1], &[], "1")).in_force;
        for next in [listing(&[S1], &[S1], "2"), listing(&["x"], &[S1], "2"), listing(&[S2], &[S2], "2")] {
            let once = parse(&next, &before);
            assert_eq!(parse(&next, &once.in_force), once);
        }
    }
}

type SpoilConfig = fn(&mut wire::EdgeDevConfig);

/// What is wrong with a volume, a content tree or a datastore; who is refused; what is said.
const OTHER_REFUSALS: &[(SpoilConfig, &str, &str)] = &[
    (|c| c.volumes[0].uuid = "v".into(), "v", "volume id \"v\" is not a UUID"),
    (|c| c.volumes[0].generation_count = -2, V1, "the generation -2"),
    (|c| c.volumes[0].maxsizebytes = -1, V1, "size of -1 bytes is negative"),
    (|c| c.volumes[0].maxsizebytes = 0, V1, "made blank and has no size"),
    (|c| c.volumes[0].origin = None, V1, "unknown type 0"),
    (|c| c.volumes[0].origin.as_mut().unwrap().r#type = 9, V1, "unknown type 9"),
    (|c| c.volumes[0].origin.as_mut().unwrap().r#type = 2, V1, "content tree id \"\" is not a UUID"),
    (|c| c.volumes.push(c.volumes[0].clone()), V1, "listed more than once"),
    (|c| c.content_info[0].uuid = "t/".into(), "t/", "content tree id \"t/\" is not a UUID"),
    (|c| c.content_info[0].iformat = 2, TREE, "format 2"),
    (|c| c.content_info[0].iformat = 0, TREE, "format 0"),
    (|c| c.content_info[0].sha256 = "ab".into(), TREE, "sha256 \"ab\" is not 64 hexadecimal digits"),
    (|c| c.content_info[0].sha256 = "zz".repeat(32), TREE, "is not 64 hexadecimal digits"),
    (|c| c.content_info[0].ds_ids_list.clear(), TREE, "names no datastore"),
    (|c| c.content_info[0].ds_ids_list.push("d".into()), TREE, "datastore id \"d\" is not a UUID"),
    (|c| c.content_info.push(c.content_info[0].clone()), TREE, "listed more than once"),
    (|c| c.datastores[0].id = "d".into(), "d", "datastore id \"d\" is not a UUID"),
    (|c| c.datastores[0].fqdn.clear(), STORE, "names no host"),
    (|c| c.datastores.push(c.datastores[0].clone()), STORE, "listed more than once"),
];

#[test]
fn a_bad_volume_tree_or_store_is_refused_alone_and_its_last_good_stays() {
    let before = first(&good()).in_force;
    for (spoil, refused, expected) in OTHER_REFUSALS {
        let mut bad = good();
        spoil(&mut bad);
        let parsed = parse(&bad, &before);
        let [refusal] = &parsed.refused[..] else { panic!("{expected}: {:?}", parsed.refused) };
        assert_eq!(refusal.id, *refused);
        assert!(refusal.to_string().contains(expected), "{refusal}");
        assert_eq!(parsed.in_force.apps, before.apps, "{expected}");
        if refusal.keeps_last_good {
            assert_eq!(parsed.in_force, before, "{expected}");
        }
    }
}

#[test]
fn generations_of_one_volume_stand_side_by_side() {
    let mut two = good();
    two.volumes.push(blank_volume(V1, 1));
    assert_eq!(first(&two).in_force.volumes.len(), 3);

    two.volumes[2].maxsizebytes = -1;
    let parsed = parse(&two, &first(&good()).in_force);
    assert_eq!(parsed.in_force.volumes.len(), 2, "generation 0 is good and no stand-in for generation 1");
    assert!(!parsed.refused[0].keeps_last_good);
}

#[test]
fn the_older_field_for_the_datastore_is_read() {
    let mut old = good();
    old.content_info[0].ds_ids_list.clear();
    old.content_info[0].ds_id = STORE.into();
    let parsed = first(&old);
    assert_eq!(parsed.in_force.content_trees[&id(TREE)].config.datastores, [id(STORE)]);
}

#[test]
fn a_content_tree_may_come_without_a_digest_and_a_store_may_be_of_another_kind() {
    let mut plain = good();
    plain.content_info[0].sha256.clear();
    plain.datastores[0].d_type = 5;
    let parsed = first(&plain);
    assert_eq!(reasons(&parsed), [""; 0]);
    assert_eq!(parsed.in_force.datastores[&id(STORE)].config.kind, DatastoreKind::Unsupported(5));
}

/// A volume that nobody configured is volumemgr's to report, on the volume; it is no fault of the application's form.
#[test]
fn a_reference_to_a_volume_that_is_not_configured_passes() {
    let parsed = first(&config([with_volume(app(APP_A, "1"), V1, 4)]));
    assert_eq!(parsed.in_force.apps[&id(APP_A)].config.volumes[0].generation, Generation(4));
}

/// [000] L1, L6: what guards an application is read as it is; nothing in it refuses the application.
#[test]
fn the_guard_is_read_and_what_is_none_is_kept_apart() {
    let guard_of = |state: &str, tags: &[&str]| {
        let mut message = app(APP_A, "1");
        message.holdfast = Some(crate::wire::config::HoldfastAppExtension {
            ha_state: state.into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        });
        let parsed = first(&config([message]));
        assert!(parsed.refused.is_empty(), "{:?}", parsed.refused);
        parsed.in_force.apps.values().next().expect("in force").config.guard.clone()
    };
    assert_eq!(guard_of("", &[]), AppGuard::default());
    assert_eq!(guard_of("started", &[]).ha_state, Guard::Managed(HaState::Started));
    assert_eq!(guard_of("Started", &[]).ha_state, Guard::Unreadable("Started".into()));
    let long = guard_of(&"x".repeat(1000), &[]).ha_state;
    assert!(
        matches!(long, Guard::Unreadable(text) if text.chars().count() <= 65),
        "short enough to be shown"
    );
    let guard = guard_of("ignored", &["force_rollback; a", "two words,b", ""]);
    assert_eq!(guard.tags, ["a", "b", "force_rollback"].map(String::from).into());
    assert_eq!(guard.refused_tags, ["two words".to_owned()].into());
}
