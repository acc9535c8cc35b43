//! The host's end of the lines: listens, and hands on what comes, with the connection it came by.
//!
//! Connections are numbered as they come. Those of a machine whose power went may still have something to say; whoever listens
//! knows them by their lower numbers, since a machine's warden is the first of it to connect.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::lines::{FromInside, Line, ToInside, say};

pub type Connection = u64;

#[derive(Debug)]
pub struct Supervisor {
    address: SocketAddr,
    heard: Receiver<(Connection, FromInside)>,
    streams: Arc<Mutex<BTreeMap<Connection, TcpStream>>>,
}

impl Supervisor {
    pub fn start() -> io::Result<Supervisor> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (sender, heard) = channel();
        let streams = Arc::new(Mutex::new(BTreeMap::new()));
        let kept = Arc::clone(&streams);
        std::thread::spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                if let Err(error) = accept(number, stream, &sender, &kept) {
                    eprintln!("supervisor: {error}");
                }
            }
        });
        Ok(Supervisor { address, heard, streams })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next message, waited for until then.
    pub fn hear(&self, until: Instant) -> Option<(Connection, FromInside)> {
        self.heard.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    /// One message to the inner machine. Whether its power is still on shows when it answers.
    pub fn say(&self, to: Connection, message: &ToInside) {
        let mut streams = self.streams.lock().expect("no holder panics");
        if let Some(stream) = streams.get_mut(&to) {
            let _ = say(stream, message);
        }
    }
}

/// Reads the connection on a thread of its own, until it ends.
fn accept(
    number: Connection,
    stream: TcpStream,
    sender: &Sender<(Connection, FromInside)>,
    streams: &Arc<Mutex<BTreeMap<Connection, TcpStream>>>,
) -> io::Result<()> {
    streams.lock().expect("no holder panics").insert(number, stream.try_clone()?);
    let mut line = Line::new(stream)?;
    let (sender, streams) = (sender.clone(), Arc::clone(streams));
    std::thread::spawn(move || {
        while let Ok(Some(message)) = line.hear() {
            if sender.send((number, message)).is_err() {
                break;
            }
        }
        streams.lock().expect("no holder panics").remove(&number);
    });
    Ok(())
}
