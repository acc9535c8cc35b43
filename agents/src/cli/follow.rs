//! `holdfast events`: lines as they come, until the node ends or Ctrl-C.

use std::io::Write;

use super::CommandError;
use super::args::About;
use super::client::Client;
use super::query::rendered;

/// Ends only with an error: the stream goes on as long as the node lives.
pub async fn events(client: &Client, path: &str, json: bool) -> Result<(), CommandError> {
    let mut lines = client.lines(path).await?;
    let about = About::Events { app: None, recent: 0 };
    let mut out = std::io::stdout();
    while let Some(line) = lines.next().await {
        let text = if json { line } else { rendered(&about, &line)?.into_bytes() };
        out.write_all(&text)?;
        out.flush()?;
    }
    Err(client.ended().into())
}
