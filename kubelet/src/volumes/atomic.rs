//! Files that change all at once, in the layout that Kubernetes made standard:
//!
//! ```text
//! <volume>/key            ─► ..data/key
//! <volume>/..data         ─► ..2026_xyz
//! <volume>/..2026_xyz/key    the content
//! ```
//! Readers who go through the links see the old files or the new ones, never some of each: a change is one rename of
//! `..data`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;

use super::ownership;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Bytes,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// By path within the volume: relative, without "..".
pub(crate) type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const NEXT: &str = "..data_next";

/// Makes the volume hold these files and no others, all of them its group's if it has one. False when it held them
/// already.
pub(super) fn write(volume: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    open_up(volume, group)?;
    if let Some(outside) = files.keys().find(|path| !stays_inside(path)) {
        return Err(io::Error::other(format!("{outside:?} leads out of the volume")));
    }
    let present = fs::read_link(volume.join(DATA)).ok();
    let changed = match &present {
        Some(present) => {
            let present = volume.join(present);
            let is_groups = |group| fs::metadata(&present).is_ok_and(|found| found.gid() == group);
            read(&present).ok().as_ref() != Some(files) || group.is_some_and(|group| !is_groups(group))
        }
        None => true,
    };
    let mut current = present.clone();
    if changed {
        let made = tempfile::Builder::new().prefix("..v").tempdir_in(volume)?;
        open_up(made.path(), group)?;
        fill(made.path(), files, group)?;
        let name = PathBuf::from(made.path().file_name().unwrap_or_default());
        let next = volume.join(NEXT);
        remove(&next)?;
        symlink(&name, &next)?;
        fs::rename(&next, volume.join(DATA))?;
        // From here on it is the volume's content, not ours to take away.
        drop(made.keep());
        current = Some(name);
    }
    link(volume, files)?;
    sweep(volume, current.as_deref())?;
    Ok(changed)
}

/// What the volume held when this was written, in its present form.
fn read(folder: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push(path);
                continue;
            }
            let file = File {
                content: fs::read(entry.path())?.into(),
                mode: entry.metadata()?.permissions().mode() & 0o7777,
            };
            files.insert(path.to_string_lossy().into_owned(), file);
        }
    }
    Ok(files)
}

/// Containers may run as any user, and the umask is not theirs to suffer from.
fn open_up(folder: &Path, group: Option<u32>) -> io::Result<()> {
    match group {
        Some(group) => ownership::give_one(folder, group, 0o755 | ownership::SET_GROUP),
        None => fs::set_permissions(folder, fs::Permissions::from_mode(0o755)),
    }
}

fn fill(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    for (path, file) in files {
        let path = folder.join(path);
        let parents = path.ancestors().skip(1).take_while(|parent| *parent != folder);
        for parent in parents.collect::<Vec<_>>().into_iter().rev() {
            fs::create_dir_all(parent)?;
            open_up(parent, group)?;
        }
        fs::write(&path, &file.content)?;
        // After the writing, for a mode may forbid it; and whatever the umask.
        let mode = file.mode & 0o777;
        match group {
            Some(group) => ownership::give_one(&path, group, mode)?,
            None => fs::set_permissions(&path, fs::Permissions::from_mode(mode))?,
        }
    }
    Ok(())
}

