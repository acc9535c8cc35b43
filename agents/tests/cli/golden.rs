//! Transcripts: what the binary prints about the standing node, as tables and as JSON.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use crate::fixture::{DIGEST, StandingNode, id};
use crate::support::{Running, ask, holdfast, run};

/// Compares with the transcript of this name, or writes it if `UPDATE_GOLDEN` is set.
fn expect(name: &str, printed: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, printed).expect("the transcript can be written");
        return;
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        golden == printed,
        "{} differs (UPDATE_GOLDEN=1 writes it anew)\n--- expected\n{golden}\n--- printed\n{printed}",
        file.display()
    );
}

#[test]
fn answers_are_tables_for_people_and_the_apis_json_for_programs() {
    let node = StandingNode::start();
    let questions: [(&str, &[&str]); 8] = [
        ("status", &["status"]),
        ("apps", &["apps"]),
        ("app-db", &["apps", "db"]),
        ("app-web", &["apps", "00000000-0000-4000-8000-000000000002"]),
        ("snapshots", &["snapshots"]),
        ("snapshots-web", &["snapshots", "--app", "web"]),
        ("volumes", &["volumes"]),
        ("operations", &["operations"]),
    ];
    for (name, arguments) in questions {
        let table = ask(&node.socket, arguments);
        assert_eq!((table.code, table.err.as_str()), (0, ""), "{name}");
        expect(&format!("{name}.txt"), &table.out);
        let json = ask(&node.socket, &[arguments, &["--json"]].concat());
        assert_eq!((json.code, json.err.as_str()), (0, ""), "{name}");
        expect(&format!("{name}.json"), &json.out);
    }
}

/// [000] L8: what a person reads before anything is done, and after.
#[test]
fn plans_are_shown_and_orders_answered() {
    let node = StandingNode::start();
    node.obey();
    let (s1, s2, data) = (id(21).to_string(), id(22).to_string(), id(12).to_string());
    let asked: [(&str, &[&str], u8); 10] = [
        ("plan-rollback", &["rollback", "db", &s1, "--dry-run"], 0),
        ("plan-rollback-refused", &["rollback", "db", &s2, "--dry-run"], 0),
        ("plan-create", &["snapshot", "create", "db", "--dry-run"], 0),
        ("plan-delete", &["snapshot", "delete", "db", &s1, "--dry-run"], 0),
        ("order-rollback", &["rollback", "db", &s1, "--yes", DIGEST], 0),
        ("order-delete", &["snapshot", "delete", "db", &s1, "--yes", DIGEST], 0),
        ("plan-revert", &["volume", "revert", &s1, "--volume", &data, "--dry-run"], 0),
        ("plan-revert-refused", &["volume", "revert", &s1, "--dry-run"], 0),
        (
            "order-revert",
            &["volume", "revert", &s1, "--volume", &data, "--param", "copy-method=copy", "--yes", DIGEST],
            0,
        ),
        ("order-repeated", &["rollback", "db", &s1, "--yes", "1111111111111111"], 1),
    ];
    for (name, arguments, code) in asked {
        let told = ask(&node.socket, arguments);
        assert_eq!(told.code, i32::from(code), "{name}: {}", told.err);
        expect(&format!("{name}.txt"), &told.out);
        let json = ask(&node.socket, &[arguments, &["--json"]].concat());
        expect(&format!("{name}.json"), &json.out);
    }
}

#[test]
fn filters_leave_out_the_others() {
    let node = StandingNode::start();
    let of_web = ask(&node.socket, &["volumes", "--app", "web"]).out;
    assert!(of_web.contains("site") && !of_web.contains("image"), "{of_web}");
    let of_db = ask(&node.socket, &["operations", "--app", &id(1).to_string(), "--json"]).out;
    assert!(of_db.contains("rollback") && !of_db.contains("\"web\""), "{of_db}");
}

#[test]
fn secrets_of_a_configuration_never_leave_the_node() {
    let node = StandingNode::start();
    for arguments in [&["status"][..], &["apps"], &["apps", "db"], &["operations"], &["snapshots"]] {
        let json = ask(&node.socket, &[arguments, &["--json"]].concat()).out;
        assert!(!json.contains("secret"), "{json}");
    }
}

#[test]
fn events_are_followed_until_the_node_ends() {
    let mut node = StandingNode::start();
    let mut transcripts = Vec::new();
    for json in [&[][..], &["--json"]] {
        let mut command = holdfast(&["events", "--recent", "100"]);
        let child = command.args(json).arg("--socket").arg(&node.socket).spawn().expect("it runs");
        let mut follower = Running(child);
        let mut lines = BufReader::new(follower.0.stdout.take().expect("a pipe"));
        let mut printed = String::new();
        while !printed.contains("is not a UUID") {
            let read = lines.read_line(&mut printed).expect("it prints UTF-8");
            assert!(read > 0, "it ended early: {printed}");
        }
        transcripts.push((follower, printed));
    }
    node.stop();
    let names = ["events.txt", "events.jsonl"];
    for ((follower, printed), name) in transcripts.into_iter().zip(names) {
        let (code, err) = follower.ended();
        assert_eq!(code, Some(3), "{err}");
        assert!(err.contains("has ended"), "{err}");
        expect(name, &printed);
    }
}

#[test]
fn metrics_are_prometheus_text() {
    let node = StandingNode::start();
    expect("metrics.txt", &http_get(&node.socket, "/metrics"));
}

#[test]
fn help_is_something_to_work_from() {
    for (name, arguments) in [
        ("help.txt", &["--help"][..]),
        ("help-node.txt", &["node", "--help"]),
        ("help-rollback.txt", &["rollback", "--help"]),
        ("help-volume-revert.txt", &["volume", "revert", "--help"]),
    ] {
        let help = run(&mut holdfast(arguments));
        assert_eq!(help.code, 0);
        expect(name, &help.out);
    }
}

/// The body of an answer, by hand: a reader of metrics is no client of ours.
fn http_get(socket: &std::path::Path, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the node listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_string()
}
