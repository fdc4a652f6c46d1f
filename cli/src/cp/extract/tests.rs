use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;

/// One entry of an archive: its path is written as it is, whatever it says.
fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, bytes: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(bytes.len() as u64);
    header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    archive.append(&header, bytes).unwrap();
}

/// Extracts "web" as "copy" of a new folder.
fn extracted(entries: &[(EntryType, &str, &str, &str)]) -> (TempDir, Result<()>) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("copy");
    let done = extract_to(&target, entries);
    (dir, done)
}

fn extract_to(target: &Path, entries: &[(EntryType, &str, &str, &str)]) -> Result<()> {
    let mut archive = Builder::new(Vec::new());
    for (kind, path, link, text) in entries {
        entry(&mut archive, *kind, path, link, text.as_bytes());
    }
    let bytes = archive.into_inner().unwrap();
    let (sender, parts) = mpsc::channel(bytes.len());
    for part in bytes.chunks(700) {
        sender.blocking_send(Bytes::copy_from_slice(part)).unwrap();
    }
    drop(sender);
    all(parts, "web", target)
}

const DIR: EntryType = EntryType::Directory;
const FILE: EntryType = EntryType::Regular;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

#[test]
fn a_folder_becomes_the_target_with_its_files_and_links() {
    let (dir, done) = extracted(&[
        (DIR, "./web/", "", ""),
        (DIR, "./web/sub/", "", ""),
        (FILE, "./web/sub/a", "", "text"),
        (SYMLINK, "./web/sub/b", "../sub/a", ""),
        (LINK, "./web/c", "./web/sub/a", ""),
    ]);
    done.unwrap();
    let copy = dir.path().join("copy");
    for file in ["sub/a", "sub/b", "c"] {
        assert_eq!(fs::read_to_string(copy.join(file)).unwrap(), "text", "{file}");
    }
    assert!(copy.join("sub/b").is_symlink());
}

#[test]
fn a_file_becomes_the_target() {
    let (dir, done) = extracted(&[(FILE, "web", "", "text")]);
    done.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("copy")).unwrap(), "text");
}

#[test]
fn a_path_that_leads_out_is_refused_and_nothing_is_written_there() {
    for path in ["../out", "web/../../out", "/tmp/clone8s-out", "out", "web2/out"] {
        let (dir, done) = extracted(&[(DIR, "web/", "", ""), (FILE, path, "", "text")]);
        let refused = done.unwrap_err().to_string();
        assert!(refused.starts_with("refused"), "{path}: {refused}");
        assert!(!dir.path().join("out").exists() && !Path::new("/tmp/clone8s-out").exists());
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("copy");
    fs::create_dir(&target).unwrap();
    // Of an earlier copy, or of the person's own.
    symlink(outside.path(), target.join("there")).unwrap();
    symlink(outside.path().join("file"), target.join("file")).unwrap();
    let folder = fs::metadata(outside.path()).unwrap().permissions();
    for path in ["web/there/out", "web/there/"] {
        let kind = if path.ends_with('/') { DIR } else { FILE };
        assert!(extract_to(&target, &[(kind, path, "", "")]).is_err(), "{path}");
    }
    assert_eq!(fs::metadata(outside.path()).unwrap().permissions(), folder);
    assert!(!outside.path().join("out").exists());
    // A link in a file's place goes, and what it points to stays away.
    extract_to(&target, &[(FILE, "web/file", "", "text")]).unwrap();
    assert!(!outside.path().join("file").exists());
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "text");
}

#[test]
fn a_link_that_points_out_of_the_copy_is_left_out() {
    for to in ["/etc", "../..", "..", "sub/../../x"] {
        let (dir, done) = extracted(&[
            (DIR, "web/", "", ""),
            (SYMLINK, "web/link", to, ""),
            (FILE, "web/after", "", "text"),
        ]);
        done.unwrap();
        assert!(!dir.path().join("copy/link").is_symlink(), "{to}");
        assert!(dir.path().join("copy/after").exists());
    }
    let (_dir, done) = extracted(&[(DIR, "web/", "", ""), (LINK, "web/link", "../out", "")]);
    assert!(done.is_err());
}
