//! The root file system: a snapshot's mounts, made in the bundle.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount as unmount_one};

use crate::{
    failure::{Failure, Result},
    messages::Mount,
};

/// A mount's data must fit a page; some room is left for what the kernel adds.
const MAX_DATA: usize = 4096 - 512;

/// Mounts one above the other; what was mounted before a failure is taken down again.
pub(crate) fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for one in mounts {
        if let Err(error) = mount_one(one, target) {
            unmount(target)?;
            return Err(error);
        }
    }
    Ok(())
}

/// Takes down everything that is mounted at the path. Repeatable.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    loop {
        match unmount_one(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount, or not there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Failure::file("unmount", target)(error)),
        }
    }
}

fn mount_one(one: &Mount, target: &Path) -> Result<()> {
    let options = Options::parse(&one.options);
    let failed = |error: rustix::io::Errno| Failure::file("mount the root file system on", target)(error);
    let (data, folder) = match options.data.len() {
        length if length >= MAX_DATA && one.kind == "overlay" => shorten(&options.data),
        _ => (options.data.clone(), None),
    };
    let data = CString::new(data).map_err(|_| Failure::Invalid {
        field: "rootfs.options",
        problem: "a zero byte".into(),
    })?;
    if let Some(folder) = &folder {
        std::env::set_current_dir(folder).map_err(Failure::file("enter", folder))?;
    }
    let kind = if options.flags.contains(MountFlags::BIND) {
        ""
    } else {
        one.kind.as_str()
    };
    let done = mount(one.source.as_str(), target, kind, options.flags, data.as_c_str());
    if folder.is_some() {
        std::env::set_current_dir("/").map_err(Failure::file("enter", "/"))?;
    }
    done.map_err(failed)?;
    // A bind mount takes its flags only when it is mounted again.
    if options.flags.contains(MountFlags::BIND | MountFlags::RDONLY) {
        mount_remount(target, options.flags, c"").map_err(failed)?;
    }
    Ok(())
}

/// An overlay of many layers, with their paths relative to the folder that they share.
fn shorten(data: &str) -> (String, Option<PathBuf>) {
    let lower = data
        .split(',')
        .find_map(|option| option.strip_prefix("lowerdir="))
        .unwrap_or_default();
    let mut layers = lower.split(':');
    let Some(first) = layers.next() else {
        return (data.to_owned(), None);
    };
    let mut shared = PathBuf::from(first);
    shared.pop();
    for layer in layers {
        while !Path::new(layer).starts_with(&shared) {
            shared.pop();
        }
    }
    if shared.parent().is_none() {
        return (data.to_owned(), None);
    }
    let prefix = format!("{}/", shared.display());
    let short: Vec<_> = lower
        .split(':')
        .map(|layer| layer.strip_prefix(&prefix).unwrap_or(layer))
        .collect();
    let options: Vec<_> = data
        .split(',')
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={}", short.join(":")),
            None => option.to_owned(),
        })
        .collect();
    (options.join(","), Some(shared))
}

/// The words of fstab, told apart.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    data: String,
}

impl Options {
    fn parse(words: &[String]) -> Self {
        let mut flags = MountFlags::empty();
        let mut data = Vec::new();
        for word in words {
            let (flag, set) = match word.as_str() {
                "ro" => (MountFlags::RDONLY, true),
                "rw" => (MountFlags::RDONLY, false),
                "nosuid" => (MountFlags::NOSUID, true),
                "suid" => (MountFlags::NOSUID, false),
                "nodev" => (MountFlags::NODEV, true),
                "dev" => (MountFlags::NODEV, false),
                "noexec" => (MountFlags::NOEXEC, true),
                "exec" => (MountFlags::NOEXEC, false),
                "sync" => (MountFlags::SYNCHRONOUS, true),
                "dirsync" => (MountFlags::DIRSYNC, true),
                "noatime" => (MountFlags::NOATIME, true),
                "atime" => (MountFlags::NOATIME, false),
                "nodiratime" => (MountFlags::NODIRATIME, true),
                "relatime" => (MountFlags::RELATIME, true),
                "strictatime" => (MountFlags::STRICTATIME, true),
                "bind" => (MountFlags::BIND, true),
                "rbind" => (MountFlags::BIND | MountFlags::REC, true),
                "defaults" | "" => (MountFlags::empty(), true),
                other => {
                    data.push(other);
                    continue;
                }
            };
            flags.set(flag, set);
        }
        Self {
            flags,
            data: data.join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = Options::parse(&words(&["rbind", "ro", "index=off", "lowerdir=/a:/b"]));
        assert_eq!(
            options.flags,
            MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY
        );
        assert_eq!(options.data, "index=off,lowerdir=/a:/b");
        assert_eq!(Options::parse(&words(&["ro", "rw"])).flags, MountFlags::empty());
    }

    #[test]
    fn many_layers_are_named_from_the_folder_that_they_share() {
        let (data, folder) =
            shorten("index=off,upperdir=/s/9/fs,lowerdir=/s/snapshots/2/fs:/s/snapshots/1/fs");
        assert_eq!(folder, Some("/s/snapshots".into()));
        assert_eq!(data, "index=off,upperdir=/s/9/fs,lowerdir=2/fs:1/fs");
        let data = "lowerdir=/a/fs:/b/fs";
        assert_eq!(shorten(data), (data.to_owned(), None));
    }

    #[test]
    fn a_read_only_bind_mount_is_made_and_goes_and_may_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        std::fs::create_dir_all(&source).unwrap();
        std::fs::create_dir_all(&target).unwrap();
        std::fs::write(source.join("file"), "text").unwrap();
        let one = Mount {
            kind: "bind".into(),
            source: source.display().to_string(),
            options: words(&["rbind", "ro"]),
            ..Mount::default()
        };
        mount_all(&[one], &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "text");
        assert!(std::fs::write(target.join("file"), "new").is_err());
        unmount(&target).unwrap();
        unmount(&target).unwrap();
        assert!(!target.join("file").exists());
        unmount(&dir.path().join("missing")).unwrap();
    }
}
