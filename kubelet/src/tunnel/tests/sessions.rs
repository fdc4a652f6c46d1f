//! Exec, attach and port-forward, on the runtime in memory.

use clone8s::{
    cri::{ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata},
    v1::{
        AttachPodStart, ContainerStateWaiting, ExecPodStart, NodeInputEnd, PodTerminalSize,
        PortForwardPodStart, answer_node_call_response::Frame as Input,
    },
};
use tonic::Code;

use super::*;
use crate::{
    identity,
    runtime::{
        Runtime as _,
        fake::{CommandBehavior, ImageBehavior},
    },
};

impl Node {
    /// With "main" running.
    async fn running() -> Self {
        let node = Self::new().await;
        let labels = BTreeMap::from(
            [
                (identity::MANAGED, "true"),
                (identity::POD_NAMESPACE, "default"),
                (identity::POD_NAME, "web"),
                (identity::POD_UID, "u1"),
                (identity::CONTAINER_NAME, "main"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let runtime = &node.runtime;
        runtime.add_image("i", ImageBehavior::default());
        let sandbox_config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "web".to_owned(),
                ..Default::default()
            }),
            labels: labels.clone(),
            ..Default::default()
        };
        let image = runtime
            .pull_image("i", sandbox_config.clone(), None)
            .await
            .unwrap();
        let sandbox = runtime.run_sandbox(sandbox_config.clone(), "").await.unwrap();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: image.as_str().to_owned(),
                user_specified_image: "i".to_owned(),
                ..Default::default()
            }),
            labels,
            ..Default::default()
        };
        let container = runtime
            .create_container(&sandbox, config, sandbox_config)
            .await
            .unwrap();
        runtime.start_container(&container).await.unwrap();
        node
    }

    async fn send(&self, frame: Input) {
        let message = AnswerNodeCallResponse { frame: Some(frame) };
        let caller = self.caller.as_ref().unwrap();
        timeout(SOON, caller.send(message))
            .await
            .expect("it is read")
            .unwrap();
    }

    async fn exec(&self, line: &str, stdin: bool, size: Option<PodTerminalSize>) {
        let start = ExecPodStart {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            container: "main".to_owned(),
            command: line.split(' ').map(str::to_owned).collect(),
            stdin,
            tty: size.is_some(),
            size,
        };
        self.call(Call::ExecPod(start)).await;
    }

    /// The next frame that is not about what has been taken.
    async fn said(&mut self) -> Frame {
        loop {
            match self.frame().await {
                Frame::InputTaken(_) => {}
                frame => return frame,
            }
        }
    }

    async fn end(&mut self) -> NodeCallEnd {
        match self.said().await {
            Frame::End(end) => end,
            other => panic!("not the end: {other:?}"),
        }
    }
}

fn size(width: u32, height: u32) -> PodTerminalSize {
    PodTerminalSize { width, height }
}

fn data(text: &'static str) -> Frame {
    Frame::Data(text.into())
}

#[tokio::test]
async fn a_command_gets_its_input_and_tells_its_output_and_its_exit_code() {
    let mut node = Node::running().await;
    let behavior = CommandBehavior {
        exit_code: 7,
        ..Default::default()
    };
    node.runtime.set_command("main", "cat -", behavior);
    node.exec("cat -", true, Some(size(132, 50))).await;
    assert!(matches!(node.said().await, Frame::Started(_)));
    assert_eq!(node.said().await, data("132x50"));
    for part in ["one", "two"] {
        node.send(Input::Input(part.into())).await;
        assert_eq!(node.said().await, data(part));
    }
    node.send(Input::Resize(size(80, 24))).await;
    assert_eq!(node.said().await, data("80x24"));
    node.send(Input::InputEnd(NodeInputEnd {})).await;
    assert_eq!(node.said().await, Frame::ExitCode(7));
    assert_eq!(node.end().await, NodeCallEnd::default());
}

#[tokio::test]
async fn a_containers_own_streams_are_joined() {
    let mut node = Node::running().await;
    node.call(Call::AttachPod(AttachPodStart {
        name: "web".to_owned(),
        container: "main".to_owned(),
        stdin: true,
        ..Default::default()
    }))
    .await;
    assert!(matches!(node.said().await, Frame::Started(_)));
    node.send(Input::Input("hello".into())).await;
    assert_eq!(node.said().await, data("hello"));
}

#[tokio::test]
async fn a_port_answers_after_its_input_has_ended() {
    let mut node = Node::running().await;
    node.call(Call::PortForwardPod(PortForwardPodStart {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        port: 80,
    }))
    .await;
    assert!(matches!(node.said().await, Frame::Started(_)));
    node.send(Input::Input("request".into())).await;
    node.send(Input::InputEnd(NodeInputEnd {})).await;
    assert_eq!(node.said().await, data("request"));
    assert_eq!(node.end().await, NodeCallEnd::default());
}

#[tokio::test]
async fn each_message_of_input_is_told_to_be_taken_once_it_is() {
    let mut node = Node::running().await;
    node.exec("cat", true, None).await;
    assert!(matches!(node.frame().await, Frame::Started(_)));
    for _ in 0..20 {
        node.send(Input::Input("x".into())).await;
        assert!(matches!(node.frame().await, Frame::InputTaken(_)));
        assert_eq!(node.frame().await, data("x"));
    }
}

#[tokio::test]
async fn a_caller_that_goes_is_seen_while_nothing_takes_its_input() {
    let mut node = Node::new().await;
    let channel = clone8s_daemon::unix::channel(node.dir.path().join("api.sock"));
    let mut answer = JoinSet::new();
    answer.spawn(
        Reply::new(channel.into(), "call-1".to_owned())
            .send(async |_frames, _inputs| std::future::pending().await),
    );
    for _ in 0..8 {
        node.send(Input::Input("x".into())).await;
    }
    assert!(answer.try_join_next().is_none());
    drop(node.caller.take());
    let ended = timeout(SOON, answer.join_next()).await.expect("the answer ends");
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn a_container_that_does_not_run_is_named_with_the_reason() {
    let mut node = Node::running().await;
    for id in node.runtime.running_ids("main") {
        node.runtime.exit(&id, 1);
    }
    node.report(
        0,
        State::Waiting(ContainerStateWaiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: "again in 10 s".to_owned(),
        }),
    );
    node.exec("ls", false, None).await;
    let end = node.end().await;
    assert_eq!(end.code, i32::from(Code::FailedPrecondition));
    assert!(
        end.message
            .contains("main of pod default/web is not running (CrashLoopBackOff: again in 10 s)"),
        "{end:?}"
    );
}
