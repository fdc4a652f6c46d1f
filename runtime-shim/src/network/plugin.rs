//! Running a CNI plugin: its configuration on standard input, its verb in the environment (CNI specification 1.0, §2).

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::conf::Plugin;
use crate::ids::SandboxId;

/// A plugin that takes longer hangs.
const TIME_LIMIT: Duration = Duration::from_mins(1);

/// One call of a plugin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invocation<'a> {
    /// `ADD` or `DEL`.
    pub(super) command: &'static str,
    pub(super) sandbox: &'a SandboxId,
    /// None when it is gone, which `DEL` must accept.
    pub(super) netns: Option<&'a Path>,
    pub(super) interface: &'a str,
    pub(super) args: &'a str,
}

/// Why a plugin did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("CNI plugin {program}: not found in {dirs}; install the CNI plugins or name their folder")]
    Missing { program: String, dirs: String },
    #[error("CNI plugin {path}: cannot run: {cause}", path = .path.display())]
    Run { path: PathBuf, cause: io::Error },
    #[error("CNI plugin {program} {command}: no end in 60 s")]
    TimedOut { program: String, command: &'static str },
    #[error("CNI plugin {program} {command}: {message}")]
    Failed {
        program: String,
        command: &'static str,
        message: String,
    },
}

/// A plugin's error result (CNI specification 1.0, §5, "Error").
#[derive(Debug, Deserialize)]
struct Failure {
    msg: String,
    #[serde(default)]
    details: String,
}

/// The plugin's program in the first folder that has it.
pub(super) fn find(dirs: &[PathBuf], program: &str) -> Result<PathBuf, PluginError> {
    dirs.iter()
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| PluginError::Missing {
            program: program.to_owned(),
            dirs: dirs
                .iter()
                .map(|dir| dir.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Runs the plugin and returns its result; null for `DEL`.
pub(super) async fn run(
    dirs: &[PathBuf],
    plugin: &Plugin,
    invocation: &Invocation<'_>,
    conf: &Value,
) -> Result<Value, PluginError> {
    let path = find(dirs, &plugin.program)?;
    let search: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let cannot_run = |cause| PluginError::Run {
        path: path.clone(),
        cause,
    };
    let mut command = Command::new(&path);
    command
        .env("CNI_COMMAND", invocation.command)
        .env("CNI_CONTAINERID", invocation.sandbox.as_str())
        .env("CNI_NETNS", invocation.netns.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", invocation.interface)
        .env("CNI_ARGS", invocation.args)
        .env("CNI_PATH", search.join(":"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(cannot_run)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A plugin that does not read its configuration tells why in its result.
            let _ = stdin.write_all(conf.to_string().as_bytes()).await;
        }
    };
    let ended = timeout(TIME_LIMIT, async {
        tokio::join!(feed, child.wait_with_output()).1
    })
    .await;
    let program = plugin.program.clone();
    let command = invocation.command;
    let output = match ended {
        Ok(output) => output.map_err(cannot_run)?,
        Err(_) => return Err(PluginError::TimedOut { program, command }),
    };
    if !output.status.success() {
        let message = explain(&output.stdout, &output.stderr, output.status.code());
        return Err(PluginError::Failed {
            program,
            command,
            message,
        });
    }
    if output.stdout.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).map_err(|error| PluginError::Failed {
        program,
        command,
        message: format!("its result is not JSON: {error}"),
    })
}

fn explain(stdout: &[u8], stderr: &[u8], code: Option<i32>) -> String {
    if let Ok(failure) = serde_json::from_slice::<Failure>(stdout) {
        return match failure.details.as_str() {
            "" => failure.msg,
            details => format!("{}: {details}", failure.msg),
        };
    }
    match String::from_utf8_lossy(stderr).trim() {
        "" => code.map_or_else(|| "ended by a signal".into(), |code| format!("exit code {code}")),
        words => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use serde_json::json;

    use super::*;

    /// A folder with the plugin `fake`, a shell script.
    fn plugin(script: &str) -> (tempfile::TempDir, Plugin) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fake");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, serde_json::from_value(json!({"type": "fake"})).unwrap())
    }

    async fn add(script: &str) -> Result<Value, PluginError> {
        let (dir, plugin) = plugin(script);
        let sandbox = SandboxId::from("s1");
        let invocation = Invocation {
            command: "ADD",
            sandbox: &sandbox,
            netns: Some(Path::new("/run/ns/s1")),
            interface: "eth0",
            args: "IgnoreUnknown=1",
        };
        run(
            &[dir.path().to_owned()],
            &plugin,
            &invocation,
            &json!({"name": "net"}),
        )
        .await
    }

    #[tokio::test]
    async fn a_plugin_gets_verb_sandbox_and_namespace_by_environment_and_its_configuration_on_stdin() {
        let script = r#"read -r conf
            echo "{\"conf\": $conf, \"call\": \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\"}""#;
        let result = add(script).await.unwrap();
        assert_eq!(result["conf"], json!({"name": "net"}));
        assert_eq!(result["call"], "ADD s1 /run/ns/s1 eth0 IgnoreUnknown=1");
    }

    #[tokio::test]
    async fn the_plugins_own_words_are_told() {
        let error =
            add(r#"echo '{"code": 11, "msg": "no addresses", "details": "range full"}'; exit 1"#).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "CNI plugin fake ADD: no addresses: range full"
        );
        let error = add("echo 'out of luck' >&2; exit 3").await;
        assert_eq!(error.unwrap_err().to_string(), "CNI plugin fake ADD: out of luck");
    }

    #[test]
    fn a_missing_plugin_names_the_folders_that_were_searched() {
        let error = find(&["/nonexistent/a".into(), "/nonexistent/b".into()], "bridge").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("bridge: not found in /nonexistent/a, /nonexistent/b"),
            "{error}"
        );
    }
}
