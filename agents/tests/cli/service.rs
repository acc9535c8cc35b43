//! The node as a process: comes up, says so, refuses a second one, stops in order, and learns from failed starts.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Running, ask, holdfast, run, until};

const DEVICE: &str = "7b1c5a3e-41f0-4c0b-9d53-0c2f5ad0a001";

/// Directories of one node.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: TempDir::new().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/h.sock")
    }

    fn persist(&self) -> PathBuf {
        self.directory.path().join("persist")
    }

    /// A node here; nobody listens at its controller's address.
    fn node(&self) -> Command {
        self.node_on(&self.persist(), &self.socket())
    }

    fn node_on(&self, persist: &Path, socket: &Path) -> Command {
        let mut command = holdfast(&["node", "--controller", "http://127.0.0.1:9", "--device", DEVICE]);
        command.args(["--accel", "tcg"]).arg("--persist").arg(persist).arg("--socket").arg(socket);
        command
    }

    fn start(&self) -> Running {
        let running = Running(self.node().spawn().unwrap());
        self.until_ready();
        running
    }

    fn until_ready(&self) {
        until("the node is ready", || ask(&self.socket(), &["status"]).out.contains("ready"));
    }
}

#[test]
fn a_node_comes_up_and_stops_in_order() {
    let place = Place::new();
    let node = place.start();
    let found = std::fs::symlink_metadata(place.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    let directory = std::fs::metadata(place.socket().parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o750);
    let status = ask(&place.socket(), &["status", "--json"]).out;
    assert!(status.contains(DEVICE) && status.contains("\"mode\":\"normal\""), "{status}");

    node.signal("TERM");
    let (code, err) = node.ended();
    assert_eq!(code, Some(0), "{err}");
    assert!(!place.socket().exists(), "the socket is gone with the node");
    assert!(!place.socket().with_extension("sock.starts").exists(), "a stop in order is no failed start");
}

#[test]
fn a_second_node_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let first = place.start();
    let elsewhere = place.directory.path().join("other");
    let same_persist = run(&mut place.node_on(&place.persist(), &elsewhere.join("h.sock")));
    assert_eq!(same_persist.code, 1);
    let expected = format!("{} is in use by another node", place.persist().display());
    assert!(same_persist.err.contains(&expected), "{}", same_persist.err);

    let same_socket = run(&mut place.node_on(&elsewhere, &place.socket()));
    assert_eq!(same_socket.code, 1);
    let expected = format!("another node listens on the socket {}", place.socket().display());
    assert!(same_socket.err.contains(&expected), "{}", same_socket.err);

    assert_eq!(ask(&place.socket(), &["status"]).code, 0);
    first.signal("INT");
    assert_eq!(first.ended().0, Some(0));
}

#[test]
fn a_socket_left_by_a_killed_node_is_replaced_and_a_file_is_not() {
    let place = Place::new();
    let killed = place.start();
    killed.signal("KILL");
    assert_eq!(killed.ended().0, None);
    assert!(place.socket().exists(), "left behind");
    drop(place.start());

    std::fs::remove_file(place.socket()).unwrap();
    std::fs::write(place.socket(), "mine").unwrap();
    let refused = run(&mut place.node());
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("is in the way of the socket"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(place.socket()).unwrap(), "mine");
}

#[test]
fn a_node_that_keeps_failing_comes_up_read_only_and_says_why() {
    let place = Place::new();
    let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
    let failed = serde_json::json!({ "at": now, "ready": true, "failure": "zedmanager: no luck" });
    std::fs::create_dir(place.socket().parent().unwrap()).unwrap();
    let noted = serde_json::json!([failed, failed, failed]).to_string();
    std::fs::write(place.socket().with_extension("sock.starts"), noted).unwrap();
    let read_only = place.start();
    let status = ask(&place.socket(), &["status"]).out;
    assert!(
        status.contains("read-only: 3 starts failed within 10 minutes, the last: zedmanager: no luck"),
        "{status}"
    );
    // A stop in order is the operator's word that all is well again.
    read_only.signal("TERM");
    assert_eq!(read_only.ended().0, Some(0));
    let _again = place.start();
    assert!(ask(&place.socket(), &["status"]).out.contains("(normal)"));
}

#[test]
fn the_service_manager_hears_of_everything() {
    let place = Place::new();
    let manager = Manager::listen(&place);
    let mut command = place.node();
    let node = Running(manager.adopt(&mut command).spawn().unwrap());
    manager.hear("READY=1");
    manager.hear("WATCHDOG=1");
    manager.hear("STATUS=0 of 0 applications running");
    manager.hear("WATCHDOG=1");
    node.signal("TERM");
    manager.hear("STOPPING=1");
    assert_eq!(node.ended().0, Some(0));
}

/// A stand-in for systemd's notification socket.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn listen(place: &Place) -> Self {
        let path = place.directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Manager { path, socket }
    }

    fn adopt<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "300000")
    }

    /// Waits for a line that begins with this, passing over others.
    fn hear(&self, word: &str) {
        let mut buffer = [0; 4096];
        until(word, || {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no {word}: {e}"));
            String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line.starts_with(word))
        });
    }
}

#[test]
fn logs_are_json_when_asked_for() {
    let place = Place::new();
    let node = Running(place.node().args(["--log-format", "json", "--log", "debug"]).spawn().unwrap());
    place.until_ready();
    node.signal("TERM");
    let (code, err) = node.ended();
    assert_eq!(code, Some(0));
    for line in err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}
