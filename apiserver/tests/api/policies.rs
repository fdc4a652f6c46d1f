//! The kinds that say what others may be: priority classes, limit ranges and quotas; and that every kind is served.

use clone8s::{
    client::{ApplyOptions, DeleteOptions, From, Query, Resource},
    for_each_kind,
    v1::*,
};
use clone8s_apiserver::ERROR_DOMAIN;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, transport::Channel};

use crate::harness::{PATIENCE, Server, create_pod, details, get_pod, meta, pod, told};

fn amounts(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, amount)| ((*name).into(), (*amount).into()))
        .collect()
}

fn quota(hard: &[(&str, &str)]) -> ResourceQuota {
    ResourceQuota {
        metadata: meta("quota"),
        spec: Some(ResourceQuotaSpec { hard: amounts(hard) }),
        status: None,
    }
}

fn limits(item: LimitRangeItem) -> LimitRange {
    LimitRange {
        metadata: meta("limits"),
        spec: Some(LimitRangeSpec {
            limits: vec![LimitRangeItem {
                r#type: "Container".into(),
                ..item
            }],
        }),
    }
}

fn class(name: &str, value: i32) -> PriorityClass {
    PriorityClass {
        metadata: meta(name),
        value,
        ..PriorityClass::default()
    }
}

/// A valid object of each kind.
trait Sample: Resource {
    fn sample() -> Self;
}

macro_rules! samples {
    ($($kind:ident => $sample:expr),* $(,)?) => {
        $(impl Sample for $kind {
            fn sample() -> Self {
                $sample
            }
        })*
    };
}
samples! {
    Pod => pod("sample"),
    Node => Node { metadata: meta("sample"), ..Node::default() },
    Namespace => Namespace { metadata: meta("sample"), ..Namespace::default() },
    ConfigMap => ConfigMap { metadata: meta("sample"), ..ConfigMap::default() },
    Secret => Secret { metadata: meta("sample"), ..Secret::default() },
    Event => Event {
        metadata: meta("sample"),
        involved_object: Some(ObjectReference { kind: "Pod".into(), name: "web".into(), ..ObjectReference::default() }),
        reason: "Tried".into(),
        r#type: "Normal".into(),
        count: 1,
        ..Event::default()
    },
    Lease => Lease { metadata: meta("sample"), ..Lease::default() },
    ServiceAccount => ServiceAccount { metadata: meta("sample"), ..ServiceAccount::default() },
    PriorityClass => class("sample", 5),
    ResourceQuota => quota(&[("count/secrets", "5")]),
    LimitRange => limits(LimitRangeItem { max: amounts(&[("cpu", "8")]), ..LimitRangeItem::default() }),
}

async fn lives<O: Sample>(channel: &Channel) {
    let (_, revision) = O::list_all(channel, &Query::default()).await.unwrap();
    let query = Query::default();
    let mut events = O::watch(channel, &query, From::Revision(revision)).await.unwrap();
    let created = O::create(channel, O::sample()).await.unwrap();
    let (namespace, name) = (created.namespace().to_owned(), created.name().to_owned());
    let read = O::get(channel, &namespace, &name).await.unwrap();
    assert_eq!(read.uid(), created.uid());
    let mut changed = created.clone();
    // A quota's status is written beside.
    changed.metadata_mut().resource_version = 0;
    changed
        .metadata_mut()
        .labels
        .insert("changed".into(), "yes".into());
    let changed = O::update(channel, changed).await.unwrap();
    assert!(changed.resource_version() > created.resource_version());
    let selected = Query {
        label_selector: "changed=yes".into(),
        ..Query::default()
    };
    let (listed, _) = O::list_all(channel, &selected).await.unwrap();
    let listed: Vec<_> = listed.iter().map(O::uid).collect();
    assert_eq!(listed, [changed.uid()]);
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    O::delete(channel, &namespace, &name, &options).await.unwrap();

    let mut second = O::sample();
    second.metadata_mut().name = "second".into();
    second.metadata_mut().labels.insert("second".into(), "yes".into());
    let applying = ApplyOptions {
        field_manager: "test".into(),
        ..ApplyOptions::default()
    };
    for expected in [ApplyOutcome::Created, ApplyOutcome::Unchanged] {
        let (_, outcome) = O::apply(channel, second.clone(), &applying).await.unwrap();
        assert_eq!(outcome, expected);
    }
    let selected = Query {
        label_selector: "second=yes".into(),
        ..Query::default()
    };
    let page = O::delete_many(channel, &selected, &options, String::new())
        .await
        .unwrap();
    assert_eq!(
        (page.deleted_count + page.ending_count, page.failed_count),
        (1, 0)
    );
    loop {
        let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
        if event.kind == WatchEventType::Deleted && event.object.unwrap().name() == name {
            return;
        }
    }
}

