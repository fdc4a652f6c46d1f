//! Exec, Attach and PortForward, by URL and over gRPC.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;
#[path = "streams/mod.rs"]
mod tools;

use std::time::Duration;

use anyhow::ensure;
use clone8s::{
    cri,
    runtime::{ExecStart, TerminalSize, attach_request, attach_response},
};
use clone8s_integration::wait;
use futures::future::join_all;
use serde_json::json;
use tokio::time::timeout;
use tonic::Code;

use self::{
    rig::{Rig, script},
    tools::{Call, Ended, WebSocket, exec_url, run_command, status_of},
};

const SOON: Duration = Duration::from_mins(1);

/// A rig with one container that waits.
async fn with_container() -> (Rig, String, String) {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.expect("a sandbox");
    let id = rig.run(&pod, script("main", "exec sleep 1000")).await;
    (rig, pod, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_over_grpc_reads_answers_and_tells_its_exit_code() {
    let (rig, _, id) = with_container().await;
    let call = Call::exec(&rig, &id, "cat; echo err >&2; exit 7", true, false)
        .await
        .unwrap();
    call.stdin("one\n").await;
    call.stdin("two\n").await;
    call.stdin_end().await;
    assert_eq!(
        call.ended().await.unwrap(),
        Ended {
            stdout: b"one\ntwo\n".to_vec(),
            stderr: b"err\n".to_vec(),
            code: Some(7),
        }
    );

    // On a terminal there is one stream, and a size.
    let wait_for_size = "while [ \"$(/bin/busybox stty size 2>/dev/null)\" != '33 101' ]; do /bin/busybox usleep 10000; done; \
                         /bin/busybox tty; echo err >&2";
    let call = Call::exec(&rig, &id, wait_for_size, true, true).await.unwrap();
    call.resize(101, 33).await;
    let ended = call.ended().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "/dev/pts/0\r\nerr\r\n");
    assert_eq!((ended.stderr, ended.code), (vec![], Some(0)));

    let start = ExecStart {
        container_id: id.clone(),
        command: ["/bin/busybox", "stty", "size"].map(str::to_owned).to_vec(),
        tty: true,
        size: Some(TerminalSize {
            width: 132,
            height: 50,
        }),
        ..ExecStart::default()
    };
    let ended = Call::open_exec(&rig, start).await.unwrap().ended().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "50 132\r\n");

    let missing = run_command(&rig, &id, &["/nope"]).await.unwrap_err();
    assert!(missing.message().contains("/nope"), "{missing:?}");
    let unknown = run_command(&rig, "unknown", &["true"]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let empty = run_command(&rig, &id, &[]).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    rig.no_commands_left().await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_run_beside_each_other_and_none_leaves_anything() {
    let (rig, _, id) = with_container().await;
    let commands = (0..20).map(|n| {
        let (rig, id) = (&rig, &id);
        async move {
            let line = format!("read line; echo $line; head -c 200000 /dev/zero; exit {n}");
            let call = Call::exec(rig, id, &line, true, false).await.unwrap();
            call.stdin(&format!("{n}\n")).await;
            (n, call.ended().await.unwrap())
        }
    });
    for (n, ended) in join_all(commands).await {
        assert_eq!(ended.code, Some(n));
        let line = format!("{n}\n");
        assert!(ended.stdout.starts_with(line.as_bytes()));
        assert_eq!(ended.stdout.len(), line.len() + 200_000);
    }
    rig.no_commands_left().await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_ends_nothing_and_what_it_started_is_cleaned_up_after() {
    let (rig, _, id) = with_container().await;
    let line = "echo up; head -c 1000000 /dev/zero; sleep 2; echo survived > /tmp/mark";
    let mut call = Call::exec(&rig, &id, line, false, false).await.unwrap();
    assert!(call.next().await.unwrap().is_some());
    drop(call);
    let url = exec_url(&rig, &id, "sleep 2; echo survived > /tmp/mark2", false)
        .await
        .unwrap();
    let mut socket = WebSocket::connect(&url, "v5.channel.k8s.io").await.unwrap();
    assert!(socket.next().await.is_some());
    drop(socket);
    wait::until("both commands have come to their ends", || async {
        let ended = run_command(&rig, &id, &["/bin/cat", "/tmp/mark", "/tmp/mark2"]).await?;
        ensure!(ended.stdout == b"survived\nsurvived\n", "{ended:?}");
        Ok(())
    })
    .await;
    rig.no_commands_left().await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_lives_on_while_the_shim_is_killed_and_is_cleaned_up_after() {
    let (mut rig, _, id) = with_container().await;
    let line = "echo up; sleep 3; head -c 1000000 /dev/zero; echo survived > /tmp/mark";
    let mut call = Call::exec(&rig, &id, line, false, false).await.unwrap();
    assert!(call.next().await.unwrap().is_some());
    rig.kill_and_restart().await;
    drop(call);
    wait::until("the command has come to its end", || async {
        let ended = run_command(&rig, &id, &["/bin/cat", "/tmp/mark"]).await?;
        ensure!(ended.stdout == b"survived\n", "{ended:?}");
        Ok(())
    })
    .await;
    rig.no_commands_left().await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_does_not_keep_the_shim_from_stopping() {
    let (mut rig, _, id) = with_container().await;
    let mut call = Call::exec(&rig, &id, "cat", true, false).await.unwrap();
    let url = exec_url(&rig, &id, "cat", true).await.unwrap();
    let _socket = WebSocket::connect(&url, "v5.channel.k8s.io").await.unwrap();
    let began = std::time::Instant::now();
    rig.shim.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(call.next().await.is_err());
    rig.shim.start().unwrap();
    rig.ready().await;
    assert_eq!(
        run_command(&rig, &id, &["/bin/true"]).await.unwrap().code,
        Some(0)
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_speak_every_version_and_v5_ends_the_input() {
    let (rig, _, id) = with_container().await;
    let url = exec_url(&rig, &id, "cat; echo err >&2; exit 7", true)
        .await
        .unwrap();
    let mut socket = WebSocket::connect(&url, "v5.channel.k8s.io").await.unwrap();
    socket.send(0, b"hello\n").await;
    socket.send(255, &[0]).await;
    let ended = socket.ended().await;
    assert_eq!((&*ended.stdout, &*ended.stderr), (&b"hello\n"[..], &b"err\n"[..]));
    let status = status_of(&ended.error);
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(
        status["details"]["causes"],
        json!([{ "reason": "ExitCode", "message": "7" }])
    );

    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let url = exec_url(&rig, &id, "read line; echo got $line", true)
            .await
            .unwrap();
        let mut socket = WebSocket::connect(&url, protocol).await.unwrap();
        socket.send(0, b"hello\n").await;
        let ended = socket.ended().await;
        assert_eq!(ended.stdout, b"got hello\n", "{protocol}");
        assert_eq!(status_of(&ended.error)["status"], "Success", "{protocol}");
    }
    for protocol in ["channel.k8s.io", "base64.channel.k8s.io"] {
        let url = exec_url(&rig, &id, "exit 3", false).await.unwrap();
        let ended = WebSocket::connect(&url, protocol).await.unwrap().ended().await;
        let text = String::from_utf8_lossy(&ended.error).into_owned();
        assert!(text.ends_with("exit code: 3"), "{protocol}: {text}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_good_once_and_for_what_it_was_given() {
    let (rig, pod, id) = with_container().await;
    let url = exec_url(&rig, &id, "echo once", false).await.unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let other_door = WebSocket::connect(&url.replace("/exec/", "/attach/"), "v5.channel.k8s.io").await;
    assert_eq!(other_door.unwrap_err(), 404);
    // Neither uses it up.
    assert_eq!(
        WebSocket::connect(&url, "v9.channel.k8s.io").await.unwrap_err(),
        403
    );
    let ended = WebSocket::connect(&url, "v5.channel.k8s.io")
        .await
        .unwrap()
        .ended()
        .await;
    assert_eq!(ended.stdout, b"once\n");
    assert_eq!(
        WebSocket::connect(&url, "v5.channel.k8s.io").await.unwrap_err(),
        404
    );

    let ask = |request: cri::ExecRequest| {
        let mut client = rig.runtime();
        async move { client.exec(request).await.unwrap_err() }
    };
    let request = cri::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let both = ask(cri::ExecRequest {
        tty: true,
        stderr: true,
        ..request.clone()
    })
    .await;
    assert_eq!(both.code(), Code::InvalidArgument, "{both:?}");
    let nothing = ask(cri::ExecRequest {
        stdout: false,
        ..request.clone()
    })
    .await;
    assert_eq!(nothing.code(), Code::InvalidArgument, "{nothing:?}");
    let unknown = ask(cri::ExecRequest {
        container_id: "unknown".into(),
        ..request.clone()
    })
    .await;
    assert_eq!(unknown.code(), Code::NotFound, "{unknown:?}");
    rig.stop(&id, 0).await.unwrap();
    assert_eq!(ask(request).await.code(), Code::FailedPrecondition);
    let attach = cri::AttachRequest {
        container_id: id,
        stdout: true,
        ..Default::default()
    };
    let ended = rig.runtime().attach(attach).await.unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition);
    rig.stop_sandbox(&pod).await.unwrap();
    let forward = cri::PortForwardRequest {
        pod_sandbox_id: pod,
        port: vec![80],
    };
    let stopped = rig.runtime().port_forward(forward).await.unwrap_err();
    assert_eq!(stopped.code(), Code::FailedPrecondition);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_attach_to_one_container_and_a_slow_one_holds_up_nobody() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    // 500 kB for each line of input.
    let line = "while read x && [ $x != end ]; do head -c 500000 /dev/zero; echo; done; exit 4";
    let mut config = script("main", line);
    config.stdin = true;
    let id = rig.run(&pod, config).await;
    let mut quick = Call::attach(&rig, &id, true).await.unwrap();
    let mut slow = Call::attach(&rig, &id, false).await.unwrap();
    for round in 0..24 {
        quick.send(attach_request::Frame::Stdin("more\n".into())).await;
        let mut taken = 0;
        while taken < 500_001 {
            match timeout(SOON, quick.next()).await.expect("output").unwrap() {
                Some(attach_response::Frame::Stdout(bytes)) => taken += bytes.len(),
                other => panic!("{round}: {other:?}"),
            }
        }
    }
    // The slow one has read nothing meanwhile.
    let lagged = loop {
        match slow.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end without a reason"),
            Err(error) => break error,
        }
    };
    assert_eq!(lagged.code(), Code::ResourceExhausted, "{lagged:?}");
    // It was not stdin_once: the container still reads.
    drop(quick);
    let mut last = Call::attach(&rig, &id, true).await.unwrap();
    last.send(attach_request::Frame::Stdin("end\n".into())).await;
    assert_eq!(
        last.next().await.unwrap(),
        None,
        "the container's end is the attach's"
    );
    assert_eq!(rig.exited(&id).await.exit_code, 4);
    let without = rig.run(&pod, script("mute", "exec sleep 1000")).await;
    let refused = Call::attach(&rig, &without, true).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_attached_to_and_resized() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mut config = script(
        "main",
        "while read line; do echo \"$line: $(/bin/busybox stty size)\"; done",
    );
    (config.stdin, config.tty) = (true, true);
    let id = rig.run(&pod, config).await;
    let mut call = Call::attach(&rig, &id, true).await.unwrap();
    call.send(attach_request::Frame::Resize(clone8s::runtime::TerminalSize {
        width: 90,
        height: 30,
    }))
    .await;
    let mut seen = String::new();
    let answered = async {
        while !seen.contains("hello: 30 90\r\n") {
            call.send(attach_request::Frame::Stdin("hello\n".into())).await;
            if let Some(attach_response::Frame::Stdout(bytes)) = call.next().await.unwrap() {
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    };
    timeout(SOON, answered).await.expect("the new size");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_pods_are_reached_on_either_loopback_and_on_the_hosts() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let serve = |name: &str, address: &str| {
        script(
            name,
            &format!("echo {name} > /tmp/page; exec httpd -f -p {address} -h /tmp"),
        )
    };
    rig.run(&pod, serve("four", "127.0.0.1:8080")).await;
    rig.run(&pod, serve("six", "[::1]:8081")).await;
    for (port, page) in [(8080, "four"), (8081, "six")] {
        let fetched = wait::until("the page comes", || tools::fetch(&rig, &pod, port)).await;
        assert!(fetched.ends_with(&format!("\r\n\r\n{page}\n")), "{fetched}");
    }
    let refused = Call::forward(&rig, &pod, 9).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("port 9"), "{refused:?}");
    for port in [0, 70_000] {
        let bad = Call::forward(&rig, &pod, port).await.unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument, "{bad:?}");
    }

    let host = rig.run_sandbox(rig.host_pod("host")).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = async {
        use tokio::io::AsyncWriteExt as _;
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"the host's").await.unwrap();
    };
    let (fetched, ()) = tokio::join!(tools::fetch(&rig, &host, port.into()), served);
    assert_eq!(fetched.unwrap(), "the host's");
    rig.finish().await;
}
