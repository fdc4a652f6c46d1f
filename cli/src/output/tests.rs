use clone8s::{
    manifest,
    object::AnyObject,
    v1::{Event, Node, Pod},
};

use super::*;

/// A minute after everything in the fixtures.
fn now() -> SystemTime {
    "2027-01-15T08:01:00Z".parse::<jiff::Timestamp>().unwrap().into()
}

fn pods() -> Vec<Pod> {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: hello, namespace: default, creationTimestamp: '2027-01-15T08:00:00Z'}
spec:
  nodeName: n1
  containers: [{name: web, image: 'busybox:1.36'}, {name: log, image: 'tail:2'}]
status:
  phase: Running
  podIP: 10.88.0.7
  containerStatuses:
  - {name: web, ready: true, restartCount: 2}
  - {name: log, ready: true}
---
apiVersion: v1
kind: Pod
metadata: {name: a-pod-with-a-long-name, namespace: shop, creationTimestamp: '2027-01-10T08:00:00Z'}
spec:
  containers: [{name: web, image: 'nowhere.example/app'}]
status:
  phase: Pending
  containerStatuses:
  - {name: web, state: {waiting: {reason: ErrImagePull}}}
";
    objects(text)
        .into_iter()
        .map(|object| match object {
            AnyObject::Pod(pod) => pod,
            other => panic!("a {}", other.kind()),
        })
        .collect()
}

fn objects(text: &str) -> Vec<AnyObject> {
    let documents = manifest::parse("fixture", text).unwrap();
    documents.into_iter().map(|document| document.object).collect()
}

