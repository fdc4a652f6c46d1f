//! Who an image's users are: `/etc/passwd` and `/etc/group` of its file system (passwd(5), group(5)).

use std::{io, io::Read as _, os::fd::AsRawFd as _, path::Path, sync::Arc};

use clone8s_daemon::within;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{Image, ImageError, Images, Result};
use crate::{
    containerd::{NewSnapshot, already_gone},
    ids::LeaseId,
    staging,
    table::lock,
};

/// Larger files are not users' lists.
const MAX_FILE: u64 = 4 << 20;

/// An image's users and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Users {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// A user with the groups that the image puts it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl Users {
    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let users = passwd.lines().map(fields).filter_map(|fields| {
            Some(User {
                name: fields.first()?.clone(),
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
                home: fields.get(5)?.clone(),
            })
        });
        let groups = group.lines().map(fields).filter_map(|fields| {
            Some(Group {
                name: fields.first()?.clone(),
                gid: fields.get(2)?.parse().ok()?,
                members: fields
                    .get(3)
                    .map(String::as_str)
                    .unwrap_or_default()
                    .split(',')
                    .map(str::to_owned)
                    .collect(),
            })
        });
        Self {
            users: users.collect(),
            groups: groups.collect(),
        }
    }

    /// `name`, `uid`, `name:group` or `uid:gid`, as images and people write it. Numbers need not be listed.
    pub(crate) fn find(&self, user: &str) -> Result<FoundUser, String> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (user, None),
        };
        let number = user.parse().ok();
        let listed = self.users.iter().find(|known| match number {
            Some(uid) => known.uid == uid,
            None => known.name == user,
        });
        let (uid, gid, home) = match (listed, number) {
            (Some(known), _) => (known.uid, known.gid, known.home.clone()),
            (None, Some(uid)) => (uid, 0, "/".to_owned()),
            (None, None) => return Err(format!("no user {user:?} in the image's /etc/passwd")),
        };
        let home = if home.is_empty() { "/".to_owned() } else { home };
        let Some(group) = group else {
            let groups = match listed {
                Some(known) => self.groups_of(&known.name),
                None => Vec::new(),
            };
            return Ok(FoundUser {
                uid,
                gid,
                groups,
                home,
            });
        };
        // A group that is named takes the place of all that the image lists.
        let gid = if let Ok(gid) = group.parse() {
            gid
        } else {
            let known = self.groups.iter().find(|known| known.name == group);
            known
                .map(|known| known.gid)
                .ok_or_else(|| format!("no group {group:?} in the image's /etc/group"))?
        };
        Ok(FoundUser {
            uid,
            gid,
            groups: Vec::new(),
            home,
        })
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        let mut groups: Vec<u32> = self
            .groups
            .iter()
            .filter(|group| group.members.iter().any(|member| member == name))
            .map(|group| group.gid)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

impl Images {
    /// The users of an image, read once.
    pub(crate) async fn users(&self, image: &Image) -> Result<Arc<Users>> {
        if let Some(known) = lock(&self.users).get(&image.id) {
            return Ok(Arc::clone(known));
        }
        let flight = self.flight(&format!("users {}", image.id));
        let _alone = flight.lock().await;
        if let Some(known) = lock(&self.users).get(&image.id) {
            return Ok(Arc::clone(known));
        }
        let lease = self.new_lease("users").await?;
        let read = self.read_users(image, &lease).await;
        self.drop_lease(lease).await?;
        let users = Arc::new(read?);
        lock(&self.users).insert(image.id.clone(), Arc::clone(&users));
        Ok(users)
    }

