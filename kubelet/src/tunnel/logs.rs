//! The logs of a container, from the file that the runtime writes.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clone8s::v1::GetPodLogsRequest;
use clone8s_daemon::clock;
use jiff::{SignedDuration, Timestamp};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::Notify,
    time::sleep,
};
use tonic::Status;

use super::{answer::Frames, place::Pods};
use crate::{
    desired::PodKey,
    logs::{self, Joiner, Start, Wanted},
    status::PodStatuses,
};

/// Lines are sent together until they are this long.
const FRAME: usize = 32 * 1024;
/// Between looks at a file of which the kernel sends no events.
const LOOK: Duration = Duration::from_millis(500);

/// Where logs are, and whose.
#[derive(Debug, Clone)]
pub(super) struct LogSources {
    pub(super) root: PathBuf,
    pub(super) pods: Pods,
}

/// One run of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    key: PodKey,
    container: String,
    /// The folder of this container's runs.
    dir: PathBuf,
    number: u32,
}

impl Run {
    fn file(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.number))
    }
}

/// Sends what the request asks for; the error is for the caller.
pub(super) async fn send_logs(
    sources: &LogSources,
    request: GetPodLogsRequest,
    frames: &Frames,
) -> Result<(), Status> {
    let run = sources.find(&request)?;
    let opened = open(run.file(), wanted(&request))
        .await
        .map_err(|error| unreadable(&run.file(), &error))?;
    let mut reader = Reader::new(request.timestamps);
    // Watch before the first read: what is written in between is read or sends an event.
    let wake = Arc::new(Notify::new());
    let watcher = if request.follow {
        watch_folder(&run.dir, &wake)
    } else {
        None
    };
    for part in opened {
        reader.go_on_with(part);
        reader
            .send_all(frames)
            .await
            .map_err(|error| error.status(&run))?;
    }
    let mut statuses = sources.pods.statuses.clone();
    loop {
        // Asked before the file is read to its end: what was written before the container ended is then in it.
        let ended = !request.follow || has_ended(&run, &statuses.borrow_and_update());
        reader
            .send_all(frames)
            .await
            .map_err(|error| error.status(&run))?;
        if ended {
            return reader.finish(frames).await.map_err(|error| error.status(&run));
        }
        if reader.was_replaced(&run.file()) {
            let newest = File::open(run.file()).map_err(|error| unreadable(&run.file(), &error))?;
            reader.go_on_with((newest, Start::default()));
            continue;
        }
        tokio::select! {
            () = wake.notified() => {}
            changed = statuses.changed() => if changed.is_err() {
                return reader.finish(frames).await.map_err(|error| error.status(&run));
            },
            () = sleep(LOOK), if watcher.is_none() => {}
        }
    }
}

impl LogSources {
    fn find(&self, request: &GetPodLogsRequest) -> Result<Run, Status> {
        let pod = self.pods.find(&request.namespace, &request.name)?;
        let container = pod.container(&request.container)?;
        let key = pod.key();
        let dir = logs::pod_dir(&self.root, key, pod.uid()).join(&container);
        let runs = runs(&dir);
        let number = match (request.previous, &runs[..]) {
            (false, [.., last]) => *last,
            (true, [.., before, _]) => *before,
            (true, _) => {
                let words =
                    format!("container {container} of pod {key} has no earlier run whose log is kept");
                return Err(Status::not_found(words));
            }
            (false, []) => {
                let words = format!(
                    "container {container} of pod {key} has not started yet{}",
                    pod.waiting_for(&container)
                );
                return Err(Status::failed_precondition(words));
            }
        };
        Ok(Run {
            key: key.clone(),
            container,
            dir,
            number,
        })
    }
}

/// The numbers of the runs whose logs are there, in order.
fn runs(dir: &Path) -> Vec<u32> {
    let mut runs: Vec<u32> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_suffix(".log")?
                .parse()
                .ok()
        })
        .collect();
    runs.sort_unstable();
    runs
}

/// True when the run writes no more. A status that is older than the run says nothing of it.
fn has_ended(run: &Run, statuses: &PodStatuses) -> bool {
    use clone8s::v1::container_state::State;
    if runs(&run.dir).iter().any(|other| *other > run.number) {
        return true;
    }
    let Some(entry) = statuses.get(&run.key) else {
        return true;
    };
    if entry.gone {
        return true;
    }
    let Some(status) = entry
        .status
        .all_container_statuses()
        .find(|status| status.name == run.container)
    else {
        return false;
    };
    let newest = u32::try_from(status.restart_count).unwrap_or(0);
    if newest != run.number {
        return newest > run.number;
    }
    let state = |state: Option<&clone8s::v1::ContainerState>| state.and_then(|state| state.state.clone());
    match state(status.state.as_ref()) {
        Some(State::Terminated(_)) => true,
        // Ended, and to be started again after a while.
        Some(State::Waiting(_)) => matches!(state(status.last_state.as_ref()), Some(State::Terminated(_))),
        Some(State::Running(_)) | None => false,
    }
}

