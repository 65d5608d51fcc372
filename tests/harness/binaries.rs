//! The built programs of the workspace.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Folder of the service binaries: the tests themselves run from its `deps`.
pub(crate) fn bin_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    let dir = exe.parent().expect("a program is in a folder");
    let is_deps = dir.file_name().is_some_and(|name| name == "deps");
    if is_deps { dir.parent().expect("deps is in a profile folder").to_owned() } else { dir.to_owned() }
}

/// Finds a built program, or says how to build it.
pub fn binary(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace`, or scripts/test", path.display());
    path
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end with nothing but the given environment.
///
/// # Panics
/// When it does not end within ten seconds.
pub async fn run_to_end(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let child = Command::new(binary(name))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a built program starts");
    let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{name} {arguments:?} did not end within 10 s"))
        .expect("the output can be read");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
