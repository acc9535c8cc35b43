//! A small blocking client for QEMU's machine protocol (QMP): one connection, a few commands, a deadline on everything.
//!
//! JSON lines over a Unix socket. QEMU greets, `qmp_capabilities` leaves its negotiation mode, then each command gets one
//! answer; events arrive in between and are skipped. QEMU serves one client at a time, so connections are kept
//! short. Deliberately absent: events, and any state between calls.

#![allow(clippy::disallowed_methods, reason = "part of the Vmm seam: it waits on a real socket")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};

/// An answer longer than this is not one of the commands we use.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("cannot connect to the control socket {}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("no answer to {command} within {} ms", within.as_millis())]
    Silent { command: String, within: Duration },
    #[error("the connection broke during {command}")]
    Broken { command: String, source: io::Error },
    #[error("no sensible answer to {command}: {answer}")]
    Nonsense { command: String, answer: String },
    #[error("{command} was refused: {reason}")]
    Refused { command: String, reason: String },
}

#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    within: Duration,
    end: Instant,
}

impl Qmp {
    /// Connects and leaves the negotiation mode. All of this connection's life must end `within` the given time.
    pub(super) fn connect(socket: &Path, within: Duration) -> Result<Self, QmpError> {
        let end = Instant::now() + within;
        let stream = connect_until(socket, end)
            .map_err(|source| QmpError::Connect { socket: socket.to_owned(), source })?;
        let mut qmp = Self { reader: BufReader::new(stream), within, end };
        let greeting = qmp.read_message("the greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Nonsense { command: "the greeting".into(), answer: greeting.to_string() });
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Carries out one command without arguments and gives what it returned.
    pub(super) fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        let line = format!("{}\n", json!({ "execute": command }));
        let broken = |source| QmpError::Broken { command: command.to_owned(), source };
        self.reader.get_mut().write_all(line.as_bytes()).map_err(broken)?;
        loop {
            let mut message = self.read_message(command)?;
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            if message.get("event").is_none() {
                return Err(QmpError::Nonsense { command: command.to_owned(), answer: message.to_string() });
            }
        }
    }

    fn read_message(&mut self, command: &str) -> Result<Value, QmpError> {
        let silent = || QmpError::Silent { command: command.to_owned(), within: self.within };
        let broken = |source| QmpError::Broken { command: command.to_owned(), source };
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let left = self.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(silent());
            }
            self.reader.get_ref().set_read_timeout(Some(left)).map_err(broken)?;
            let room = LONGEST_LINE_BYTES.saturating_sub(line.len() as u64);
            match (&mut self.reader).take(room).read_until(b'\n', &mut line) {
                Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(silent()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        serde_json::from_slice(&line).map_err(|_| QmpError::Nonsense {
            command: command.to_owned(),
            answer: String::from_utf8_lossy(&line).trim_end().to_owned(),
        })
    }
}

/// Connects, and does not hang: a stopped QEMU whose queue of clients is full would block a plain `connect` for ever.
///
/// The socket is named through its directory's descriptor, because a socket's path may have 107 bytes only.
fn connect_until(socket: &Path, end: Instant) -> io::Result<UnixStream> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let name = socket.file_name().unwrap_or_default();
    let directory =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    let address = SocketAddrUnix::new(short)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let client: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&client, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => return Err(errno.into()),
        }
    }
    let stream = UnixStream::from(client);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// Plays QEMU: sends each of `lines` after reading one line, the first one at once.
    fn serve(lines: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        // Deeper than a socket's path may be long.
        let deep = directory.path().join("x".repeat(120));
        std::fs::create_dir(&deep).expect("a directory");
        let _inside = rustix::fs::open(&deep, OFlags::PATH, Mode::empty()).expect("opens");
        let short = format!("/proc/self/fd/{}/qmp.sock", _inside.as_raw_fd());
        let listener = UnixListener::bind(short).expect("binds");
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            for (number, text) in lines.iter().enumerate() {
                if number > 0 {
                    reader.read_line(&mut String::new()).expect("a command");
                }
                reader.get_mut().write_all(text.as_bytes()).expect("sends");
            }
            let _ = reader.read_to_end(&mut Vec::new());
        });
        (directory, deep.join("qmp.sock"))
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_command_gets_its_answer_and_events_are_skipped() {
        let (_directory, socket) = serve(&[
            GREETING,
            "{\"return\": {}}\r\n",
            "{\"event\": \"RESUME\"}\r\n{\"return\": {\"status\": \"running\"}}\r\n",
        ]);
        let mut qmp = Qmp::connect(&socket, SOON).expect("connects");
        assert_eq!(qmp.execute("query-status").expect("answers")["status"], "running");
    }

    #[test]
    fn a_refusal_carries_the_reason() {
        let (_directory, socket) = serve(&[
            GREETING,
            "{\"return\": {}}\n",
            "{\"error\": {\"class\": \"X\", \"desc\": \"not now\"}}\n",
        ]);
        let error = Qmp::connect(&socket, SOON).expect("connects").execute("stop").expect_err("refused");
        assert_eq!(error.to_string(), "stop was refused: not now");
    }

    #[test]
    fn silence_nonsense_and_a_missing_socket_are_told_apart() {
        let (_directory, socket) = serve(&[GREETING]);
        let error =
            Qmp::connect(&socket, Duration::from_millis(100)).expect_err("no answer to qmp_capabilities");
        assert!(matches!(error, QmpError::Silent { .. }), "{error:?}");

        let (_directory, socket) = serve(&["SSH-2.0\n"]);
        assert!(matches!(Qmp::connect(&socket, SOON), Err(QmpError::Nonsense { .. })));

        let (directory, _) = serve(&[]);
        let missing = directory.path().join("none.sock");
        assert!(matches!(Qmp::connect(&missing, SOON), Err(QmpError::Connect { .. })));
    }
}
