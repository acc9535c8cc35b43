//! The link to the controller: the one seam through which a node fetches its configuration and posts reports.
//!
//! ```text
//!   fetch_config ──POST id/<device>/config──▶ 304 or the same hash ─▶ Unchanged
//!                                             200, decodes         ─▶ Config { raw, response }
//!                                             200, does not decode ─▶ Undecodable { raw, error }
//!                                             anything else        ─▶ LinkError
//!   post_info    ──POST id/<device>/info────▶ any 2xx: taken; anything else ─▶ LinkError
//! ```
//!
//! Calls block, have deadlines, and are made once: when to try again is the caller's business. A body that does
//! not decode is an answer and not an error of the link, because the caller reports it ([003] A9). TLS is deliberately
//! absent; an `https://` controller is refused by name rather than spoken to in the clear.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use uuid::Uuid;

use super::codec::{self, DecodeError};
use super::config::{ConfigRequest, ConfigResponse};
use super::info::ZInfoMsg;

/// The path under the controller's address below which the device API stands.
pub const API_BASE: &str = "/api/v2/edgedevice";

/// How much of a refusal's body is quoted: enough for a sentence, not for a page.
const EXCERPT_LIMIT_BYTES: u64 = 300;

/// What a node needs of its controller. The simulation puts its own controller behind it.
pub trait ControllerLink: Send + Sync + Debug {
    /// Asks for the configuration, naming the hash of the one in hand.
    ///
    /// Changes nothing on either side; a crash in the middle costs one question.
    fn fetch_config(&self, request: &ConfigRequest) -> Result<Fetched, LinkError>;

    /// Delivers one report. On `Ok` the controller has it. On an error it may or may not have it: reports carry
    /// whole states, so sending one again is always right.
    fn post_info(&self, message: &ZInfoMsg) -> Result<(), LinkError>;
}

/// What the controller answered to a question for the configuration.
// One exists per question, for a moment: a box would only be in the caller's way.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Fetched {
    /// The configuration in hand is the newest.
    Unchanged,
    /// A new one; `raw` is the body as received, to be kept as the last good one.
    Config { raw: Vec<u8>, response: ConfigResponse },
    /// An answer that is no configuration. The one in hand stays in force.
    Undecodable { raw: Vec<u8>, error: DecodeError },
}

/// Why the controller could not be asked or told.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("`{url}` is not a controller's address: {reason}")]
    Address { url: String, reason: &'static str },
    #[error("`{url}` asks for TLS, which this release cannot speak; use an http:// address")]
    TlsUnsupported { url: String },
    #[error("cannot reach {url}")]
    Unreachable {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("no answer from {url} within {limit:?}")]
    Timeout { url: String, limit: Duration },
    #[error("{url} answered with status {status}{}", quoted(.excerpt))]
    Status { url: String, status: u16, excerpt: String },
    #[error("the answer of {url} is larger than {limit_bytes} bytes")]
    TooLarge { url: String, limit_bytes: u64 },
    #[error("{url} does not speak proper HTTP: {reason}")]
    Protocol { url: String, reason: String },
}

fn quoted(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") }
}

/// The bounds of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSettings {
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// For the whole call, answer included.
    pub call_timeout: Duration,
    /// A device configuration is some hundred KiB at most; more is a mistake or an attack.
    pub answer_limit_bytes: u64,
}

impl Default for LinkSettings {
    fn default() -> Self {
        LinkSettings {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            answer_limit_bytes: 16 << 20,
        }
    }
}

/// The device API over plain HTTP.
#[derive(Debug)]
pub struct HttpLink {
    /// The controller's address with the API's path, up to the device's id.
    device_url: String,
    agent: ureq::Agent,
    settings: LinkSettings,
}

/// A status and its body, both within the bounds.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl HttpLink {
    /// A link to the controller at `controller` (`http://host:port`, with or without a path) for one device.
    ///
    /// Checks the address and connects to nothing.
    pub fn new(controller: &str, device: Uuid) -> Result<Self, LinkError> {
        Self::with_settings(controller, device, LinkSettings::default())
    }

    pub fn with_settings(controller: &str, device: Uuid, settings: LinkSettings) -> Result<Self, LinkError> {
        let base = checked_address(controller)?;
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_global(Some(settings.call_timeout))
            .http_status_as_error(false)
            // A redirect would turn the POST into something else; it is shown as the status it is.
            .max_redirects(0)
            // The controller is where the operator said it is, whatever proxy the environment names.
            .proxy(None)
            .build()
            .new_agent();
        Ok(HttpLink { device_url: format!("{base}{API_BASE}/id/{device}"), agent, settings })
    }

    fn post(&self, endpoint: &str, body: &[u8]) -> Result<(String, Answer), LinkError> {
        let url = format!("{}/{endpoint}", self.device_url);
        let answer = self.agent.post(&url).header("content-type", codec::CONTENT_TYPE).send(body);
        let answer = answer.and_then(|response| self.read(response));
        match answer {
            Ok(answer) => Ok((url, answer)),
            Err(error) => Err(self.explain(url, error)),
        }
    }

    fn read(&self, mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
        let status = response.status().as_u16();
        let limit_bytes = self.settings.answer_limit_bytes;
        let body = response.body_mut().with_config().limit(limit_bytes).read_to_vec()?;
        Ok(Answer { status, body })
    }

    fn explain(&self, url: String, error: ureq::Error) -> LinkError {
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                LinkError::Timeout { url, limit: self.settings.connect_timeout }
            }
            ureq::Error::Timeout(_) => LinkError::Timeout { url, limit: self.settings.call_timeout },
            ureq::Error::BodyExceedsLimit(limit_bytes) => LinkError::TooLarge { url, limit_bytes },
            ureq::Error::Io(source) => LinkError::Unreachable { url, source },
            ureq::Error::HostNotFound => {
                let source = io::Error::new(io::ErrorKind::NotFound, "no such host");
                LinkError::Unreachable { url, source }
            }
            ureq::Error::ConnectionFailed => {
                let source = io::Error::new(io::ErrorKind::NotConnected, "no connection");
                LinkError::Unreachable { url, source }
            }
            other => LinkError::Protocol { url, reason: other.to_string() },
        }
    }
}

