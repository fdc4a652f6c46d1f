//! Reads the machine's counters (proc(5), statvfs(3)).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clone8s::{
    huge_pages::PageSize,
    v1::{FilesystemStats, LoadStats, MemoryStats, NetworkStats},
};
use procfs::{Current as _, CurrentSI as _};

/// More interfaces than this are left out, the last by name first.
const MOST_NETWORKS: usize = 64;

/// The machine's counters at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostReading {
    pub cores: usize,
    /// Since boot, over all cores.
    pub cpu_busy_nano_seconds: u64,
    pub memory: MemoryStats,
    /// Bytes of those that the kernel keeps, used or not, by their size.
    pub huge_pages: BTreeMap<PageSize, u64>,
    /// The disk of the kubelet's data folder first.
    pub filesystems: Vec<FilesystemStats>,
    /// Sorted by interface, without the loopback.
    pub networks: Vec<NetworkStats>,
    pub load: LoadStats,
    /// Processes and threads, and how many there can be.
    pub tasks: u64,
    pub most_tasks: u64,
}

/// Why the machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read /proc")]
    Proc(#[from] procfs::ProcError),
    #[error("cannot ask for the room on {path}", path = .path.display())]
    Disk {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// `paths` lie on the disks to look at; those on one disk count once, and a missing one stands for its parent.
pub(super) fn read(paths: &[PathBuf]) -> Result<HostReading, ReadError> {
    let kernel = procfs::KernelStats::current()?;
    let meminfo = procfs::Meminfo::current()?;
    let load = procfs::LoadAverage::current()?;
    let pid_max = u64::try_from(procfs::sys::kernel::pid_max()?).unwrap_or(u64::MAX);
    let threads_max = u64::from(procfs::sys::kernel::threads_max()?);
    let available = meminfo.mem_available.unwrap_or(meminfo.mem_free);
    Ok(HostReading {
        cores: kernel.cpu_time.len(),
        cpu_busy_nano_seconds: busy_nano_seconds(&kernel.total),
        memory: MemoryStats {
            total_bytes: meminfo.mem_total,
            available_bytes: available,
            working_set_bytes: meminfo.mem_total.saturating_sub(available),
        },
        huge_pages: huge_pages(),
        filesystems: filesystems(paths)?,
        networks: networks()?,
        load: LoadStats {
            one: load.one.into(),
            five: load.five.into(),
            fifteen: load.fifteen.into(),
        },
        tasks: load.max.into(),
        most_tasks: pid_max.min(threads_max),
    })
}

/// The sizes of huge pages that the machine can have, and the bytes that the kernel keeps of each (Linux,
/// admin-guide/mm/hugetlbpage.rst). None where the kernel has no huge pages.
pub(crate) fn huge_pages() -> BTreeMap<PageSize, u64> {
    huge_pages_below(Path::new("/sys/kernel/mm/hugepages"))
}

fn huge_pages_below(root: &Path) -> BTreeMap<PageSize, u64> {
    let folders = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(io::Result::ok);
    folders
        .filter_map(|folder| {
            let name = folder.file_name();
            let kilobytes = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            let size = PageSize::new(kilobytes.parse::<u64>().ok()? << 10)?;
            let count = fs::read_to_string(folder.path().join("nr_hugepages")).ok()?;
            Some((size, count.trim().parse::<u64>().ok()? * size.bytes()))
        })
        .collect()
}

/// Neither idle nor waiting for a disk. A guest's time is part of user and nice.
fn busy_nano_seconds(cpu: &procfs::CpuTime) -> u64 {
    let ticks = cpu.user
        + cpu.nice
        + cpu.system
        + cpu.irq.unwrap_or(0)
        + cpu.softirq.unwrap_or(0)
        + cpu.steal.unwrap_or(0);
    let nanos_per_tick = 1_000_000_000 / procfs::ticks_per_second().max(1);
    ticks.saturating_mul(nanos_per_tick)
}

fn filesystems(paths: &[PathBuf]) -> Result<Vec<FilesystemStats>, ReadError> {
    let mut seen = BTreeSet::new();
    let mut filesystems = Vec::new();
    for path in paths {
        let path = existing(path);
        let failed = |cause: io::Error| ReadError::Disk {
            path: path.to_owned(),
            cause,
        };
        if !seen.insert(path.metadata().map_err(failed)?.dev()) {
            continue;
        }
        let room = rustix::fs::statvfs(path).map_err(|errno| failed(errno.into()))?;
        filesystems.push(FilesystemStats {
            mount_point: mount_point(path).display().to_string(),
            capacity_bytes: room.f_blocks.saturating_mul(room.f_frsize),
            available_bytes: room.f_bavail.saturating_mul(room.f_frsize),
            inodes: room.f_files,
            inodes_free: room.f_favail,
        });
    }
    Ok(filesystems)
}

/// The path, or the nearest folder above it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"))
}

/// The highest folder above the path on the same disk.
fn mount_point(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    let own = device(&path);
    path.ancestors()
        .take_while(|above| device(above) == own)
        .last()
        .unwrap_or(&path)
        .to_owned()
}

fn networks() -> Result<Vec<NetworkStats>, ReadError> {
    let mut networks: Vec<NetworkStats> = procfs::net::dev_status()?
        .into_values()
        .filter(|device| device.name != "lo")
        .map(|device| NetworkStats {
            interface: device.name,
            rx_bytes: device.recv_bytes,
            tx_bytes: device.sent_bytes,
            rx_errors: device.recv_errs,
            tx_errors: device.sent_errs,
        })
        .collect();
    networks.sort_by(|a, b| a.interface.cmp(&b.interface));
    networks.truncate(MOST_NETWORKS);
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [
            dir.path().join("not/there/yet"),
            dir.path().to_owned(),
            "/".into(),
        ];
        let reading = read(&paths).unwrap();
        assert!(reading.cores > 0 && reading.cpu_busy_nano_seconds > 0);
        assert!(reading.memory.total_bytes > reading.memory.available_bytes);
        assert!(reading.tasks > 0 && reading.most_tasks > reading.tasks);
        let disk = &reading.filesystems[0];
        assert!(disk.capacity_bytes >= disk.available_bytes && disk.capacity_bytes > 0);
        assert!(dir.path().starts_with(&disk.mount_point), "{}", disk.mount_point);
        let devices: BTreeSet<_> = reading.filesystems.iter().map(|disk| &disk.mount_point).collect();
        assert_eq!(devices.len(), reading.filesystems.len(), "each disk once");
        assert!(reading.networks.iter().all(|network| network.interface != "lo"));
    }

    #[test]
    fn huge_pages_are_read_by_their_size() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, count) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n")] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("nr_hugepages"), count).unwrap();
        }
        fs::create_dir(dir.path().join("hugepages-oddkB")).unwrap();
        let found: Vec<_> = huge_pages_below(dir.path())
            .into_iter()
            .map(|(size, bytes)| (size.resource(), bytes))
            .collect();
        assert_eq!(
            found,
            [
                ("hugepages-2Mi".to_owned(), 6 << 20),
                ("hugepages-1Gi".to_owned(), 0)
            ]
        );
        assert!(huge_pages_below(&dir.path().join("absent")).is_empty());
    }

    #[test]
    fn the_cpus_counter_grows_with_work() {
        let before = read(&[]).unwrap().cpu_busy_nano_seconds;
        let end = std::time::Instant::now() + std::time::Duration::from_millis(200);
        let mut work = 0u64;
        while std::time::Instant::now() < end {
            work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(7));
        }
        let after = read(&[]).unwrap().cpu_busy_nano_seconds;
        assert!(after >= before + 50_000_000, "{before} to {after}");
    }
}
