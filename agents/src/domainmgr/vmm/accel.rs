//! Which accelerator QEMU uses: a setting, and for `auto` a proof.
//!
//! `/dev/kvm` can exist and still not run an ordinary guest: the guest hangs in early boot and burns a core. So `auto` chooses KVM only
//! if a short probe guest has run to its end under it, in time.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// The setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accel {
    /// KVM if a probe guest runs under it, otherwise TCG.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(format!("{other:?} is not an accelerator: use auto, kvm or tcg")),
        }
    }
}

/// What QEMU is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// Emulation: slower by an order of magnitude, and always there.
    Tcg,
}

impl Accelerator {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The richest processor each can give.
    pub(super) fn cpu_model(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// What was chosen, and why, in words for the log and the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub accelerator: Accelerator,
    pub reason: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.accelerator.as_str(), self.reason)
    }
}

/// Turns the setting into a choice. `Auto` may take up to `at_most`, once; the others return at once and prove nothing.
pub fn choose_accelerator(setting: Accel, qemu: &Path, at_most: Duration) -> Choice {
    let chosen = |accelerator, reason: &str| Choice { accelerator, reason: reason.to_owned() };
    match setting {
        Accel::Kvm => chosen(Accelerator::Kvm, "set by the configuration"),
        Accel::Tcg => chosen(Accelerator::Tcg, "set by the configuration"),
        Accel::Auto => match prove_kvm(qemu, at_most) {
            Ok(()) => chosen(Accelerator::Kvm, "a probe guest ran to its end"),
            Err(why) => Choice { accelerator: Accelerator::Tcg, reason: why },
        },
    }
}

fn prove_kvm(_qemu: &Path, _at_most: Duration) -> Result<(), String> {
    if !Path::new("/dev/kvm").exists() {
        return Err("/dev/kvm is missing".into());
    }
    Err("there is no probe for KVM yet".into())
}
