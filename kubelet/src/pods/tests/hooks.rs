//! Hooks on the runtime in memory, and a kubelet that is killed wherever a pod of every kind of container is.

use super::*;
use crate::{
    pod::testing::{sidecar, with_hooks, with_init},
    runtime::fake::CommandBehavior,
};

impl Node {
    /// As kill -9: nothing is told, awaited or written any more.
    async fn kill_kubelet(&mut self) {
        self.kubelet.abort_all();
        while self.kubelet.join_next().await.is_some() {}
        // Paused time moves once no thread is at a file for it any more.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Waits until the runtime has met this many calls, and not a moment longer.
    async fn until_calls(&self, count: usize) -> bool {
        for _ in 0..1_000 {
            for _ in 0..100 {
                if self.runtime.calls().len() >= count {
                    return true;
                }
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

fn hooked() -> DesiredPod {
    with_init(
        &pod("p", vec![with_hooks(container("web", "web:1"))]),
        vec![
            container("first", "first:1"),
            with_hooks(sidecar("proxy", "proxy:1")),
            container("second", "second:1"),
        ],
    )
}

fn takes(seconds: u64) -> CommandBehavior {
    CommandBehavior {
        takes: Duration::from_secs(seconds),
        exit_code: 0,
    }
}

/// A pod from its first to its last call.
struct Life {
    /// What the runtime was told to make and to stop, without the ids.
    did: Vec<String>,
    opens: usize,
    closes: usize,
    calls: usize,
}

async fn life(kill_after: Option<usize>) -> Life {
    let mut node = Node::with_init_images();
    for name in ["proxy", "web"] {
        node.runtime.set_command(name, "opens", takes(1));
        node.runtime.set_command(name, "closes", takes(1));
    }
    node.want(&[&hooked()]);
    if let Some(calls) = kill_after
        && node.until_calls(calls).await
    {
        node.kill_kubelet().await;
        node.start_kubelet();
    }
    node.until_running(&["p/proxy#0", "p/web#0"]).await;
    node.until("running", |node| node.phase() == "Running" && node.holds_ready())
        .await;
    let up = node.runtime.calls().len();
    let ids = node.ids(&["proxy", "web"]);
    node.terminate(&hooked(), 30);
    if let Some(calls) = kill_after.filter(|calls| *calls > up)
        && node.until_calls(calls).await
    {
        node.kill_kubelet().await;
        node.start_kubelet();
    }
    node.until("the pod is gone", Node::is_gone).await;
    assert_eq!(node.runtime.counts(), (0, 0));
    let mut did = node.made();
    let mut stops = node.stops(&ids);
    // A stop may be asked for again; it is the same one.
    stops.dedup();
    did.extend(stops);
    Life {
        did,
        opens: node.calls_of("ExecSync opens"),
        closes: node.calls_of("ExecSync closes"),
        calls: node.runtime.calls().len(),
    }
}

#[tokio::test(start_paused = true)]
async fn wherever_the_kubelet_is_killed_containers_and_hooks_are_run_once_and_in_order() {
    let undisturbed = life(None).await;
    assert_eq!(
        undisturbed.did,
        ["first", "proxy", "second", "web", "web", "proxy"]
    );
    assert_eq!((undisturbed.opens, undisturbed.closes), (2, 2));
    assert!(undisturbed.calls >= 20, "{}", undisturbed.calls);
    for step in 1..=undisturbed.calls {
        let killed = life(Some(step)).await;
        assert_eq!(killed.did, undisturbed.did, "killed after {step} calls");
        // Between the record of a hook and its command a kill costs that hook; none is done twice.
        let hooks = (killed.opens, killed.closes);
        assert!(
            [(2, 2), (1, 2), (2, 1)].contains(&hooks),
            "{hooks:?} after {step} calls"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_has_started_once_its_hook_is_over_and_holds_up_only_its_own_pod() {
    let node = Node::with_init_images();
    node.runtime.set_command("proxy", "opens", takes(600));
    let other = pod("q", vec![container("web", "web:1")]);
    node.want(&[&hooked()]);
    node.until("the hook runs", |node| node.calls_of("ExecSync opens") == 1)
        .await;
    node.want(&[&hooked(), &other]);
    node.until_running(&["p/proxy#0", "q/web#0"]).await;
    settle().await;
    assert_eq!(node.made(), ["first", "proxy", "web"], "the web of the other pod");
    let proxy = node.status("p").unwrap().init_container_statuses[1].clone();
    assert!(!proxy.started && !proxy.ready);
    node.until_running(&["p/proxy#0", "p/web#0", "q/web#0"]).await;

    let asked = node.clock.now();
    node.runtime.set_command("web", "opens", takes(6_000));
    node.want(&[&other]);
    node.until_running(&["q/web#0"]).await;
    assert!(
        node.elapsed_since(asked) < Duration::from_secs(5),
        "a hook that is under way holds up no stop"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_hook_fails_after_its_start_is_started_anew() {
    let node = Node::start();
    let fails = CommandBehavior {
        takes: Duration::from_secs(1),
        exit_code: 1,
    };
    node.runtime.set_command("web", "opens", fails);
    node.want(&[&pod("p", vec![with_hooks(container("web", "web:1"))])]);
    node.until_running(&["p/web#1"]).await;
    assert!(!node.holds_ready());
    assert_eq!(node.calls_of("ExecSync closes"), 1);
    node.runtime.set_command("web", "opens", takes(1));
    node.until("ready", Node::holds_ready).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_done_before_a_stop_is_given_up_at_the_end_of_the_grace_period() {
    let node = Node::start();
    node.ignore_stop_signals();
    node.runtime.set_command("web", "closes", takes(600));
    let pod = pod("p", vec![with_hooks(container("web", "web:1"))]);
    node.want(&[&pod]);
    node.until("ready", Node::holds_ready).await;
    let asked = node.clock.now();
    node.terminate(&pod, 9);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(node.calls_of("StopContainer"), 0, "the hook comes first");
    node.until("the pod is gone", Node::is_gone).await;
    let took = node.elapsed_since(asked);
    assert!(
        (Duration::from_secs(11)..Duration::from_secs(12)).contains(&took),
        "two seconds are left for the signal: {took:?}"
    );
    assert_eq!(node.calls_of("ExecSync closes"), 1);
}
