//! One task for each container: reads both FIFOs, writes one log.
//!
//! ```text
//! open ─(bytes)─► write whole lines ─(quiet for HOLD)─► write the started line as a part
//! open ─(both FIFOs ended, or closed)─► write what is left ─► done
//! ```
//!
//! What is written is first looked at, and leaves the FIFO only then: see [`source`](super::source).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Fifos, HOLD, Keeper,
    format::{Stream, Take},
    source::Source,
    taps::{Tap, Taps},
};
use crate::error::{Error, Result};

/// How many looks the end of a container's log takes at most: it may have left someone behind who writes on.
const LAST_LOOKS: usize = 64;

/// The handle of a container's log. Dropping it ends the task.
#[derive(Debug)]
pub(crate) struct Pump {
    commands: mpsc::Sender<Command>,
    done: watch::Receiver<bool>,
    taps: Arc<Taps>,
}

#[derive(Debug)]
enum Command {
    /// Open the log's path anew.
    Reopen(oneshot::Sender<io::Result<()>>),
    /// Take what the FIFOs hold, and end.
    Finish,
}

struct Task {
    stdout: Source,
    stderr: Option<Source>,
    log: Log,
    taps: Arc<Taps>,
}

/// The log file; none is a log that goes nowhere.
pub(super) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    failing: bool,
}

impl Pump {
    /// Opens FIFOs and log. The task must be run; the keeper must be held until someone else writes to the FIFOs.
    pub(crate) fn open(
        fifos: &Fifos,
        log_path: &str,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>, Keeper)> {
        fifos.make()?;
        let (task, pump) = Self::prepare(fifos, log_path)?;
        let keeper = fifos.keeper()?;
        Ok((pump, task, keeper))
    }

    /// Opens the FIFOs of a container that runs already.
    pub(crate) fn reopen_fifos(
        fifos: &Fifos,
        log_path: &str,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let (task, pump) = Self::prepare(fifos, log_path)?;
        Ok((pump, task))
    }

    fn prepare(fifos: &Fifos, log_path: &str) -> Result<(impl Future<Output = ()> + Send + use<>, Self)> {
        let path = (!log_path.is_empty()).then(|| PathBuf::from(log_path));
        let file = match &path {
            Some(path) => Some(open_log(path).map_err(Error::file("open log", path))?),
            None => None,
        };
        let taps = Arc::<Taps>::default();
        let source = |stream, path: PathBuf| {
            Source::open(stream, &path, log_path, Arc::clone(&taps)).map_err(Error::file("open FIFO", path))
        };
        let task = Task {
            taps: Arc::clone(&taps),
            stdout: source(Stream::Stdout, fifos.stdout())?,
            stderr: fifos
                .stderr()
                .map(|path| source(Stream::Stderr, path))
                .transpose()?,
            log: Log {
                path,
                file,
                failing: false,
            },
        };
        // One who asks twice before the task looks waits for it.
        let (commands, inbox) = mpsc::channel(4);
        let (tell, done) = watch::channel(false);
        let task = async move {
            task.run(inbox).await;
            tell.send_replace(true);
        };
        Ok((task, Self { commands, done, taps }))
    }

    /// Follows the output from now on.
    pub(crate) fn tap(&self) -> Tap {
        self.taps.tap()
    }

    /// Waits until all output is in the log, at most `limit`: a process that the container left behind may hold its
    /// output open. What has come by then is written, and the log is closed.
    pub(crate) async fn drain(&self, limit: Duration) {
        let mut done = self.done.clone();
        if timeout(limit, done.wait_for(|done| *done)).await.is_err() {
            let _ = self.commands.send(Command::Finish).await;
            let _ = timeout(limit, done.wait_for(|done| *done)).await;
        }
    }

