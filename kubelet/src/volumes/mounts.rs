//! Mount points of this machine.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use clone8s::huge_pages::PageSize;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A tmpfs at `path` of this mode that holds `limit` bytes at most; a second call changes the limit of the first.
pub(super) fn tmpfs(path: &Path, mode: u32, limit: Option<i64>) -> io::Result<()> {
    let options = limit.map_or_else(
        || format!("mode={mode:04o}"),
        |bytes| format!("mode={mode:04o},size={bytes}"),
    );
    let options = CString::new(options).map_err(io::Error::other)?;
    if is_mounted(path)? {
        mount_remount(path, MountFlags::empty(), options.as_c_str())?;
    } else {
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str()))?;
    }
    Ok(())
}

/// Files in huge pages of this size at `path`, `limit` bytes of them at most; a second call changes nothing (Linux,
/// admin-guide/mm/hugetlbpage.rst, "Using Huge Pages").
pub(super) fn hugetlbfs(path: &Path, size: PageSize, limit: Option<i64>) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let mut options = format!("mode=0777,pagesize={}", size.bytes());
    if let Some(bytes) = limit {
        options = format!("{options},size={bytes}");
    }
    let options = CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    Ok(mount(
        "hugetlbfs",
        path,
        "hugetlbfs",
        flags,
        Some(options.as_c_str()),
    )?)
}

pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mount_points()?.iter().any(|point| point == path))
}

pub(super) fn any_below(path: &Path) -> io::Result<bool> {
    Ok(mount_points()?.iter().any(|point| point.starts_with(path)))
}

/// Unmounts everything at and below `path`, the latest first. What is still in use goes when its last user does.
pub(super) fn unmount_below(path: &Path) -> io::Result<()> {
    let below = mount_points()?
        .into_iter()
        .filter(|point| point.starts_with(path));
    for point in below.collect::<Vec<_>>().into_iter().rev() {
        detach(&point)?;
    }
    Ok(())
}

pub(super) fn detach(point: &Path) -> io::Result<()> {
    match unmount(point, UnmountFlags::DETACH) {
        // Unmounted in the meantime, or together with its parent.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// In the order in which they were mounted (proc_pid_mountinfo(5)).
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|point| PathBuf::from(OsString::from_vec(unescape(point))))
        .collect())
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        if let Some(digits) = digits {
            let value = digits
                .iter()
                .fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            plain.push(u8::try_from(value).unwrap_or(b'?'));
            rest = &behind[3..];
        } else {
            plain.push(*first);
            rest = behind;
        }
    }
    plain
}

/// A path as the kernel takes it.
pub(super) fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape(br"/mnt/a\040b\134c"), br"/mnt/a b\c");
        assert_eq!(unescape(br"/mnt/a\9"), br"/mnt/a\9");
    }
}
