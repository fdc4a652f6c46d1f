use bytes::Bytes;
use clone8s::{object::AnyObject, v1::Pod};

use super::*;

/// A minute after everything in the fixtures.
fn now() -> SystemTime {
    "2027-01-15T08:01:00Z".parse::<jiff::Timestamp>().unwrap().into()
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: hello
  namespace: default
  uid: 11111111-2222-3333-4444-555555555555
  creationTimestamp: '2027-01-15T08:00:00Z'
  labels: {app: hello, tier: front}
spec:
  nodeName: n1
  restartPolicy: Always
  volumes: [{name: data, hostPath: {path: /srv/data}}, {name: scratch, emptyDir: {medium: Memory, sizeLimit: 64Mi}}]
  containers:
  - name: web
    image: busybox:1.36
    command: [httpd, -f]
    env: [{name: GREETING, value: hello}]
    ports: [{containerPort: 80, hostPort: 8080, protocol: TCP}]
    resources: {limits: {memory: 64Mi}, requests: {memory: 32Mi}}
    volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
status:
  phase: Running
  podIP: 10.88.0.7
  hostIP: 192.0.2.7
  conditions:
  - {type: Ready, status: 'False', reason: ContainersNotReady, message: web is not ready, lastTransitionTime: '2027-01-15T08:00:10Z'}
  containerStatuses:
  - name: web
    restartCount: 3
    state: {waiting: {reason: CrashLoopBackOff, message: back-off 40s}}
    lastState: {terminated: {exitCode: 1, reason: Error, finishedAt: '2027-01-15T08:00:50Z'}}
";

const EVENT: &str = "
apiVersion: v1
kind: Event
metadata: {name: e1, namespace: default}
involvedObject: {kind: Pod, name: hello}
reason: BackOff
message: the container web keeps ending
type: Warning
count: 3
lastTimestamp: '2027-01-15T08:00:50Z'
source: {component: kubelet, host: n1}
";

fn object(text: &str) -> AnyObject {
    clone8s::manifest::parse("fixture", text)
        .unwrap()
        .remove(0)
        .object
}

#[test]
fn a_pods_page_tells_why_it_is_not_ready() {
    let (AnyObject::Pod(pod), AnyObject::Event(event)) = (object(POD), object(EVENT)) else {
        panic!("not a pod and an event")
    };
    insta::assert_snapshot!(render(&pod, &[event], now()), @r"
        Name:            hello
        Namespace:       default
        UID:             11111111-2222-3333-4444-555555555555
        Created:         60s ago
        Labels:          app=hello
                         tier=front
        Phase:           Running
        Node:            n1
        Pod IP:          10.88.0.7
        Host IP:         192.0.2.7
        Restart policy:  Always
        Containers:
          web:
            Image:           busybox:1.36
            State:           Waiting: CrashLoopBackOff: back-off 40s
            Last state:      Terminated 10s ago, exit code 1: Error
            Ready:           no
            Restarts:        3
            Command:         httpd -f
            Ports:           80/TCP on node port 8080
            Requests:        memory=32Mi
            Limits:          memory=64Mi
            Environment:     GREETING=hello
            Mounts:          /data from data (read-only)
        Volumes:
          data: the node's /srv/data
          scratch: memory, 64Mi at most
        Conditions:
          Ready                      False       50s  ContainersNotReady: web is not ready
        Events:
             10s  Warning  BackOff: the container web keeps ending (x3)  [kubelet]
        ");
}

#[test]
fn an_empty_pod_has_a_short_page() {
    insta::assert_snapshot!(render(&Pod::default(), &[], now()), @r"
        Containers:
        Events:
          none
        ");
}

#[test]
fn a_secret_is_described_without_its_data() {
    let secret = Secret {
        metadata: Some(ObjectMeta {
            name: "db".into(),
            namespace: "default".into(),
            ..Default::default()
        }),
        data: [("password".to_owned(), Bytes::from_static(b"hunter2"))].into(),
        ..Default::default()
    };
    let text = render(&secret, &[], SystemTime::UNIX_EPOCH);
    assert!(text.contains("password: 7 bytes"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn containers_for_a_look_come_last_with_what_they_see() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{name: web, image: 'web:1'}]
  ephemeralContainers: [{name: look, image: 'look:1', targetContainerName: web, command: [sh]}]
";
    let AnyObject::Pod(pod) = object(text) else {
        panic!("not a pod")
    };
    insta::assert_snapshot!(render(&pod, &[], now()), @r"
        Name:            p
        Containers:
          web:
            Image:           web:1
        Ephemeral containers:
          look:
            Target:          web
            Image:           look:1
            Command:         sh
        Events:
          none
        ");
}

#[test]
fn init_containers_come_first_with_what_is_done_at_their_start_and_stop() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  initContainers:
  - name: proxy
    image: proxy:1
    restartPolicy: Always
    lifecycle:
      postStart: {exec: {command: [warm, up]}}
      preStop: {sleep: {seconds: 5}}
  containers: [{name: web, image: 'web:1'}]
";
    let AnyObject::Pod(pod) = object(text) else {
        panic!("not a pod")
    };
    insta::assert_snapshot!(render(&pod, &[], now()), @r"
        Name:            p
        Init containers:
          proxy:
            Image:           proxy:1
            Restart policy:  Always
            After start:     run warm up
            Before stop:     wait 5 s
        Containers:
          web:
            Image:           web:1
        Events:
          none
        ");
}
