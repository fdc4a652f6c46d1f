//! The cgroups of pods, above those that the runtime makes for containers.
//!
//! ```text
//! <root>                      such as /clone8s
//! ├── pod<uid>                a guaranteed pod: its limits and its weight are its own
//! ├── burstable               weighs what its pods ask for together
//! │   └── pod<uid>
//! └── besteffort              weighs next to nothing
//!     └── pod<uid>
//! ```
//!
//! A pod stays where its first sandbox was made, also when it comes to be of another class: no process moves. Everything
//! here blocks, and all of it may be repeated.

use std::{convert::Infallible, io, time::Duration};

use clone8s_daemon::{
    Shutdown,
    cgroups::{Cgroups, Limits},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    desired::{Desired, DesiredPod, PodUid},
    has_changed,
    outage::Outage,
    pod::resources::{LEAST_SHARES, QosClass, pod_shares, shares},
};

/// Until weights are written again that could not be.
const RETRY: Duration = Duration::from_secs(30);

/// What pods are held to by, and what is lost without.
const CONTROLLERS: [(&str, &str); 4] = [
    ("cpu", "a pod as a whole has no weight and no limit of CPU"),
    ("memory", "a pod as a whole has no limit of memory"),
    ("pids", "--pod-max-pids holds no pod"),
    ("hugetlb", "a pod as a whole has no limit of huge pages"),
];

const CLASSES: [QosClass; 3] = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];

/// Where pods' cgroups are, and what every pod is held to.
#[derive(Debug, Clone)]
pub struct PodCgroups {
    host: Cgroups,
    root: String,
    /// Processes and threads of one pod; None for no limit.
    max_pids: Option<u32>,
}

impl PodCgroups {
    /// Goes on without what the host does not have or the kubelet may not do, and says so.
    pub fn new(mut host: Cgroups, root: &str, max_pids: Option<u32>) -> Self {
        for (controller, loss) in CONTROLLERS {
            if let Err(error) = host.prepare(controller, root) {
                tracing::warn!(
                    controller, %error, loss,
                    "no limits of pods by this cgroup controller; mount it or let the kubelet write to it, then start the kubelet again"
                );
                host.leave_out(controller);
            }
        }
        Self {
            host,
            root: root.to_owned(),
            max_pids,
        }
    }

    /// The cgroup of a pod: where it is, or where it is to be.
    pub fn place(&self, uid: &PodUid, class: QosClass) -> String {
        let there = CLASSES.map(|class| self.of_class(uid, class));
        let there = there.into_iter().find(|cgroup| self.host.exists(cgroup));
        there.unwrap_or_else(|| self.of_class(uid, class))
    }

