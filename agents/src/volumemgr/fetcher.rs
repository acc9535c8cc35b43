//! The seam to content on the network: open a URL from a byte on, read what comes.
//!
//! [`HttpFetcher`] is the real one, plain HTTP over ureq. Deliberately absent: retries, limits and digests
//! (`download.rs` has them, for every implementation alike), and any place to put the bytes.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

/// Opens content. Called off the event loop.
pub trait Fetcher: Send + Sync + fmt::Debug {
    /// The content from this byte on. A server that cannot do that sends it from the beginning, and
    /// [`Opened::starts_at_bytes`] says so.
    fn open(&self, url: &str, from_bytes: u64) -> Result<Opened, FetchError>;
}

/// Content that is coming in.
pub struct Opened {
    /// Where `body` begins in the content.
    pub starts_at_bytes: u64,
    /// The length of the whole content, if the server told it.
    pub total_bytes: Option<u64>,
    pub body: Box<dyn Read + Send>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Opened")
            .field("starts_at_bytes", &self.starts_at_bytes)
            .field("total_bytes", &self.total_bytes)
            .finish_non_exhaustive()
    }
}

/// Why content cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{url} was refused with status {status}")]
    Refused { url: String, status: u16 },
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    /// The content ends before the byte asked for.
    #[error("{url} has nothing from there on")]
    NothingMore { url: String },
    #[error("{url} is not a URL that can be fetched: {reason}")]
    Unusable { url: String, reason: String },
}

/// Time to reach a server, and for it to begin its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The longest one opening may go on. Content that takes longer is resumed with another opening, so this bounds
/// how long a silent connection is waited for, not how large content can be.
const OPENING_LIMIT: Duration = Duration::from_secs(120);

/// Plain HTTP.
#[derive(Debug, Clone)]
pub struct HttpFetcher {
    agent: Agent,
}

impl HttpFetcher {
    pub fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(ANSWER_LIMIT))
            .timeout_recv_response(Some(ANSWER_LIMIT))
            .timeout_recv_body(Some(OPENING_LIMIT))
            .build();
        HttpFetcher { agent: config.into() }
    }
}

impl Default for HttpFetcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Fetcher for HttpFetcher {
    fn open(&self, url: &str, from_bytes: u64) -> Result<Opened, FetchError> {
        let mut request = self.agent.get(url);
        if from_bytes > 0 {
            request = request.header(header::RANGE, format!("bytes={from_bytes}-"));
        }
        let response = request.call().map_err(|error| cannot_open(url, error))?;
        match response.status() {
            StatusCode::OK => Ok(opened(response, 0)),
            StatusCode::PARTIAL_CONTENT => match content_range(&response) {
                Some((start, total_bytes)) if start == from_bytes => {
                    Ok(Opened { total_bytes, ..opened(response, start) })
                }
                _ => Err(FetchError::Unusable {
                    url: url.into(),
                    reason: format!("asked for bytes from {from_bytes}, it sends others"),
                }),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => Err(FetchError::NothingMore { url: url.into() }),
            status => Err(FetchError::Refused { url: url.into(), status: status.as_u16() }),
        }
    }
}

fn cannot_open(url: &str, error: ureq::Error) -> FetchError {
    let (url, reason) = (url.to_owned(), holdfast_types::error_chain(&error));
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => FetchError::Unusable { url, reason },
        _ => FetchError::Unreachable { url, reason },
    }
}

fn opened(response: Response<Body>, starts_at_bytes: u64) -> Opened {
    let total_bytes = response.body().content_length();
    Opened { starts_at_bytes, total_bytes, body: Box::new(response.into_body().into_reader()) }
}

/// First byte and length of the whole content from `bytes 7-9/10` (the length may be `*`).
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (part, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = part.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a server of the test's own")]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    /// Answers one request with this text and returns the request's head.
    fn answer_once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let url = format!("http://{}/files/image", listener.local_addr().expect("its address"));
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).expect("a request") == 1 {
                head.push(byte[0]);
            }
            connection.write_all(answer.as_bytes()).expect("room for the answer");
            String::from_utf8(head).expect("text")
        });
        (url, server)
    }

    fn read(opened: Opened) -> String {
        let Opened { mut body, .. } = opened;
        let mut text = String::new();
        body.read_to_string(&mut text).expect("the body");
        text
    }

    #[test]
    fn content_is_read_whole_and_from_a_byte_on() {
        let (url, server) = answer_once("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        let whole = HttpFetcher::new().open(&url, 0).expect("content");
        assert_eq!((whole.starts_at_bytes, whole.total_bytes), (0, Some(5)));
        assert_eq!(read(whole), "hello");
        assert!(!server.join().expect("the server").to_lowercase().contains("range:"));

        let (url, server) = answer_once(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nContent-Range: bytes 2-4/5\r\n\r\nllo",
        );
        let rest = HttpFetcher::new().open(&url, 2).expect("content");
        assert_eq!((rest.starts_at_bytes, rest.total_bytes), (2, Some(5)));
        assert_eq!(read(rest), "llo");
        assert!(server.join().expect("the server").to_lowercase().contains("range: bytes=2-"));
    }

    #[test]
    fn a_server_without_ranges_says_where_it_begins() {
        let (url, _server) = answer_once("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(HttpFetcher::new().open(&url, 2).expect("content").starts_at_bytes, 0);
    }

    #[test]
    fn refusals_name_the_url() {
        let (url, _server) = answer_once("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        let refused = HttpFetcher::new().open(&url, 0).expect_err("404");
        assert_eq!(refused.to_string(), format!("{url} was refused with status 404"));

        let (url, _server) = answer_once("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(HttpFetcher::new().open(&url, 9).expect_err("416"), FetchError::NothingMore { url });

        let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let unreachable =
            HttpFetcher::new().open(&format!("http://{gone}/x"), 0).expect_err("nobody listens");
        assert!(matches!(unreachable, FetchError::Unreachable { .. }), "{unreachable}");
        assert!(unreachable.to_string().contains(&gone.to_string()));
    }
}
