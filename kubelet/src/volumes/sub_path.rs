//! A part of a volume, bound to a place of its own.
//!
//! A container that shares the volume could swap a folder for a symbolic link between a check and the runtime's
//! mount. So the path is resolved once, by the kernel, within the volume, and what it led to is bound to a place
//! that no container can reach.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use clone8s_daemon::within;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat},
    io::Errno,
    mount::mount_bind,
};

use super::{VolumeError, mounts};

/// Binds `sub_path` of `volume` to `target`, making folders that are missing. A second call binds it anew.
pub(super) fn bind(name: &str, volume: &Path, sub_path: &str, target: &Path) -> Result<(), VolumeError> {
    let failed = |attempt, path: PathBuf| {
        let name = name.to_owned();
        move |cause: io::Error| VolumeError::Io {
            name,
            attempt,
            path,
            cause,
        }
    };
    let escapes = || VolumeError::Escape {
        name: name.to_owned(),
        sub_path: sub_path.to_owned(),
    };
    let relative = Path::new(sub_path);
    if relative
        .components()
        .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(escapes());
    }
    let found = match open_within(volume, relative) {
        Ok(found) => found,
        // RESOLVE_BENEATH, openat2(2).
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => return Err(escapes()),
        Err(error) => return Err(failed("open", volume.join(relative))(error)),
    };
    place(&found, target).map_err(failed("bind a part of the volume to", target.to_owned()))
}

fn open_within(volume: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let root = openat(
        CWD,
        volume,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match within::find(&root, relative, OFlags::empty(), beneath()) {
        Err(Errno::NOENT) => {}
        outcome => return Ok(outcome?),
    }
    let mut folder = root;
    for part in relative.components() {
        match mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Step by step, a link cannot be told from an escape: none is followed while folders are made.
        let resolve = beneath() | ResolveFlags::NO_SYMLINKS;
        folder = within::find(&folder, part.as_os_str(), OFlags::DIRECTORY, resolve)?;
    }
    Ok(folder)
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS
}

fn place(found: &OwnedFd, target: &Path) -> io::Result<()> {
    while mounts::is_mounted(target)? {
        mounts::detach(target)?;
    }
    let is_folder = FileType::from_raw_mode(fstat(found)?.st_mode) == FileType::Directory;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    // The last run may have bound something of the other type here.
    match fs::symlink_metadata(target) {
        Ok(old) if old.is_dir() && !is_folder => fs::remove_dir(target)?,
        Ok(old) if old.is_file() && is_folder => fs::remove_file(target)?,
        _ => {}
    }
    if is_folder {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    let source = mounts::c_string(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))?;
    Ok(mount_bind(source.as_c_str(), target)?)
}