/// A link at the top for each file or folder of the content, and none besides.
fn link(volume: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<OsString> = files
        .keys()
        .filter_map(|path| Path::new(path).components().next())
        .map(|first| first.as_os_str().to_owned())
        .collect();
    for name in &wanted {
        let link = volume.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            remove(&link)?;
            symlink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_string_lossy().starts_with("..");
        if !ours && !wanted.contains(&name) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes contents that are no longer shown, among them what a writer that was killed has left.
fn sweep(volume: &Path, current: Option<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_content = name.to_string_lossy().starts_with("..v") && entry.file_type()?.is_dir();
        if is_content && Some(Path::new(&name)) != current {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        let of = |(path, content): &(&str, &str)| {
            let file = File {
                content: Bytes::copy_from_slice(content.as_bytes()),
                mode: 0o644,
            };
            ((*path).to_owned(), file)
        };
        entries.iter().map(of).collect()
    }

    /// What a container sees: names and contents, without the layout's own.
    fn seen(volume: &Path) -> Vec<(String, String)> {
        let mut seen: Vec<_> = fs::read_dir(volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .map(|name| {
                let path = volume.join(&name);
                let content = if path.is_dir() {
                    String::new()
                } else {
                    fs::read_to_string(path).unwrap()
                };
                (name, content)
            })
            .collect();
        seen.sort();
        seen
    }

    fn pairs(entries: &[(&str, &str)]) -> Vec<(String, String)> {
        entries
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    }

    #[test]
    fn the_volume_holds_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let first = files(&[("a", "1"), ("b", "2"), ("deep/er", "3")]);
        assert!(write(dir.path(), &first, None).unwrap());
        assert!(
            !write(dir.path(), &first, None).unwrap(),
            "the same again changes nothing"
        );
        assert_eq!(seen(dir.path()), pairs(&[("a", "1"), ("b", "2"), ("deep", "")]));
        assert_eq!(fs::read_to_string(dir.path().join("deep/er")).unwrap(), "3");

        assert!(write(dir.path(), &files(&[("b", "4"), ("deep", "5")]), None).unwrap());
        assert_eq!(seen(dir.path()), pairs(&[("b", "4"), ("deep", "5")]));
        assert!(write(dir.path(), &Files::new(), None).unwrap());
        assert_eq!(seen(dir.path()), []);
        let contents = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(contents, 2, "..data and what it shows");
    }

    #[test]
    fn modes_are_as_asked_and_part_of_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let mut wanted = files(&[("key", "secret")]);
        wanted.get_mut("key").unwrap().mode = 0o400;
        write(dir.path(), &wanted, None).unwrap();
        let mode = || fs::metadata(dir.path().join("key")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o400);
        wanted.get_mut("key").unwrap().mode = 0o440;
        assert!(write(dir.path(), &wanted, None).unwrap());
        assert_eq!(mode(), 0o440);
    }

    #[test]
    fn files_of_a_group_are_its_own_and_become_another_groups() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let wanted = files(&[("deep/key", "1")]);
        write(dir.path(), &wanted, None).unwrap();
        for group in [2000, 2001] {
            assert!(write(dir.path(), &wanted, Some(group)).unwrap());
            assert!(!write(dir.path(), &wanted, Some(group)).unwrap());
            for path in ["", "..data/", "deep", "deep/key"] {
                assert_eq!(
                    fs::metadata(dir.path().join(path)).unwrap().gid(),
                    group,
                    "{path}"
                );
            }
        }
        let folder = fs::metadata(dir.path().join("deep")).unwrap();
        assert_eq!(folder.mode() & 0o7777, 0o2755);
    }

    #[test]
    fn what_a_killed_writer_has_left_is_mended_and_swept() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("a", "1")]), None).unwrap();
        // Killed before the swap, and between the swap and the links.
        fs::create_dir(dir.path().join("..vhalf")).unwrap();
        symlink("..vhalf", dir.path().join(NEXT)).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        symlink("..data/gone", dir.path().join("gone")).unwrap();
        assert!(!write(dir.path(), &files(&[("a", "1")]), None).unwrap());
        assert_eq!(seen(dir.path()), pairs(&[("a", "1")]));
        assert!(!dir.path().join("..vhalf").exists());
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "a/../../b", "", "..data"] {
            write(dir.path(), &files(&[(path, "1")]), None).unwrap_err();
        }
    }

    #[test]
    fn a_reader_never_sees_some_of_each() {
        let dir = tempfile::tempdir().unwrap();
        let both = |content: &str| files(&[("a", content), ("b", content)]);
        write(dir.path(), &both("0"), None).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    // As a program does that cares: one look at where the data are, then all of them.
                    let data = fs::read_link(dir.path().join(DATA)).unwrap();
                    let of = |name: &str| fs::read_to_string(dir.path().join(&data).join(name));
                    if let (Ok(a), Ok(b)) = (of("a"), of("b")) {
                        assert_eq!(a, b);
                        reads += 1;
                    }
                }
                reads
            });
            for round in 1..200 {
                write(dir.path(), &both(&round.to_string()), None).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }
}
