//! Orders that come from the node itself, from the question to the row ([000] L7, L8).
//!
//! ```text
//!   LocalAsk::Plan ──────────▶ Asked ─▶ planning.rs ─▶ AppPlan: the plan
//!   LocalAsk::Do, digest ────▶ Asked ─▶ planning.rs ─ same digest ─▶ carry_out.rs ─▶ row ─▶ AppPlan: taken in
//!        └ a digest that the row knows ─────────────────────────────────────────────────▶ AppPlan: what has come of it
//! ```
//!
//! What is asked is not remembered over a restart, and only the last question about an application is answered: nothing has
//! happened before the row says so, and who asks again finds out. With an operation running every order is refused.

use holdfast_types::*;

use super::carry_out::{carry_out, give_up_locally};
use super::machine::Decision;
use super::planning::{self, Asked, How, Planned};
use super::{App, LocalOrder, Zedmanager, log_transition};
use crate::runtime::Ctx;

impl Zedmanager {
    pub(super) fn hear_order(&mut self, order: LocalOrder, cx: &mut Ctx<Self>) -> Vec<AppId> {
        let LocalOrder { app: id, number, what } = order;
        if let Some(error) = &self.standstill {
            // What is in force, and what guards it, is not known; what was taken in before is.
            let outcome = match (self.apps.get(&id), &what) {
                (Some(app), LocalAsk::Do { action, digest }) => known_outcome(&app.state, action, digest),
                _ => None,
            };
            let answer = match outcome {
                Some(outcome) => PlanAnswer::TakenIn { outcome, before: true },
                None => PlanAnswer::Refused(error.summary.clone()),
            };
            cx.publish(AppPlan { app: id, number, answer });
            return Vec::new();
        }
        let (action, digest) = match what {
            LocalAsk::Set(change) => return self.set_locally(id, number, &change, cx),
            LocalAsk::Plan(action) => (action, None),
            LocalAsk::Do { action, digest } => (action, Some(digest)),
        };
        let Some(app) = self.apps.get_mut(&id) else {
            tracing::warn!(app = %id, "an order for an unknown application");
            return Vec::new();
        };
        app.asked = Some(Asked { number, action, digest });
        vec![id]
    }

    /// Answers what was asked about the application, if it can be by now. True when the row was changed: an order is in it,
    /// and the machine goes on from there.
    pub(super) fn answer_asked(&mut self, app: &mut App, cx: &mut Ctx<Self>) -> bool {
        app.question = None;
        let Some(asked) = app.asked.take() else { return false };
        let mut tell = |number, answer| cx.publish(AppPlan { app: app.state.app, number, answer });
        let known = |digest: &String| known_outcome(&app.state, &asked.action, digest);
        if let Some(outcome) = asked.digest.as_ref().and_then(known) {
            tell(asked.number, PlanAnswer::TakenIn { outcome, before: true });
            return false;
        }
        let volumes = self.readiness(app.state.app);
        let facts = self.facts(&app.state, app.received.as_ref(), &volumes, cx);
        let (plan, how) = match planning::plan(&app.state, &facts, &asked) {
            Planned::Waits => {
                app.asked = Some(asked);
                return false;
            }
            Planned::Asks(question) => {
                (app.question, app.asked) = (Some(question), Some(asked));
                return false;
            }
            Planned::Made(plan, how) => (plan, how),
        };
        let mut state = app.state.clone();
        let answer = match &asked.digest {
            None => PlanAnswer::Planned(plan),
            Some(digest) => match disagreement(&plan, digest) {
                Some(why) => PlanAnswer::Refused(why),
                None => take_in(&mut state, how, &facts),
            },
        };
        if let Some(digest) = &asked.digest {
            tracing::info!(app = %state.app, action = %asked.action, digest, ?answer, "ordered on the node");
        }
        cx.publish(AppPlan { app: state.app, number: asked.number, answer });
        let is_changed = app.state != state;
        app.state = state;
        is_changed
    }
}

/// The row remembers the last order that was taken in: asked once more after a lost reply, it is not done once more.
fn known_outcome(state: &AppInstanceState, action: &LocalAction, digest: &str) -> Option<LocalOutcome> {
    let last = state.last_local.as_ref();
    last.filter(|outcome| outcome.digest == digest && outcome.action == *action).cloned()
}

fn disagreement(plan: &Plan, digest: &str) -> Option<String> {
    if let Some(refusal) = &plan.refusal {
        return Some(refusal.clone());
    }
    let agreed = plan.digest.as_deref() == Some(digest);
    (!agreed).then(|| {
        format!(
            "to {} is not any more what was agreed to with {digest}: look at the plan again; nothing was changed",
            plan.action
        )
    })
}

/// The row as it is with the order in it.
fn take_in(state: &mut AppInstanceState, how: How, facts: &super::machine::Facts<'_>) -> PlanAnswer {
    match how {
        How::NotAtAll => {}
        How::Begin(operation) => {
            let decision = Decision::Begin(operation);
            log_transition(state, &decision);
            carry_out(state, decision, facts);
        }
        How::GiveUp(snapshot, origin) => give_up_locally(state, snapshot, origin, facts),
    }
    match &state.last_local {
        Some(outcome) => PlanAnswer::TakenIn { outcome: outcome.clone(), before: false },
        None => PlanAnswer::Refused("there is no plan for that".to_owned()),
    }
}
