//! The columns of each kind.

use std::time::{Duration, SystemTime};

use clone8s::{
    object::Object,
    v1::{
        Condition, ConfigMap, ContainerState, ContainerStatus, Event, Lease, LimitRange, Namespace, Node,
        Pod, PodSpec, PodStatus, PriorityClass, ResourceQuota, Secret, ServiceAccount,
        container_state::State,
    },
};
use pbjson_types::Timestamp;

/// What a table shows of a kind, after its name.
pub trait Columns: Object {
    const NARROW: &'static [&'static str];
    /// Shown by `-o wide` after the narrow ones.
    const WIDE: &'static [&'static str] = &[];

    /// Where a table has it among others: with the same place for all, as they came, which is by name.
    fn place(&self) -> (i64, i32) {
        (0, 0)
    }
    fn narrow(&self, now: SystemTime) -> Vec<String>;
    fn wide(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Columns for Pod {
    const NARROW: &'static [&'static str] = &["READY", "STATUS", "RESTARTS", "AGE"];
    const WIDE: &'static [&'static str] = &["IP", "NODE", "IMAGES"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let declared = spec.containers.len() + spec.sidecars().count();
        let empty = PodStatus::default();
        let status = self.status.as_ref().unwrap_or(&empty);
        // An init container that runs to its end counts only while the pod is not past it.
        let initializing = initializing(&spec, status).is_some();
        let passes = |status: &ContainerStatus| {
            let mut init = spec.init_containers.iter();
            init.any(|container| container.name == status.name && !container.is_sidecar())
        };
        let ready = status
            .all_container_statuses()
            .filter(|container| container.ready && !passes(container))
            .count();
        let restarts: i32 = status
            .all_container_statuses()
            .filter(|container| initializing || !passes(container))
            .map(|container| container.restart_count)
            .sum();
        vec![
            format!("{ready}/{declared}"),
            pod_word(self),
            restarts.to_string(),
            age_of(self, now),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let ip = self
            .status
            .as_ref()
            .map(|status| status.pod_ip.clone())
            .unwrap_or_default();
        let node = self
            .spec
            .as_ref()
            .map(|spec| spec.node_name.clone())
            .unwrap_or_default();
        let images = self
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().map(|c| c.image.clone()));
        vec![ip, node, images.collect::<Vec<_>>().join(",")]
    }
}

/// The pod's state in one word: why it does not run, where that is known, else its phase.
fn pod_word(pod: &Pod) -> String {
    if pod
        .metadata()
        .is_some_and(|meta| meta.deletion_timestamp.is_some())
    {
        return "Terminating".into();
    }
    let Some(status) = &pod.status else {
        return "Pending".into();
    };
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(word) = initializing(&spec, status) {
        return word;
    }
    // What the whole pod failed of, such as an eviction, is why its containers have ended.
    if status.phase == "Failed" && !status.reason.is_empty() {
        return status.reason.clone();
    }
    let troubled = status
        .container_statuses
        .iter()
        .find_map(|container| trouble(container.state.as_ref()?));
    match troubled {
        Some(reason) if status.phase != "Succeeded" => reason,
        _ if !status.reason.is_empty() => status.reason.clone(),
        _ if status.phase.is_empty() => "Pending".into(),
        _ => status.phase.clone(),
    }
}

