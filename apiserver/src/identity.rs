//! What tells this apiserver from the others on the same store: a name that it makes once and keeps.

use std::{fs, io, path::Path};

/// The name in the data folder, made where there is none or what is there is not one.
pub(crate) fn load_or_make(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("identity");
    if let Some(kept) = read(&path)? {
        return Ok(kept);
    }
    let made = uuid::Uuid::new_v4().to_string();
    // Beside the file first, then in its place, so that a crash leaves no half of a name.
    let beside = data_dir.join("identity.new");
    fs::write(&beside, &made)?;
    fs::rename(&beside, &path)?;
    Ok(made)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(uuid::Uuid::try_parse(text.trim()).ok().map(|id| id.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let made = load_or_make(dir.path()).unwrap();
        assert_eq!(load_or_make(dir.path()).unwrap(), made);
        assert_ne!(load_or_make(tempfile::tempdir().unwrap().path()).unwrap(), made);
    }

    #[test]
    fn what_is_not_a_name_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("identity"), "").unwrap();
        let made = load_or_make(dir.path()).unwrap();
        assert_eq!(load_or_make(dir.path()).unwrap(), made);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        assert!(load_or_make(Path::new("/nowhere/at/all")).is_err());
    }
}
