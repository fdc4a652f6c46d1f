//! crictl, the tool that people have for CRI, on a real shim.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use clone8s_integration::{
    Crictl, Image, Registry,
    pki::{Ca, Pair},
    wait,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use self::rig::{BUSYBOX, Rig};

fn crictl(rig: &Rig) -> Crictl {
    Crictl::new(&rig.dir, &rig.socket())
}

/// Network modes in CRI's numbers.
const POD: u8 = 0;
const NODE: u8 = 2;

fn pod(rig: &Rig, name: &str, network: u8) -> Value {
    json!({
        "metadata": { "name": name, "uid": format!("uid-{name}"), "namespace": "default", "attempt": 0 },
        "log_directory": rig.log_dir(),
        "linux": {
            "cgroup_parent": format!("/c8s-test-{}/{name}", rig.dir.id()),
            "security_context": { "namespace_options": { "network": network, "pid": 1 } },
        },
    })
}

fn container(name: &str, image: &str, script: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "image": { "image": image },
        "command": ["/bin/sh", "-c", script],
        "log_path": format!("{name}.log"),
    })
}

/// Words without the line end.
fn run(crictl: &Crictl, args: &[&str]) -> String {
    crictl.run(args).expect("crictl succeeds").trim().to_owned()
}

/// A pod with one running container.
fn start(rig: &Rig, crictl: &Crictl, pod_config: &Value, config: &Value) -> (String, String) {
    let name = config["metadata"]["name"].as_str().expect("a name");
    let pod_file = crictl.file(&format!("{name}-pod.json"), pod_config);
    let file = crictl.file(&format!("{name}.json"), config);
    let pod = run(crictl, &["runp", &pod_file]);
    let id = run(crictl, &["create", &pod, &file, &pod_file]);
    run(crictl, &["start", &id]);
    assert!(rig.socket().exists());
    (pod, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_run_from_a_registry_and_every_list_names_the_same() {
    let rig = Rig::start().await;
    let crictl = crictl(&rig);
    let registry = Registry::start(&rig.dir).await;
    let reference = Image::busybox()
        .env("FROM", "registry")
        .push(&registry, "team/app:1")
        .unwrap();
    let events = crictl.started("events", &["events"]);

    let pulled = run(&crictl, &["pull", &reference]);
    let images = crictl.json(&["images", "--output", "json"]).unwrap();
    let image = images["images"]
        .as_array()
        .expect("images")
        .iter()
        .find(|image| image["repoTags"] == json!([reference]))
        .unwrap_or_else(|| panic!("{reference} is not in {images}"));
    let image_id = image["id"].as_str().expect("an id");
    let digest = image["repoDigests"][0].as_str().expect("a digest");
    let inspected = crictl.json(&["inspecti", &reference]).unwrap();
    assert_eq!(inspected["status"]["id"], image["id"]);
    assert_eq!(inspected["status"]["repoDigests"], image["repoDigests"]);
    assert_eq!(
        crictl.json(&["inspecti", digest]).unwrap()["status"]["id"],
        image["id"]
    );
    assert!(
        pulled.contains(image_id) || pulled.contains(digest),
        "{pulled} beside {image}"
    );

    let config = container("main", &reference, "echo from $FROM; exec sleep 1000");
    let (pod, id) = start(&rig, &crictl, &self::pod(&rig, "web", POD), &config);
    let pods = crictl.json(&["pods", "--output", "json"]).unwrap();
    assert_eq!(pods["items"][0]["id"], json!(pod));
    assert_eq!(pods["items"][0]["state"], "SANDBOX_READY");
    let inspected = crictl.json(&["inspectp", &pod]).unwrap();
    assert_eq!(inspected["status"]["id"], json!(pod));
    let address = inspected["status"]["network"]["ip"].as_str().expect("an address");
    assert!(address.starts_with("10."), "{address}");

    let listed = crictl.json(&["ps", "--output", "json"]).unwrap()["containers"][0].take();
    let status = crictl.json(&["inspect", &id]).unwrap()["status"].take();
    for shown in [&listed, &status] {
        assert_eq!(shown["id"], json!(id));
        assert_eq!(shown["state"], "CONTAINER_RUNNING");
        assert_eq!(shown["imageRef"], listed["imageRef"]);
        assert_eq!(shown["imageId"], image["id"]);
    }
    assert_eq!(listed["podSandboxId"], json!(pod));
    let image_ref = listed["imageRef"].as_str().expect("a reference");
    assert_eq!(
        crictl.json(&["inspecti", image_ref]).unwrap()["status"]["id"],
        image["id"]
    );
    wait::until("the log has its line", || async {
        let log = crictl.run(&["logs", &id])?;
        ensure!(log == "from registry\n", "{log:?}");
        Ok(())
    })
    .await;

    let stats = crictl.json(&["stats", "--output", "json"]).unwrap();
    assert_eq!(stats["stats"][0]["attributes"]["id"], json!(id));
    let stats = crictl.json(&["statsp", "--output", "json"]).unwrap();
    assert_eq!(stats["stats"][0]["attributes"]["id"], json!(pod));
    let described = crictl.json(&["metricdescs"]).unwrap().to_string();
    let measured = crictl.json(&["metricsp"]).unwrap().to_string();
    assert!(
        described.contains("container_memory_working_set_bytes"),
        "{described}"
    );
    assert!(
        measured.contains("container_memory_working_set_bytes"),
        "{measured}"
    );
    let info = crictl.json(&["info"]).unwrap();
    assert!(
        info["status"]["conditions"]
            .as_array()
            .is_some_and(|conditions| conditions.iter().all(|condition| condition["status"] == true)),
        "{info}"
    );
    assert!(info["runtime"]["defaultHandlerReason"].is_string(), "{info}");
    let of_default = |handler: &&serde_json::Value| handler["name"].as_str().unwrap_or_default().is_empty();
    let handlers = info["runtimeHandlers"].as_array().expect("handlers");
    let default = handlers.iter().find(of_default).expect("the default handler");
    assert_eq!(default["features"]["user_namespaces"], true, "{info}");
    assert!(run(&crictl, &["version"]).contains("clone8s"));
    assert!(run(&crictl, &["imagefsinfo"]).contains("mountpoint"));
    run(&crictl, &["update", "--memory", "67108864", &id]);
    let status = crictl.json(&["inspect", &id]).unwrap();
    assert_eq!(
        status["status"]["resources"]["linux"]["memoryLimitInBytes"],
        "67108864"
    );

    // In use.
    let removal = crictl.with_input(&["rm", &id], b"").unwrap();
    assert!(
        !removal.success,
        "a running container is not removed without force"
    );
    run(&crictl, &["stop", "--timeout", "0", &id]);
    let exited = crictl.json(&["ps", "--all", "--output", "json"]).unwrap();
    assert_eq!(exited["containers"][0]["state"], "CONTAINER_EXITED");
    run(&crictl, &["rm", &id]);
    run(&crictl, &["stopp", &pod]);
    let pods = crictl.json(&["pods", "--output", "json"]).unwrap();
    assert_eq!(pods["items"][0]["state"], "SANDBOX_NOTREADY");
    run(&crictl, &["rmp", &pod]);
    assert_eq!(
        crictl.json(&["pods", "--output", "json"]).unwrap()["items"],
        json!([])
    );
    run(&crictl, &["rmi", &reference]);
    assert!(crictl.run(&["inspecti", &reference]).is_err());

    wait::until("crictl has seen the container's life", || async {
        let seen = events.log();
        for event in ["CREATED", "STARTED", "STOPPED", "DELETED"] {
            ensure!(
                seen.contains(&format!("CONTAINER_{event}_EVENT")),
                "{event}: {seen}"
            );
        }
        ensure!(seen.contains(&id), "{seen}");
        Ok(())
    })
    .await;
    drop((events, registry));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_with_input_exit_codes_and_terminals_over_both_transports() {
    let rig = Rig::start().await;
    let crictl = crictl(&rig);
    let config = container("main", BUSYBOX, "exec sleep 1000");
    let (_, id) = start(&rig, &crictl, &pod(&rig, "web", NODE), &config);

    let ended = crictl
        .with_input(
            &[
                "exec",
                "--sync",
                &id,
                "/bin/sh",
                "-c",
                "echo out; echo err >&2; exit 7",
            ],
            b"",
        )
        .unwrap();
    assert!(ended.stderr.contains("exited with 7: err"), "{ended:?}");
    assert!(!ended.success);
    assert_eq!(run(&crictl, &["exec", "--sync", &id, "/bin/echo", "out"]), "out");
    let late = crictl
        .with_input(
            &["exec", "--sync", "--timeout", "1", &id, "/bin/sleep", "100"],
            b"",
        )
        .unwrap();
    assert!(late.stderr.contains("DeadlineExceeded"), "{late:?}");

    for transport in ["spdy", "websocket"] {
        let exec = |flags: &[&str], script: &str, input: &[u8]| {
            let mut args = vec!["exec", "--transport", transport];
            args.extend(flags);
            args.extend([&*id, "/bin/sh", "-c", script]);
            crictl.with_input(&args, input).unwrap()
        };
        let ended = exec(&[], "echo out; echo err >&2; exit 7", b"");
        assert_eq!(
            (&*ended.stdout, ended.success),
            ("out\n", false),
            "{transport}: {ended:?}"
        );
        assert!(ended.stderr.contains("err\n"), "{transport}: {ended:?}");
        assert!(ended.stderr.contains("exit code 7"), "{transport}: {ended:?}");

        // cat ends only when it is told that nothing more comes.
        let input: Vec<u8> = (0..300_000u32)
            .flat_map(|n| format!("{n}\n").into_bytes())
            .collect();
        let ended = exec(&["--interactive"], "cat; echo end", &input);
        assert!(ended.success, "{transport}: {}", ended.stderr);
        assert_eq!(ended.stdout.len(), input.len() + 4, "{transport}");
        assert!(ended.stdout.ends_with("299999\nend\n"), "{transport}");

        let missing = crictl
            .with_input(&["exec", "--transport", transport, &id, "/nope"], b"")
            .unwrap();
        assert!(
            !missing.success && missing.stderr.contains("/nope"),
            "{transport}: {missing:?}"
        );

        let ended = crictl
            .on_terminal(
                33,
                101,
                &[
                    "exec",
                    "--transport",
                    transport,
                    "--tty",
                    "--interactive",
                    &id,
                    "/bin/sh",
                    "-c",
                    // The size follows the start.
                    "i=0; while [ \"$(/bin/busybox stty size)\" != '33 101' ] && [ $i -lt 200 ]; do \
                     i=$((i+1)); /bin/busybox usleep 100000; done; /bin/busybox stty size; test -t 0 && exit 5",
                ],
            )
            .unwrap();
        assert!(ended.stdout.contains("33 101\r\n"), "{transport}: {ended:?}");
        assert!(!ended.success, "{transport}: {ended:?}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_gives_a_container_its_input_and_shows_what_it_answers() {
    let rig = Rig::start().await;
    let crictl = crictl(&rig);
    for transport in ["spdy", "websocket"] {
        let mut config = container(
            transport,
            BUSYBOX,
            "while read line; do echo \"got $line\"; done; echo 'no more' >&2",
        );
        config["stdin"] = json!(true);
        config["stdin_once"] = json!(true);
        let (_, id) = start(&rig, &crictl, &pod(&rig, transport, NODE), &config);
        let attached = crictl
            .with_input(
                &["attach", "--transport", transport, "--stdin", &id],
                b"one\ntwo\n",
            )
            .unwrap();
        assert!(attached.success, "{transport}: {attached:?}");
        assert_eq!(attached.stdout, "got one\ngot two\n", "{transport}");
        assert_eq!(attached.stderr, "no more\n", "{transport}");
        assert_eq!(rig.exited(&id).await.exit_code, 0);
        let mut log = rig.log(&format!("{transport}.log"));
        log.sort();
        assert_eq!(log, ["stderr F no more", "stdout F got one", "stdout F got two"]);
    }
    let gone = crictl.run(&["attach", "unknown"]).unwrap_err();
    assert!(format!("{gone:#}").contains("not found"), "{gone:#}");
    rig.finish().await;
}

/// The answer of an HTTP server, without its head.
async fn page(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.contains("200 OK"), "{head}");
    Ok(body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_fetched_through_a_forwarded_port_over_both_transports() {
    let rig = Rig::start().await;
    let crictl = crictl(&rig);
    // On the pod's own loopback: nobody else reaches it.
    let script = "head -c 300000 /dev/zero > /tmp/big; echo hello > /tmp/page; exec httpd -f -p 127.0.0.1:8080 -h /tmp";
    let config = container("web", BUSYBOX, script);
    let (pod, _) = start(&rig, &crictl, &pod(&rig, "web", POD), &config);
    for transport in ["spdy", "websocket"] {
        let forward = crictl.started(
            &format!("forward-{transport}"),
            &["port-forward", "--transport", transport, &pod, ":8080", ":8081"],
        );
        let ports = wait::until("crictl tells its ports", || async {
            let log = forward.log();
            let ports: Vec<_> = log
                .lines()
                .filter_map(|line| line.strip_prefix("Forwarding from 127.0.0.1:"))
                .filter_map(|line| line.split(' ').next().map(str::to_owned))
                .collect();
            ensure!(ports.len() == 2, "{log}");
            Ok(ports)
        })
        .await;
        let address = format!("127.0.0.1:{}", ports[0]);
        let hello = wait::until("the page comes", || page(&address, "/page")).await;
        assert_eq!(hello, "hello\n", "{transport}");
        let many = futures::future::join_all((0..16).map(|_| page(&address, "/big"))).await;
        for big in many {
            assert_eq!(big.unwrap().len(), 300_000, "{transport}");
        }
        // Nothing listens there, and the other port goes on.
        let silent = format!("127.0.0.1:{}", ports[1]);
        page(&silent, "/").await.unwrap_err();
        wait::until("crictl tells what is wrong with the other port", || async {
            let log = forward.log();
            ensure!(log.contains("port 8081"), "{log}");
            Ok(())
        })
        .await;
        drop(forward);
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_tls_take_only_clients_of_the_ca_and_a_renewed_certificate() {
    let certificates = clone8s_integration::Sandbox::new();
    let ca = Ca::new(&certificates.make_dir("ca"), "streams").unwrap();
    let server = ca.issue("server").unwrap();
    let stranger = Ca::new(&certificates.make_dir("other"), "other").unwrap();
    let path = |path: &Path| path.display().to_string();
    let ca_file = path(&ca.certificate_file());
    let (certificate, key) = (path(&server.certificate_file), path(&server.key_file));
    let rig = Rig::start_with(&[
        "--stream-host",
        "localhost",
        "--stream-tls-cert",
        &certificate,
        "--stream-tls-key",
        &key,
        "--stream-tls-client-ca",
        &ca_file,
    ])
    .await;
    let crictl = crictl(&rig);
    let config = container("main", BUSYBOX, "exec sleep 1000");
    let (_, id) = start(&rig, &crictl, &pod(&rig, "web", NODE), &config);
    let exec = |transport: &str, trusted: &Ca, client: Option<&Pair>| {
        let mut args = vec!["exec", "--transport", transport];
        let trusted = path(&trusted.certificate_file());
        args.extend(["--tls-ca", &trusted]);
        let files = client.map(|pair| (path(&pair.certificate_file), path(&pair.key_file)));
        if let Some((certificate, key)) = &files {
            args.extend(["--tls-cert", certificate, "--tls-key", key]);
        }
        args.extend([&*id, "/bin/echo", "hello"]);
        crictl.with_input(&args, b"").unwrap()
    };
    let client = ca.issue("client").unwrap();
    for transport in ["spdy", "websocket"] {
        let ended = exec(transport, &ca, Some(&client));
        assert_eq!(ended.stdout, "hello\n", "{transport}: {ended:?}");
        let other = stranger.issue("client").unwrap();
        let refused = exec(transport, &ca, Some(&other));
        assert!(!refused.success, "{transport}: a client of another CA is let in");
        let refused = exec(transport, &stranger, Some(&client));
        assert!(refused.stderr.contains("certificate"), "{transport}: {refused:?}");
    }
    // Another CA's, in the same files: who trusts that one is now served.
    let renewed = stranger.issue("server").unwrap();
    fs::write(&server.certificate_file, renewed.certificate).unwrap();
    fs::write(&server.key_file, renewed.key).unwrap();
    wait::until("the new certificate is shown", || async {
        let ended = exec("spdy", &stranger, Some(&client));
        ensure!(ended.stdout == "hello\n", "{ended:?}");
        Ok(())
    })
    .await;
    rig.finish().await;
}
