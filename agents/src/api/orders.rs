//! Local orders: checked in form, handed on, and answered when they are taken in.
//!
//! ```text
//!   POST body ─▶ LocalChange, checked ─▶ numbered ─▶ zedmanager ─▶ durable row ─▶ AppInstanceStatus.local_order ≥ number ─▶ answer
//!             LocalAction ────────────▶ numbered ─▶ zedmanager ─▶ AppPlan.number ≥ number ─▶ the plan
//!             LocalAction, digest ────▶ numbered ─▶ zedmanager ─▶ durable row ─▶ AppPlan.number ≥ number ─▶ what has come of it
//! ```
//!
//! An order that is not confirmed in time may still be taken in: asking for it again does no harm.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use holdfast_types::{AppId, AppPlan, LocalAction, LocalAsk, LocalChange, LocalOutcome, PlanAnswer, Topic};
use serde::Deserialize;

use super::describe;
use super::server::{Api, json, no_such_app, refused};
use super::view::View;
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
    fn give(&self, app: AppId, what: LocalAsk) -> Option<u64> {
        let mut shared = self.lock();
        let number = shared.orders.last_number + 1;
        let give = shared.orders.give.as_ref()?;
        if !give(LocalOrder { app, number, what }) {
            return None;
        }
        shared.orders.last_number = number;
        Some(number)
    }

    fn is_taken_in(&self, app: AppId, number: u64) -> bool {
        self.lock().view.apps.get(&app).is_some_and(|status| status.local_order >= number)
    }

    /// The answer to that question, or to a later one.
    async fn answered(&self, app: AppId, number: u64) -> Arc<AppPlan> {
        loop {
            let answer = self.lock().view.plans.get(&app).filter(|answer| answer.number >= number).cloned();
            match answer {
                Some(answer) => return answer,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// An error says why it is not.
    async fn taken_in(&self, app: AppId, number: u64) -> Result<(), String> {
        while !self.is_taken_in(app, number) {
            if let Some(why) = self.refusal(app, number) {
                return Err(why);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn refusal(&self, app: AppId, number: u64) -> Option<String> {
        let shared = self.lock();
        let answer = shared.view.plans.get(&app).filter(|answer| answer.number == number)?;
        match &answer.answer {
            PlanAnswer::Refused(why) => Some(why.clone()),
            PlanAnswer::Planned(_) | PlanAnswer::TakenIn { .. } => None,
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
    let app = match ready_app(&api, &asked) {
        Ok(app) => app,
        Err(refusal) => return *refusal,
    };
    let Some(number) = api.give(app, LocalAsk::Set(change)) else {
        return refused(StatusCode::CONFLICT, "the node is not ready for orders".to_owned());
    };
    let confirmed = tokio::time::timeout(CONFIRMED_WITHIN, api.taken_in(app, number)).await;
    let document = describe::app(&api.lock().view, app);
    match (confirmed, document) {
        (Ok(Ok(())), Some(document)) => json(&document),
        (Ok(Ok(())), None) => no_such_app(&asked),
        (Ok(Err(why)), _) => refused(StatusCode::CONFLICT, why),
        (Err(_), _) => not_confirmed(),
    }
}

/// The application that an order is for, on a node that may change something.
fn ready_app(api: &Api, asked: &str) -> Result<AppId, Box<Response>> {
    let known = api.lock().view.apps.values().map(|status| status.key()).collect::<Vec<_>>();
    let found = api.lock().view.find_app(asked).filter(|app| known.contains(app));
    let app = found.ok_or_else(|| Box::new(no_such_app(asked)))?;
    let facts = api.probe.facts();
    if facts.mode == "read-only" {
        let reason = facts.mode_reason.unwrap_or_default();
        return Err(Box::new(refused(StatusCode::CONFLICT, format!("the node is read-only: {reason}"))));
    }
    Ok(app)
}

fn not_confirmed() -> Response {
    refused(
        StatusCode::GATEWAY_TIMEOUT,
        format!("not confirmed within {CONFIRMED_WITHIN:?}; it may still be taken in"),
    )
}

/// Agreed to: an action, and the digest of its plan.
#[derive(Debug, Deserialize)]
struct Agreed {
    #[serde(flatten)]
    action: LocalAction,
    digest: String,
}

pub(super) async fn plan(State(api): State<Api>, Path(asked): Path<String>, body: Bytes) -> Response {
    match serde_json::from_slice::<LocalAction>(&body) {
        Ok(action) => planned(&api, &asked, LocalAsk::Plan(action)).await,
        Err(error) => refused(StatusCode::BAD_REQUEST, format!("the action cannot be read: {error}")),
    }
}

pub(super) async fn carry_out(State(api): State<Api>, Path(asked): Path<String>, body: Bytes) -> Response {
    match serde_json::from_slice::<Agreed>(&body) {
        Ok(Agreed { action, digest }) => planned(&api, &asked, LocalAsk::Do { action, digest }).await,
        Err(error) => refused(StatusCode::BAD_REQUEST, format!("the order cannot be read: {error}")),
    }
}

/// Hands the question on and waits for the answer to it.
async fn planned(api: &Api, asked: &str, what: LocalAsk) -> Response {
    let app = match ready_app(api, asked) {
        Ok(app) => app,
        Err(refusal) => return *refusal,
    };
    let Some(number) = api.give(app, what.clone()) else {
        return refused(StatusCode::CONFLICT, "the node is not ready for orders".to_owned());
    };
    let Ok(answer) = tokio::time::timeout(CONFIRMED_WITHIN, api.answered(app, number)).await else {
        return not_confirmed();
    };
    let shared = api.lock();
    match &answer.answer {
        // Somebody else asked about the same application before this was answered.
        _ if answer.number > number => match digest_known(&shared.view, app, &what) {
            Some(outcome) => json(&describe::order(&shared.view, app, outcome, true)),
            None => refused(
                StatusCode::CONFLICT,
                "another order came in between: ask again (nothing is known to be changed by this one)"
                    .to_owned(),
            ),
        },
        PlanAnswer::Planned(plan) => json(&describe::plan(&shared.view, app, plan)),
        PlanAnswer::TakenIn { outcome, before } => {
            json(&describe::order(&shared.view, app, outcome, *before))
        }
        PlanAnswer::Refused(why) => refused(StatusCode::CONFLICT, why.clone()),
    }
}

/// What the row says of an order with this digest.
fn digest_known<'a>(view: &'a View, app: AppId, what: &LocalAsk) -> Option<&'a LocalOutcome> {
    let LocalAsk::Do { digest, .. } = what else { return None };
    let outcome = view.states.get(&app)?.last_local.as_ref()?;
    (outcome.digest == *digest).then_some(outcome)
}