fn wanted(request: &GetPodLogsRequest) -> Wanted {
    let lines = request
        .tail_lines
        .map(|lines| usize::try_from(lines).unwrap_or(0));
    let at_time = request.since_time.as_ref().map(|since| {
        let time = Timestamp::new(since.seconds, since.nanos);
        // No clock shows it: it is before or after every line.
        time.unwrap_or(if since.seconds < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
    });
    let ago = request.since_seconds.map(|seconds| {
        let now = Timestamp::try_from(clock::now()).unwrap_or(Timestamp::MAX);
        now.checked_sub(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MIN)
    });
    Wanted {
        lines,
        since: at_time.or(ago),
    }
}

/// A file, and where to begin in it.
type Part = (File, Start);

/// Opens a run's files, those that a rotation moved away first, where the lines that are wanted begin.
async fn open(newest: PathBuf, mut wanted: Wanted) -> io::Result<Vec<Part>> {
    let opened = tokio::task::spawn_blocking(move || {
        let mut paths = logs::moved_away(&newest);
        paths.push(newest);
        let mut parts = Vec::new();
        while let Some(path) = paths.pop() {
            let mut file = match File::open(path) {
                Ok(file) => file,
                // The oldest are removed by the next rotation.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !parts.is_empty() => break,
                Err(error) => return Err(error),
            };
            let start = logs::start(&mut file, wanted)?;
            file.seek(SeekFrom::Start(start.read_from))?;
            parts.push((file, start));
            wanted.lines = wanted.lines.map(|lines| lines.saturating_sub(start.lines));
            if start.leaves_out || wanted.lines == Some(0) {
                break;
            }
        }
        parts.reverse();
        Ok(parts)
    });
    opened
        .await
        .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

fn watch_folder(dir: &Path, wake: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let wake = wake.clone();
    let event = move |event: notify::Result<notify::Event>| {
        // Reading is an event too, also our own.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            wake.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(event).ok()?;
    watcher.watch(dir, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Reads files' entries and sends the lines that they make.
struct Reader {
    joiner: Joiner,
    part: Option<OpenPart>,
    /// The beginning of a line whose newline is not written yet.
    half: Vec<u8>,
    lines: Vec<u8>,
}

struct OpenPart {
    file: BufReader<tokio::fs::File>,
    inode: Option<u64>,
    position: u64,
    show_from: u64,
}

/// Why the sending stopped.
enum ReadError {
    CallerGone,
    Io(io::Error),
}

impl ReadError {
    fn status(&self, run: &Run) -> Status {
        match self {
            Self::CallerGone => super::answer::CallerGone.into(),
            Self::Io(error) => unreadable(&run.file(), error),
        }
    }
}

impl Reader {
    fn new(timestamps: bool) -> Self {
        Self {
            joiner: Joiner::new(timestamps),
            part: None,
            half: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// The next file of the same run: a line may go on in it.
    fn go_on_with(&mut self, (file, start): Part) {
        self.half.clear();
        self.part = Some(OpenPart {
            inode: file.metadata().ok().map(|metadata| metadata.ino()),
            file: BufReader::with_capacity(FRAME, tokio::fs::File::from_std(file)),
            position: start.read_from,
            show_from: start.show_from,
        });
    }

    /// Sends every line that is complete by now.
    async fn send_all(&mut self, frames: &Frames) -> Result<(), ReadError> {
        while let Some(part) = &mut self.part {
            let read = part
                .file
                .read_until(b'\n', &mut self.half)
                .await
                .map_err(ReadError::Io)?;
            part.position += read as u64;
            if self.half.pop_if(|last| *last == b'\n').is_none() {
                break;
            }
            let shown = self.lines.len();
            self.joiner.push(&self.half, &mut self.lines);
            self.half.clear();
            if part.position <= part.show_from {
                self.lines.truncate(shown);
            }
            if self.lines.len() >= FRAME {
                self.flush(frames).await?;
            }
        }
        self.flush(frames).await
    }

    /// Sends what is left of lines that will never be complete.
    async fn finish(mut self, frames: &Frames) -> Result<(), ReadError> {
        self.joiner.finish(&mut self.lines);
        self.flush(frames).await
    }

    async fn flush(&mut self, frames: &Frames) -> Result<(), ReadError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        frames.data(lines.into()).await.map_err(|_| ReadError::CallerGone)
    }

    /// True when a rotation has put a new file in this one's place.
    fn was_replaced(&self, path: &Path) -> bool {
        let inode = self.part.as_ref().and_then(|part| part.inode);
        path.metadata()
            .is_ok_and(|metadata| Some(metadata.ino()) != inode)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Status {
    Status::unavailable(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
