//! Local orders: checked in form, handed on, and answered when they are taken in.
//!
//! ```text
//!   POST body ─▶ LocalChange, checked ─▶ numbered ─▶ zedmanager ─▶ durable row ─▶ AppInstanceStatus.local_order ≥ number ─▶ answer
//! ```
//!
//! An order that is not confirmed in time may still be taken in: asking for it again does no harm.

use std::fmt;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use holdfast_types::{AppId, LocalChange, Topic};

use super::describe;
use super::server::{Api, json, no_such_app, refused};
use crate::zedmanager::LocalOrder;

/// Longer than any step of zedmanager takes, shorter than a client waits.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where orders go, and how many there were.
#[derive(Default)]
pub(super) struct Orders {
    give: Option<Box<dyn Fn(LocalOrder) -> bool + Send>>,
    last_number: u64,
}

impl fmt::Debug for Orders {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Orders").field("last_number", &self.last_number).finish_non_exhaustive()
    }
}

impl Api {
    /// From now on orders are handed to `give`, which says whether somebody takes them.
    pub fn take_orders(&self, give: impl Fn(LocalOrder) -> bool + Send + 'static) {
        self.lock().orders.give = Some(Box::new(give));
    }

    /// Hands the order on, in the order of the numbers. None: nobody is there to take it.
    fn give(&self, app: AppId, change: LocalChange) -> Option<u64> {
        let mut shared = self.lock();
        let number = shared.orders.last_number + 1;
        let give = shared.orders.give.as_ref()?;
        if !give(LocalOrder { app, number, change }) {
            return None;
        }
        shared.orders.last_number = number;
        Some(number)
    }

    fn is_taken_in(&self, app: AppId, number: u64) -> bool {
        self.lock().view.apps.get(&app).is_some_and(|status| status.local_order >= number)
    }

    async fn taken_in(&self, app: AppId, number: u64) {
        while !self.is_taken_in(app, number) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

pub(super) async fn set(State(api): State<Api>, Path(asked): Path<String>, body: Bytes) -> Response {
    let change = match serde_json::from_slice::<LocalChange>(&body) {
        Ok(change) => change,
        Err(error) => {
            return refused(StatusCode::BAD_REQUEST, format!("the settings cannot be read: {error}"));
        }
    };
    let change = match change.checked() {
        Ok(change) => change,
        Err(error) => return refused(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let known = api.lock().view.apps.values().map(|status| status.key()).collect::<Vec<_>>();
    let found = api.lock().view.find_app(&asked).filter(|app| known.contains(app));
    let Some(app) = found else { return no_such_app(&asked) };
    let facts = api.probe.facts();
    if facts.mode == "read-only" {
        let reason = facts.mode_reason.unwrap_or_default();
        return refused(StatusCode::CONFLICT, format!("the node is read-only: {reason}"));
    }
    let Some(number) = api.give(app, change) else {
        return refused(StatusCode::CONFLICT, "the node is not ready for orders".to_owned());
    };
    let confirmed = tokio::time::timeout(CONFIRMED_WITHIN, api.taken_in(app, number)).await;
    let document = describe::app(&api.lock().view, app);
    match (confirmed, document) {
        (Ok(()), Some(document)) => json(&document),
        (Ok(()), None) => no_such_app(&asked),
        (Err(_), _) => refused(
            StatusCode::GATEWAY_TIMEOUT,
            format!("not confirmed within {CONFIRMED_WITHIN:?}; it may still be taken in"),
        ),
    }
}
