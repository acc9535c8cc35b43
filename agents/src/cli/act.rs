//! An order about an application's data: its plan is shown, agreed to, and carried out by the node ([000] L7, L8).
//!
//! ```text
//!   --dry-run ─▶ plan, printed                       --yes DIGEST ─▶ order ─▶ what has come of it, printed
//!   neither   ─▶ plan, printed ─▶ a person answers yes ─▶ order ─▶ what has come of it, printed
//!                              └▶ nobody sits there: refused, with the command that agrees
//! ```
//!
//! What is asked goes to standard error, so that standard output holds documents only.

use std::io::{BufRead, IsTerminal, Write};

use holdfast_types::LocalAction;
use serde::Serialize;

use crate::api::documents::{OrderDocument, PlanDocument};

use super::args::Agreed;
use super::client::Client;
use super::query::{posted, print, understood};
use super::{CommandError, tables};

/// What is to be done, and how it is told.
#[derive(Debug, Clone)]
pub struct Act<'a> {
    pub app: &'a str,
    pub action: LocalAction,
    pub json: bool,
}

#[derive(Serialize)]
struct AgreedTo<'a> {
    #[serde(flatten)]
    action: LocalAction,
    digest: &'a str,
}

/// Shows the plan or has it carried out, whatever was agreed to. An order that is taken in is durable; what it does may go on.
pub async fn run(client: &Client, act: &Act<'_>, agreed: &Agreed) -> Result<(), CommandError> {
    match agreed {
        Agreed::To(digest) => carry_out(client, act, digest).await,
        Agreed::No => shown(client, act).await.map(drop),
        Agreed::Ask => {
            let plan = shown(client, act).await?;
            let Some(digest) = plan.digest else {
                return Err(CommandError::Failed("this would be refused; nothing was done".to_owned()));
            };
            agree(&digest)?;
            carry_out(client, act, &digest).await
        }
    }
}

async fn shown(client: &Client, act: &Act<'_>) -> Result<PlanDocument, CommandError> {
    let answer = posted(client, act.app, "plans", &act.action).await?;
    let plan: PlanDocument = understood(&answer)?;
    let text = if act.json { answer.to_vec() } else { tables::plan(&plan).into_bytes() };
    print(&text)?;
    Ok(plan)
}

/// Asks whoever sits at the terminal.
fn agree(digest: &str) -> Result<(), CommandError> {
    let refused = |why: &str| Err(CommandError::Failed(format!("{why}; nothing was done")));
    let input = std::io::stdin();
    if !input.is_terminal() {
        return refused(&format!("nobody is there to agree to this plan. To agree: --yes {digest}"));
    }
    write!(std::io::stderr(), "\nDo this? (yes/no) ")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => refused("not agreed to"),
    }
}

async fn carry_out(client: &Client, act: &Act<'_>, digest: &str) -> Result<(), CommandError> {
    let answer = posted(client, act.app, "orders", &AgreedTo { action: act.action.clone(), digest }).await?;
    let order: OrderDocument = understood(&answer)?;
    let text = if act.json { answer.to_vec() } else { tables::order(&order).into_bytes() };
    print(&text)?;
    match order.error {
        Some(error) => Err(CommandError::Failed(error.message)),
        None => Ok(()),
    }
}
