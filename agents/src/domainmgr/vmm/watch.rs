//! One thread that sleeps until a watched process is gone. Idle, it costs no wake-ups: it polls the pidfds without a timeout,
//! and an event descriptor tells it of new ones and of the end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

/// Called once, on the watching thread, when the process is gone.
type Then = Box<dyn FnOnce() + Send>;

struct Watch {
    pidfd: OwnedFd,
    then: Then,
}

#[derive(Default)]
struct Inbox {
    new: Vec<Watch>,
    stop: bool,
}

pub(super) struct Watcher {
    inbox: Arc<Mutex<Inbox>>,
    bell: Arc<OwnedFd>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts the thread. It ends when the watcher is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let (thread_inbox, thread_bell) = (inbox.clone(), bell.clone());
        thread::Builder::new().name("domain-watch".into()).spawn(move || run(&thread_inbox, &thread_bell))?;
        Ok(Self { inbox, bell })
    }

    /// Calls `then` once when the pidfd's process is gone, at once if it is already.
    pub(super) fn add(&self, pidfd: OwnedFd, then: Then) -> io::Result<()> {
        lock(&self.inbox).new.push(Watch { pidfd, then });
        ring(&self.bell)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        lock(&self.inbox).stop = true;
        if let Err(error) = ring(&self.bell) {
            tracing::error!(%error, "the watching thread cannot be told to end");
        }
    }
}

fn run(inbox: &Mutex<Inbox>, bell: &OwnedFd) {
    let mut watched: Vec<Watch> = Vec::new();
    loop {
        {
            let mut inbox = lock(inbox);
            if inbox.stop {
                return;
            }
            watched.append(&mut inbox.new);
        }
        match wait_for_any(bell, &watched) {
            Ok(gone) => {
                // From the back, so that the places of the others stay right.
                for place in gone.into_iter().rev() {
                    (watched.swap_remove(place).then)();
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "cannot poll the watched processes any more");
                return;
            }
        }
    }
}

/// Sleeps until the bell rings or processes are gone; the latter's places, ascending.
fn wait_for_any(bell: &OwnedFd, watched: &[Watch]) -> Result<Vec<usize>, Errno> {
    let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
    fds.extend(watched.iter().map(|watch| PollFd::from_borrowed_fd(watch.pidfd.as_fd(), PollFlags::IN)));
    poll(&mut fds, None)?;
    if !fds[0].revents().is_empty() {
        // Only empties the counter; it may be empty already.
        let _ = rustix::io::read(bell, &mut [0_u8; 8]);
    }
    let gone = |fd: &PollFd<'_>| !fd.revents().is_empty();
    Ok(fds[1..].iter().enumerate().filter(|(_, fd)| gone(fd)).map(|(place, _)| place).collect())
}

fn ring(bell: &OwnedFd) -> io::Result<()> {
    match rustix::io::write(bell, &1_u64.to_ne_bytes()) {
        // A full counter rings just as well.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::{Child, Command};
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = Pid::from_child(&child);
        (child, pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd"))
    }

    #[test]
    fn each_process_is_reported_once_when_it_is_gone_and_not_before() {
        let watcher = Watcher::start().expect("starts");
        let (told, hear) = channel();
        let (mut first, first_pidfd) = sleeper();
        let (mut second, second_pidfd) = sleeper();
        for (name, pidfd) in [("first", first_pidfd), ("second", second_pidfd)] {
            let told = told.clone();
            watcher.add(pidfd, Box::new(move || told.send(name).expect("heard"))).expect("watches");
        }
        assert_eq!(hear.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        second.kill().expect("kills");
        assert_eq!(hear.recv_timeout(Duration::from_secs(5)), Ok("second"));
        first.kill().expect("kills");
        assert_eq!(hear.recv_timeout(Duration::from_secs(5)), Ok("first"));
        first.wait().expect("reaps");
        second.wait().expect("reaps");
        drop((told, watcher));
        assert_eq!(hear.recv_timeout(Duration::from_secs(5)), Err(RecvTimeoutError::Disconnected));
    }
}