    async fn read_users(&self, image: &Image, lease: &LeaseId) -> Result<Users> {
        let key = format!("users-{lease}");
        let top = image.top();
        let snapshot = NewSnapshot {
            snapshotter: &self.snapshotter,
            key: &key,
            parent: &top,
            lease: Some(lease),
        };
        let mounts = self.containerd.prepare_snapshot(snapshot).await?;
        let read = staging::look_into(mounts, |root| {
            let passwd = read_file(root, "etc/passwd")?;
            Ok(Users::parse(&passwd, &read_file(root, "etc/group")?))
        })
        .await;
        already_gone(self.containerd.remove_snapshot(&self.snapshotter, &key).await)?;
        read.map_err(|error| ImageError::Users {
            image: image.id.clone(),
            problem: error.to_string(),
        })
    }
}

/// A file of an untrusted tree: no link in it leads out of it. Empty when it is not there.
fn read_file(root: &Path, path: &str) -> io::Result<String> {
    let root = rustix::fs::openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // Looked at before it is opened: opening a device may do something.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match within::find(&root, path, OFlags::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if kind != FileType::RegularFile {
        return Ok(String::new());
    }
    let file = std::fs::File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn users() -> Users {
        Users::parse(
            "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:Web:/srv:/bin/false\nbroken line\n",
            "root:x:0:root\nweb:x:1001:\nlogs:x:20:web,root\nadm:x:4:web\n",
        )
    }

    #[rstest]
    #[case::name("web", 1000, 1001, &[4, 20], "/srv")]
    #[case::listed_number("1000", 1000, 1001, &[4, 20], "/srv")]
    #[case::unlisted_number("777", 777, 0, &[], "/")]
    #[case::named_group("web:logs", 1000, 20, &[], "/srv")]
    #[case::numbers("5:6", 5, 6, &[], "/")]
    #[case::root("root", 0, 0, &[0, 20], "/root")]
    fn a_user_is_found_by(
        #[case] written: &str,
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] groups: &[u32],
        #[case] home: &str,
    ) {
        let expected = FoundUser {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(users().find(written).unwrap(), expected);
    }

    #[rstest]
    #[case("nobody")]
    #[case("web:wheel")]
    fn an_unlisted_name_is_refused(#[case] written: &str) {
        assert!(users().find(written).unwrap_err().contains("in the image's /etc"));
    }

    proptest! {
        #[test]
        fn any_lists_are_read_and_name_whom_they_list(
            passwd in "([a-z]{1,3}:x:[0-9]{1,11}:[0-9]{0,3}:[^:]{0,3}:[^:]{0,5}:s\n|\\PC{0,20}\n?){0,8}",
            group in "([a-z]{1,3}:x:[0-9]{0,11}:[a-z,]{0,6}\n|\\PC{0,20}\n?){0,8}",
            asked in "[a-z]{0,3}(:[a-z0-9]{0,3})?|[0-9]{1,11}|\\PC{0,8}",
        ) {
            let users = Users::parse(&passwd, &group);
            if let Ok(found) = users.find(&asked) {
                let name = asked.split(':').next().unwrap_or_default();
                let is_number = name.parse::<u32>().is_ok();
                let is_listed = passwd.lines().any(|line| line.split(':').next() == Some(name));
                prop_assert!(is_number || is_listed, "{asked:?} is nobody: {found:?}");
            }
        }
    }

    #[test]
    fn what_is_no_file_lists_nobody() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/passwd")).unwrap();
        let fifo = root.path().join("etc/group");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::os::unix::fs::symlink("loop", root.path().join("etc/loop")).unwrap();
        for path in [
            "etc/passwd",
            "etc/group",
            "etc/loop",
            "etc/passwd/below",
            "absent/at/all",
        ] {
            assert_eq!(read_file(root.path(), path).unwrap(), "", "{path}");
        }
    }

    #[test]
    fn a_link_in_the_image_does_not_lead_out_of_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("etc/passwd2")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/hostname", root.path().join("etc/up")).unwrap();
        assert_eq!(read_file(root.path(), "etc/passwd2").unwrap(), "");
        assert_eq!(read_file(root.path(), "etc/up").unwrap(), "");
    }
}