impl ControllerLink for HttpLink {
    fn fetch_config(&self, request: &ConfigRequest) -> Result<Fetched, LinkError> {
        let (url, answer) = self.post("config", &codec::encode_config_request(request))?;
        match answer.status {
            304 => Ok(Fetched::Unchanged),
            200 => Ok(read_config(request, answer.body)),
            _ => Err(refused(url, answer)),
        }
    }

    fn post_info(&self, message: &ZInfoMsg) -> Result<(), LinkError> {
        let (url, answer) = self.post("info", &codec::encode_info(message))?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(refused(url, answer)) }
    }
}

/// Judges the body of a 200: new, known already, or not a configuration at all.
pub fn read_config(request: &ConfigRequest, raw: Vec<u8>) -> Fetched {
    match codec::decode_config_response(&raw) {
        Err(error) => Fetched::Undecodable { raw, error },
        Ok(response) if is_known(request, &response) => Fetched::Unchanged,
        Ok(response) => Fetched::Config { raw, response },
    }
}

/// An empty hash is no hash: a controller that sends none always has something new to say.
fn is_known(request: &ConfigRequest, response: &ConfigResponse) -> bool {
    !request.config_hash.is_empty() && request.config_hash == response.config_hash
}

fn refused(url: String, answer: Answer) -> LinkError {
    let length = answer.body.len().min(EXCERPT_LIMIT_BYTES as usize);
    let excerpt = String::from_utf8_lossy(&answer.body[..length]);
    LinkError::Status {
        url,
        status: answer.status,
        excerpt: excerpt.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// The address without a trailing slash, or why it is none.
fn checked_address(controller: &str) -> Result<&str, LinkError> {
    let address = |reason| LinkError::Address { url: controller.to_owned(), reason };
    if controller.starts_with("https://") {
        return Err(LinkError::TlsUnsupported { url: controller.to_owned() });
    }
    let Some(rest) = controller.strip_prefix("http://") else {
        return Err(address("it does not start with http://"));
    };
    if rest.split('/').next().unwrap_or_default().is_empty() {
        return Err(address("it names no host"));
    }
    if controller.parse::<ureq::http::Uri>().is_err() {
        return Err(address("it is not a valid URL"));
    }
    if rest.contains(['?', '#']) {
        return Err(address("it has a query"));
    }
    Ok(controller.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(controller: &str) -> String {
        HttpLink::new(controller, Uuid::nil()).unwrap_err().to_string()
    }

    #[test]
    fn addresses_that_cannot_work_are_refused_by_name() {
        assert_eq!(
            reason("https://c.example"),
            "`https://c.example` asks for TLS, which this release cannot speak; use an http:// address"
        );
        assert_eq!(
            reason("c.example:80"),
            "`c.example:80` is not a controller's address: it does not start with http://"
        );
        assert_eq!(reason("http:///x"), "`http:///x` is not a controller's address: it names no host");
        assert!(reason("http://a b").contains("not a valid URL"));
        assert!(reason("http://a/?x=1").contains("query"));
    }

    #[test]
    fn a_controller_that_is_not_there_is_named() {
        // A port that was free a moment ago: bound, noted, and closed again.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let link = HttpLink::new(&format!("http://127.0.0.1:{port}/"), Uuid::nil()).unwrap();
        let error = link.post_info(&ZInfoMsg::default()).unwrap_err();
        assert!(matches!(error, LinkError::Unreachable { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot reach http://127.0.0.1:{port}/api/v2/edgedevice/id/00000000-0000-0000-0000-000000000000/info"
            )
        );
    }

    #[test]
    fn a_controller_that_never_answers_runs_into_the_deadline() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", silent.local_addr().unwrap());
        let settings = LinkSettings { call_timeout: Duration::from_millis(100), ..LinkSettings::default() };
        let link = HttpLink::with_settings(&address, Uuid::nil(), settings).unwrap();
        let error = link.fetch_config(&ConfigRequest::default()).unwrap_err();
        assert!(matches!(error, LinkError::Timeout { .. }), "{error:?}");
    }

    #[test]
    fn an_answer_with_the_hash_in_hand_is_nothing_new_and_one_without_a_hash_always_is() {
        let request = |hash: &str| ConfigRequest { config_hash: hash.into(), ..Default::default() };
        let body = |hash: &str| {
            codec::encode_config_response(&ConfigResponse { config: None, config_hash: hash.into() })
        };
        assert_eq!(read_config(&request("a"), body("a")), Fetched::Unchanged);
        assert!(matches!(read_config(&request("a"), body("b")), Fetched::Config { .. }));
        assert!(matches!(read_config(&request(""), body("")), Fetched::Config { .. }));
        assert!(matches!(read_config(&request("a"), b"garbage".to_vec()), Fetched::Undecodable { .. }));
    }
}
