//! The API's client: one connection per question, over the node's Unix socket.

#![allow(clippy::disallowed_methods, reason = "a client's connection is driven by a task")]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::api::documents::Refusal;

/// A node that works answers at once; one that takes this long hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no node answers on the socket {} (is it running? another one is named by --socket)", socket.display())]
    NotReachable { socket: PathBuf, source: io::Error },
    #[error("the node on the socket {} does not answer within {ANSWER_DEADLINE:?}", socket.display())]
    Hangs { socket: PathBuf },
    #[error("the node on the socket {} has ended", socket.display())]
    Ended { socket: PathBuf },
    #[error("the socket {} does not speak HTTP as it should", socket.display())]
    Broken { socket: PathBuf, source: hyper::Error },
    #[error("{message}")]
    NotFound { message: String },
    #[error("the node refuses: {message}")]
    Refused { message: String },
    #[error("the node's answer is not what this release of the command understands")]
    NotUnderstood { source: serde_json::Error },
}

/// Asks one node.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Client { socket: socket.to_path_buf() }
    }

    /// The answer's whole body.
    pub async fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        self.whole(Method::GET, path, Vec::new()).await
    }

    /// The same for an order.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        self.whole(Method::POST, path, body).await
    }

    async fn whole(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let answered = async {
            let response = self.ask(method, path, body).await?;
            let body = response.into_body().collect().await.map_err(|e| self.broken(e))?;
            Ok(body.to_bytes())
        };
        match tokio::time::timeout(ANSWER_DEADLINE, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Hangs { socket: self.socket.clone() }),
        }
    }

    /// An answer that goes on: its lines, one by one.
    pub async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let response =
            match tokio::time::timeout(ANSWER_DEADLINE, self.ask(Method::GET, path, Vec::new())).await {
                Ok(response) => response?,
                Err(_) => return Err(ClientError::Hangs { socket: self.socket.clone() }),
            };
        Ok(Lines { body: response.into_body(), rest: Vec::new() })
    }

    /// The error for a stream that ended: streams end with the node only.
    pub fn ended(&self) -> ClientError {
        ClientError::Ended { socket: self.socket.clone() }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::NotReachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(e))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(hyper::header::HOST, "holdfast");
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.expect("paths are made by `path_of`, which escapes what is not plain");
        let response = sender.send_request(request).await.map_err(|e| self.broken(e))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(self.refusal(status, response).await),
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response<Incoming>) -> ClientError {
        let body = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return self.broken(error),
        };
        let message = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.error,
            Err(_) => format!("status {status}"),
        };
        match status {
            StatusCode::NOT_FOUND => ClientError::NotFound { message },
            _ => ClientError::Refused { message },
        }
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source }
    }
}

/// Lines of an answer as they come.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line with its end, or `None` when the node ended the stream, in order or not.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                return Some(std::mem::replace(&mut self.rest, rest));
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

/// A path with its last part and its query escaped. Names of applications may hold anything.
pub fn path_of(base: &str, part: Option<&str>, query: &[(&str, Option<String>)]) -> String {
    let mut path = base.to_string();
    if let Some(part) = part {
        path.push('/');
        path.push_str(&escaped(part));
    }
    let mut sign = '?';
    for (key, value) in query {
        if let Some(value) = value {
            path.push(sign);
            path.push_str(&format!("{key}={}", escaped(value)));
            sign = '&';
        }
    }
    path
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_paths() {
        let query = [("app", Some("a b&c=ü".to_string())), ("recent", None), ("n", Some("3".into()))];
        assert_eq!(path_of("/v1/x", Some("a/b ?"), &query), "/v1/x/a%2Fb%20%3F?app=a%20b%26c%3D%C3%BC&n=3");
        assert_eq!(path_of("/v1/x", None, &[]), "/v1/x");
    }
}
