//! The controller's endpoints, one function each. `server.rs` lists them.
//!
//! Bad input is answered with a status and a sentence that names the thing; nothing is taken in part.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_agents::wire::codec;
use holdfast_agents::wire::config::EdgeDevConfig;
use holdfast_agents::wire::link::API_BASE;
use serde_json::{Value, json};
use uuid::Uuid;

use super::faults::Download;
use super::files::{self, Manner};
use super::server::{RecordError, Shared};
use super::{ConfigAnswer, Device, UnknownDevice, json as view};

/// No configuration and no report is larger.
const BODY_LIMIT_BYTES: usize = 16 << 20;

type App = State<Arc<Shared>>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let device_api = Router::new()
        .route("/ping", get(ping).post(ping))
        .route("/id/{device}/ping", get(ping).post(ping))
        .route("/id/{device}/config", post(fetch_config))
        .route("/id/{device}/info", post(take_info))
        .layer(middleware::from_fn_with_state(shared.clone(), refuse_on_purpose));
    Router::new()
        .nest(API_BASE, device_api)
        .route("/admin/device", get(list_devices))
        .route("/admin/device/{device}/config", get(show_config).put(put_config))
        .route("/admin/device/{device}/info", get(show_info))
        .route("/files/{*path}", get(send_file))
        .layer(middleware::map_response(one_request_per_connection))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(shared)
}

async fn one_request_per_connection(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn refuse_on_purpose(State(shared): App, request: Request, next: Next) -> Response {
    let status = shared.faults().status.and_then(|status| StatusCode::from_u16(status).ok());
    match status {
        Some(status) => (status, "refused on purpose\n").into_response(),
        None => next.run(request).await,
    }
}

/// A refusal: a status and a sentence.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

impl From<UnknownDevice> for Refused {
    fn from(unknown: UnknownDevice) -> Self {
        Refused(StatusCode::NOT_FOUND, unknown.to_string())
    }
}

fn refused(status: StatusCode, error: &dyn Error) -> Refused {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    Refused(status, sentence)
}

fn device_id(text: &str) -> Result<Uuid, Refused> {
    text.parse().map_err(|_| Refused(StatusCode::BAD_REQUEST, format!("`{text}` is not a device's UUID")))
}

// ---- nodes -----------------------------------------------------------------------------------------------

async fn ping() -> StatusCode {
    StatusCode::OK
}

async fn fetch_config(
    State(shared): App,
    Path(device): Path<String>,
    body: Bytes,
) -> Result<Response, Refused> {
    let device = device_id(&device)?;
    let request =
        codec::decode_config_request(&body).map_err(|error| refused(StatusCode::BAD_REQUEST, &error))?;
    if let Some(body) = shared.faults().config_body.clone() {
        return Ok(proto(body));
    }
    let answer = shared.core().config_for(device, &request);
    match answer {
        ConfigAnswer::NotModified => Ok(StatusCode::NOT_MODIFIED.into_response()),
        ConfigAnswer::Config(response) => Ok(proto(codec::encode_config_response(&response))),
        ConfigAnswer::UnknownDevice => Err(UnknownDevice(device).into()),
    }
}

async fn take_info(
    State(shared): App,
    Path(device): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let device = device_id(&device)?;
    let report = codec::decode_info(&body).map_err(|error| refused(StatusCode::BAD_REQUEST, &error))?;
    match shared.record_info(device, report) {
        Ok(()) => Ok(StatusCode::CREATED),
        Err(RecordError::Unknown(unknown)) => Err(unknown.into()),
        Err(RecordError::Store(error)) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

fn proto(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, codec::CONTENT_TYPE)], body).into_response()
}

// ---- drivers ---------------------------------------------------------------------------------------------

async fn list_devices(State(shared): App) -> Response {
    let list: Vec<Value> = shared.core().devices().map(|(id, device)| in_short(id, device)).collect();
    text_as("application/json", format!("{:#}\n", Value::from(list)))
}

fn in_short(id: Uuid, device: &Device) -> Value {
    json!({
        "device": id.to_string(),
        "name": device.config().device_name,
        "apps": device.config().apps.len(),
        "volumes": device.config().volumes.len(),
        "configHash": device.hash(),
        "reports": device.reports_total(),
    })
}

async fn show_config(State(shared): App, Path(device): Path<String>) -> Result<Response, Refused> {
    let device = device_id(&device)?;
    let text = view::to_text(shared.core().config(device)?);
    Ok(text_as("application/json", text + "\n"))
}

async fn put_config(
    State(shared): App,
    Path(device): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let device = device_id(&device)?;
    let bad = |reason: &dyn Error| refused(StatusCode::BAD_REQUEST, reason);
    let text = std::str::from_utf8(&body).map_err(|error| bad(&error))?;
    let config: EdgeDevConfig = view::from_text(text).map_err(|error| bad(&error))?;
    match shared.set_config(device, config) {
        Ok(()) => Ok(StatusCode::OK),
        Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

/// All reports, or with `?latest` the newest of each object.
async fn show_info(
    State(shared): App,
    Path(device): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Refused> {
    let device = device_id(&device)?;
    let core = shared.core();
    let known = core.device(device)?;
    let lines: String = if query.contains_key("latest") {
        known.latest().values().map(|report| view::to_line(report) + "\n").collect()
    } else {
        known.reports().iter().map(|report| view::to_line(report) + "\n").collect()
    };
    Ok(text_as("application/x-ndjson", lines))
}

fn text_as(content_type: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

// ---- content ---------------------------------------------------------------------------------------------

async fn send_file(State(shared): App, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let Some(root) = &shared.files else {
        return Refused(StatusCode::NOT_FOUND, "this controller serves no files".into()).into_response();
    };
    let manner = {
        let mut faults = shared.faults();
        let break_after_bytes = faults.break_downloads_after_bytes.remove(&path);
        Manner { break_after_bytes, chunk_pause: faults.chunk_pause }
    };
    let (response, from_bytes) = files::serve(root, &path, &headers, manner);
    shared.record_download(Download { path, from_bytes, status: response.status().as_u16() });
    response
}