/// What holds up a pod whose init containers are not through, as "Init:CrashLoopBackOff" or "Init:1/3".
fn initializing(spec: &PodSpec, status: &PodStatus) -> Option<String> {
    let is_through = status
        .conditions
        .iter()
        .any(|condition| condition.r#type == "Initialized" && condition.status == "True");
    if is_through || status.init_container_statuses.is_empty() {
        return None;
    }
    let is_past = |container: &ContainerStatus| {
        if spec.sidecars().any(|one| one.name == container.name) {
            container.started
        } else {
            container.ready
        }
    };
    let mut statuses = status.init_container_statuses.iter().enumerate();
    let (done, present) = statuses.find(|(_, container)| !is_past(container))?;
    let trouble = present.state.as_ref().and_then(trouble);
    Some(match trouble.as_deref() {
        None | Some("PodInitializing") => format!("Init:{done}/{}", status.init_container_statuses.len()),
        Some(reason) => format!("Init:{reason}"),
    })
}

fn trouble(state: &ContainerState) -> Option<String> {
    match state.state.as_ref()? {
        State::Waiting(waiting) if !waiting.reason.is_empty() => Some(waiting.reason.clone()),
        State::Terminated(end) if end.exit_code != 0 && !end.reason.is_empty() => Some(end.reason.clone()),
        _ => None,
    }
}

impl Columns for Node {
    const NARROW: &'static [&'static str] = &["STATUS", "AGE", "VERSION"];
    const WIDE: &'static [&'static str] = &["ADDRESS", "OS", "KERNEL", "RUNTIME", "CPU", "MEMORY"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let status = self.status.as_ref();
        let ready = status.and_then(|status| status.conditions.iter().find(|c| c.r#type == "Ready"));
        let mut word = ready.map_or("Unknown", readiness).to_owned();
        if self.spec.as_ref().is_some_and(|spec| spec.unschedulable) {
            word += ",SchedulingDisabled";
        }
        let version = status
            .and_then(|s| s.node_info.as_ref())
            .map(|i| i.kubelet_version.clone())
            .unwrap_or_default();
        vec![word, age_of(self, now), version]
    }

    fn wide(&self) -> Vec<String> {
        let Some(status) = &self.status else {
            return vec![String::new(); Self::WIDE.len()];
        };
        let address = status
            .addresses
            .iter()
            .find(|address| address.r#type == "InternalIP");
        let info = status.node_info.clone().unwrap_or_default();
        let capacity = |name: &str| status.capacity.get(name).cloned().unwrap_or_default();
        vec![
            address.map(|address| address.address.clone()).unwrap_or_default(),
            info.os_image,
            info.kernel_version,
            info.container_runtime_version,
            capacity("cpu"),
            capacity("memory"),
        ]
    }
}

fn readiness(condition: &Condition) -> &'static str {
    match condition.status.as_str() {
        "True" => "Ready",
        "False" => "NotReady",
        _ => "Unknown",
    }
}

impl Columns for Namespace {
    const NARROW: &'static [&'static str] = &["STATUS", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let phase = self
            .status
            .as_ref()
            .map_or("Active", |status| status.phase.as_str());
        vec![phase.to_owned(), age_of(self, now)]
    }
}

impl Columns for ConfigMap {
    const NARROW: &'static [&'static str] = &["DATA", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        vec![
            (self.data.len() + self.binary_data.len()).to_string(),
            age_of(self, now),
        ]
    }
}

impl Columns for Secret {
    const NARROW: &'static [&'static str] = &["TYPE", "DATA", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.r#type.clone(),
            self.data.len().to_string(),
            age_of(self, now),
        ]
    }
}

impl Columns for Event {
    const NARROW: &'static [&'static str] = &["LAST", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"];
    const WIDE: &'static [&'static str] = &["SOURCE"];

    /// The last one is the last that happened.
    fn place(&self) -> (i64, i32) {
        let last = self.last_timestamp.as_ref();
        last.map_or((0, 0), |at| (at.seconds, at.nanos))
    }

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let object = self.involved_object.clone().unwrap_or_default();
        vec![
            age(self.last_timestamp.as_ref(), now),
            self.r#type.clone(),
            self.reason.clone(),
            format!("{}/{}", object.kind.to_lowercase(), object.name),
            self.count.to_string(),
            self.message.clone(),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let source = self.source.clone().unwrap_or_default();
        let host = if source.host.is_empty() {
            String::new()
        } else {
            format!("@{}", source.host)
        };
        vec![source.component + &host]
    }
}

impl Columns for Lease {
    const NARROW: &'static [&'static str] = &["HOLDER", "RENEWED", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            spec.holder_identity,
            age(spec.renew_time.as_ref(), now),
            age_of(self, now),
        ]
    }
}