    /// Opens the log's path anew (CRI, ReopenContainerLog).
    pub(crate) async fn reopen_log(&self) -> io::Result<()> {
        let (reply, outcome) = oneshot::channel();
        let ended = || io::Error::other("its output has ended");
        self.commands
            .send(Command::Reopen(reply))
            .await
            .map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut flush_at: Option<Instant> = None;
        loop {
            let hold = flush_at.unwrap_or_else(Instant::now);
            tokio::select! {
                Some(()) = Source::next(Some(&mut self.stdout)) => self.stdout.take(Take::Lines, &mut self.log),
                Some(()) = Source::next(self.stderr.as_mut()) => if let Some(stderr) = &mut self.stderr {
                    stderr.take(Take::Lines, &mut self.log);
                },
                () = sleep_until(hold), if flush_at.is_some() => self.take_all(),
                command = inbox.recv() => match command {
                    Some(Command::Reopen(reply)) => {
                        let _ = reply.send(self.log.reopen());
                    }
                    Some(Command::Finish) | None => break,
                },
            }
            flush_at = self.is_pending().then(|| Instant::now() + HOLD);
            if self.stdout.has_ended() && self.stderr.as_ref().is_none_or(Source::has_ended) {
                break;
            }
        }
        self.take_all();
        self.taps.end();
    }

    /// Writes what has come, the start of an unfinished line too.
    fn take_all(&mut self) {
        for source in [Some(&mut self.stdout), self.stderr.as_mut()]
            .into_iter()
            .flatten()
        {
            for _ in 0..LAST_LOOKS {
                source.take(Take::All, &mut self.log);
                if !source.has_more() {
                    break;
                }
            }
        }
    }

    fn is_pending(&self) -> bool {
        self.stdout.is_pending() || self.stderr.as_ref().is_some_and(Source::is_pending)
    }
}

