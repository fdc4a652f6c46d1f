//! What a cgroup has read from and written to block devices.

use std::{collections::BTreeMap, fs, path::Path};

/// The counters of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
}

/// By `major:minor`.
pub(super) type Devices = BTreeMap<String, Device>;

/// cgroup v2, `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub(super) fn unified(dir: &Path) -> Devices {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    let line = |line: &str| {
        let (number, counters) = line.split_once(' ')?;
        let mut device = Device::default();
        for (key, value) in counters.split(' ').filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
        Some((number.to_owned(), device))
    };
    text.lines().filter_map(line).collect()
}

/// cgroup v1, `blkio.throttle.*_recursive`: `8:0 Read 123`, one line for each operation.
pub(super) fn separate(dir: &Path) -> Devices {
    let mut devices = Devices::new();
    let mut read = |file: &str, field: for<'a> fn(&'a mut Device, &str) -> Option<&'a mut u64>| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(number), Some(operation), Some(value)) = (words.next(), words.next(), words.next())
            else {
                continue; // The last line is the total.
            };
            let Ok(value) = value.parse() else { continue };
            if let Some(counter) = field(devices.entry(number.to_owned()).or_default(), operation) {
                *counter = value;
            }
        }
    };
    read(
        "blkio.throttle.io_service_bytes_recursive",
        |device, operation| match operation {
            "Read" => Some(&mut device.read_bytes),
            "Write" => Some(&mut device.written_bytes),
            _ => None,
        },
    );
    read(
        "blkio.throttle.io_serviced_recursive",
        |device, operation| match operation {
            "Read" => Some(&mut device.reads),
            "Write" => Some(&mut device.writes),
            _ => None,
        },
    );
    devices
}

/// `/dev/sda` for `8:0`; the numbers themselves where the kernel has no name for them.
pub(super) fn name(number: &str) -> String {
    let link = fs::read_link(Path::new("/sys/dev/block").join(number)).ok();
    let name = link
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| format!("/dev/{}", name.to_string_lossy()));
    name.unwrap_or_else(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Device = Device {
        read_bytes: 10,
        written_bytes: 20,
        reads: 1,
        writes: 2,
    };

    #[test]
    fn both_versions_tell_the_same() {
        let root = tempfile::tempdir().unwrap();
        fs::write(
            root.path().join("io.stat"),
            "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
        )
        .unwrap();
        assert_eq!(unified(root.path()), [("8:0".to_owned(), EXPECTED)].into());
        fs::write(
            root.path().join("blkio.throttle.io_service_bytes_recursive"),
            "8:0 Read 10\n8:0 Write 20\n8:0 Sync 9\nTotal 30\n",
        )
        .unwrap();
        fs::write(
            root.path().join("blkio.throttle.io_serviced_recursive"),
            "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
        )
        .unwrap();
        assert_eq!(separate(root.path()), [("8:0".to_owned(), EXPECTED)].into());
    }

    #[test]
    fn a_device_without_a_name_keeps_its_numbers() {
        assert_eq!(name("4095:1048575"), "4095:1048575");
    }
}
