use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::v1::{ConfigMap, Secret};

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: hello
  labels: {app: hello}
spec:
  containers:
  - name: web
    image: busybox:1.36
    command: [httpd, -f]
    ports:
    - containerPort: 80
    resources:
      limits: {cpu: 0.5, memory: 64Mi}
      requests: {cpu: 1}
";

fn pods(text: &str) -> Vec<Pod> {
    parse("pods.yaml", text)
        .unwrap()
        .into_iter()
        .map(|document| match document.object {
            AnyObject::Pod(pod) => pod,
            other => panic!("a {}", other.kind()),
        })
        .collect()
}

/// What is reported of a manifest named `x.yaml`.
fn errors(text: &str) -> Vec<String> {
    parse("x.yaml", text)
        .unwrap_err()
        .to_string()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What is reported of a pod with this spec, without the place in front.
fn spec_errors(spec: &str) -> Vec<String> {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  {spec}\n");
    let found = parse("x.yaml", &text).unwrap_err();
    found
        .errors()
        .iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}

#[test]
fn a_kubernetes_pod_is_a_pod() {
    let pod = pods(POD).remove(0);
    let spec = pod.spec.unwrap();
    assert_eq!(pod.metadata.unwrap().labels["app"], "hello");
    assert_eq!(spec.containers[0].command, ["httpd", "-f"]);
    assert_eq!(spec.containers[0].ports[0].container_port, 80);
    let resources = spec.containers[0].resources.clone().unwrap();
    assert_eq!(
        (
            resources.limits["cpu"].as_str(),
            resources.requests["cpu"].as_str()
        ),
        ("0.5", "1")
    );
}

#[test]
fn a_flat_pod_is_a_pod_with_names_made_dns_labels() {
    let text = "version: v0\nname: dummy pod\nnamespace: default\nhostNetwork: true\nip: 0.0.0.0\n\
                containers:\n  - name: My Container\n    image: etcd:3\n";
    let pod = pods(text).remove(0);
    let spec = pod.spec.unwrap();
    assert_eq!(pod.metadata.as_ref().unwrap().name, "dummy-pod");
    assert_eq!(pod.metadata.unwrap().namespace, "default");
    assert!(spec.host_network);
    assert_eq!(spec.pod_ip, "");
    assert_eq!(
        (
            spec.containers[0].name.as_str(),
            spec.containers[0].image.as_str()
        ),
        ("my-container", "etcd:3")
    );
}

#[test]
fn a_flat_pods_address_is_its_fixed_one() {
    let text = "version: v0\nname: a\nip: 10.88.0.9\ncontainers: [{name: c, image: i}]\n";
    assert_eq!(pods(text)[0].spec.as_ref().unwrap().pod_ip, "10.88.0.9");
}

#[test]
fn a_flat_pod_has_no_other_fields() {
    assert_eq!(
        errors("version: v0\nname: a\nhostnetwork: true\ncontainers:\n- name: c\n  imag: i\n"),
        [
            "x.yaml: document 1, line 3, column 1: hostnetwork: unknown field; did you mean \"hostNetwork\"? (a flat pod, \"version: v0\", has no others)",
            "x.yaml: document 1, line 6, column 3: containers[0].imag: unknown field; did you mean \"image\"? (a flat pod, \"version: v0\", has no others)",
        ]
    );
}

#[test]
fn a_flat_pods_types_are_checked_under_its_own_paths() {
    assert_eq!(
        errors("version: v0\nname: 1\nip: 7\nhostNetwork: yes\ncontainers: [{name: c, image: 3}]\n"),
        [
            "x.yaml: document 1, line 2, column 7: name: must be a string, but is the number 1; quote it: \"1\"",
        ]
    );
    assert_eq!(
        errors("version: v0\nname: a\nip: 7\nhostNetwork: yes\ncontainers: [{name: c, image: 3}]\n"),
        [
            "x.yaml: document 1, line 3, column 5: ip: must be a string, but is the number 7; quote it: \"7\"",
            "x.yaml: document 1, line 4, column 14: hostNetwork: must be true or false, but is the string \"yes\"; write true",
            "x.yaml: document 1, line 5, column 31: containers[0].image: must be a string, but is the number 3; quote it: \"3\"",
        ]
    );
}

#[test]
fn an_unknown_field_is_refused_with_its_place_and_the_nearest_name() {
    let text = format!("{POD}---\n{}", POD.replace("    image:", "    imag:"));
    assert_eq!(
        errors(&text),
        [
            "x.yaml: document 2, line 25, column 5: spec.containers[0].imag: unknown field; did you mean \"image\"?"
        ]
    );
}

#[test]
fn every_error_of_every_document_is_reported() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {nam: a}\nspec: {hostNetwork: 1}\n---\n\
                apiVersion: v1\nkind: Pood\n---\nkind: Pod\n---\n- a\n";
    assert_eq!(
        errors(text),
        [
            "x.yaml: document 1, line 3, column 12: metadata.nam: unknown field; did you mean \"name\"?",
            "x.yaml: document 1, line 4, column 21: spec.hostNetwork: must be true or false, but is the number 1",
            "x.yaml: document 2, line 7, column 7: kind: unknown kind \"Pood\"; did you mean \"Pod\"?",
            "x.yaml: document 3, line 9, column 1: apiVersion: must be there: write \"apiVersion: v1\", or \"version: v0\" for a flat pod",
            "x.yaml: document 4, line 11, column 1: must be a mapping with \"apiVersion\" and \"kind\", but is a list",
        ]
    );
}

