//! `--watch`: until it is over, and with what result.

use std::time::Duration;

use crate::fixture::StandingNode;
use crate::support::{Running, ask, holdfast};

#[test]
fn a_watched_operation_that_fails_fails_the_watch() {
    let node = StandingNode::start();
    let mut command = holdfast(&["operations", "--watch", "--app", "db", "--socket"]);
    let mut watching = Running(command.arg(&node.socket).spawn().unwrap());
    // It looks several times a second; the operation goes on meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    assert!(watching.0.try_wait().unwrap().is_none(), "nothing is over yet");
    node.fail_the_rollback();
    let out = watching.0.stdout.take().unwrap();
    let (code, err) = watching.ended();
    assert_eq!((code, err.trim()), (Some(1), "holdfast: an operation failed"));
    let out = std::io::read_to_string(out).unwrap();
    assert_eq!(out, "db rollback 3  failed: volume \"data\": no space left\n");
}

#[test]
fn nothing_to_watch_is_said() {
    let node = StandingNode::start();
    let ran = ask(&node.socket, &["operations", "--watch", "--app", "web"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "no operation runs\n", ""));
    let ran = ask(&node.socket, &["volumes", "--watch", "--app", "db"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "no volume is being made\n", ""));
}
