//! What a start has needed once need not stay resident: most of a program's file is code that runs at its start or never.

#![expect(unsafe_code, reason = "madvise(2) takes addresses")]

use std::{io, time::Duration};

use procfs::{
    ProcError,
    process::{MMPermissions, MMapPath, MemoryMap, Process},
};
use rustix::mm::{Advice, madvise};

/// By then a program does what it does for the rest of its life.
const START: Duration = Duration::from_secs(20);

/// Gives the start's part of the program's file back, once.
pub(crate) async fn give_back_start() {
    tokio::time::sleep(START).await;
    match tokio::task::spawn_blocking(give_back_file).await {
        Ok(Ok(bytes)) => tracing::debug!(bytes, "the start's part of the program's file is given back"),
        Ok(Err(error)) => tracing::debug!(%error, "the start's part of the program's file stays resident"),
        Err(_) => {}
    }
}

/// Takes the program's and its libraries' files out of what is resident; what is used comes back from the page cache
/// at its next use. Tells how many bytes of mappings that were.
fn give_back_file() -> Result<u64, ProcError> {
    let mut given = 0;
    for map in Process::myself()?
        .smaps()?
        .iter()
        .filter(|map| is_as_in_file(map))
    {
        let (start, end) = map.address;
        let [address, length] =
            [start, end - start].map(|number| usize::try_from(number).unwrap_or_default());
        // SAFETY: nothing writes to this mapping and no page of it differs from its file, so each page is read anew from
        // there with the same content. Programs and libraries are never unmapped while the process runs.
        unsafe {
            madvise(
                std::ptr::without_provenance_mut(address),
                length,
                Advice::LinuxDontNeed,
            )
        }
        .map_err(io::Error::from)?;
        given += end - start;
    }
    Ok(given)
}

/// A part of a program or library, not written to and not to be written to.
fn is_as_in_file(map: &MemoryMap) -> bool {
    let flags = map.perms;
    matches!(map.pathname, MMapPath::Path(_))
        && flags.contains(MMPermissions::READ | MMPermissions::PRIVATE)
        && !flags.contains(MMPermissions::WRITE)
        && map.extension.map.get("Anonymous") == Some(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_of_files() -> u64 {
        Process::myself().unwrap().status().unwrap().rssfile.unwrap()
    }

    #[test]
    fn the_programs_file_is_given_back_and_its_code_and_constants_still_serve() {
        let said = format!("{:?}", Process::myself().unwrap().stat().unwrap());
        let before = resident_of_files();
        let given = give_back_file().unwrap();
        let after = resident_of_files();
        assert!(given > 1 << 20, "{given} bytes");
        assert!(after < before, "{before} kB before, {after} kB after");
        assert!(said.contains("state"));
        assert!(std::panic::catch_unwind(|| panic!("unwinds by tables of the file")).is_err());
    }
}
