//! What `make install` leaves behind: a unit that systemd understands, and settings that the binary understands.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{holdfast, run};

/// Installs this test's binary as if it were the release build. `None`, and a reason, without `make`.
fn installed() -> Option<TempDir> {
    let directory = TempDir::new().unwrap();
    let release = directory.path().join("target/release");
    std::fs::create_dir_all(&release).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_holdfast"), release.join("holdfast")).unwrap();
    let made = Command::new("make")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .env("CARGO_TARGET_DIR", directory.path().join("target"))
        .args(["install", "PREFIX=/usr"])
        .arg(format!("DESTDIR={}", directory.path().join("root").display()))
        .output();
    match made {
        Err(error) => {
            eprintln!("skipped: make cannot be run: {error}");
            None
        }
        Ok(made) => {
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            Some(directory)
        }
    }
}

#[test]
fn the_unit_is_understood_and_runs_the_binary() {
    let Some(directory) = installed() else { return };
    let root = directory.path().join("root");
    let unit = std::fs::read_to_string(root.join("lib/systemd/system/holdfast.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/holdfast node\n"), "{unit}");
    assert!(!unit.contains("DIR@"), "{unit}");

    // Verified where its binary is, since it is not installed on this machine.
    let here = directory.path().join("holdfast.service");
    let binary = root.join("usr/bin/holdfast");
    std::fs::write(&here, unit.replace("/usr/bin/holdfast", binary.to_str().unwrap())).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&here).output() {
        Err(error) => eprintln!("skipped: systemd-analyze cannot be run: {error}"),
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr).into_owned();
            let about_it: Vec<&str> = said.lines().filter(|line| line.contains("holdfast")).collect();
            assert!(verified.status.success() && about_it.is_empty(), "{said}");
        }
    }
}

#[test]
fn the_example_settings_are_private_and_name_every_setting() {
    let Some(directory) = installed() else { return };
    let settings = directory.path().join("root/etc/holdfast/holdfast.toml");
    assert_eq!(std::fs::metadata(&settings).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&settings).unwrap();
    for key in holdfast_agents::settings::Key::ALL {
        assert!(
            text.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{} = ", key.name())))
        );
    }
    let as_installed = run(holdfast(&["node", "--config"]).arg(&settings));
    assert_eq!(as_installed.code, 2);
    assert!(as_installed.err.contains("no controller address"), "{}", as_installed.err);

    // Every line that can be taken in is right, and is what holds without it.
    std::fs::write(&settings, text.replace("\n#", "\n").replace("\n ", "\n# ")).unwrap();
    let wrong = run(holdfast(&["node", "--accel", "xen", "--config"]).arg(&settings));
    assert!(wrong.err.contains("--accel is \"xen\""), "{}", wrong.err);
}
