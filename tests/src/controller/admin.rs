//! A driver's side of the controller's admin endpoints: for the command line and the scenario player.
//!
//! Calls block and have deadlines. Errors are sentences for people; nobody branches on them.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use holdfast_agents::wire::config::EdgeDevConfig;
use holdfast_agents::wire::info::ZInfoMsg;
use uuid::Uuid;

use super::json;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A controller, seen by whoever drives it.
#[derive(Debug, Clone)]
pub struct Admin {
    url: String,
    agent: ureq::Agent,
}

impl Admin {
    /// `url` is the controller's address; nothing is connected yet.
    pub fn new(url: &str) -> Admin {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        Admin { url: url.trim_end_matches('/').to_owned(), agent }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The list of devices, as JSON.
    pub fn devices(&self) -> anyhow::Result<String> {
        self.call("GET", "/admin/device", String::new())?.text()
    }

    /// The device's configuration; none when the controller does not know the device.
    pub fn config(&self, device: Uuid) -> anyhow::Result<Option<EdgeDevConfig>> {
        let answer = self.call("GET", &format!("/admin/device/{device}/config"), String::new())?;
        if answer.status == 404 {
            return Ok(None);
        }
        let text = answer.text()?;
        json::from_text(&text).map(Some).context("the controller's answer is no configuration")
    }

    pub fn set_config(&self, device: Uuid, config: &EdgeDevConfig) -> anyhow::Result<()> {
        self.set_config_text(device, json::to_text(config))
    }

    /// Sends a configuration as it was written; the controller judges it.
    pub fn set_config_text(&self, device: Uuid, text: String) -> anyhow::Result<()> {
        self.call("PUT", &format!("/admin/device/{device}/config"), text)?.text().map(drop)
    }

    /// The device's reports as JSON lines: all, or the newest of each object.
    pub fn info_lines(&self, device: Uuid, latest: bool) -> anyhow::Result<String> {
        let query = if latest { "?latest" } else { "" };
        self.call("GET", &format!("/admin/device/{device}/info{query}"), String::new())?.text()
    }

    /// The newest report of each object.
    pub fn latest(&self, device: Uuid) -> anyhow::Result<Vec<ZInfoMsg>> {
        let lines = self.info_lines(device, true)?;
        let reports = lines.lines().map(json::from_text::<ZInfoMsg>);
        reports.collect::<Result<_, _>>().context("the controller's answer is no list of reports")
    }

    fn call(&self, method: &str, path: &str, body: String) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.url);
        let request = ureq::http::Request::builder().method(method).uri(&url).body(body);
        let request = request.map_err(|error| anyhow!("`{url}` is not a URL: {error}"))?;
        let mut answer =
            self.agent.run(request).with_context(|| format!("cannot reach the controller at {url}"))?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string();
        Ok(Answer { status, text: text.with_context(|| format!("the answer of {url} broke off"))?, url })
    }
}

struct Answer {
    url: String,
    status: u16,
    text: String,
}

impl Answer {
    /// The text of a success; anything else is an error with the controller's own words.
    fn text(self) -> anyhow::Result<String> {
        if !(200..300).contains(&self.status) {
            bail!("{} answered with status {}: {}", self.url, self.status, self.text.trim());
        }
        Ok(self.text)
    }
}
