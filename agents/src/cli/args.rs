//! The command line. Values stay text here: `settings.rs` checks them the same way wherever they come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use holdfast_types::{InvalidId, LocalAction, LocalChange, SnapshotId, UnknownHaState};

use crate::settings::Key;
use crate::settings::layers::Values;

const EXAMPLES: &str = "\
Examples:
  Run a node by hand (the system service does the same with /etc/holdfast/holdfast.toml):
    holdfast node --persist /var/lib/holdfast --controller http://controller:8080 \\
        --device 7b1c5a3e-41f0-4c0b-9d53-0c2f5ad0a001

  Ask it:
    holdfast status
    holdfast apps                       all applications
    holdfast apps db                    one of them, by name or id, with all there is to know
    holdfast snapshots --app db
    holdfast operations --watch         progress bars until nothing runs any more
    holdfast events --recent 20         the last 20 events, then live until Ctrl-C

  Order it; each shows its plan and asks first:
    holdfast snapshot create db
    holdfast rollback db 7f0c5a1e-...   back to that snapshot: configuration and all volumes
    holdfast rollback db 7f0c5a1e-... --dry-run
    holdfast volume revert 7f0c5a1e-... --volume b1d2c3a4-...   one volume of a halted application

  In scripts:
    holdfast --json apps | jq '.[] | {name, state, version}'

Exit codes:
  0  done
  1  failed; the message says what and why
  2  wrong usage or wrong settings
  3  the node is not reachable, or it ended while it was listened to
  4  the node answers, but there is no such application";

