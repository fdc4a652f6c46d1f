//! Bad input, end to end: each gets an error that names the thing, the place and the next step; none stops a daemon
//! or disturbs another pod.

use std::{fs, path::Path};

use clone8s::{client::Resource as _, object::Object as _, v1::Pod};
use clone8s_integration::{
    ControlPlane, Sandbox, pods,
    process::{free_port, write_private},
    programs::program,
    wait,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const IMAGE: &str = "registry.invalid/none:1";

/// The paths of the bad fields that a refusal names.
fn bad_fields(status: &Status) -> Vec<String> {
    let violations = status
        .get_details_bad_request()
        .map(|details| details.field_violations);
    violations
        .into_iter()
        .flatten()
        .map(|violation| violation.field)
        .collect()
}

#[tokio::test]
async fn a_pod_with_bad_fields_is_refused_by_the_path_of_each() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let cases: [(&str, Pod, &[&str]); 8] = [
        (
            "a name that is no DNS label",
            pods::pod("Not_A_Name", &[("main", IMAGE)]),
            &["metadata.name"],
        ),
        (
            "a name of 300 characters",
            pods::pod(&"x".repeat(300), &[("main", IMAGE)]),
            &["metadata.name"],
        ),
        ("no containers", pods::pod("empty", &[]), &["spec.containers"]),
        (
            "two containers of one name",
            pods::pod("twins", &[("a", IMAGE), ("a", IMAGE)]),
            &["spec.containers[1].name"],
        ),
        (
            "a container name that is no DNS label",
            pods::pod("p", &[("A b", IMAGE)]),
            &["spec.containers[0].name"],
        ),
        (
            "no image",
            pods::pod("p", &[("main", "")]),
            &["spec.containers[0].image"],
        ),
        (
            "an unknown word",
            {
                let mut pod = pods::pod("p", &[("main", IMAGE)]);
                pod.spec.as_mut().unwrap().restart_policy = "Sometimes".into();
                pod
            },
            &["spec.restartPolicy"],
        ),
        (
            "two bad fields at once",
            {
                let mut pod = pods::pod("p", &[("main", "")]);
                pod.spec.as_mut().unwrap().dns_policy = "Guess".into();
                pod
            },
            &["spec.containers[0].image", "spec.dnsPolicy"],
        ),
    ];
    for (what, pod, fields) in cases {
        let refused = Pod::create(&plane.channel(), pod).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        let named = bad_fields(&refused);
        for field in fields {
            assert!(
                named.iter().any(|it| it == field),
                "{what}: {field} is not among {named:?}: {refused:?}"
            );
        }
        assert!(
            refused.get_details_error_info().is_some(),
            "{what}: no ErrorInfo in {refused:?}"
        );
    }
}

#[tokio::test]
async fn an_oversized_object_is_refused_and_the_next_one_is_not() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut annotated = pods::pod("annotated", &[("main", IMAGE)]);
    annotated
        .metadata_mut()
        .annotations
        .insert("note".into(), "x".repeat(300 * 1024));
    let refused = Pod::create(&plane.channel(), annotated).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        bad_fields(&refused)
            .iter()
            .any(|it| it.starts_with("metadata.annotations")),
        "{refused:?}"
    );

    for megabytes in [2, 80] {
        let mut huge = pods::pod("huge", &[("main", IMAGE)]);
        huge.spec.as_mut().unwrap().containers[0]
            .args
            .push("x".repeat(megabytes * 1024 * 1024));
        let refused = Pod::create(&plane.channel(), huge).await.unwrap_err();
        assert!(
            matches!(
                refused.code(),
                Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange
            ),
            "{megabytes} MB: {refused:?}"
        );
    }
    plane.create(pods::pod("small", &[("main", IMAGE)])).await;
}

#[tokio::test]
async fn a_stale_write_is_refused_and_changes_nothing() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut loser = plane.create(pods::pod("contended", &[("main", IMAGE)])).await;
    let written_by = |pod: &mut Pod, writer: &str| {
        let labels = &mut pod.metadata_mut().labels;
        labels.insert("writer".into(), writer.into());
    };
    plane.change("contended", |pod| written_by(pod, "winner")).await;
    written_by(&mut loser, "loser");
    let refused = Pod::update(&plane.channel(), loser).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
    assert!(refused.message().contains("contended"), "{refused:?}");
    assert_eq!(
        plane.pod("contended").await.unwrap().metadata.unwrap().labels["writer"],
        "winner"
    );
    let again = Pod::create(&plane.channel(), pods::pod("contended", &[("main", IMAGE)]))
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again:?}");
}

/// Runs a daemon that must end by itself, and gives its log.
fn ends_with_an_error(sandbox: &Sandbox, name: &str, args: &[&str]) -> String {
    let log_name = format!("{name}-{}", uuid::Uuid::new_v4().simple());
    let mut process = sandbox.process(&log_name, program(name)).args(args).started();
    let status = process.wait(wait::BOUND).unwrap();
    assert!(!status.success(), "{name} {args:?} ended well: {}", process.log());
    process.log()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_daemon_that_cannot_start_names_the_socket_the_port_or_the_file() {
    let sandbox = Sandbox::new();
    let data = sandbox.make_dir("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let socket = sandbox.dir().join("free.sock");
    let apiserver = |extra: &[&str]| {
        let mut args = vec!["--data-dir", text(&data), "--socket", text(&socket)];
        args.extend(extra);
        ends_with_an_error(&sandbox, "apiserver", &args)
    };
    let log = apiserver(&["--listen", &address]);
    assert!(log.contains(&address), "{log}");

    let file = sandbox.dir().join("notes.txt");
    fs::write(&file, "keep me").unwrap();
    let log = ends_with_an_error(
        &sandbox,
        "apiserver",
        &["--data-dir", text(&data), "--socket", text(&file)],
    );
    assert!(log.contains(text(&file)), "{log}");
    let log = ends_with_an_error(
        &sandbox,
        "runtime-shim",
        &[
            "--listen",
            text(&file),
            "--containerd",
            text(&sandbox.dir().join("none.sock")),
            "--state-dir",
            text(&sandbox.make_dir("state")),
            "--root-dir",
            text(&sandbox.make_dir("root")),
        ],
    );
    assert!(log.contains(text(&file)), "{log}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "keep me");

    let broken = sandbox.dir().join("ca.pem");
    write_private(&broken, "not a certificate").unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let log = apiserver(&[
        "--listen",
        &listen,
        "--ca-cert",
        text(&broken),
        "--ca-key",
        text(&broken),
    ]);
    assert!(log.contains(text(&broken)), "{log}");
}
