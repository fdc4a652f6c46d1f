//! Running a command to its end.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::process;

/// What a finished command wrote.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    /// None after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the command; its standard input is empty unless the command says otherwise.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    let child = process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {}", command.get_program().display()))?;
    Ok(Output {
        success: output.status.success(),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Makes a program of this text, by another process: a child that another test starts while this one writes would have
/// the file open for writing too, and such a file cannot be run (`ETXTBSY`).
pub fn write_program(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut source = tempfile::NamedTempFile::new()?;
    source.write_all(text.as_bytes())?;
    let mut install = Command::new("install");
    run(install.args(["--mode", "755"]).arg(source.path()).arg(path)).map(drop)
}

/// Runs the command and gives its standard output; an error carries what it wrote to standard error.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command.stdin(Stdio::null()))?;
    if !output.success {
        bail!("{command:?} failed:\n{}{}", output.stderr, output.stdout);
    }
    Ok(output.stdout)
}