#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    about = "An edge node that snapshots, upgrades and rolls back virtual machines, and survives power cuts.",
    after_help = EXAMPLES,
    arg_required_else_help = true
)]
struct CommandLine {
    /// The node's Unix socket [HOLDFAST_SOCKET] [default: /run/holdfast/holdfast.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Configuration file [HOLDFAST_CONFIG] [default: /etc/holdfast/holdfast.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the API's JSON as it comes
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the node, until SIGTERM or SIGINT; guests outlive it
    #[command(after_help = NODE_HELP)]
    Node(Box<NodeArguments>),
    /// The node as a whole: mode, controller, agents, totals
    Status,
    /// Applications, or all about one of them
    Apps {
        /// Name or id of one application
        app: Option<String>,
    },
    /// Change how the node treats one application
    App {
        #[command(subcommand)]
        order: AppOrder,
    },
    /// Roll an application back to one of its snapshots: its configuration and all its volumes
    #[command(after_help = PLAN_HELP)]
    Rollback {
        /// Name or id of the application
        app: String,
        /// Id of the snapshot
        snapshot: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Make or delete a snapshot of an application
    Snapshot {
        #[command(subcommand)]
        order: SnapshotOrder,
    },
    /// Snapshots, in the order in which they were asked for
    Snapshots {
        /// Only those of this application (name or id)
        #[arg(long)]
        app: Option<String>,
    },
    /// Volumes, with who uses and who holds them
    Volumes {
        /// Only those this application (name or id) uses or its snapshots hold
        #[arg(long)]
        app: Option<String>,
        /// Show progress until no volume is being made any more
        #[arg(long)]
        watch: bool,
    },
    /// Give one volume back
    Volume {
        #[command(subcommand)]
        order: VolumeOrder,
    },
    /// Operations that run, and those that ended lately
    Operations {
        /// Only those of this application (name or id)
        #[arg(long)]
        app: Option<String>,
        /// Show progress until nothing runs any more; exit 1 if one of them failed
        #[arg(long)]
        watch: bool,
    },
    /// Follow what happens, live, until Ctrl-C
    Events {
        /// Only those of this application (name or id)
        #[arg(long)]
        app: Option<String>,
        /// Begin with up to this many past events
        #[arg(long, value_name = "N", default_value_t = 0)]
        recent: usize,
    },
}

#[derive(Debug, Subcommand)]
enum AppOrder {
    /// Set on this node what guards an application against a rollback. What is set here wins over the controller's, item by
    /// item, until it is taken back or the application is deleted
    #[command(after_help = SET_HELP)]
    Set {
        /// Name or id of the application
        app: String,
        /// Its high-availability state: started, stopped, disabled, ignored; controller for the controller's again
        #[arg(long, value_name = "STATE")]
        ha_state: Option<String>,
        /// Set a tag
        #[arg(long, value_name = "TAG")]
        tag: Vec<String>,
        /// Take a tag away
        #[arg(long, value_name = "TAG")]
        untag: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum SnapshotOrder {
    /// Make a snapshot of all volumes now; a running guest is stopped for it and started again. It stays until it is deleted,
    /// or until the application's maximum needs its place
    #[command(after_help = PLAN_HELP)]
    Create {
        /// Name or id of the application
        app: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Give a snapshot up; its data goes when the guest is down next
    #[command(after_help = PLAN_HELP)]
    Delete {
        /// Name or id of the application
        app: String,
        /// Id of the snapshot
        snapshot: String,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Subcommand)]
enum VolumeOrder {
    /// Make one volume of a halted application what it was in a snapshot: same id, same configuration. A volume that cannot be
    /// reverted in place is replaced by a clone of the snapshot, under the same id
    #[command(after_help = REVERT_HELP)]
    Revert {
        /// Id of the snapshot
        snapshot: String,
        /// Id of the volume; not needed where the snapshot holds only one
        #[arg(long, value_name = "ID")]
        volume: Option<String>,
        /// A parameter for what stores the volume; an unknown one is refused
        #[arg(long, value_name = "KEY=VALUE")]
        param: Vec<String>,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Args)]
struct Consent {
    /// Only show the plan: steps, what stands in the way, space, downtime
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without asking, if its plan still has this digest
    #[arg(long, value_name = "DIGEST")]
    yes: Option<String>,
}

const PLAN_HELP: &str = "\
Without --dry-run and --yes the plan is shown, and what is asked on the terminal has to be answered with yes. A plan has a
digest; it stands for what would be done. It is done only if it is still the same then, and no digest works twice: given
again, it tells what has come of the order.

In a script:
  digest=$(holdfast --json rollback db 7f0c5a1e-... --dry-run | jq -r .digest)
  holdfast rollback db 7f0c5a1e-... --yes \"$digest\" && holdfast operations --watch";

const REVERT_HELP: &str = "\
The application must be halted: its controller deactivates it. The plan is shown and agreed to as for a rollback.

Parameters of raw volumes:
  copy-method=auto      share the bytes where the file system can, else copy them (the default)
  copy-method=reflink   share them, or refuse
  copy-method=copy      copy them

Examples:
  holdfast volume revert 7f0c5a1e-... --dry-run
  holdfast volume revert 7f0c5a1e-... --volume b1d2c3a4-... --param copy-method=copy";

const SET_HELP: &str = "\
A rollback is done only for applications whose state is ignored or not set. The tag force_rollback lets it destroy newer
snapshots that the node does not know.

Examples:
  holdfast app set db --ha-state ignored        before a rollback
  holdfast app set db --ha-state controller     after it
  holdfast app set db --tag force_rollback
  holdfast app set db --untag force_rollback";

const NODE_HELP: &str = "\
Every setting can be given as a flag, as an environment variable (in brackets), or in the configuration file (TOML; the
flag's name with _ for -). A flag wins over the environment, that over the file, that over the default. An unknown key in
the file is an error.

Times are written 500ms, 10s, 2m, 1h; sizes 512KiB, 16MiB, 1GiB.

Example configuration file:
  persist = \"/var/lib/holdfast\"
  controller = \"http://controller:8080\"
  device = \"7b1c5a3e-41f0-4c0b-9d53-0c2f5ad0a001\"
  poll_interval = \"10s\"";

#[derive(Debug, Default, Args)]
pub struct NodeArguments {
    /// Directory for everything that must last; one node at a time [HOLDFAST_PERSIST]
    #[arg(long, value_name = "DIR")]
    persist: Option<String>,
    /// The controller's address, http://host:port [HOLDFAST_CONTROLLER]
    #[arg(long, value_name = "URL")]
    controller: Option<String>,
    /// This node's id at the controller [HOLDFAST_DEVICE]
    #[arg(long, value_name = "UUID")]
    device: Option<String>,
    /// How guests' processors are virtualised: auto, kvm, tcg; auto takes KVM only if a probe proves
    /// that it works [HOLDFAST_ACCEL] [default: auto]
    #[arg(long, value_name = "WHICH")]
    accel: Option<String>,
    /// How ZFS is driven where the persist directory lies on it: auto, library, command; off keeps volumes in
    /// files [HOLDFAST_ZFS] [default: auto]
    #[arg(long, value_name = "HOW")]
    zfs: Option<String>,
    /// Time between two questions to the controller [HOLDFAST_POLL_INTERVAL] [default: 10s]
    #[arg(long, value_name = "TIME")]
    poll_interval: Option<String>,
    /// How long a guest may take to shut down before it is stopped by force [HOLDFAST_GUEST_SHUTDOWN]
    /// [default: 60s]
    #[arg(long, value_name = "TIME")]
    guest_shutdown: Option<String>,
    /// How long running work may take to end after SIGTERM; the rest goes on after the next start
    /// [HOLDFAST_DRAIN] [default: 30s]
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
    /// Size of the file that is given up when the disk is full; 0 for none [HOLDFAST_RESERVE]
    /// [default: 8MiB]
    #[arg(long, value_name = "SIZE")]
    reserve: Option<String>,
    /// Come up read-only after this many failed starts within ten minutes; 0 for never
    /// [HOLDFAST_MAX_FAILED_STARTS] [default: 3]
    #[arg(long, value_name = "N")]
    max_failed_starts: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a filter [HOLDFAST_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How it is logged, to standard error: text or json [HOLDFAST_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl NodeArguments {
    /// What the flags say.
    pub fn values(&self, socket: Option<PathBuf>) -> Values {
        let given = [
            (Key::Persist, &self.persist),
            (Key::Controller, &self.controller),
            (Key::Device, &self.device),
            (Key::Accel, &self.accel),
            (Key::Zfs, &self.zfs),
            (Key::PollInterval, &self.poll_interval),
            (Key::GuestShutdown, &self.guest_shutdown),
            (Key::Drain, &self.drain),
            (Key::Reserve, &self.reserve),
            (Key::MaxFailedStarts, &self.max_failed_starts),
            (Key::Log, &self.log),
            (Key::LogFormat, &self.log_format),
        ];
        let mut values = socket_value(socket);
        values.extend(given.into_iter().filter_map(|(key, text)| Some((key, text.clone()?))));
        values
    }
}

/// The one flag that clients have of the node's settings.
pub fn socket_value(socket: Option<PathBuf>) -> Values {
    socket.into_iter().map(|path| (Key::Socket, path.to_string_lossy().into_owned())).collect()
}

/// A command line that is right in form.
#[derive(Debug)]
pub struct Invocation {
    pub socket: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub command: Command,
}

#[derive(Debug)]
pub enum Command {
    Node(Box<NodeArguments>),
    Query(Question),
    Order { json: bool, order: Order },
}

/// Something a running node is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    Set {
        app: String,
        change: LocalChange,
    },
    Act {
        app: String,
        action: LocalAction,
        agreed: Agreed,
    },
    /// Of the application that the snapshot belongs to.
    Revert {
        action: LocalAction,
        agreed: Agreed,
    },
}

/// How an action is agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreed {
    /// Not at all: its plan is shown.
    No,
    /// By whoever sits at the terminal and has read the plan.
    Ask,
    /// By the plan's digest.
    To(String),
}

/// A question to a running node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub json: bool,
    pub about: About,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Status,
    Apps,
    App(String),
    Snapshots { app: Option<String> },
    Volumes { app: Option<String>, watch: bool },
    Operations { app: Option<String>, watch: bool },
    Events { app: Option<String>, recent: usize },
}

/// Reads the command line; on help or a wrong one prints it and exits.
pub fn parse() -> Invocation {
    let line = CommandLine::parse();
    let CommandLine { socket, config, json, verb } = line;
    let command = match verb {
        Verb::Node(arguments) => Command::Node(arguments),
        Verb::App { order } => Command::Order { json, order: checked(order) },
        Verb::Rollback { app, snapshot, consent } => {
            let action = LocalAction::Rollback { snapshot: snapshot_id(&snapshot) };
            Command::Order { json, order: act(app, action, consent) }
        }
        Verb::Snapshot { order: SnapshotOrder::Create { app, consent } } => {
            Command::Order { json, order: act(app, LocalAction::CreateSnapshot, consent) }
        }
        Verb::Snapshot { order: SnapshotOrder::Delete { app, snapshot, consent } } => {
            let action = LocalAction::DeleteSnapshot { snapshot: snapshot_id(&snapshot) };
            Command::Order { json, order: act(app, action, consent) }
        }
        Verb::Volume { order } => Command::Order { json, order: revert(order) },
        verb => Command::Query(Question { json, about: about(verb) }),
    };
    Invocation { socket, config, command }
}

fn act(app: String, action: LocalAction, consent: Consent) -> Order {
    Order::Act { app, action, agreed: consent.agreed() }
}

/// On a wrong one prints it and exits.
fn revert(order: VolumeOrder) -> Order {
    let VolumeOrder::Revert { snapshot, volume, param, consent } = order;
    let volume = volume.map(|text| text.parse().unwrap_or_else(|error: InvalidId| wrong(error.to_string())));
    let mut parameters = BTreeMap::new();
    for text in param {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            wrong(format!("the parameter \"{text}\" is not of the form KEY=VALUE"));
        };
        if parameters.insert(key.to_owned(), value.to_owned()).is_some() {
            wrong(format!("the parameter {key} is given twice"));
        }
    }
    let action = LocalAction::RevertVolume { snapshot: snapshot_id(&snapshot), volume, parameters };
    Order::Revert { action, agreed: consent.agreed() }
}

impl Consent {
    fn agreed(self) -> Agreed {
        match self {
            Consent { dry_run: true, .. } => Agreed::No,
            Consent { yes: Some(digest), .. } => Agreed::To(digest),
            _ => Agreed::Ask,
        }
    }
}

/// On a wrong one prints it and exits.
fn snapshot_id(text: &str) -> SnapshotId {
    text.parse().unwrap_or_else(|error: InvalidId| wrong(error.to_string()))
}

/// Prints what is wrong with a value, and exits as clap does.
fn wrong(error: String) -> ! {
    CommandLine::command().error(clap::error::ErrorKind::ValueValidation, error).exit()
}

/// The order in checked form; on a wrong one prints it and exits.
fn checked(order: AppOrder) -> Order {
    let AppOrder::Set { app, ha_state, tag, untag } = order;
    let ha_state =
        ha_state.map(|text| text.parse().unwrap_or_else(|error: UnknownHaState| wrong(error.to_string())));
    let change =
        LocalChange { ha_state, tags: tag.into_iter().collect(), untags: untag.into_iter().collect() };
    let change = change.checked().unwrap_or_else(|error| wrong(error.to_string()));
    Order::Set { app, change }
}

fn about(verb: Verb) -> About {
    match verb {
        Verb::Node(_)
        | Verb::App { .. }
        | Verb::Rollback { .. }
        | Verb::Snapshot { .. }
        | Verb::Volume { .. }
        | Verb::Status => About::Status,
        Verb::Apps { app: None } => About::Apps,
        Verb::Apps { app: Some(app) } => About::App(app),
        Verb::Snapshots { app } => About::Snapshots { app },
        Verb::Volumes { app, watch } => About::Volumes { app, watch },
        Verb::Operations { app, watch } => About::Operations { app, watch },
        Verb::Events { app, recent } => About::Events { app, recent },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_whole() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_that_names_its_variable() {
        let mut command = CommandLine::command();
        command.build();
        let node = command.find_subcommand("node").unwrap();
        for key in Key::ALL {
            let flag = key.flag().trim_start_matches("--").to_string();
            let argument = node.get_arguments().find(|it| it.get_long() == Some(flag.as_str()));
            let help = argument.and_then(|it| it.get_help()).unwrap().to_string();
            assert!(help.contains(&key.variable()), "{flag}: {help}");
        }
    }
}
