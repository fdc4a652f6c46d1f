//! Running a CNI plugin: its configuration on standard input, its verb in the environment (CNI specification 1.1, §2).

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

/// A result is a few hundred bytes.
const MOST_OUTPUT: u64 = 1 << 20;
/// Of what it writes for people, this much is passed on.
const MOST_WORDS: usize = 4 << 10;
/// For the rest of its output, once a plugin has ended: a child of its own may hold the pipe open.
const AFTER_END: Duration = Duration::from_millis(500);

/// Where plugins are, and how long one may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Programs<'a> {
    pub(super) dirs: &'a [PathBuf],
    pub(super) time_limit: Duration,
}

/// One call of a plugin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invocation<'a> {
    /// `ADD`, `DEL`, `CHECK`, `STATUS` or `GC`.
    pub(super) command: &'static str,
    pub(super) sandbox: &'a str,
    /// None when it is gone, which `DEL` must accept.
    pub(super) netns: Option<&'a Path>,
    pub(super) interface: &'a str,
    pub(super) args: &'a str,
}

impl Invocation<'_> {
    /// About no sandbox.
    pub(super) fn of_network(command: &'static str) -> Self {
        Self {
            command,
            sandbox: "",
            netns: None,
            interface: "",
            args: "",
        }
    }
}

/// Why a plugin did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("CNI plugin {program}: not found in {dirs}; install the CNI plugins or name their folder")]
    Missing { program: String, dirs: String },
    #[error("CNI plugin {path}: cannot run: {cause}", path = .path.display())]
    Run { path: PathBuf, cause: io::Error },
    #[error("CNI plugin {program} {command}: no end in {} s, so it was killed{}", .limit.as_secs_f32(), wrote(.stderr))]
    TimedOut {
        program: String,
        command: &'static str,
        limit: Duration,
        stderr: String,
    },
    #[error("CNI plugin {program} {command}: {message}")]
    Failed {
        program: String,
        command: &'static str,
        message: String,
    },
}

/// A plugin's error result (CNI specification 1.1, §5, "Error").
#[derive(Debug, Deserialize)]
struct Failure {
    msg: String,
    #[serde(default)]
    details: String,
}

/// Ends a plugin with all that it has started, unless it has ended.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // One that has ended meanwhile is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Programs<'_> {
    /// The plugin's program in the first folder that has it.
    pub(super) fn find(&self, program: &str) -> Result<PathBuf, PluginError> {
        let mut paths = self.dirs.iter().map(|dir| dir.join(program));
        paths
            .find(|path| path.is_file())
            .ok_or_else(|| PluginError::Missing {
                program: program.to_owned(),
                dirs: self.joined(", "),
            })
    }

    fn joined(&self, separator: &str) -> String {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
        dirs.join(separator)
    }

    /// Runs the plugin and returns its result; null where it writes none, as for `DEL`.
    pub(super) async fn run(
        &self,
        program: &str,
        invocation: &Invocation<'_>,
        conf: &Value,
    ) -> Result<Value, PluginError> {
        let path = self.find(program)?;
        let cannot_run = |cause| PluginError::Run {
            path: path.clone(),
            cause,
        };
        let mut child = Command::new(&path)
            .env("CNI_COMMAND", invocation.command)
            .env("CNI_CONTAINERID", invocation.sandbox)
            .env("CNI_NETNS", invocation.netns.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", invocation.interface)
            .env("CNI_ARGS", invocation.args)
            .env("CNI_PATH", self.joined(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot_run)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let mut group = Group(pid.and_then(Pid::from_raw));

        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut output = Vec::new();
        let mut words = Vec::new();
        let ended = {
            let pipes = async {
                let feed = async {
                    if let Some(mut stdin) = stdin {
                        // A plugin that does not read its configuration tells why in its result.
                        let _ = stdin.write_all(conf.to_string().as_bytes()).await;
                    }
                };
                tokio::join!(
                    feed,
                    read_result(stdout, &mut output),
                    read_words(stderr, &mut words)
                );
            };
            let work = async {
                tokio::pin!(pipes);
                let mut drained = false;
                loop {
                    tokio::select! {
                        status = child.wait() => {
                            if !drained {
                                let _ = timeout(AFTER_END, &mut pipes).await;
                            }
                            break status;
                        }
                        () = &mut pipes, if !drained => drained = true,
                    }
                }
            };
            timeout(self.time_limit, work).await
        };
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        let program = program.to_owned();
        let command = invocation.command;
        let Ok(ended) = ended else {
            // The group is killed when this returns.
            return Err(PluginError::TimedOut {
                program,
                command,
                limit: self.time_limit,
                stderr: words,
            });
        };
        let status = ended.map_err(cannot_run)?;
        // It has ended; what it has left running is meant to run.
        group.0 = None;
        let failed = |message| PluginError::Failed {
            program,
            command,
            message,
        };
        if u64::try_from(output.len()).is_ok_and(|length| length > MOST_OUTPUT) {
            return Err(failed(format!("its result is larger than {MOST_OUTPUT} bytes")));
        }
        if !status.success() {
            return Err(failed(explain(&output, &words, status)));
        }
        if output.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output)
            .map_err(|error| failed(format!("its result is not JSON: {error}{}", wrote(&words))))
    }
}