    /// Makes the pod's cgroup where it is not there, and holds it to these limits and to the node's of processes. Where it is.
    pub fn limit(&self, uid: &PodUid, class: QosClass, limits: Limits) -> io::Result<String> {
        let limits = Limits {
            pids: self.max_pids.map_or(-1, i64::from),
            ..limits
        };
        let place = self.place(uid, class);
        // What ended containers have left in memory is the pod's, too.
        if let Some(held) = self.host.memory_held(&place)
            && u64::try_from(limits.memory).is_ok_and(|limit| (1..held).contains(&limit))
        {
            let text = format!(
                "the pod holds {held} bytes of memory, more than the limit of {} it is to have",
                limits.memory
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        self.host.limit(&place, &limits)?;
        Ok(place)
    }

    /// An error says that a process is left in it. One that the kubelet may not remove is left to the runtime.
    pub fn remove(&self, uid: &PodUid) -> io::Result<()> {
        for class in CLASSES {
            match self.host.remove(&self.of_class(uid, class)) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(error),
                Err(error) => tracing::debug!(uid = %uid, %error, "a pod's cgroup stays"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn of_class(&self, uid: &PodUid, class: QosClass) -> String {
        format!("{}/pod{uid}", self.class(class))
    }

    fn class(&self, class: QosClass) -> String {
        match class {
            QosClass::Guaranteed => self.root.clone(),
            QosClass::Burstable => format!("{}/burstable", self.root),
            QosClass::BestEffort => format!("{}/besteffort", self.root),
        }
    }

    /// Of all pods beside the rest of the system, and of the burstable ones among them.
    fn weigh(&self, all: i64, burstable: i64) -> io::Result<()> {
        for (class, cpu_shares) in [
            (QosClass::Guaranteed, all),
            (QosClass::Burstable, burstable),
            (QosClass::BestEffort, LEAST_SHARES),
        ] {
            let limits = Limits {
                cpu_shares,
                ..Limits::default()
            };
            self.host.limit(&self.class(class), &limits)?;
        }
        Ok(())
    }
}

/// Keeps the weight of each class right, for as long as the kubelet runs.
pub(crate) struct Weights {
    cgroups: PodCgroups,
    desired: watch::Receiver<Desired>,
    /// Of all pods; 0 leaves it as it is.
    all: i64,
    outage: Outage,
}

impl Weights {
    /// `milli_cpu` is what the node has for pods, and 0 where that is not known.
    pub(crate) fn new(cgroups: PodCgroups, desired: watch::Receiver<Desired>, milli_cpu: i64) -> Self {
        Self {
            cgroups,
            desired,
            all: if milli_cpu > 0 { shares(milli_cpu) } else { 0 },
            outage: Outage::new("weight of the pods' cgroups"),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut written = None;
        loop {
            let burstable = together(&self.desired.borrow_and_update());
            if written != Some(burstable) {
                match self.write(burstable).await {
                    Ok(()) => {
                        self.outage.over();
                        written = Some(burstable);
                    }
                    Err(error) => self.outage.failed(error),
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = has_changed(&mut self.desired) => {}
                () = sleep(RETRY), if written != Some(burstable) => {}
            }
        }
    }

    async fn write(&self, burstable: i64) -> io::Result<()> {
        let (cgroups, all) = (self.cgroups.clone(), self.all);
        let writing = spawn_blocking(move || cgroups.weigh(all, burstable));
        writing.await.map_err(io::Error::other)?
    }
}

/// What the burstable pods weigh.
fn together(desired: &Desired) -> i64 {
    let specs = desired.pods.values().map(DesiredPod::spec);
    let burstable = specs.filter(|spec| QosClass::of(spec) == Ok(QosClass::Burstable));
    let sum: i64 = burstable.filter_map(|spec| pod_shares(spec).ok()).sum();
    sum.max(LEAST_SHARES)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn host(files: &[&str]) -> (tempfile::TempDir, PodCgroups) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "cpu memory pids hugetlb").unwrap();
        }
        let cgroups = PodCgroups::new(Cgroups::under(dir.path()), "/pods", Some(64));
        (dir, cgroups)
    }

    #[test]
    fn a_pod_is_held_to_its_limits_and_stays_where_it_is() {
        for (files, shares, pids) in [
            (
                &["cpu/cgroup.procs", "pids/cgroup.procs"][..],
                "cpu/pods/burstable/podu/cpu.shares",
                "pids/pods/burstable/podu/pids.max",
            ),
            (
                &[
                    "cgroup.controllers",
                    "pods/cgroup.controllers",
                    "pods/burstable/cgroup.controllers",
                ],
                "pods/burstable/podu/cpu.weight",
                "pods/burstable/podu/pids.max",
            ),
        ] {
            let (dir, cgroups) = host(files);
            let uid = PodUid::new("u");
            let limits = Limits {
                cpu_shares: 512,
                ..Limits::default()
            };
            cgroups.limit(&uid, QosClass::Burstable, limits.clone()).unwrap();
            let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(["512", "20"].contains(&read(shares).as_str()), "{}", read(shares));
            assert_eq!(read(pids), "64");
            let place = cgroups.limit(&uid, QosClass::Guaranteed, limits).unwrap();
            assert_eq!(place, "/pods/burstable/podu");
            assert_eq!(cgroups.place(&uid, QosClass::Guaranteed), place);
            assert_eq!(
                cgroups.place(&PodUid::new("v"), QosClass::Guaranteed),
                "/pods/podv"
            );
        }
    }

    #[test]
    fn a_pod_is_held_to_its_huge_pages() {
        for (files, file) in [
            (
                &["hugetlb/cgroup.procs"][..],
                "hugetlb/pods/podu/hugetlb.2MB.limit_in_bytes",
            ),
            (
                &["cgroup.controllers", "pods/cgroup.controllers"],
                "pods/podu/hugetlb.2MB.max",
            ),
        ] {
            let (dir, cgroups) = host(files);
            let limits = Limits {
                huge_pages: [("2MB".to_owned(), 4 << 20)].into(),
                ..Limits::default()
            };
            cgroups
                .limit(&PodUid::new("u"), QosClass::Guaranteed, limits)
                .unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), "4194304");
        }
    }

    #[test]
    fn a_pod_keeps_its_limit_of_memory_while_it_holds_more_than_the_next() {
        let (dir, cgroups) = host(&[
            "cgroup.controllers",
            "pods/cgroup.controllers",
            "pods/podu/memory.stat",
        ]);
        fs::write(dir.path().join("pods/podu/memory.current"), "1000\n").unwrap();
        let limit = |memory| {
            let limits = Limits {
                memory,
                ..Limits::default()
            };
            cgroups.limit(&PodUid::new("u"), QosClass::Guaranteed, limits)
        };
        limit(1000).unwrap();
        let refused = limit(999).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        let limited = || fs::read_to_string(dir.path().join("pods/podu/memory.max")).unwrap();
        assert_eq!(limited(), "1000", "{refused}");
        limit(-1).unwrap();
        assert_eq!(limited(), "max");
    }

    #[test]
    fn what_the_host_does_not_have_is_left_out() {
        let (dir, cgroups) = host(&["cpu/cgroup.procs"]);
        let uid = PodUid::new("u");
        let limits = Limits {
            cpu_shares: 512,
            memory: 1 << 20,
            ..Limits::default()
        };
        cgroups.limit(&uid, QosClass::Guaranteed, limits).unwrap();
        let there: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(there.len(), 1, "{there:?}");
        assert!(dir.path().join("cpu/pods/podu/cpu.shares").exists());
    }

    #[test]
    fn the_cgroup_of_a_pod_goes_from_whatever_class_it_is_in() {
        let (dir, cgroups) = host(&["cpu/cgroup.procs"]);
        let uid = PodUid::new("u");
        fs::create_dir_all(dir.path().join("cpu/pods/besteffort/podu/c1")).unwrap();
        cgroups.remove(&uid).unwrap();
        assert!(!dir.path().join("cpu/pods/besteffort/podu").exists());
        assert!(dir.path().join("cpu/pods/besteffort").exists());
        cgroups.remove(&uid).unwrap();
    }

    #[test]
    fn burstable_pods_weigh_what_they_ask_for_and_others_nothing() {
        let (dir, cgroups) = host(&["cpu/cgroup.procs"]);
        cgroups.weigh(2048, 700).unwrap();
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(read("cpu/pods/cpu.shares"), "2048");
        assert_eq!(read("cpu/pods/burstable/cpu.shares"), "700");
        assert_eq!(read("cpu/pods/besteffort/cpu.shares"), "2");
        assert_eq!(together(&Desired::default()), LEAST_SHARES);
    }
}
