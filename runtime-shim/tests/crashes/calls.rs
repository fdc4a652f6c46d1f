//! kill -9 of the shim at every call that it makes to containerd, before containerd hears of it and after it is done.

use clone8s::cri;
use clone8s_integration::counts::Counts;
use tonic::Status;

use super::{
    gone_is_fine,
    proxy::{Moment, Proxy},
    rig::{Rig, namespaces, script},
};

/// More than any step makes.
const MAX_CALLS: usize = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Step {
    Run,
    Create,
    Start,
    StopContainer,
    RemoveContainer,
    StopSandbox,
    RemoveSandbox,
}

const LIFE: [Step; 7] = [
    Step::Run,
    Step::Create,
    Step::Start,
    Step::StopContainer,
    Step::RemoveContainer,
    Step::StopSandbox,
    Step::RemoveSandbox,
];

/// A pod on its way, with what its client knows of it.
struct Pod {
    config: cri::PodSandboxConfig,
    sandbox: String,
    container: String,
}

impl Pod {
    /// With a network and processes of its own: a sandbox has no more than that.
    fn new(rig: &Rig, name: &str) -> Self {
        let mut config = rig.pod(name);
        namespaces(&mut config).pid = cri::NamespaceMode::Pod.into();
        Self {
            config,
            sandbox: String::new(),
            container: String::new(),
        }
    }

    async fn go(&mut self, rig: &Rig, step: Step) -> Result<(), Status> {
        match step {
            Step::Run => self.sandbox = rig.run_sandbox(self.config.clone()).await?,
            Step::Create => self.container = rig.create(&self.sandbox, script("main", "sleep 1000")).await?,
            Step::Start => rig.start_container(&self.container).await?,
            Step::StopContainer => gone_is_fine(rig.stop(&self.container, 0).await)?,
            Step::RemoveContainer => rig.remove(&self.container).await?,
            Step::StopSandbox => rig.stop_sandbox(&self.sandbox).await?,
            Step::RemoveSandbox => rig.remove_sandbox(&self.sandbox).await?,
        }
        Ok(())
    }

    /// A whole life, in which the shim is killed at one moment of one step; whether the step came to that moment.
    async fn live(&mut self, rig: &mut Rig, proxy: &Proxy, fatal: Step, nth: usize, moment: Moment) -> bool {
        let context = format!("{fatal:?}, call {nth}, {moment:?}");
        for step in LIFE.into_iter().filter(|&step| step < fatal) {
            let done = self.go(rig, step).await;
            done.unwrap_or_else(|status| panic!("{context}: {step:?}: {status:?}"));
        }
        proxy.arm(nth, moment);
        let outcome = tokio::select! {
            biased;
            () = proxy.struck() => None,
            outcome = self.go(rig, fatal) => Some(outcome),
        };
        let struck = proxy.disarm();
        let done = match outcome {
            // What the shim does beside its answer may be struck at after it.
            Some(Ok(())) => true,
            Some(Err(status)) if !struck => panic!("{context}: fails by itself: {status:?}"),
            Some(Err(_)) | None => false,
        };
        if struck {
            rig.kill_and_restart().await;
        }
        for step in LIFE
            .into_iter()
            .filter(|&step| step > fatal || step == fatal && !done)
        {
            let done = self.go(rig, step).await;
            done.unwrap_or_else(|status| panic!("{context}: then {step:?}: {status:?}"));
        }
        struck
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_at_any_call_to_containerd_makes_the_same_call_succeed_and_leaves_nothing() {
    let mut proxy = None;
    let mut rig = Rig::start_behind(|dir, containerd| {
        let socket = dir.join("proxy.sock");
        proxy = Some(Proxy::start(&socket, containerd));
        socket
    })
    .await;
    let proxy = proxy.expect("the rig asks for it");
    Pod::new(&rig, "warm-up")
        .live(&mut rig, &proxy, Step::RemoveSandbox, MAX_CALLS, Moment::Before)
        .await;
    let before = Counts::of(&rig.places()).await;
    for step in LIFE {
        let mut kills = 0;
        for moment in [Moment::Before, Moment::After] {
            for nth in 1.. {
                assert!(nth < MAX_CALLS, "{step:?} never ends");
                let name = format!("{step:?}-{nth}-{moment:?}").to_lowercase();
                let mut pod = Pod::new(&rig, &name);
                if !pod.live(&mut rig, &proxy, step, nth, moment).await {
                    break;
                }
                kills += 1;
            }
        }
        eprintln!("{step:?}: killed at {kills} moments");
        before.returns(&rig.places()).await;
    }
    rig.finish().await;
}