macro_rules! every_kind_lives {
    ([$channel:expr] $($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        $(lives::<$kind>($channel).await;)*
    };
}

#[tokio::test]
async fn every_kind_is_created_read_changed_applied_selected_watched_and_deleted() {
    let server = Server::start().await;
    let root = server.root();
    for_each_kind!(every_kind_lives[&root]);
    server.stop().await;
}

#[tokio::test]
async fn a_pod_gets_its_priority_from_its_class() {
    let server = Server::start().await;
    let root = server.root();
    PriorityClass::create(&root, class("high", 1_000)).await.unwrap();
    let mut high = pod("high");
    high.spec.get_or_insert_default().priority_class_name = "high".into();
    let spec = create_pod(&root, high).await.spec.unwrap();
    assert_eq!(
        (spec.priority, spec.preemption_policy.as_str()),
        (Some(1_000), "PreemptLowerPriority")
    );
    let spec = create_pod(&root, pod("plain")).await.spec.unwrap();
    assert_eq!((spec.priority, spec.priority_class_name.as_str()), (None, ""));

    let mut usual = class("usual", 7);
    usual.global_default = true;
    PriorityClass::create(&root, usual).await.unwrap();
    let usual = create_pod(&root, pod("usual")).await;
    assert_eq!(usual.spec.as_ref().unwrap().priority, Some(7));
    // A manifest that names no class does not take it away.
    let mut again = pod("usual");
    again
        .metadata
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "b".into());
    let again = Pod::update(&root, again).await.unwrap();
    assert_eq!(again.spec.unwrap().priority_class_name, "usual");

    let mut unknown = pod("unknown");
    unknown.spec.get_or_insert_default().priority_class_name = "nowhere".into();
    let refused = Pod::create(&root, unknown).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "INVALID".into()));
    let changed = PriorityClass::update(&root, class("high", 2)).await.unwrap_err();
    assert_eq!(
        details(&changed).bad_request().unwrap().field_violations[0].field,
        "value"
    );
    server.stop().await;
}

