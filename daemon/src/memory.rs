//! What was needed once need not stay resident: most of a program's file is code that runs at its start or never, and what
//! a burst of work has taken stays with the allocator, in pieces between what is in use.

#![expect(
    unsafe_code,
    reason = "madvise(2) takes addresses, and mallopt(3) and malloc_trim(3) have no safe form"
)]

use std::{io, time::Duration};

use procfs::{
    ProcError,
    process::{MMPermissions, MMapPath, MemoryMap, Process},
};
use rustix::mm::{Advice, madvise};

/// By then a program does what it does for the rest of its life.
const START: Duration = Duration::from_secs(20);

/// Between looks at what the allocator keeps; one costs a few milliseconds at most.
const TRIM_EVERY: Duration = Duration::from_mins(1);

/// Pieces of such a size have mappings of their own.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 1 << 20;

/// Lets large pieces have mappings of their own, whatever was freed before: then only what is written of one is resident, and
/// all of it goes back when it is freed. By itself the allocator takes a piece of the size that was freed last from its
/// heap and writes zeros all over it, as for the buffers of megabytes that each connection to RabbitMQ has.
pub fn map_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes a number that the allocator reads (mallopt(3): MT-Safe).
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives the start's part of the program's file back, once, and what the allocator keeps, again and again.
pub(crate) async fn give_back() {
    tokio::time::sleep(START).await;
    match tokio::task::spawn_blocking(give_back_file).await {
        Ok(Ok(bytes)) => tracing::debug!(bytes, "the start's part of the program's file is given back"),
        Ok(Err(error)) => tracing::debug!(%error, "the start's part of the program's file stays resident"),
        Err(_) => {}
    }
    let mut ticks = tokio::time::interval(TRIM_EVERY);
    loop {
        ticks.tick().await;
        // It ends by itself, and there is nothing to say of it.
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}

/// Gives whole free pages between pieces in use back to the kernel; only from the heap's end does it happen by itself.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: any thread may call it at any time (malloc_trim(3): MT-Safe), and it moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
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

    #[test]
    #[cfg(target_env = "gnu")]
    fn of_a_large_piece_only_what_is_written_is_resident_however_often_it_is_made() {
        map_large_pieces();
        let resident = || Process::myself().unwrap().status().unwrap().rssanon.unwrap();
        let mut most = 0;
        for _ in 0..3 {
            let before = resident();
            let pieces: Vec<Vec<u8>> = (0..8).map(|_| vec![0; 4 << 20]).collect();
            most = most.max(resident().saturating_sub(before));
            drop(pieces);
        }
        assert!(most < 16 << 10, "{most} kB");
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn free_pages_between_pieces_in_use_are_given_back() {
        let resident = || Process::myself().unwrap().status().unwrap().rssanon.unwrap();
        // Below the size from which an allocation has a mapping of its own.
        let mut pieces: Vec<Vec<u8>> = (0..2_000).map(|_| vec![1; 32 << 10]).collect();
        let mut turn = 0;
        pieces.retain(|_| {
            turn += 1;
            turn % 8 == 0
        });
        let before = resident();
        trim();
        let after = resident();
        assert!(
            after + (32 << 10) < before,
            "{before} kB before, {after} kB after"
        );
        assert!(pieces.iter().all(|piece| piece.iter().all(|byte| *byte == 1)));
    }
}