#[rstest]
#[case(
    "hostNetwork: yes",
    "spec.hostNetwork: must be true or false, but is the string \"yes\"; write true"
)]
#[case(
    "hostname: 1",
    "spec.hostname: must be a string, but is the number 1; quote it: \"1\""
)]
#[case(
    "hostname: true",
    "spec.hostname: must be a string, but is true; quote it: \"true\""
)]
#[case("hostname: [a]", "spec.hostname: must be a string, but is a list")]
#[case("containers: {}", "spec.containers: must be a list, but is a mapping")]
#[case(
    "containers: [a]",
    "spec.containers[0]: must be a mapping, but is the string \"a\""
)]
#[case("containers: [null]", "spec.containers[0]: must be a mapping, but is null")]
#[case("nodeSelector: [a]", "spec.nodeSelector: must be a mapping, but is a list")]
#[case(
    "nodeSelector: {a: 1}",
    "spec.nodeSelector[a]: must be a string, but is the number 1; quote it: \"1\""
)]
#[case(
    "terminationGracePeriodSeconds: \"30\"",
    "spec.terminationGracePeriodSeconds: must be a whole number, but is the string \"30\"; remove the quotes"
)]
#[case(
    "terminationGracePeriodSeconds: 1.5",
    "spec.terminationGracePeriodSeconds: must be a whole number, but is the number 1.5"
)]
#[case(
    "terminationGracePeriodSeconds: 3000000000",
    "spec.terminationGracePeriodSeconds: must be from -2147483648 to 2147483647, but is 3000000000"
)]
#[case(
    "volumes: [{name: a, emptyDir: {}, hostPath: {path: /a}}]",
    "spec.volumes[0].hostPath: cannot stand beside \"emptyDir\": only one of them can be set"
)]
#[case(
    "host_network: true",
    "spec.host_network: unknown field; did you mean \"hostNetwork\"?"
)]
fn a_wrong_type_is_told_in_plain_words(#[case] spec: &str, #[case] expected: &str) {
    assert_eq!(spec_errors(spec), [expected]);
}

#[test]
fn null_is_the_same_as_nothing() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: null}\nspec:\n  hostname:\n  nodeSelector: {a: null}\n";
    let pod = pods(text).remove(0);
    assert_eq!(pod.spec.unwrap(), crate::v1::PodSpec::default());
}