#[tokio::test]
async fn containers_get_the_defaults_of_a_limit_range_and_are_held_to_it() {
    let server = Server::start().await;
    let root = server.root();
    let range = limits(LimitRangeItem {
        max: amounts(&[("cpu", "2")]),
        default: amounts(&[("cpu", "500m")]),
        default_request: amounts(&[("cpu", "250m")]),
        ..LimitRangeItem::default()
    });
    LimitRange::create(&root, range).await.unwrap();
    let plain = create_pod(&root, pod("plain")).await;
    let resources = plain.spec.unwrap().containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits, amounts(&[("cpu", "500m")]));
    assert_eq!(resources.requests, amounts(&[("cpu", "250m")]));

    let mut greedy = pod("greedy");
    greedy.spec.as_mut().unwrap().containers[0].resources = Some(ResourceRequirements {
        limits: amounts(&[("cpu", "4")]),
        requests: amounts(&[]),
    });
    let refused = Pod::create(&root, greedy.clone()).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "INVALID".into()));
    let violation = details(&refused).bad_request().unwrap().field_violations[0].clone();
    assert_eq!(violation.field, "spec.containers[0].resources");
    assert!(violation.description.contains("at most 2"), "{violation:?}");

    greedy.metadata = meta("plain");
    let refused = Pod::update(&root, greedy).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn a_quota_admits_what_fits_and_no_more_however_many_ask_at_once() {
    let server = Server::start().await;
    let root = server.root();
    create_pod(&root, pod("before")).await;
    ResourceQuota::create(&root, quota(&[("pods", "5")]))
        .await
        .unwrap();
    let created = join_all((0..20).map(|at| Pod::create(&root, pod(&format!("p-{at}"))))).await;
    let refused: Vec<_> = created
        .iter()
        .filter_map(|created| created.as_ref().err())
        .collect();
    assert_eq!(refused.len(), 16);
    for refused in refused {
        assert_eq!(told(refused), (Code::ResourceExhausted, "QUOTA_EXCEEDED".into()));
        let quotas = details(refused).quota_failure().unwrap().violations.clone();
        assert_eq!(quotas[0].subject, "quota");
        assert!(quotas[0].description.starts_with("pods: 5 used"), "{quotas:?}");
    }

    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    Pod::delete(&root, "default", "before", &options).await.unwrap();
    create_pod(&root, pod("after")).await;
    assert_eq!(
        Pod::create(&root, pod("one-more")).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
    server.stop().await;
}

#[tokio::test]
async fn a_quota_of_amounts_counts_containers_and_needs_them_to_be_said() {
    let server = Server::start().await;
    let root = server.root();
    ResourceQuota::create(&root, quota(&[("requests.cpu", "1"), ("count/configmaps", "1")]))
        .await
        .unwrap();
    let asking = |name: &str, cpu: &str| {
        let mut pod = pod(name);
        pod.spec.as_mut().unwrap().containers[0].resources = Some(ResourceRequirements {
            limits: amounts(&[]),
            requests: amounts(&[("cpu", cpu)]),
        });
        pod
    };
    let silent = Pod::create(&root, pod("silent")).await.unwrap_err();
    assert!(
        silent
            .message()
            .contains("every container must say its requests.cpu"),
        "{silent}"
    );
    create_pod(&root, asking("half", "500m")).await;
    let refused = Pod::create(&root, asking("more", "600m")).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("requests.cpu: 500m used, 600m asked for, 1 is the most"),
        "{refused}"
    );
    // What it took is its own already.
    Pod::update(&root, asking("half", "900m")).await.unwrap();
    let refused = Pod::update(&root, asking("half", "1100m")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        get_pod(&root, "half").await.unwrap().spec.unwrap().containers[0]
            .resources
            .clone()
            .unwrap()
            .requests["cpu"],
        "900m"
    );

    let map = |name: &str| ConfigMap {
        metadata: meta(name),
        ..ConfigMap::default()
    };
    ConfigMap::create(&root, map("one")).await.unwrap();
    assert_eq!(
        ConfigMap::create(&root, map("two")).await.unwrap_err().code(),
        Code::ResourceExhausted
    );

    let deadline = Instant::now() + PATIENCE;
    loop {
        let used = ResourceQuota::get(&root, "", "quota")
            .await
            .unwrap()
            .status
            .unwrap_or_default()
            .used;
        if used == amounts(&[("requests.cpu", "900m"), ("count/configmaps", "1")]) {
            break;
        }
        assert!(Instant::now() < deadline, "the status says {used:?}");
        sleep(std::time::Duration::from_millis(50)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_quota_of_something_that_is_not_counted_is_refused() {
    let server = Server::start().await;
    let root = server.root();
    let refused = ResourceQuota::create(&root, quota(&[("gpus", "1")]))
        .await
        .unwrap_err();
    let violation = details(&refused).bad_request().unwrap().field_violations[0].clone();
    assert!(
        violation.description.contains("count/configmaps"),
        "{violation:?}"
    );
    assert_eq!(details(&refused).error_info().unwrap().domain, ERROR_DOMAIN);
    server.stop().await;
}
