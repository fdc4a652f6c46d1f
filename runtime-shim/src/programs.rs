//! The host's programs that the shim or containerd's shim runs: where they are and which version they are.

use std::{
    collections::BTreeMap,
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::table::lock;

/// A program that takes longer to tell its version is said to have none.
const LIMIT: Duration = Duration::from_secs(5);

/// Versions that were asked for, until the file changes.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    versions: Mutex<BTreeMap<PathBuf, (SystemTime, String)>>,
}

/// Where a program is, by its path or by looking through `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| is_program(path));
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| is_program(path))
}

impl Programs {
    /// For people: path and version, or what is wrong.
    pub(crate) async fn describe(&self, program: &str) -> Value {
        let Some(path) = find(program) else {
            return json!({"problem": format!("no program {program} in PATH")});
        };
        match self.version(&path).await {
            Ok(version) => json!({"path": path, "version": version}),
            Err(problem) => json!({"path": path, "problem": problem}),
        }
    }

    /// The first line that the program says to `--version`.
    async fn version(&self, path: &Path) -> Result<String, String> {
        let changed = path
            .metadata()
            .and_then(|file| file.modified())
            .map_err(|error| error.to_string())?;
        if let Some((at, version)) = lock(&self.versions).get(path)
            && *at == changed
        {
            return Ok(version.clone());
        }
        let asked = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(LIMIT, asked).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("does not tell its version within {} s", LIMIT.as_secs())),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default().trim().to_owned();
        lock(&self.versions).insert(path.to_owned(), (changed, version.clone()));
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_described_by_its_path_and_version() {
        let programs = Programs::default();
        let bash = programs.describe("bash").await;
        assert!(bash["version"].as_str().unwrap().contains("bash"), "{bash}");
        assert!(bash["path"].as_str().unwrap().ends_with("/bash"), "{bash}");
        let absent = programs.describe("no-such-program").await;
        assert!(absent["problem"].as_str().unwrap().contains("PATH"), "{absent}");
    }

    #[test]
    fn a_path_is_a_program_only_if_it_can_be_run() {
        assert_eq!(find("/etc/passwd"), None);
        assert_eq!(find("/bin/sh"), Some("/bin/sh".into()));
    }
}
