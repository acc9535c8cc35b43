//! The HTTP side: routes, queries, refusals; and the task that keeps the view up to date.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_pubsub::Mailbox;
use holdfast_types::{AppId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::runtime::Clock;

use super::describe;
use super::documents::{NodeDocument, NodeFacts, Refusal, Transition};
use super::hub::Hub;
use super::metrics;
use super::orders::{self, Orders};
use super::view::{Seen, View};

/// What the API asks the node itself. Called for each question: it must not wait.
pub trait NodeProbe: Send + Sync {
    fn facts(&self) -> NodeFacts;
}

/// The API's state; clones are the same.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Mutex<Shared>>,
    pub(super) probe: Arc<dyn NodeProbe>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) view: View,
    hub: Hub,
    pub(super) orders: Orders,
}

impl Api {
    pub fn new(probe: Arc<dyn NodeProbe>) -> Self {
        Api { shared: Arc::default(), probe }
    }

    /// Takes one change in and tells those who follow.
    pub fn see(&self, seen: Seen, now: Timestamp) {
        let mut shared = self.lock();
        for transition in shared.view.apply(seen, now) {
            log(&transition);
            shared.hub.tell(transition, now);
        }
    }

    /// Takes in whatever the bus says, for as long as it is polled.
    pub async fn watch(self, mailbox: Mailbox<Seen>, clock: Arc<dyn Clock>) {
        loop {
            let seen = mailbox.recv().await;
            self.see(seen, clock.now());
        }
    }

    /// Serves until `stop` is done; then streams of events end, and what was asked before is answered.
    pub async fn serve(
        self,
        listener: UnixListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let api = self.clone();
        let stopped = async move {
            stop.await;
            api.lock().hub.close();
        };
        axum::serve(listener, self.router()).with_graceful_shutdown(stopped).await
    }

    /// What `/v1/status` answers.
    pub fn node(&self) -> NodeDocument {
        let facts = self.probe.facts();
        describe::node(&self.lock().view, facts)
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/status", get(status))
            .route("/v1/apps", get(apps))
            .route("/v1/apps/{app}", get(app))
            .route("/v1/apps/{app}/settings", post(orders::set))
            .route("/v1/apps/{app}/plans", post(orders::plan))
            .route("/v1/apps/{app}/orders", post(orders::carry_out))
            .route("/v1/snapshots", get(snapshots))
            .route("/v1/volumes", get(volumes))
            .route("/v1/operations", get(operations))
            .route("/v1/events", get(events))
            .route("/metrics", get(metrics_page))
            .fallback(no_such_path)
            .method_not_allowed_fallback(another_method)
            .with_state(self.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        // A view is replaced row by row: a panic in between leaves it usable.
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// One log line per transition ([architecture] section 10).
fn log(transition: &Transition) {
    let app = transition.app.map(|app| app.to_string());
    tracing::info!(
        kind = transition.kind.name(),
        app,
        subject = transition.subject,
        from = transition.from,
        to = transition.to,
        detail = transition.detail,
        "transition"
    );
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    app: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Follow {
    app: Option<String>,
    #[serde(default)]
    recent: usize,
}

type Asked<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn status(State(api): State<Api>) -> Response {
    json(&api.node())
}

async fn apps(State(api): State<Api>) -> Response {
    json(&describe::apps(&api.lock().view))
}

async fn app(State(api): State<Api>, Path(app): Path<String>) -> Response {
    let shared = api.lock();
    match shared.view.find_app(&app).and_then(|id| describe::app(&shared.view, id)) {
        Some(document) => json(&document),
        None => no_such_app(&app),
    }
}

async fn snapshots(State(api): State<Api>, query: Asked<Of>) -> Response {
    listed(&api, query, describe::snapshots)
}

async fn volumes(State(api): State<Api>, query: Asked<Of>) -> Response {
    listed(&api, query, describe::volumes)
}

async fn operations(State(api): State<Api>, query: Asked<Of>) -> Response {
    listed(&api, query, describe::operations)
}

async fn events(State(api): State<Api>, query: Asked<Follow>) -> Response {
    let Query(follow) = match query {
        Ok(query) => query,
        Err(rejection) => return refused(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let mut shared = api.lock();
    let app = match chosen_app(&shared.view, follow.app.as_deref()) {
        Ok(app) => app,
        Err(refusal) => return *refusal,
    };
    let stream = shared.hub.follow(app, follow.recent);
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::new(stream)).into_response()
}

async fn metrics_page(State(api): State<Api>) -> Response {
    let facts = api.probe.facts();
    let shared = api.lock();
    let node = describe::node(&shared.view, facts);
    let page = metrics::render(&node, &shared.view, shared.hub.last_sequence());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
}

async fn no_such_path(uri: axum::http::Uri) -> Response {
    refused(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path()))
}

async fn another_method() -> Response {
    refused(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method".to_string())
}

fn listed<T: Serialize>(
    api: &Api,
    query: Asked<Of>,
    describe: impl Fn(&View, Option<AppId>) -> Vec<T>,
) -> Response {
    let Query(of) = match query {
        Ok(query) => query,
        Err(rejection) => return refused(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let shared = api.lock();
    match chosen_app(&shared.view, of.app.as_deref()) {
        Ok(app) => json(&describe(&shared.view, app)),
        Err(refusal) => *refusal,
    }
}

fn chosen_app(view: &View, asked: Option<&str>) -> Result<Option<AppId>, Box<Response>> {
    let Some(asked) = asked else { return Ok(None) };
    view.find_app(asked).map(Some).ok_or_else(|| Box::new(no_such_app(asked)))
}

pub(super) fn no_such_app(asked: &str) -> Response {
    refused(StatusCode::NOT_FOUND, format!("no application has the id or the (unambiguous) name \"{asked}\""))
}

pub(super) fn json(document: &impl Serialize) -> Response {
    answer(StatusCode::OK, document)
}

pub(super) fn refused(status: StatusCode, error: String) -> Response {
    answer(status, &Refusal { error })
}

fn answer(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
