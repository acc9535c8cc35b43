//! What the two sides say to each other: one JSON document per line, over TCP.
//!
//! ```text
//!   warden   ── Hello ──▶        the machine has booted; what was under way, by the rows
//!            ◀── Promises ──     ── Verdict ──▶
//!            ◀── Begin ──        the node starts
//!            ◀── Look ──         ── Verdict ──▶     as often as the host likes
//!   guest    ── Starting ──▶     what it found; nothing is written yet
//!            ◀── Mark ──         what to write
//!            ── Written ──▶      it is durable
//! ```
//!
//! A guest writes nothing before its mark has come: so the host knows of every write before it begins.

use std::io::{self, BufRead, BufReader, Write as _};
use std::net::TcpStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::real_kills::content::Write;
use crate::real_kills::model::Model;
use crate::real_kills::tally::Hit;

/// From the inner machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromInside {
    Hello {
        hit: Hit,
        phase: String,
    },
    /// `Err` says what is wrong.
    Verdict(Result<(), String>),
    Starting {
        version: u32,
        found: Vec<Found>,
    },
    Written,
}

/// A guest's disk at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    pub path: String,
    pub digest: String,
}

/// From the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToInside {
    Promises(Box<Model>),
    Begin,
    Look {
        model: Box<Model>,
        rollback_counter: u32,
        may_leak: bool,
    },
    /// One write per disk.
    Mark(Vec<Write>),
}

/// Both ends of a connection have one.
#[derive(Debug)]
pub struct Line {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Line {
    pub fn new(stream: TcpStream) -> io::Result<Line> {
        stream.set_nodelay(true)?;
        Ok(Line { reader: BufReader::new(stream.try_clone()?), writer: stream })
    }

    pub fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        say(&mut self.writer, message)
    }

    /// The next message; none at the end.
    pub fn hear<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut text = String::new();
        if self.reader.read_line(&mut text)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).map_err(io::Error::other)
    }
}

pub fn say(stream: &mut TcpStream, message: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    stream.write_all(&text)
}
