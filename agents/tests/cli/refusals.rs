//! What goes wrong is told clearly, naming the thing, with an exit code that means something.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::fixture::{DIGEST, StandingNode};
use crate::support::{ask, holdfast, run};

const DEVICE: &str = "7b1c5a3e-41f0-4c0b-9d53-0c2f5ad0a001";

#[test]
fn wrong_usage_is_exit_code_2() {
    let table: [(&[&str], &str); 9] = [
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["status", "--colour"], "--colour"),
        (&["events", "--recent", "some"], "some"),
        (&["node"], "no persist directory"),
        (&["node", "--persist", "/p", "--controller", "c"], "--controller is \"c\""),
        (
            &["node", "--persist", "/p", "--controller", "http://c", "--device", "x/../y"],
            "--device is \"x/../y\"",
        ),
        (&["node", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (&["status", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ];
    for (arguments, named) in table {
        let ran = run(&mut holdfast(arguments));
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(named), "{arguments:?}: {}", ran.err);
    }
}

/// [000]: an unknown state, a bad tag, nothing to do, an unknown application; nothing is asked of the node for the first.
#[test]
fn a_wrong_setting_of_an_application_is_told_and_nothing_changes() {
    let node = StandingNode::start();
    let table: [(&[&str], u8, &str); 12] = [
        (&["app", "set", "db", "--ha-state", "paused"], 2, "\"paused\" is no high-availability state"),
        (&["app", "set", "db", "--tag", "two words"], 2, "\"two words\" is no tag"),
        (&["app", "set", "db", "--tag", "x", "--untag", "x"], 2, "set and taken away at once"),
        (&["app", "set", "db"], 2, "nothing is to be changed"),
        (&["app", "set", "nobody", "--tag", "x"], 4, "\"nobody\""),
        (&["app", "set", "db", "--tag", "x"], 1, "not ready for orders"),
        (&["rollback", "db", "s1"], 2, "snapshot id \"s1\" is not a UUID"),
        (&["rollback", "db"], 2, "<SNAPSHOT>"),
        (&["rollback", "db", S1, "--dry-run", "--yes", "x"], 2, "cannot be used with"),
        (&["snapshot", "delete", "db", "../x"], 2, "is not a UUID"),
        (&["snapshot", "create", "nobody", "--dry-run"], 4, "\"nobody\""),
        (&["snapshot", "create", "db", "--dry-run"], 1, "not ready for orders"),
    ];
    for (arguments, code, named) in table {
        let ran = ask(&node.socket, arguments);
        assert_eq!(i32::from(code), ran.code, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(named), "{arguments:?}: {}", ran.err);
    }
}

/// What guards an application is set on the node, confirmed when it is taken in, and shown as local.
#[test]
fn local_settings_are_confirmed_and_shown() {
    let node = StandingNode::start();
    node.obey();
    let set = ask(&node.socket, &["app", "set", "db", "--ha-state", "ignored", "--tag", "force_rollback"]);
    assert_eq!((set.code, set.err.as_str()), (0, ""));
    assert!(set.out.contains("ignored (local)") && set.out.contains("force_rollback (local)"), "{}", set.out);
    let apps = ask(&node.socket, &["apps"]).out;
    assert!(apps.contains("ignored (local)"), "{apps}");
    let json = ask(&node.socket, &["apps", "db", "--json"]).out;
    assert!(json.contains("\"ha_state_is_local\":true"), "{json}");
}

#[test]
fn a_node_that_stands_still_says_why_it_takes_no_setting_and_no_order() {
    let node = StandingNode::start();
    node.stand_still("nothing is started or changed: the disk does not answer");
    for arguments in [&["app", "set", "db", "--tag", "x"][..], &["snapshot", "create", "db", "--dry-run"]] {
        let ran = ask(&node.socket, arguments);
        assert_eq!(ran.code, 1, "{arguments:?}");
        assert!(ran.err.contains("nothing is started or changed"), "{arguments:?}: {}", ran.err);
    }
}

const S1: &str = "00000000-0000-4000-8000-000000000021";

/// [000] L7: without a person or a digest nothing is done; a digest of something else is refused.
#[test]
fn what_nobody_agreed_to_is_not_done() {
    let node = StandingNode::start();
    node.obey();
    let unasked = ask(&node.socket, &["rollback", "db", S1]);
    assert_eq!(unasked.code, 1);
    assert!(unasked.out.contains("stop the guest"), "the plan is shown: {}", unasked.out);
    assert!(unasked.err.contains(&format!("--yes {DIGEST}")), "{}", unasked.err);
    let refused = ask(&node.socket, &["rollback", "db", "00000000-0000-4000-8000-000000000022"]);
    assert_eq!(refused.code, 1);
    assert!(refused.out.contains("tank/copy") && refused.err.contains("nothing was done"), "{}", refused.err);
    let stale = ask(&node.socket, &["rollback", "db", S1, "--yes", "0000000000000000"]);
    assert_eq!((stale.code, stale.out.as_str()), (1, ""));
    assert!(stale.err.contains("look at the plan again; nothing was changed"), "{}", stale.err);
}

/// [004] M5, M6: a parameter in another form, one that nobody knows, and a snapshot that is nobody's.
#[test]
fn a_revert_that_cannot_be_meant_is_refused() {
    let node = StandingNode::start();
    node.obey();
    let data = "00000000-0000-4000-8000-000000000012";
    for (wrong, told) in [("fast", "KEY=VALUE"), ("=x", "KEY=VALUE")] {
        let refused = ask(&node.socket, &["volume", "revert", S1, "--param", wrong]);
        assert_eq!((refused.code, refused.out.as_str()), (2, ""));
        assert!(refused.err.contains(told) && refused.err.contains(wrong), "{}", refused.err);
    }
    let twice = ask(&node.socket, &["volume", "revert", S1, "--param", "a=1", "--param", "a=2"]);
    assert!(twice.code == 2 && twice.err.contains("given twice"), "{}", twice.err);
    let unknown =
        ask(&node.socket, &["volume", "revert", S1, "--volume", data, "--param", "speed=high", "--dry-run"]);
    assert!(unknown.out.contains("the parameter speed is refused"), "{}", unknown.out);
    let nobodys =
        ask(&node.socket, &["volume", "revert", "00000000-0000-4000-8000-000000000099", "--dry-run"]);
    assert_eq!((nobodys.code, nobodys.out.as_str()), (1, ""));
    assert!(nobodys.err.contains("there is no such snapshot on this node"), "{}", nobodys.err);
}

/// At a terminal the plan is asked about; only "yes" is a yes.
#[test]
fn a_person_at_the_terminal_is_asked() {
    let node = StandingNode::start();
    node.obey();
    for (answer, agreed) in [("yes\n", true), ("y\n", false), ("\n", false)] {
        let line =
            format!("{} rollback db {S1} --socket {}", env!("CARGO_BIN_EXE_holdfast"), node.socket.display());
        let terminal = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("HOLDFAST_CONFIG", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut terminal) = terminal else {
            eprintln!("skipped: the program `script` (util-linux) is not there");
            return;
        };
        terminal.stdin.as_mut().expect("a pipe").write_all(answer.as_bytes()).expect("typed");
        let ended = terminal.wait_with_output().expect("it ends");
        let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(shown.contains("Do this? (yes/no)"), "{shown}");
        assert_eq!(shown.contains("operation 4 has begun"), agreed, "{answer:?}: {shown}");
        assert_eq!(shown.contains("nothing was done"), !agreed, "{answer:?}: {shown}");
    }
}

#[test]
fn a_wrong_setting_is_named_with_its_place() {
    let variable =
        run(holdfast(&["node"]).env("HOLDFAST_PERSIST", "/p").env("HOLDFAST_CONTROLLER", "ftp://x"));
    assert_eq!(variable.code, 2);
    assert!(
        variable.err.contains("environment variable HOLDFAST_CONTROLLER is \"ftp://x\""),
        "{}",
        variable.err
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "persist = \"/p\"\npol_interval = \"1s\"\n").unwrap();
    let unknown = run(holdfast(&["node", "--config"]).arg(file.path()));
    assert_eq!(unknown.code, 2);
    let expected =
        format!("{}: unknown setting `pol_interval` (did you mean `poll_interval`?)", file.path().display());
    assert!(unknown.err.contains(&expected), "{}", unknown.err);
}

#[test]
fn a_socket_that_nobody_listens_on_is_exit_code_3() {
    let directory = TempDir::new().unwrap();
    let nothing = directory.path().join("h.sock");
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for socket in [nothing, stale] {
        for verb in ["status", "apps", "snapshots", "volumes", "operations", "events"] {
            let ran = ask(&socket, &[verb]);
            assert_eq!(ran.code, 3, "{verb}: {}", ran.err);
            assert!(ran.err.contains(socket.to_str().unwrap()), "{}", ran.err);
            assert_eq!(ran.out, "");
        }
    }
}

#[test]
fn the_socket_is_taken_from_the_environment_and_the_file_too() {
    let node = StandingNode::start();
    let by_variable = run(holdfast(&["apps"]).env("HOLDFAST_SOCKET", &node.socket));
    assert_eq!(by_variable.code, 0, "{}", by_variable.err);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("socket = {:?}\n", node.socket)).unwrap();
    let by_file = run(holdfast(&["apps"]).env("HOLDFAST_CONFIG", file.path()));
    assert_eq!(by_file.code, 0, "{}", by_file.err);
}

#[test]
fn an_unknown_application_is_exit_code_4() {
    let node = StandingNode::start();
    let unknown = "00000000-0000-4000-8000-000000000077";
    for arguments in
        [&["apps", unknown][..], &["apps", "a/b?c"], &["snapshots", "--app", "x"], &["events", "--app", "x"]]
    {
        let ran = ask(&node.socket, arguments);
        assert_eq!(ran.code, 4, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(arguments.last().unwrap()), "{}", ran.err);
    }
}

#[test]
fn a_persist_directory_that_cannot_be_used_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let node = |persist: &std::path::Path| {
        let socket = directory.path().join("h.sock");
        let mut command = holdfast(&["node", "--controller", "http://127.0.0.1:9", "--device", DEVICE]);
        run(command.arg("--persist").arg(persist).arg("--socket").arg(socket))
    };
    let ran = node(&file);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(&format!("{} is not a directory", file.display())), "{}", ran.err);

    let locked = directory.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read_dir(&locked).is_ok() {
        eprintln!("skipped: this user may read everything, so no directory is unreadable");
        let proc = node(std::path::Path::new("/proc/holdfast"));
        assert_eq!(proc.code, 1);
        assert!(proc.err.contains("/proc/holdfast"), "{}", proc.err);
        return;
    }
    let ran = node(&locked);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(locked.to_str().unwrap()), "{}", ran.err);
}
