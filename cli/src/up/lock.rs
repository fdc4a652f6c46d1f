//! One cluster for each run folder: the lock that its process holds.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::Pid,
};

use super::layout::Layout;

/// Others may go through it, to what is theirs.
const DATA_MODE: u32 = 0o711;

/// Held as long as the value lives. The kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _run: Held,
    _data: Held,
}

#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// Who has the lock.
#[derive(Debug)]
pub(crate) enum Locked {
    /// We do.
    ByUs(Held),
    /// A running process; None when it has not written its id yet.
    By(Option<Pid>),
}

impl Lock {
    /// Makes the run folder and the data folder, which must be a cluster's or empty, and locks them.
    pub(crate) fn take(layout: &Layout) -> Result<Self> {
        prepare(layout)?;
        Ok(Self {
            _run: take_one(&layout.lock(), &layout.run_dir)?,
            _data: take_one(&layout.marker(), &layout.data_dir)?,
        })
    }
}

/// Makes the folders where they are missing; the run folder is root's alone.
pub(crate) fn prepare(layout: &Layout) -> Result<()> {
    make(&layout.run_dir, 0o700, layout)?;
    make(&layout.data_dir, DATA_MODE, layout)?;
    for mark in [layout.lock(), layout.marker()] {
        open(&mark)?;
    }
    Ok(())
}

fn make(folder: &Path, mode: u32, layout: &Layout) -> Result<()> {
    refuse_foreign(folder, layout)?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

impl Held {
    /// Makes the data folder and locks it alone, for who works on it while no cluster is up.
    pub(crate) fn of_data(layout: &Layout) -> Result<Self> {
        make(&layout.data_dir, DATA_MODE, layout)?;
        take_one(&layout.marker(), &layout.data_dir)
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_take(path: &Path) -> Result<Locked> {
        let mut file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Locked::ByUs(Self { _file: file }))
            }
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Ok(Locked::By(text.trim().parse().ok().and_then(Pid::from_raw)))
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

fn take_one(path: &Path, folder: &Path) -> Result<Held> {
    match Held::try_take(path)? {
        Locked::ByUs(held) => Ok(held),
        Locked::By(pid) => bail!(
            "a cluster is up already in {} ({}); to start it with other flags, end that process, and its pods run on; \
             `c8s down` ends the pods, too; --run-dir and --data-dir choose other folders",
            folder.display(),
            pid.map_or_else(
                || "starting".to_owned(),
                |pid| format!("process {}", pid.as_raw_pid())
            ),
        ),
    }
}

/// A folder with other people's files in it is never ours: `c8s down` may remove it one day.
fn refuse_foreign(folder: &Path, layout: &Layout) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the folder {}", folder.display()));
        }
    };
    if entries && !layout.lock().exists() && folder == layout.run_dir
        || entries && !layout.marker().exists() && folder == layout.data_dir
    {
        bail!(
            "{}: holds files that no cluster has put there; choose an empty or a new folder",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_cluster_is_refused_by_process_id_and_may_start_once_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("run"), &dir.path().join("data"));
        let first = Lock::take(&layout).unwrap();
        let error = Lock::take(&layout).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(error.contains("c8s down"), "{error}");
        drop(first);
        Lock::take(&layout).unwrap();
    }

    #[test]
    fn a_data_folder_belongs_to_one_cluster_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let _first = Lock::take(&Layout::new(&dir.path().join("run1"), &data)).unwrap();
        let error = Lock::take(&Layout::new(&dir.path().join("run2"), &data)).unwrap_err();
        assert!(error.to_string().contains("/data (process"), "{error}");
    }

    #[test]
    fn a_folder_with_other_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        for layout in [
            Layout::new(&dir.path().join("run"), dir.path()),
            Layout::new(dir.path(), &dir.path().join("data")),
        ] {
            let error = Lock::take(&layout).unwrap_err();
            assert!(error.to_string().contains("no cluster has put there"), "{error}");
        }
    }
}
