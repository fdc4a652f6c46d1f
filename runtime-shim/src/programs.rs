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

/// A program that takes longer to answer is said to have no answer.
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
        match (find(program), self.version(program).await) {
            (Some(path), Ok(version)) => json!({"path": path, "version": version}),
            (Some(path), Err(problem)) => json!({"path": path, "problem": problem}),
            (None, version) => json!({"problem": version.err()}),
        }
    }

    /// The first line that the program says to `--version`, or why it says none.
    pub(crate) async fn version(&self, program: &str) -> Result<String, String> {
        let path = find(program).ok_or_else(|| format!("no program {program} in PATH"))?;
        let changed = path
            .metadata()
            .and_then(|file| file.modified())
            .map_err(|error| error.to_string())?;
        if let Some((at, version)) = lock(&self.versions).get(&path)
            && *at == changed
        {
            return Ok(version.clone());
        }
        let text = ask(&path, "--version").await?;
        let text = String::from_utf8_lossy(&text);
        let version = text.lines().next().unwrap_or_default().trim().to_owned();
        lock(&self.versions).insert(path, (changed, version.clone()));
        Ok(version)
    }
}

/// What a program writes when it is run with one word, and in time.
pub(crate) async fn ask(path: &Path, word: &str) -> Result<Vec<u8>, String> {
    let asked = Command::new(path)
        .arg(word)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(LIMIT, asked).await {
        Ok(Ok(output)) if output.status.success() => Ok(output.stdout),
        Ok(Ok(output)) => Err(format!("ends with {} when run with {word}", output.status)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("does not answer to {word} within {} s", LIMIT.as_secs())),
    }
}

/// The first two numbers in a row of a text: `runc version 1.1.5+ds1`, `6.18.44-amd64`.
pub(crate) fn version_number(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut parts = text[start..].split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
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
    fn a_version_is_the_first_two_numbers() {
        assert_eq!(version_number("6.18.44-amd64"), Some((6, 18)));
        assert_eq!(version_number("5.4-rc1"), Some((5, 4)));
        assert_eq!(version_number("crun version 1.14"), Some((1, 14)));
        assert_eq!(version_number("runc version 1.1.5+ds1"), Some((1, 1)));
        assert_eq!(version_number("unknown"), None);
    }

    #[tokio::test]
    async fn a_program_that_fails_has_no_answer() {
        let refused = ask(Path::new("/bin/false"), "--version").await.unwrap_err();
        assert!(refused.contains("exit status: 1"), "{refused}");
    }

    #[test]
    fn a_path_is_a_program_only_if_it_can_be_run() {
        assert_eq!(find("/etc/passwd"), None);
        assert_eq!(find("/bin/sh"), Some("/bin/sh".into()));
    }
}
