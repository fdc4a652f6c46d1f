//! `c8s debug`: containers for a look into a running pod.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use clone8s_integration::node::{Place, Runs};
use rstest::rstest;

use super::*;

fn one_container(image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: box}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - {{name: main, image: {image}}}
"
    )
}

fn processes_of(runs: &Runs, container: &str) -> PathBuf {
    let place = Place {
        pod: "box".to_owned(),
        container: container.to_owned(),
    };
    fs::read_link(format!("/proc/{}/ns/pid", runs[&place].pid)).unwrap()
}

impl Cluster {
    fn image(&self) -> String {
        self.registry.image("box:1")
    }

    /// With words of the shell, once it is seen what became of it.
    fn debug(&self, container: &str, more: &[&str], line: &str) -> command::Output {
        let image = self.image();
        let start = ["debug", "box", "--image", &image, "-c", container];
        self.run(&[&start[..], more, &["--", "sh", "-c", line]].concat())
    }

    /// The ephemeral containers that have ended, with their exit codes.
    async fn ended(&self) -> anyhow::Result<BTreeMap<String, i32>> {
        use clone8s::v1::container_state::State;
        let status = self.plane.pod("box").await?.status.unwrap_or_default();
        let statuses = status.ephemeral_container_statuses.into_iter();
        let ended = statuses.filter_map(|status| match status.state?.state? {
            State::Terminated(end) => Some((status.name, end.exit_code)),
            _ => None,
        });
        Ok(ended.collect())
    }
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn a_container_for_a_look_runs_once_beside_the_others_whatever_becomes_of_the_kubelet(
    #[case] runtime: RuntimeKind,
) {
    let mut cluster = Cluster::start_on(runtime, one_container).await;
    let before = cluster.plane.running("box").await.status.unwrap();

    let looks = cluster.debug("look", &["--target", "main"], "sleep 1000");
    assert!(looks.success, "{}", looks.stderr);
    assert_eq!(looks.stdout, "pod/box: container look runs\n");
    let runs = cluster
        .node
        .runs_exactly(&[("box", "look"), ("box", "main")])
        .await;
    assert_eq!(processes_of(&runs, "look"), processes_of(&runs, "main"));

    // One that fails is not started again, and says nothing about the pod.
    let fails = cluster.debug("fails", &[], "echo seen; sleep 1; exit 3");
    assert!(
        fails.success || fails.stderr.contains("exit code 3"),
        "{}",
        fails.stderr
    );
    wait::until("it has ended", || async {
        let ended = cluster.ended().await?;
        ensure!(ended == [("fails".to_owned(), 3)].into(), "{ended:?}");
        Ok(())
    })
    .await;

    cluster.node.kubelet.kill();
    cluster.node.kubelet.start().unwrap();
    cluster.plane.node_ready("streams").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.node.runs().await.unwrap(), runs);
    let after = cluster.plane.running("box").await.status.unwrap();
    assert_eq!(after.container_statuses, before.container_statuses);
    assert_eq!(after.conditions, before.conditions);
    assert_eq!(cluster.ended().await.unwrap(), [("fails".to_owned(), 3)].into());
    wait::until("its log is there", || async {
        let logs = cluster.run(&["logs", "box", "-c", "fails"]);
        ensure!(logs.stdout == "seen\n", "{logs:?}");
        Ok(())
    })
    .await;

    let described = cluster.run(&["describe", "pod", "box"]).stdout;
    assert!(described.contains("Target:          main"), "{described}");
    cluster.end().await;
}

#[tokio::test]
async fn a_shell_in_a_container_for_a_look_sees_its_target_and_ends_with_its_input() {
    let cluster = Cluster::start(one_container).await;
    let image = cluster.image();
    let line = [
        "debug", "box", "--image", &image, "--target", "main", "-i", "--", "sh",
    ];
    let mut shell = cluster.c8s(&line);
    shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut shell = process::spawn(&mut shell).unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"tr '\\0' ' ' </proc/1/cmdline\n").unwrap();
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    let (said, wrong) = [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes))
        .into();
    assert!(output.status.success(), "{wrong}");
    assert_eq!(said.trim(), "/bin/sleep 2147483647");
    assert!(wrong.starts_with("container debugger-"), "{wrong}");
    wait::until("it has ended", || async {
        let ended = cluster.ended().await?;
        ensure!(
            ended.len() == 1 && ended.values().all(|code| *code == 0),
            "{ended:?}"
        );
        Ok(())
    })
    .await;

    // What keeps one from starting is told, and what cannot be is refused.
    let nothing = format!("{image}-none");
    for (args, expected) in [
        (&["--image", &nothing][..], "ErrImagePull: "),
        (
            &["--image", &image, "-c", "main"],
            "spec.ephemeralContainers[2].name",
        ),
        (&["--image", &image, "--target", "mian"], "did you mean \"main\"?"),
        (&["--image", &image, "--", "no-such-program"], "no-such-program"),
    ] {
        let refused = cluster.run(&[&["debug", "box"], args].concat());
        assert_eq!(refused.code, Some(1), "{args:?}: {}", refused.stdout);
        assert!(refused.stderr.contains(expected), "{args:?}: {}", refused.stderr);
    }
    let other = cluster.run(&["exec", "box", "--", "echo", "main still means itself"]);
    assert_eq!(other.stdout, "main still means itself\n", "{}", other.stderr);
    cluster.end().await;
}
