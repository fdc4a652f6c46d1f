use std::{fs, path::Path};

use crate::{cgroups::Cgroups, stats::some};

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn cgroup_v1_is_read_from_its_controllers() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            (
                "memory/p/c/memory.stat",
                "cache 1\ntotal_cache 450\ntotal_rss 300\ntotal_inactive_file 400\ntotal_pgfault 5\ntotal_swap 6\n",
            ),
            ("memory/p/c/memory.usage_in_bytes", "1000\n"),
            ("memory/p/c/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/p/c/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("memory/p/c/memory.max_usage_in_bytes", "1200\n"),
            ("memory/p/c/memory.failcnt", "4\n"),
            ("memory/p/c/memory.oom_control", "oom_kill 2\n"),
            ("memory/p/c/cgroup.procs", "10\n11\n"),
            ("cpuacct/p/c/cpuacct.usage", "77\n"),
            ("cpuacct/p/c/cpuacct.usage_user", "70\n"),
            ("cpuacct/p/c/cpuacct.usage_sys", "7\n"),
            (
                "cpu/p/c/cpu.stat",
                "nr_periods 9\nnr_throttled 3\nthrottled_time 5000\n",
            ),
            ("pids/p/c/pids.current", "3\n"),
            ("pids/p/c/pids.max", "max\n"),
        ],
    );
    let sample = super::sample(&Cgroups::under(root.path()), "/p/c").unwrap();
    assert_eq!(
        (sample.cpu.total, sample.cpu.user, sample.cpu.system),
        (77, 70, 7)
    );
    assert_eq!((sample.cpu.periods, sample.cpu.throttled), (9, 5000));
    assert_eq!(
        (sample.processes, sample.threads, sample.thread_limit),
        (2, 3, None)
    );
    assert_eq!(sample.oom_kills, 2);
    assert_eq!((sample.memory.peak, sample.memory.failures), (Some(1200), 4));
    let memory = sample.memory_usage(1);
    assert_eq!(memory.working_set_bytes, some(600));
    assert_eq!(memory.available_bytes, None);
    assert_eq!(memory.rss_bytes, some(300));
    assert_eq!(sample.swap_usage(1).swap_usage_bytes, some(6));
    assert_eq!(sample.swap_usage(1).swap_available_bytes, None);
    assert_eq!(sample.io_usage(1), None);
    assert_eq!(super::sample(&Cgroups::under(root.path()), "/absent"), None);
}

#[test]
fn the_swap_of_cgroup_v1_is_what_both_limits_leave() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("memory/c/memory.stat", "total_swap 100\n"),
            ("memory/c/memory.usage_in_bytes", "900\n"),
            ("memory/c/memory.limit_in_bytes", "1000\n"),
            ("memory/c/memory.memsw.limit_in_bytes", "1500\n"),
            ("cpuacct/c/cpuacct.usage", "1\n"),
        ],
    );
    let sample = super::sample(&Cgroups::under(root.path()), "/c").unwrap();
    assert_eq!(sample.swap_usage(1).swap_available_bytes, some(400));
}

#[test]
fn cgroup_v2_is_read_from_one_folder() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("cgroup.controllers", "cpu memory pids\n"),
            (
                "p/c/memory.stat",
                "anon 300\nfile 450\ninactive_file 400\npgfault 5\npgmajfault 1\n",
            ),
            ("p/c/memory.current", "1000\n"),
            ("p/c/memory.max", "2000\n"),
            ("p/c/memory.events", "low 0\nhigh 0\nmax 8\noom 1\noom_kill 1\n"),
            ("p/c/memory.swap.max", "max\n"),
            ("p/c/memory.swap.current", "7\n"),
            (
                "p/c/cpu.stat",
                "usage_usec 12\nuser_usec 9\nsystem_usec 3\nthrottled_usec 2\n",
            ),
            ("p/c/pids.current", "3\n"),
            ("p/c/pids.max", "100\n"),
            ("p/c/cgroup.procs", "10\n"),
            (
                "p/c/cpu.pressure",
                "some avg10=1.00 avg60=0.00 avg300=0.00 total=30\n",
            ),
            (
                "p/c/io.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=40\n",
            ),
        ],
    );
    let sample = super::sample(&Cgroups::under(root.path()), "/p/c").unwrap();
    assert_eq!((sample.cpu.total, sample.cpu.throttled), (12_000, 2_000));
    assert_eq!((sample.threads, sample.thread_limit), (3, Some(100)));
    assert_eq!((sample.oom_kills, sample.memory.failures), (1, 8));
    assert_eq!(sample.memory_usage(1).available_bytes, some(1400));
    assert_eq!(sample.swap_usage(1).swap_usage_bytes, some(7));
    assert_eq!(sample.swap_usage(1).swap_available_bytes, None);
    let waited = |psi: Option<clone8s::cri::PsiStats>| psi.and_then(|psi| psi.some).map(|some| some.total);
    assert_eq!(waited(sample.cpu_usage(1, None).psi), Some(30));
    assert_eq!(waited(sample.memory_usage(1).psi), None);
    assert_eq!(waited(sample.io_usage(1).unwrap().psi), Some(40));
}
