//! `c8s up --detach`: starts the cluster in the background and returns when its node is ready.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use clone8s_daemon::log_file::older;
use tokio::time::{Instant, sleep, timeout};

use super::{
    args::UpArgs,
    layout::{Cluster, Layout},
    lock::{Held, Locked},
    preflight, ready,
};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of the log, when the start fails.
const LAST_LINES: usize = 20;
/// For glibc's allocator, mallopt(3): what a start has needed for a moment goes back to the kernel. The unit
/// clone8s.service has the same.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

pub(super) fn run(args: &UpArgs) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(start(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: &UpArgs) -> Result<()> {
    let cluster = args.cluster()?;
    // Before the log is opened, which only root may do.
    preflight::check_root()?;
    let layout = cluster.layout();
    let started = Instant::now();
    let limit = Duration::from_secs(args.timeout);
    if let Some(process) = running(&layout)? {
        // Whatever it was started with is what is waited for.
        let cluster = Cluster::load(&layout.run_dir)?.unwrap_or(cluster);
        if timeout(limit, ready::wait(&cluster, SystemTime::UNIX_EPOCH))
            .await
            .is_err()
        {
            bail!(
                "a cluster is up already ({process}), but its node is not ready; see {}",
                layout.up_log().display()
            );
        }
        println!(
            "already up ({process}), with the flags of its start; to change them, end that process, and its pods run on"
        );
        return Ok(());
    }
    let since = clone8s_daemon::clock::now();
    let log = open_log(&layout)?;
    let mut child = spawn(&log)?;
    let pid = child.id();
    tokio::select! {
        () = ready::wait(&cluster, since) => {
            println!("up after {:.2} s (process {pid}, log {})", started.elapsed().as_secs_f64(), log.display());
            Ok(())
        }
        ended = ended(&mut child) => {
            bail!("{} ({})", last_lines(&log), ended?)
        }
        () = sleep(limit) => bail!(
            "the node is not ready after {} s; process {pid} goes on, its log is {}:\n{}",
            limit.as_secs(),
            log.display(),
            last_lines(&log)
        ),
    }
}

/// Who runs a cluster in this run folder.
fn running(layout: &Layout) -> Result<Option<String>> {
    if !layout.lock().exists() {
        return Ok(None);
    }
    Ok(match Held::try_take(&layout.lock())? {
        Locked::ByUs(_) => None,
        Locked::By(pid) => Some(pid.map_or_else(
            || "starting".to_owned(),
            |pid| format!("process {}", pid.as_raw_pid()),
        )),
    })
}

/// The same command line, without what detaches.
fn spawn(log: &Path) -> Result<Child> {
    let out = OpenOptions::new().append(true).open(log)?;
    let arguments: Vec<OsString> = env::args_os()
        .skip(1)
        .map(|word| {
            if word == "--detach" {
                "--session".into()
            } else {
                word
            }
        })
        .collect();
    Command::new(env::current_exe().context("cannot find our own program")?)
        .args(without_timeout(arguments))
        .envs(ALLOCATOR)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot start the background process")
}

/// `--timeout` belongs to --detach.
fn without_timeout(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut kept = Vec::with_capacity(arguments.len());
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        if word == "--timeout" {
            words.next();
        } else if !word.to_string_lossy().starts_with("--timeout=") {
            kept.push(word);
        }
    }
    kept
}

fn open_log(layout: &Layout) -> Result<PathBuf> {
    super::lock::prepare(layout)?;
    let path = layout.up_log();
    fs::create_dir_all(layout.logs()).with_context(|| format!("cannot make {}", layout.logs().display()))?;
    // How the last one ended is what is asked for when it ended badly.
    if path.exists() {
        fs::rename(&path, older(&path)).with_context(|| format!("cannot rename {}", path.display()))?;
    }
    fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

async fn ended(child: &mut Child) -> Result<String> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.to_string());
        }
        sleep(LOOK_EVERY).await;
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_process_gets_every_other_flag() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            without_timeout(words("up --session --timeout 5 --bridge b0 --timeout=7")),
            words("up --session --bridge b0")
        );
    }
}
