//! What is below a folder that others may change while a path is followed.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// So often a path is followed. The kernel gives one with `..` or an absolute link in it up where anything was renamed or
/// mounted meanwhile, wherever on the host that was (openat2(2), "EAGAIN").
const TRIES: u32 = 1_000;

/// Finds what a path leads to without opening it; `kind` may ask for a folder.
pub fn find(
    root: impl AsFd,
    path: impl AsRef<Path>,
    kind: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | kind;
    let follow = || openat2(&root, path.as_ref(), flags, Mode::empty(), resolve);
    for _ in 1..TRIES {
        match follow() {
            Err(Errno::AGAIN) => thread::yield_now(),
            found => return found,
        }
    }
    follow()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use super::*;

    #[test]
    fn a_path_is_followed_though_things_are_renamed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("root/a/b")).unwrap();
        fs::write(at("elsewhere"), "").unwrap();
        let root = fs::File::open(at("root")).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    fs::rename(at("elsewhere"), at("other")).unwrap();
                    fs::rename(at("other"), at("elsewhere")).unwrap();
                }
            });
            for _ in 0..20_000 {
                let found = find(
                    &root,
                    "a/../a/b/../../a",
                    OFlags::DIRECTORY,
                    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
                );
                if let Err(error) = found {
                    done.store(true, Relaxed);
                    panic!("{error}");
                }
            }
            done.store(true, Relaxed);
        });
        let missing = find(&root, "a/c", OFlags::empty(), ResolveFlags::BENEATH);
        assert_eq!(missing.unwrap_err(), Errno::NOENT);
    }
}
