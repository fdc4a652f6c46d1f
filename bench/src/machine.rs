//! What a result was measured on.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use clone8s_integration::{command, process};

/// One line: processor, cores, memory, system, versions of what takes part.
pub(crate) fn describe() -> String {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown system")
        .trim_matches('"');
    let versions = [
        ["containerd", "--version"],
        ["runc", "--version"],
        ["etcd", "--version"],
    ]
    .map(|[program, flag]| version(program, flag))
    .join("; ");
    format!(
        "{cpu}, {cores} cores, {memory}; {system}, Linux {}; {versions}",
        kernel.trim()
    )
}

/// Of a process and the children that it has waited for (proc(5), utime to cstime; hundredths of a second).
pub(crate) fn process_cpu(pid: u32) -> anyhow::Result<Duration> {
    ensure!(process::alive(pid), "the server, process {pid}, is gone");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(") ").next().context("a stat line")?;
    let ticks: u64 = after_name
        .split(' ')
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// A line of /proc/<pid>/status in bytes, such as "VmRSS:" (resident) or "VmHWM:" (the most that ever was).
pub(crate) fn process_memory(pid: u32, line: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("the server, process {pid}, is gone"))?;
    kilobytes(&status, line).with_context(|| format!("no {line}"))
}

/// The first "name   123 kB" of a text of proc(5), in bytes.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Of 10^6 bytes.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The first value of "name : value" lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text
        .lines()
        .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))?;
    Some(value.trim().to_owned())
}

fn version(program: &str, flag: &str) -> String {
    let output = command::run(Command::new(program).arg(flag)).unwrap_or_default();
    output
        .lines()
        .next()
        .unwrap_or("unknown version")
        .trim()
        .to_owned()
}