#[test]
fn a_secrets_values_never_appear_in_errors() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {k: hunter2!}\nstringData: {pin: 4711, on: true}\n";
    let found = errors(text);
    assert_eq!(found.len(), 3);
    assert!(
        found[0].ends_with("data[k]: must be base64; plain text goes into stringData"),
        "{found:?}"
    );
    for line in &found {
        assert!(!line.contains("hunter2") && !line.contains("4711"), "{line}");
    }
}

#[test]
fn base64_may_be_wrapped() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  k: |\n    aGVs\n    bG8=\n";
    let document = parse("x", text).unwrap().remove(0);
    let AnyObject::Secret(Secret { data, .. }) = document.object else {
        panic!("not a secret")
    };
    assert_eq!(data["k"], "hello");
}

#[test]
fn a_list_holds_objects_each_with_its_path() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
                - apiVersion: v1\n  kind: Pod\n  metadta: {}\n";
    assert_eq!(
        errors(text),
        ["x.yaml: document 1, line 9, column 3: items[1].metadta: unknown field; did you mean \"metadata\"?"]
    );
    let fixed = text.replace("metadta", "metadata");
    let kinds: Vec<_> = parse("x", &fixed)
        .unwrap()
        .iter()
        .map(|d| d.object.kind())
        .collect();
    assert_eq!(kinds, ["Namespace", "Pod"]);
}

#[rstest]
#[case(
    "apiVersion: apps/v1\nkind: Pod\n",
    "apiVersion: unknown API version \"apps/v1\"; every kind here has \"v1\""
)]
#[case(
    "apiVersion: v1\nkind: Deployment\n",
    "kind: unknown kind \"Deployment\"; there are Pod, Node, Namespace"
)]
#[case(
    "apiVersion: v1\nkind: Service\n",
    "kind: unknown kind \"Service\"; there are Pod"
)]
#[case("version: v1\nname: a\n", "version: must be \"v0\", but is the string \"v1\"")]
#[case("apiVersion: v1\nkind: 7\n", "kind: must be one of Pod, Node")]
#[case("a: 1\na: 2\n", "a: the key is written twice in the same mapping")]
#[case(
    "metadata:\n  labels:\n    1: a\n",
    "metadata.labels: the key 1 must be a string; quote it: \"1\""
)]
#[case(
    "a: !secret b\n",
    "a: YAML tags such as \"!tag\" mean nothing here; remove it"
)]
#[case("a: .nan\n", "a: NaN is not a number that a field can have")]
#[case("a: [1\n", "cannot be read: ")]
#[case(
    "metadata:\n\tname: a\n",
    "line 2, column 1: cannot be read: the line begins with a tab; indent with spaces"
)]
#[case(
    "metadata:\n  \tname: a\n",
    "cannot be read: the line begins with a tab; indent with spaces"
)]
#[case(
    "- name: a\n   image: b\n",
    "line 2, column 9: cannot be read: mapping values are not allowed in this context; see how far this line and those \
     before it are indented"
)]
#[case("{\"apiVersion\": ", "cannot be read: ")]
#[case(
    "just text",
    "must be a mapping with \"apiVersion\" and \"kind\", but is the string \"just text\""
)]
fn a_broken_document_is_refused(#[case] text: &str, #[case] expected: &str) {
    let found = errors(text);
    assert!(found[0].contains(expected), "{found:?}");
}

#[test]
fn a_duplicate_key_is_reported_at_its_second_place() {
    assert_eq!(
        errors("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n"),
        ["x.yaml: document 1, line 5, column 3: metadata.name: the key is written twice in the same mapping"]
    );
}

#[test]
fn what_stands_before_a_syntax_error_is_checked_too() {
    let found = errors("apiVersion: v1\nkind: Pod\nspecc: {}\n---\nfoo: [1\n---\na: b\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("document 1, line 3, column 1: specc: unknown field"),
        "{found:?}"
    );
    assert!(found[1].starts_with("x.yaml: document 2, line "), "{found:?}");
}