impl Columns for ServiceAccount {
    const NARROW: &'static [&'static str] = &["SECRETS", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        vec![self.secrets.len().to_string(), age_of(self, now)]
    }
}

impl Columns for PriorityClass {
    const NARROW: &'static [&'static str] = &["VALUE", "DEFAULT", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.value.to_string(),
            self.global_default.to_string(),
            age_of(self, now),
        ]
    }
}

impl Columns for ResourceQuota {
    const NARROW: &'static [&'static str] = &["USED", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let used = self.spec.iter().flat_map(|spec| &spec.hard).map(|(name, hard)| {
            let used = status.used.get(name).map_or("?", String::as_str);
            format!("{name}: {used}/{hard}")
        });
        vec![used.collect::<Vec<_>>().join(", "), age_of(self, now)]
    }
}

impl Columns for LimitRange {
    const NARROW: &'static [&'static str] = &["TYPES", "AGE"];

    fn narrow(&self, now: SystemTime) -> Vec<String> {
        let items = self.spec.iter().flat_map(|spec| &spec.limits);
        let types: Vec<_> = items.map(|item| item.r#type.clone()).collect();
        vec![types.join(","), age_of(self, now)]
    }
}

fn age_of<O: Object>(object: &O, now: SystemTime) -> String {
    age(
        object
            .metadata()
            .and_then(|meta| meta.creation_timestamp.as_ref()),
        now,
    )
}

/// How long ago in at most two units: "42s", "5m10s", "3h2m", "12d"; "" for never.
pub fn age(then: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(then) = then else { return String::new() };
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(then.seconds).unwrap_or(0));
    // Another machine's clock may be ahead of ours.
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{
        ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ObjectMeta, PodSpec,
    };
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0s")]
    #[case(119, "119s")]
    #[case(310, "5m10s")]
    #[case(3_599, "59m")]
    #[case(11_000, "3h3m")]
    #[case(1_000_000, "11d")]
    fn an_age_has_the_units_that_matter(#[case] seconds: u64, #[case] expected: &str) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000 + seconds);
        assert_eq!(
            age(
                Some(&Timestamp {
                    seconds: 2_000_000,
                    nanos: 0
                }),
                now
            ),
            expected
        );
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_negative_age() {
        assert_eq!(
            age(
                Some(&Timestamp {
                    seconds: 10,
                    nanos: 0
                }),
                SystemTime::UNIX_EPOCH
            ),
            "0s"
        );
    }

    #[test]
    fn a_pods_status_says_why_it_does_not_run() {
        let waiting = ContainerState {
            state: Some(State::Waiting(ContainerStateWaiting {
                reason: "ImagePullBackOff".into(),
                message: String::new(),
            })),
        };
        let mut pod = Pod {
            metadata: Some(ObjectMeta {
                name: "web".into(),
                ..Default::default()
            }),
            spec: Some(PodSpec {
                containers: vec![clone8s::v1::Container::default()],
                ..Default::default()
            }),
            status: Some(PodStatus {
                phase: "Pending".into(),
                container_statuses: vec![ContainerStatus {
                    state: Some(waiting),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        };
        assert_eq!(
            pod.narrow(SystemTime::UNIX_EPOCH),
            ["0/1", "ImagePullBackOff", "0", ""]
        );
        let status = pod.status.as_mut().unwrap();
        status.phase = "Failed".into();
        status.reason = "Evicted".into();
        status.container_statuses[0].state = Some(ContainerState {
            state: Some(State::Terminated(ContainerStateTerminated {
                exit_code: 137,
                reason: "Error".into(),
                ..Default::default()
            })),
        });
        assert_eq!(pod.narrow(SystemTime::UNIX_EPOCH)[1], "Evicted");
        pod.metadata_mut().deletion_timestamp = Some(Timestamp::default());
        assert_eq!(pod.narrow(SystemTime::UNIX_EPOCH)[1], "Terminating");
    }
}
