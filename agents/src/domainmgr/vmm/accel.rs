//! Which accelerator QEMU uses: a setting, and for `auto` a proof.
//!
//! `/dev/kvm` can exist and still not run an ordinary guest: QEMU dies at once, or the guest hangs in early boot and burns a core.
//! So `auto` chooses KVM only if a short probe guest has run to its end under it, in time. The choice is made once,
//! when the node starts, and carries its reason.

#![allow(clippy::disallowed_methods, reason = "the seam to the hypervisor: devices")]

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::probe;

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

/// Long enough for the probe guest on a busy machine (idle, a good KVM needs a fraction of a second), and short enough to be
/// waited for when the node starts.
pub const PROBE_AT_MOST: Duration = Duration::from_secs(5);

/// Turns the setting into a choice. `Auto` may take up to `at_most`; the others return at once and prove nothing.
pub fn choose_accelerator(setting: Accel, qemu: &Path, at_most: Duration) -> Choice {
    let choice = |accelerator, reason: String| Choice { accelerator, reason };
    match setting {
        Accel::Kvm => choice(Accelerator::Kvm, "set by the configuration".into()),
        Accel::Tcg => choice(Accelerator::Tcg, "set by the configuration".into()),
        Accel::Auto => match prove_kvm(Path::new("/dev/kvm"), qemu, at_most) {
            Ok(took) => choice(Accelerator::Kvm, format!("the probe guest took {} ms", took.as_millis())),
            Err(why_not) => choice(Accelerator::Tcg, why_not),
        },
    }
}

fn prove_kvm(device: &Path, qemu: &Path, at_most: Duration) -> Result<Duration, String> {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => probe::run(qemu, Accelerator::Kvm, at_most),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(format!("{} is missing", device.display())),
        Err(error) => Err(format!("{} cannot be opened: {error}", device.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "qemu-system-x86_64";

    #[test]
    fn a_setting_is_obeyed_without_a_proof() {
        let none = Path::new("no-such-qemu");
        let kvm = choose_accelerator(Accel::Kvm, none, PROBE_AT_MOST);
        assert_eq!(kvm.to_string(), "kvm: set by the configuration");
        assert_eq!(choose_accelerator(Accel::Tcg, none, PROBE_AT_MOST).accelerator, Accelerator::Tcg);
        assert_eq!("auto".parse(), Ok(Accel::Auto));
        assert!("fast".parse::<Accel>().expect_err("is none").contains("auto, kvm or tcg"));
    }

    #[test]
    fn without_proof_kvm_is_not_chosen_and_the_reason_is_told() {
        let missing = prove_kvm(Path::new("/dev/no-such-kvm"), Path::new(QEMU), PROBE_AT_MOST);
        assert_eq!(missing, Err("/dev/no-such-kvm is missing".into()));
        let choice = choose_accelerator(Accel::Auto, Path::new("false"), PROBE_AT_MOST);
        assert_eq!(choice.accelerator, Accelerator::Tcg, "{choice}");
        eprintln!("on this machine: {}", choose_accelerator(Accel::Auto, Path::new(QEMU), PROBE_AT_MOST));
    }
}