#[rstest]
#[case("")]
#[case("# nothing\n")]
#[case("---\n---\n# nothing\n---\n")]
#[case("\u{feff}")]
#[case("null\n")]
fn a_manifest_of_nothing_holds_nothing(#[case] text: &str) {
    assert_eq!(parse("x", text).unwrap(), []);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_not_matter() {
    let text = format!("\u{feff}{}", POD.replace('\n', "\r\n"));
    assert_eq!(pods(&text), pods(POD));
}

#[test]
fn json_is_accepted_with_its_own_escapes() {
    let text = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\",\n\t\"metadata\": {\"name\": \"a\"},\n\t\"data\": {\"k\": \"\\ud83d\\ude00\\/\"}\n}";
    let AnyObject::ConfigMap(ConfigMap { data, .. }) = parse("x.json", text).unwrap().remove(0).object else {
        panic!("not a config map")
    };
    assert_eq!(data["k"], "😀/");
}

#[test]
fn errors_in_json_have_their_line() {
    let found = errors("{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"spek\": {}\n}");
    assert!(
        found[0].starts_with("x.yaml: document 1, line 4, column "),
        "{found:?}"
    );
    assert!(
        found[0].ends_with("spek: unknown field; did you mean \"spec\"?"),
        "{found:?}"
    );
}

#[test]
fn documents_know_their_number_and_line() {
    let documents = parse("x", &format!("# first\n\n{POD}---\n---\n{POD}")).unwrap();
    let places: Vec<_> = documents
        .iter()
        .map(|document| (document.index, document.line))
        .collect();
    assert_eq!(places, [(1, 3), (3, 20)]);
}

#[test]
fn merge_keys_and_anchors_work() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - &c {name: a, image: i}\n  \
                - <<: *c\n    name: b\n";
    let spec = pods(text).remove(0).spec.unwrap();
    assert_eq!(
        (
            spec.containers[1].name.as_str(),
            spec.containers[1].image.as_str()
        ),
        ("b", "i")
    );
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let levels: Vec<_> = (1..12)
        .map(|level| {
            format!(
                "a{level}: &a{level} [{}]",
                vec![format!("*a{}", level - 1); 10].join(",")
            )
        })
        .collect();
    let text = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}\n", levels.join("\n"));
    let found = parse("x", &text).unwrap_err().to_string();
    assert!(
        found.contains("too large") || found.contains("repetition limit"),
        "{found}"
    );
}

#[rstest]
#[case("[".repeat(100_000), "x: the manifest has more than 2000 brackets open at once")]
#[case(format!("{{\"a\":{}", "[".repeat(100_000)), "x: the manifest has more than 2000 brackets open at once")]
#[case("[".repeat(1000), "x: document 1, line 1, column 129: cannot be read: recursion limit exceeded")]
#[case("- ".repeat(100_000), "cannot be read: recursion limit exceeded")]
fn depth_is_bounded(#[case] text: String, #[case] expected: &str) {
    let found = parse("x", &text).unwrap_err().to_string();
    assert!(found.contains(expected), "{found}");
}

#[test]
fn a_huge_manifest_is_refused_by_its_size() {
    let found = parse("big.yaml", &"#".repeat(MAX_MANIFEST_BYTES + 1))
        .unwrap_err()
        .to_string();
    assert_eq!(
        found,
        "big.yaml: the manifest has 8388609 bytes, but 8388608 is the most"
    );
}

#[test]
fn what_is_not_text_is_refused() {
    let found = parse_bytes("x", b"kind: \xff").unwrap_err().to_string();
    assert_eq!(
        found,
        "x: the manifest is not UTF-8 text: byte 6 is not part of a character"
    );
}