impl Log {
    /// The file, where there is one.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Writes at once: each entry that waited in memory would be lost with the process. To the page cache, so it
    /// does not hold up the thread for long.
    pub(super) fn write(&mut self, text: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if text.is_empty() {
            return;
        }
        match file.write_all(text) {
            Ok(()) => self.failing = false,
            // A full disk must not stop the container: its output goes on, the log has a gap.
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(log = ?self.path, %error, "cannot write a container's log; its output is lost");
            }
            Err(_) => {}
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open_log(path)?);
        }
        Ok(())
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::ids::ContainerId;

    struct Bench {
        dir: tempfile::TempDir,
        fifos: Fifos,
    }

    fn bench(tty: bool) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::new(dir.path(), &ContainerId::from("c1"), tty, false);
        Bench { dir, fifos }
    }

    impl Bench {
        fn log_path(&self) -> String {
            self.dir.path().join("pods/web/0.log").display().to_string()
        }

        /// The log without its times.
        fn entries(path: &str) -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            text.lines()
                .map(|line| line.split_once(' ').unwrap().1.to_owned())
                .collect()
        }

        fn writer(path: PathBuf) -> File {
            OpenOptions::new().write(true).open(path).unwrap()
        }
    }

    #[tokio::test]
    async fn both_streams_reach_one_log_and_the_end_of_both_ends_it() {
        let bench = bench(false);
        let (pump, task, keeper) = Pump::open(&bench.fifos, &bench.log_path()).unwrap();
        let container = async {
            let (mut out, mut err) = (
                Bench::writer(bench.fifos.stdout()),
                Bench::writer(bench.fifos.stderr().unwrap()),
            );
            drop(keeper);
            out.write_all(b"one\n").unwrap();
            err.write_all(b"two\nthr").unwrap();
            err.write_all(b"ee").unwrap();
            drop((out, err));
            pump.drain(Duration::from_secs(5)).await;
        };
        tokio::join!(task, container);
        let mut entries = Bench::entries(&bench.log_path());
        entries.sort();
        assert_eq!(entries, ["stderr F two", "stderr P three", "stdout F one"]);
    }

    #[tokio::test]
    async fn a_started_line_is_written_before_its_end_comes() {
        let bench = bench(true);
        let (pump, task, keeper) = Pump::open(&bench.fifos, &bench.log_path()).unwrap();
        let container = async {
            let mut out = Bench::writer(bench.fifos.stdout());
            drop(keeper);
            out.write_all(b"$ ").unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            while Bench::entries(&bench.log_path()).is_empty() {
                assert!(Instant::now() < deadline, "never written");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            out.write_all(b"exit\n").unwrap();
            drop(out);
            pump.drain(Duration::from_secs(5)).await;
        };
        tokio::join!(task, container);
        assert_eq!(
            Bench::entries(&bench.log_path()),
            ["stdout P $ ", "stdout F exit"]
        );
    }

    #[tokio::test]
    async fn after_a_rotation_lines_go_to_the_new_file() {
        let bench = bench(true);
        let path = bench.log_path();
        let (pump, task, keeper) = Pump::open(&bench.fifos, &path).unwrap();
        let container = async {
            let mut out = Bench::writer(bench.fifos.stdout());
            drop(keeper);
            out.write_all(b"old\n").unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            while Bench::entries(&path).is_empty() {
                assert!(Instant::now() < deadline, "never written");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let rotated = format!("{path}.1");
            fs::rename(&path, &rotated).unwrap();
            pump.reopen_log().await.unwrap();
            out.write_all(b"new\n").unwrap();
            drop(out);
            pump.drain(Duration::from_secs(5)).await;
            assert_eq!(Bench::entries(&rotated), ["stdout F old"]);
        };
        tokio::join!(task, container);
        assert_eq!(Bench::entries(&path), ["stdout F new"]);
    }

    #[tokio::test]
    async fn a_new_reader_goes_on_where_the_last_one_stopped() {
        let bench = bench(true);
        let path = bench.log_path();
        let (pump, task, keeper) = Pump::open(&bench.fifos, &path).unwrap();
        // The container's shim process holds both ends, as containerd's does.
        let mut out = Bench::writer(bench.fifos.stdout());
        let reader = File::open(bench.fifos.stdout()).unwrap();
        drop((pump, task, keeper));
        out.write_all(b"while it was away\n").unwrap();
        let (pump, task) = Pump::reopen_fifos(&bench.fifos, &path).unwrap();
        let container = async {
            drop((out, reader));
            pump.drain(Duration::from_secs(5)).await;
        };
        tokio::join!(task, container);
        assert_eq!(Bench::entries(&path), ["stdout F while it was away"]);
    }

    #[tokio::test]
    async fn a_crash_between_any_two_steps_neither_loses_a_line_nor_writes_it_twice() {
        use super::super::source::Crash;
        for crash in [
            Crash::BeforeWriting,
            Crash::BeforeConsuming,
            Crash::AfterConsuming,
        ] {
            let bench = bench(true);
            let path = bench.log_path();
            let (pump, task, keeper) = Pump::open(&bench.fifos, &path).unwrap();
            let mut out = Bench::writer(bench.fifos.stdout());
            let reader = File::open(bench.fifos.stdout()).unwrap();
            out.write_all(b"same\nsame\nan unfinished ").unwrap();
            drop((pump, task, keeper));
            let mut log = Log {
                path: Some(path.clone().into()),
                file: Some(open_log(Path::new(&path)).unwrap()),
                failing: false,
            };
            let mut source =
                Source::open(Stream::Stdout, &bench.fifos.stdout(), &path, Arc::default()).unwrap();
            source.take_until(crash, &mut log);
            drop((source, log));
            out.write_all(b"line\nsame\n").unwrap();
            let (pump, task) = Pump::reopen_fifos(&bench.fifos, &path).unwrap();
            let container = async {
                drop((out, reader));
                pump.drain(Duration::from_secs(5)).await;
            };
            tokio::join!(task, container);
            let expected = [
                "stdout F same",
                "stdout F same",
                "stdout F an unfinished line",
                "stdout F same",
            ];
            assert_eq!(Bench::entries(&path), expected, "{crash:?}");
        }
    }

    #[tokio::test]
    async fn output_that_nobody_ends_does_not_hold_up_the_container_s_end() {
        let bench = bench(true);
        let (pump, task, keeper) = Pump::open(&bench.fifos, &bench.log_path()).unwrap();
        let mut out = Bench::writer(bench.fifos.stdout());
        out.write_all(b"last words\n").unwrap();
        let end = async { pump.drain(Duration::from_millis(50)).await };
        tokio::join!(task, end);
        drop((keeper, out));
        assert_eq!(Bench::entries(&bench.log_path()), ["stdout F last words"]);
    }
}
