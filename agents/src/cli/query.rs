//! A question to a node, from its path to what is printed.

use std::io::Write;
use std::path::Path;

use holdfast_types::LocalAction;
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::documents::SnapshotDocument;

use super::act::{self, Act};
use super::args::{About, Order, Question};
use super::client::{Client, ClientError, path_of};
use super::{CommandError, follow, tables, watch};

/// Asks the node on this socket and prints its answer to standard output.
pub fn run(socket: &Path, question: &Question) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(answer(&Client::new(socket), question))
}

/// Gives the node on this socket an order, and prints what came of it.
pub fn order(socket: &Path, order: &Order, json: bool) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(socket);
    match order {
        Order::Set { app, change } => {
            let answer = runtime.block_on(posted(&client, app, "settings", change))?;
            let text = if json { answer.to_vec() } else { tables::app(&understood(&answer)?).into_bytes() };
            print(&text)
        }
        Order::Act { app, action, agreed } => {
            runtime.block_on(act::run(&client, &Act { app, action: action.clone(), json }, agreed))
        }
        Order::Revert { action, agreed } => runtime.block_on(async {
            let app = app_of_snapshot(&client, action).await?;
            act::run(&client, &Act { app: &app, action: action.clone(), json }, agreed).await
        }),
    }
}

/// Whose the snapshot is that an action names, by the node's own list.
async fn app_of_snapshot(client: &Client, action: &LocalAction) -> Result<String, CommandError> {
    let body = client.get(&path_of("/v1/snapshots", None, &[])).await?;
    let snapshots: Vec<SnapshotDocument> = understood(&body)?;
    let named = snapshots.iter().find(|found| Some(found.id) == action.target());
    let app = named.map(|found| found.app.to_string());
    app.ok_or_else(|| CommandError::Failed(format!("to {action}: there is no such snapshot on this node")))
}

pub(super) async fn posted(
    client: &Client,
    app: &str,
    to: &str,
    body: &impl Serialize,
) -> Result<Bytes, CommandError> {
    let path = format!("{}/{to}", path_of("/v1/apps", Some(app), &[]));
    let body = serde_json::to_vec(body).map_err(std::io::Error::from)?;
    Ok(client.post(&path, body).await?)
}

pub(super) fn print(text: &[u8]) -> Result<(), CommandError> {
    Ok(std::io::stdout().lock().write_all(text)?)
}

async fn answer(client: &Client, question: &Question) -> Result<(), CommandError> {
    match &question.about {
        About::Events { .. } => follow::events(client, &path(&question.about), question.json).await,
        About::Volumes { watch: true, .. } => watch::volumes(client, &path(&question.about)).await,
        About::Operations { watch: true, .. } => watch::operations(client, &path(&question.about)).await,
        about => {
            let body = client.get(&path(about)).await?;
            let text = if question.json { body.to_vec() } else { rendered(about, &body)?.into_bytes() };
            std::io::stdout().lock().write_all(&text)?;
            Ok(())
        }
    }
}

/// The answer for people.
pub fn rendered(about: &About, body: &[u8]) -> Result<String, ClientError> {
    Ok(match about {
        About::Status => tables::node(&understood(body)?),
        About::Apps => tables::apps(&understood::<Vec<_>>(body)?),
        About::App(_) => tables::app(&understood(body)?),
        About::Snapshots { .. } => tables::snapshots(&understood::<Vec<_>>(body)?),
        About::Volumes { .. } => tables::volumes(&understood::<Vec<_>>(body)?),
        About::Operations { .. } => tables::operations(&understood::<Vec<_>>(body)?),
        About::Events { .. } => tables::event(&understood(body)?),
    })
}

pub fn understood<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::NotUnderstood { source })
}

fn path(about: &About) -> String {
    let of = |app: &Option<String>| [("app", app.clone())];
    match about {
        About::Status => path_of("/v1/status", None, &[]),
        About::Apps => path_of("/v1/apps", None, &[]),
        About::App(app) => path_of("/v1/apps", Some(app), &[]),
        About::Snapshots { app } => path_of("/v1/snapshots", None, &of(app)),
        About::Volumes { app, .. } => path_of("/v1/volumes", None, &of(app)),
        About::Operations { app, .. } => path_of("/v1/operations", None, &of(app)),
        About::Events { app, recent } => {
            path_of("/v1/events", None, &[("app", app.clone()), ("recent", Some(recent.to_string()))])
        }
    }
}
