//! The logs of several containers, and of a part of the time.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::ensure;
use clone8s_integration::wait;

use super::Cluster;

/// Says two lines at two times in one container, and one in the other.
fn talkers(image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: box, labels: {{app: box}}}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - {{name: main, image: {image}, command: [sh, -c, 'echo one; sleep 1; echo two; exec sleep 600']}}
    - {{name: side, image: {image}, command: [sh, -c, 'echo side; exec sleep 600']}}
"
    )
}

#[tokio::test]
async fn logs_of_several_containers_say_whose_they_are_and_can_begin_at_a_time() {
    let cluster = Cluster::start(talkers).await;
    let waited = cluster.run(&["wait", "pod", "box"]);
    assert_eq!(
        waited.stdout, "pod/box: condition Ready is True\n",
        "{}",
        waited.stderr
    );

    let timed = wait::until("both lines are said", || async {
        let timed = cluster.run(&["logs", "box", "-c", "main", "--timestamps"]).stdout;
        ensure!(timed.contains(" two\n"), "{timed:?}");
        Ok(timed)
    })
    .await;
    let (second, _) = timed.lines().last().unwrap().split_once(' ').unwrap();
    let since = cluster.run(&["logs", "box", "-c", "main", "--since-time", second]);
    assert_eq!(since.stdout, "two\n", "{}", since.stderr);
    let since = cluster.run(&["logs", "box", "-c", "main", "--since", "1h", "--tail", "1"]);
    assert_eq!(since.stdout, "two\n", "{}", since.stderr);

    let all = cluster.run(&["logs", "-l", "app=box", "--all-containers"]);
    assert_eq!(
        all.stdout, "[box/main] one\n[box/main] two\n[box/side] side\n",
        "{}",
        all.stderr
    );
    let plain = cluster.run(&["logs", "box", "--all-containers", "--no-prefix", "--tail", "1"]);
    assert_eq!(plain.stdout, "two\nside\n", "{}", plain.stderr);
    let chosen = cluster.run(&["logs", "-l", "app=box"]);
    assert!(
        chosen.stderr.contains("name one of main, side"),
        "{}",
        chosen.stderr
    );
    let none = cluster.run(&["logs", "-l", "app=bx"]);
    assert!(
        none.stderr.contains("no pods with these labels"),
        "{}",
        none.stderr
    );

    let mut following = cluster
        .c8s(&["logs", "box", "--all-containers", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let seen: BTreeSet<_> = lines.take(3).map(Result::unwrap).collect();
    let expected = ["[box/main] one", "[box/main] two", "[box/side] side"];
    assert_eq!(seen, expected.map(str::to_owned).into());
    // Both go on; the end of the pod is the end of the lines.
    assert!(following.try_wait().unwrap().is_none());
    cluster.end().await;
    following.wait().unwrap();
}