#[test]
fn the_errors_of_one_manifest_are_bounded() {
    let fields: Vec<_> = (0..200).map(|n| format!("zz{n}: 1")).collect();
    let found = errors(&format!("apiVersion: v1\nkind: Pod\n{}", fields.join("\n")));
    assert_eq!(found.len(), 51);
    assert_eq!(found[50], "and 150 more");
}

#[test]
fn violations_of_rules_get_their_places() {
    let text = format!("---\n{}", POD.replace("name: web", "name: We b"));
    let found = parse_valid("x.yaml", &text).unwrap_err().to_string();
    assert!(
        found.starts_with("x.yaml: document 1, line 9, column 11: spec.containers[0].name: must consist of"),
        "{found}"
    );
    let flat = "version: v0\nname: a\nhostNetwork: true\nip: 10.0.0.1\ncontainers:\n- name: c\n";
    let found = parse_valid("x.yaml", flat).unwrap_err().to_string();
    assert_eq!(
        found,
        "x.yaml: document 1, line 4, column 5: ip: must be empty on the host network, where a pod has the node's addresses\n\
         x.yaml: document 1, line 6, column 3: containers[0].image: must not be empty"
    );
}

#[test]
fn an_embedded_pod_may_leave_out_what_it_is() {
    let value = |text: &str| serde_yaml::from_str::<serde_yaml::Value>(text).unwrap();
    let spec = "metadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n";
    assert_eq!(pod_from_value(value(spec)).unwrap().name(), "a");
    assert_eq!(
        pod_from_value(value("version: v0\nname: dummy pod\n"))
            .unwrap()
            .name(),
        "dummy-pod"
    );
    assert_eq!(pod_from_value(value(POD)).unwrap(), pods(POD)[0]);
    let message = |text: &str| pod_from_value(value(text)).unwrap_err().to_string();
    assert_eq!(
        message("{metadata: {nam: a}}"),
        "metadata.nam: unknown field; did you mean \"name\"?"
    );
    assert_eq!(
        message("{apiVersion: v1, kind: Node}"),
        "kind: must be \"Pod\" here, but is \"Node\""
    );
    assert_eq!(
        message("7"),
        "must be a mapping with \"apiVersion\" and \"kind\", but is the number 7"
    );
}

#[test]
fn what_is_written_has_kubernetes_shape() {
    let mut pod = pods(POD).remove(0);
    let meta = pod.metadata.as_mut().unwrap();
    meta.resource_version = 42;
    meta.generation = 3;
    meta.creation_timestamp = Some(pbjson_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    });
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.security_context = Some(crate::v1::SecurityContext {
        run_as_user: Some(1000),
        ..Default::default()
    });
    insta::assert_snapshot!(to_yaml(&pod.clone().into()), @r"
    apiVersion: v1
    kind: Pod
    metadata:
      name: hello
      resourceVersion: '42'
      generation: 3
      creationTimestamp: 2023-11-14T22:13:20Z
      labels:
        app: hello
    spec:
      containers:
      - name: web
        image: busybox:1.36
        command:
        - httpd
        - -f
        ports:
        - containerPort: 80
        resources:
          limits:
            cpu: '0.5'
            memory: 64Mi
          requests:
            cpu: '1'
        securityContext:
          runAsUser: 1000
    ");
    let json: Vec<_> = to_json(&pod.into()).lines().take(3).map(str::to_owned).collect();
    assert_eq!(json, ["{", "  \"apiVersion\": \"v1\",", "  \"kind\": \"Pod\","]);
}

/// Words that YAML could take for something else.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z]{1,8}",
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("0x1f".to_owned()),
        Just("1e3".to_owned()),
        Just("- a: b # c".to_owned()),
        "\\PC{0,12}",
        Just("two\nlines\n".to_owned()),
        Just("\t\u{85}\u{2028}".to_owned()),
    ]
}

