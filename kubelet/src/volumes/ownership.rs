//! Volumes that belong to their pod's group (fsGroup).

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
};

use clone8s_daemon::within;
use rustix::fs::{OFlags, ResolveFlags};

/// What is made in a folder belongs to the folder's group.
pub(super) const SET_GROUP: u32 = 0o2000;
const WRITABLE_FILE: u32 = 0o660;
const WRITABLE_FOLDER: u32 = 0o770 | SET_GROUP;

/// Gives a volume and all in it to a group, which may read and write. The top comes last: one that has the group already
/// is left alone, whatever is in it, and one that was not finished is begun anew.
///
/// Containers may be at work in it meanwhile: what they put in the place of something leads nowhere else.
pub(super) fn give(volume: &Path, group: u32) -> io::Result<()> {
    if fs::symlink_metadata(volume)?.gid() == group {
        return Ok(());
    }
    let top = fs::File::open(volume)?;
    let mut pending = vec![PathBuf::from(".")];
    while let Some(folder) = pending.pop() {
        let Some(opened) = open(&top, &folder)? else {
            continue;
        };
        for entry in fs::read_dir(handle(&opened))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let Some(found) = open(&top, &path)? else { continue };
            let metadata = fs::metadata(handle(&found))?;
            let mode = if metadata.is_dir() {
                pending.push(path);
                WRITABLE_FOLDER
            } else {
                WRITABLE_FILE
            };
            give_one(&handle(&found), group, metadata.mode() | mode)?;
        }
    }
    give_one(volume, group, fs::metadata(volume)?.mode() | WRITABLE_FOLDER)
}

/// Gives one file or folder of ours to a group. The mode comes after the owner, whose change may take bits away.
pub(super) fn give_one(path: &Path, group: u32, mode: u32) -> io::Result<()> {
    chown(path, None, Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}

/// None for what is gone, and for links: they have no mode of their own.
fn open(top: &fs::File, path: &Path) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match within::find(top, path, OFlags::empty(), resolve) {
        Ok(opened) => Ok(Some(opened)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A way to what is open, which nobody can put something else in.
fn handle(opened: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Who is not root can give files to its own groups alone: to the one that it has.
    fn some_group(dir: &Path) -> u32 {
        if rustix::process::geteuid().is_root() {
            return 2000;
        }
        fs::metadata(dir).unwrap().gid()
    }

    #[test]
    fn all_in_a_volume_is_given_and_nothing_outside() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o600)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let group = some_group(dir.path());
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        fs::set_permissions(dir.path().join("a/b/file"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        symlink("/", dir.path().join("a/root")).unwrap();
        let before = fs::metadata(outside.path()).unwrap();

        give(dir.path(), group).unwrap();
        for (path, mode) in [
            ("a", WRITABLE_FOLDER),
            ("a/b", WRITABLE_FOLDER),
            ("a/b/file", WRITABLE_FILE),
        ] {
            let found = fs::metadata(dir.path().join(path)).unwrap();
            if rustix::process::geteuid().is_root() {
                assert_eq!(found.gid(), group, "{path}");
                assert_eq!(found.mode() & mode, mode, "{path}");
            }
        }
        let after = fs::metadata(outside.path()).unwrap();
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));

        // What a container makes later is its own matter.
        fs::write(dir.path().join("later"), "x").unwrap();
        chown(dir.path().join("later"), None, Some(before.gid())).unwrap();
        give(dir.path(), group).unwrap();
        assert_eq!(
            fs::metadata(dir.path().join("later")).unwrap().gid(),
            before.gid()
        );
    }
}