/// A byte more than is allowed at most, and the rest is not waited for.
async fn read_result(pipe: Option<impl AsyncRead + Unpin>, output: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // A broken pipe ends the output.
        let _ = pipe.take(MOST_OUTPUT + 1).read_to_end(output).await;
    }
}

/// The last words, in which a program says why it ends.
async fn read_words(pipe: Option<impl AsyncRead + Unpin>, words: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut part = vec![0; MOST_WORDS];
    while let Ok(length @ 1..) = pipe.read(&mut part).await {
        words.extend(&part[..length]);
        words.drain(..words.len().saturating_sub(MOST_WORDS));
    }
}

fn explain(stdout: &[u8], words: &str, status: ExitStatus) -> String {
    if let Ok(failure) = serde_json::from_slice::<Failure>(stdout) {
        let told = match failure.details.as_str() {
            "" => failure.msg,
            details => format!("{}: {details}", failure.msg),
        };
        return told + &wrote(words);
    }
    match words {
        "" => status.to_string(),
        words => words.to_owned(),
    }
}

fn wrote(words: &str) -> String {
    match words {
        "" => String::new(),
        words => format!("; it wrote: {words}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use clone8s_integration::command::write_program;
    use serde_json::json;

    use super::*;

    async fn add(script: &str) -> Result<Value, PluginError> {
        add_within(script, Duration::from_mins(1)).await
    }

    /// Runs a shell script as the plugin `fake`.
    async fn add_within(script: &str, time_limit: Duration) -> Result<Value, PluginError> {
        let dir = tempfile::tempdir().unwrap();
        write_program(&dir.path().join("fake"), &format!("#!/bin/sh\n{script}\n")).unwrap();
        let invocation = Invocation {
            command: "ADD",
            sandbox: "s1",
            netns: Some(Path::new("/run/ns/s1")),
            interface: "eth0",
            args: "IgnoreUnknown=1",
        };
        let dirs = [dir.path().to_owned()];
        let programs = Programs {
            dirs: &dirs,
            time_limit,
        };
        programs.run("fake", &invocation, &json!({"name": "net"})).await
    }

    async fn refusal(script: &str) -> String {
        add(script).await.unwrap_err().to_string()
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
        let script = r#"echo '{"code": 11, "msg": "no addresses", "details": "range full"}'; exit 1"#;
        assert_eq!(
            refusal(script).await,
            "CNI plugin fake ADD: no addresses: range full"
        );
        let script = r#"echo 'two left' >&2; echo '{"code": 11, "msg": "no addresses"}'; exit 1"#;
        assert_eq!(
            refusal(script).await,
            "CNI plugin fake ADD: no addresses; it wrote: two left"
        );
        assert_eq!(
            refusal("echo 'out of luck' >&2; exit 3").await,
            "CNI plugin fake ADD: out of luck"
        );
        assert_eq!(refusal("exit 3").await, "CNI plugin fake ADD: exit status: 3");
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_killed_with_its_children() {
        let began = Instant::now();
        let script = "echo waiting >&2; sleep 1000 & echo $! > \"${0%/*}.pid\"; wait";
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = script.replace("\"${0%/*}.pid\"", &pid_file.display().to_string());
        let error = add_within(&script, Duration::from_secs(2)).await.unwrap_err();
        assert!(
            matches!(error, PluginError::TimedOut { .. }) && error.to_string().contains("waiting"),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_secs(30));
        let pid = fs::read_to_string(pid_file).unwrap();
        for _ in 0..100 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            // Gone, or a zombie of whoever reaps orphans here.
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("process {pid} lives on");
    }

    #[tokio::test]
    async fn a_child_that_lives_on_does_not_hold_up_the_result() {
        let began = Instant::now();
        let result = add("sleep 20 & echo '{\"ips\": []}'").await.unwrap();
        assert_eq!(result, json!({"ips": []}));
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn output_that_is_no_result_is_told_and_bounded() {
        let error = refusal("echo '<html>'; echo 'see log' >&2").await;
        assert!(error.contains("not JSON") && error.contains("see log"), "{error}");
        let error = refusal("head -c 2000000 /dev/zero | tr '\\0' '1'").await;
        assert!(error.contains("larger than 1048576"), "{error}");
        let error = refusal("yes alarm | head -c 3000000 >&2; exit 1").await;
        assert!(error.contains("alarm") && error.len() < 5000, "{}", error.len());
        assert_eq!(add("exit 0").await.unwrap(), Value::Null);
    }

    #[tokio::test]
    async fn a_missing_plugin_names_the_folders_that_were_searched() {
        let dirs = ["/nonexistent/a".into(), "/nonexistent/b".into()];
        let programs = Programs {
            dirs: &dirs,
            time_limit: Duration::from_secs(1),
        };
        let error = programs.find("bridge").unwrap_err().to_string();
        assert!(
            error.contains("bridge: not found in /nonexistent/a, /nonexistent/b"),
            "{error}"
        );
    }
}