prop_compose! {
    fn any_pod()(
        name in word(),
        labels in prop::collection::btree_map(word(), word(), 0..3),
        words in prop::collection::vec(word(), 0..4),
        ports in prop::collection::vec((any::<i32>(), any::<i32>()), 0..3),
        user in any::<Option<i64>>(),
        grace in any::<Option<i32>>(),
        version in any::<i64>(),
        seconds in 0_i64..4_000_000_000,
        host_network in any::<bool>(),
        empty_dir in any::<bool>(),
    ) -> Pod {
        use crate::v1::{Container, ContainerPort, EmptyDirVolumeSource, HostPathVolumeSource, ObjectMeta, PodSpec,
            SecurityContext, Volume, volume::Source};
        let source = if empty_dir {
            Source::EmptyDir(EmptyDirVolumeSource::default())
        } else {
            Source::HostPath(HostPathVolumeSource { path: name.clone(), r#type: String::new() })
        };
        Pod {
            metadata: Some(ObjectMeta {
                name: name.clone(),
                labels,
                resource_version: version,
                creation_timestamp: Some(pbjson_types::Timestamp { seconds, nanos: 0 }),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                containers: vec![Container {
                    name,
                    args: words,
                    ports: ports.into_iter().map(|(container_port, host_port)| ContainerPort {
                        container_port, host_port, ..ContainerPort::default()
                    }).collect(),
                    security_context: user.map(|user| SecurityContext { run_as_user: Some(user), ..SecurityContext::default() }),
                    ..Container::default()
                }],
                volumes: vec![Volume { name: "v".to_owned(), source: Some(source) }],
                host_network,
                termination_grace_period_seconds: grace,
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same_object(pod in any_pod()) {
        let object = AnyObject::from(pod);
        for text in [to_yaml(&object), to_json(&object)] {
            let read = parse("x", &text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(&read[0].object, &object, "{}", text);
        }
    }

    #[test]
    fn binary_data_survives(data in prop::collection::btree_map("[a-z]{1,5}", prop::collection::vec(any::<u8>(), 0..50), 0..3)) {
        let data = data.into_iter().map(|(key, value)| (key, value.into())).collect();
        let object = AnyObject::from(Secret { data, ..Secret::default() });
        prop_assert_eq!(&parse("x", &to_yaml(&object)).unwrap()[0].object, &object);
    }

    #[test]
    fn reading_any_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse("x", &text);
    }

    #[test]
    fn reading_anything_like_yaml_never_panics(
        text in prop::collection::vec(prop::sample::select(vec![
            "apiVersion: v1\n", "kind: Pod\n", "kind: List\n", "version: v0\n", "spec:\n", "  containers:\n", "  - ",
            "name: a\n", "items:\n", "- ", "---\n", "{", "}", "[", "]", "&a ", "*a\n", "<<: ", "\"", "'", "|\n", "? ", ": ", "null",
        ]), 0..30)
    ) {
        let _ = parse("x", &text.concat());
    }
}

#[test]
fn a_port_is_a_number_or_a_name_and_is_written_as_it_was() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: app\n    image: a\n    livenessProbe:\n      tcpSocket:\n        port: 8080\n    readinessProbe:\n      httpGet:\n        port: web\n";
    let documents = parse("web.yaml", text).unwrap();
    let yaml = to_yaml(&documents[0].object);
    assert!(
        yaml.contains("port: 8080\n") && yaml.contains("port: web\n"),
        "{yaml}"
    );
}

#[test]
fn permission_bits_may_be_octal() {
    let of = |mode: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: app\n    image: a\n  volumes:\n  - name: v\n    secret:\n      secretName: s\n      defaultMode: {mode}\n"
        );
        parse("web.yaml", &text).map(|documents| to_yaml(&documents[0].object))
    };
    for mode in ["0400", "0o400", "256"] {
        let yaml = of(mode).unwrap();
        assert!(yaml.contains("defaultMode: 256"), "{mode}: {yaml}");
    }
    let error = of("0900").unwrap_err().to_string();
    assert!(error.contains("defaultMode"), "{error}");
}