fn shown<O: Object + Columns>(objects: &[O], format: Format, scope: Scope) -> String {
    let mut out = Vec::new();
    let single = objects.len() == 1;
    let output = OutputArgs {
        format,
        show_managed_fields: false,
    };
    print(&mut out, objects, single, output, scope, now()).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_table_of_pods_has_what_matters_most() {
    insta::assert_snapshot!(shown(&pods(), Format::Table, Scope::OneNamespace), @r"
        NAME                    READY  STATUS        RESTARTS  AGE
        hello                   2/2    Running       2         60s
        a-pod-with-a-long-name  0/1    ErrImagePull  0         5d
        ");
}

#[test]
fn a_wide_table_of_every_namespace_has_more_columns() {
    insta::assert_snapshot!(shown(&pods(), Format::Wide, Scope::AllNamespaces), @r"
        NAMESPACE  NAME                    READY  STATUS        RESTARTS  AGE  IP         NODE  IMAGES
        default    hello                   2/2    Running       2         60s  10.88.0.7  n1    busybox:1.36,tail:2
        shop       a-pod-with-a-long-name  0/1    ErrImagePull  0         5d   -          -     nowhere.example/app
        ");
}

#[test]
fn a_table_of_nodes_tells_who_is_ready() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: n1, creationTimestamp: '2027-01-15T05:00:00Z'}
spec: {unschedulable: true}
status:
  capacity: {cpu: 2, memory: 4Gi}
  conditions: [{type: Ready, status: 'True'}]
  addresses: [{type: InternalIP, address: 192.0.2.7}]
  nodeInfo: {osImage: Debian 12, kernelVersion: 6.1.0, kubeletVersion: 0.1.0, containerRuntimeVersion: 'containerd://1.6.20'}
";
    let nodes: Vec<Node> = objects(text)
        .into_iter()
        .filter_map(|object| match object {
            AnyObject::Node(node) => Some(node),
            _ => None,
        })
        .collect();
    insta::assert_snapshot!(shown(&nodes, Format::Wide, Scope::OneNamespace), @r"
        NAME  STATUS                    AGE   VERSION  ADDRESS    OS         KERNEL  RUNTIME              CPU  MEMORY
        n1    Ready,SchedulingDisabled  3h1m  0.1.0    192.0.2.7  Debian 12  6.1.0   containerd://1.6.20  2    4Gi
        ");
}

#[test]
fn a_table_of_events_tells_what_happened_to_what_in_its_order() {
    let text = "
apiVersion: v1
kind: Event
metadata: {name: e1, namespace: default}
involvedObject: {kind: Pod, name: hello}
reason: Scheduled
message: placed on n1
type: Normal
count: 1
lastTimestamp: '2027-01-15T08:00:30Z'
source: {component: scheduler}
---
apiVersion: v1
kind: Event
metadata: {name: e0, namespace: default}
involvedObject: {kind: Pod, name: hello}
reason: Started
message: started container main
type: Normal
count: 2
lastTimestamp: '2027-01-15T08:00:40Z'
source: {component: kubelet}
";
    let events: Vec<Event> = objects(text)
        .into_iter()
        .filter_map(|object| match object {
            AnyObject::Event(event) => Some(event),
            _ => None,
        })
        .collect();
    insta::assert_snapshot!(shown(&events, Format::Table, Scope::OneNamespace), @r"
        NAME  LAST  TYPE    REASON     OBJECT     COUNT  MESSAGE
        e1    30s   Normal  Scheduled  pod/hello  1      placed on n1
        e0    20s   Normal  Started    pod/hello  2      started container main
        ");
}

#[test]
fn several_objects_as_yaml_are_a_manifest_again() {
    let text = shown(&pods(), Format::Yaml, Scope::OneNamespace);
    let read: Vec<_> = objects(&text);
    assert_eq!(read, pods().into_iter().map(AnyObject::from).collect::<Vec<_>>());
}

#[test]
fn several_objects_as_json_are_one_list_that_is_a_manifest_again() {
    let text = shown(&pods(), Format::Json, Scope::OneNamespace);
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["kind"], "List");
    assert_eq!(
        objects(&text),
        pods().into_iter().map(AnyObject::from).collect::<Vec<_>>()
    );
}

#[test]
fn one_object_stands_alone() {
    let one = &pods()[..1];
    assert!(shown(one, Format::Yaml, Scope::OneNamespace).starts_with("apiVersion: v1\nkind: Pod\n"));
    assert!(shown(one, Format::Json, Scope::OneNamespace).starts_with("{\n  \"apiVersion\": \"v1\",\n"));
    assert_eq!(shown(one, Format::Name, Scope::OneNamespace), "pod/hello\n");
}

/// A pod with the init container "first" and the sidecar "proxy" before "web".
fn ordered(phase: &str, initialized: &str, first: &str, proxy: &str, web: &str) -> String {
    let text = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: p, namespace: default}}
spec:
  initContainers: [{{name: first, image: 'a:1'}}, {{name: proxy, image: 'b:1', restartPolicy: Always}}]
  containers: [{{name: web, image: 'c:1'}}]
status:
  phase: {phase}
  conditions: [{{type: Initialized, status: '{initialized}'}}]
  initContainerStatuses:
  - {{name: first, restartCount: 2, {first}}}
  - {{name: proxy, restartCount: 1, {proxy}}}
  containerStatuses:
  - {{name: web, {web}}}
"
    );
    let objects = objects(&text);
    let [AnyObject::Pod(pod)] = objects.as_slice() else {
        panic!("not a pod")
    };
    pod.narrow(now())[..3].join(" ")
}

const DONE: &str = "ready: true, state: {terminated: {reason: Completed}}";
const UP: &str = "ready: true, started: true, state: {running: {}}";
const LATER: &str = "state: {waiting: {reason: PodInitializing}}";

#[rstest::rstest]
#[case::the_first_runs(("Pending", "False", "state: {running: {}}", LATER, LATER), "0/2 Init:0/2 3")]
#[case::the_first_has_failed(
    ("Failed", "False", "state: {terminated: {exitCode: 1, reason: Error}}", LATER, LATER),
    "0/2 Init:Error 3"
)]
#[case::the_first_keeps_failing(
    ("Pending", "False", "state: {waiting: {reason: CrashLoopBackOff}}", LATER, LATER),
    "0/2 Init:CrashLoopBackOff 3"
)]
#[case::the_sidecar_has_yet_to_start(("Pending", "False", DONE, "state: {running: {}}", LATER), "0/2 Init:1/2 3")]
#[case::all_are_through(("Pending", "True", DONE, UP, LATER), "1/2 PodInitializing 1")]
#[case::all_run(("Running", "True", DONE, UP, UP), "2/2 Running 1")]
fn a_pods_status_tells_how_far_its_init_containers_are(
    #[case] (phase, initialized, first, proxy, web): (&str, &str, &str, &str, &str),
    #[case] expected: &str,
) {
    assert_eq!(ordered(phase, initialized, first, proxy, web), expected);
}
