//! Exec, attach, port-forward and copies on real containers, of a node that listens on nothing.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use clone8s_integration::{ControlPlane, Image, Node, Registry, Sandbox, command, pods, programs::program};
use rustix::{pty::OpenptFlags, termios::Winsize};
use sha2::{Digest as _, Sha256};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with one pod "box" of the containers "main" and "side".
struct Cluster {
    // In this order they end.
    node: Node,
    plane: ControlPlane,
    registry: Registry,
    sandbox: Sandbox,
}

impl Cluster {
    async fn start(manifest: impl Fn(&str) -> String) -> Self {
        let sandbox = Sandbox::new();
        let registry = Registry::start(&sandbox).await;
        let mut image = Image::busybox();
        for applet in ["ln", "sha256sum", "stty", "tar"] {
            image = image.link(&format!("/bin/{applet}"), "busybox");
        }
        let image = image.push(&registry, "box:1").unwrap();
        let plane = ControlPlane::start(&sandbox, None).await;
        let mut node = Node::start(&sandbox, "streams").await;
        node.join(&plane, None).await;
        plane.node_ready("streams").await;
        plane.create(pods::from_yaml(&manifest(&image))).await;
        plane.running("box").await;
        Self {
            node,
            plane,
            registry,
            sandbox,
        }
    }

    async fn end(self) {
        self.plane.delete("box").await;
        self.plane.gone("box").await;
        let Self {
            node,
            plane,
            registry,
            sandbox,
        } = self;
        drop((node, plane, registry));
        sandbox.assert_nothing_left().await;
    }

    fn c8s(&self, args: &[&str]) -> Command {
        let mut c8s = Command::new(program("c8s"));
        c8s.args(["--server", &format!("unix://{}", self.plane.socket().display())]);
        c8s.args(args).stdin(Stdio::null());
        c8s
    }

    fn run(&self, args: &[&str]) -> command::Output {
        command::output(&mut self.c8s(args)).unwrap()
    }
}

/// As sha256sum writes it.
fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn two_containers(image: &str) -> String {
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
    - {{name: side, image: {image}}}
"
    )
}

#[tokio::test]
async fn a_command_runs_in_a_container_and_its_streams_and_exit_code_are_the_callers() {
    let cluster = Cluster::start(two_containers).await;

    let both = cluster.run(&[
        "exec",
        "box",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (both.code, both.stdout.as_str(), both.stderr.as_str()),
        (Some(7), "out\n", "err\n")
    );

    // Several MiB through a pipe, to the end of the input.
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut cat = cluster
        .c8s(&["exec", "-i", "box", "-c", "side", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut got = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(cat.wait().unwrap().success());
    assert!(got == bytes, "{} bytes came back of {}", got.len(), bytes.len());

    for (args, expected) in [
        (&["exec", "box", "--", "ls"][..], "name one of main, side"),
        (&["exec", "box", "-c", "sied", "--", "ls"], "it has main, side"),
        (&["exec", "bax", "-c", "main", "--", "ls"], "not found"),
        (
            &["exec", "box", "-c", "main", "--", "no-such-program"],
            "no-such-program",
        ),
    ] {
        let refused = cluster.run(args);
        assert_ne!(refused.code, Some(0), "{args:?}");
        assert!(refused.stderr.contains(expected), "{args:?}: {}", refused.stderr);
    }
    cluster.end().await;
}

fn with_a_terminal(image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: box}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: {image}
      stdin: true
      tty: true
      command: [sh]
"
    )
}

/// A terminal in front of c8s: what it shows, and where to type.
struct Terminal {
    controller: File,
    shown: mpsc::Receiver<String>,
    child: Child,
}

impl Terminal {
    fn open(c8s: &Command, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = File::from(rustix::pty::openpt(flags).unwrap());
        rustix::pty::unlockpt(&controller).unwrap();
        let name = rustix::pty::ptsname(&controller, Vec::new()).unwrap();
        let open = || {
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .open(name.to_str().unwrap())
                .unwrap()
        };
        let terminal = open();
        set_size(&terminal, columns);
        // The session's own terminal: a change of the window then reaches c8s as a signal.
        let mut session = Command::new("setsid");
        session
            .args(["--ctty", "--wait"])
            .arg(c8s.get_program())
            .args(c8s.get_args());
        let child = session
            .stdin(terminal)
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let (sender, shown) = mpsc::channel();
        let mut reader = controller.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            // A terminal that no program has open is an error.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Self {
            controller,
            shown,
            child,
        }
    }

    fn resize(&self, columns: u16) {
        set_size(&self.controller, columns);
    }

    fn type_in(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the text has been shown.
    fn shows(&self, text: &str) {
        let mut all = String::new();
        while !all.contains(text) {
            match self.shown.recv_timeout(PATIENCE) {
                Ok(shown) => all.push_str(&shown),
                Err(_) => panic!("no {text:?} in {all:?}"),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that fails must leave nothing; one that has ended it is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: &File, columns: u16) {
    let size = Winsize {
        ws_row: 40,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

#[tokio::test]
async fn a_persons_terminal_is_the_containers_with_its_keys_and_its_size() {
    let cluster = Cluster::start(with_a_terminal).await;

    let mut exec = Terminal::open(&cluster.c8s(&["exec", "-it", "box", "--", "sh"]), 111);
    exec.type_in("stty size\n");
    exec.shows("40 111");
    exec.resize(77);
    // The size is on its way beside what is typed: ask until it is there.
    exec.type_in("until stty size | grep '40 77'; do true; done; echo re''sized\n");
    exec.shows("resized");
    // Ctrl-C is the command's, not that of c8s.
    exec.type_in("sh -c 'echo sl\"\"eeping; sleep 1000'\n");
    exec.shows("sleeping");
    exec.type_in("\u{3}");
    exec.type_in("echo st''ill; exit 5\n");
    exec.shows("still");
    assert_eq!(exec.child.wait().unwrap().code(), Some(5));

    // The container's own shell; its end is the end of the container.
    let mut attach = Terminal::open(&cluster.c8s(&["attach", "-it", "box"]), 99);
    attach.type_in("echo at''tached; until stty size | grep '40 99'; do true; done; exit\n");
    attach.shows("attached");
    attach.shows("40 99");
    assert_eq!(attach.child.wait().unwrap().code(), Some(0));
    cluster.end().await;
}

fn with_a_server(image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: box}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: {image}
      command: [sh, -c, 'mkdir /www && head -c 3000000 /dev/urandom >/www/big && exec httpd -f -p 8080 -h /www']
      readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
    - name: count
      image: {image}
      command: [nc, -ll, -p, '9000', -e, wc, -c]
      readinessProbe: {{tcpSocket: {{port: 9000}}, periodSeconds: 1}}
"
    )
}

/// c8s port-forward, and the ports that it has taken. Dropping it ends it.
struct Forward {
    child: Child,
    ports: Vec<u16>,
}

impl Forward {
    fn start(mut c8s: Command, count: usize) -> Self {
        let mut child = c8s.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = |line: String| {
            let address = line.split(' ').next().unwrap().parse::<SocketAddr>();
            address.unwrap().port()
        };
        let ports = lines.take(count).map(|line| port(line.unwrap())).collect();
        Self { child, ports }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn get(port: u16, path: &str) -> Vec<u8> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(connection, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let body = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    answer.split_off(body)
}

#[tokio::test]
async fn ports_of_a_pod_are_reached_by_many_connections_at_once() {
    let cluster = Cluster::start(with_a_server).await;
    let forward = Forward::start(cluster.c8s(&["port-forward", "box", ":8080", ":9000", ":81"]), 3);
    let (web, count, nobody) = (forward.ports[0], forward.ports[1], forward.ports[2]);

    let there = cluster.run(&["exec", "box", "-c", "web", "--", "sha256sum", "/www/big"]);
    let expected = there.stdout.split(' ').next().unwrap().to_owned();
    // One that reads nothing holds up no other.
    let mut idle = TcpStream::connect(("127.0.0.1", web)).unwrap();
    write!(idle, "GET /big HTTP/1.0\r\n\r\n").unwrap();
    let readers: Vec<_> = (0..6)
        .map(|_| std::thread::spawn(move || get(web, "/big")))
        .collect();
    for reader in readers {
        assert_eq!(sha256(&reader.join().unwrap()), expected);
    }
    drop(idle);

    // The end of what is sent reaches the server, whose answer comes after it.
    let mut connection = TcpStream::connect(("127.0.0.1", count)).unwrap();
    connection.write_all(&[b'x'; 100_000]).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim(), "100000");

    // Where nobody listens the connection ends, and the others go on.
    let mut connection = TcpStream::connect(("127.0.0.1", nobody)).unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    assert!(answer.is_empty());
    assert_eq!(get(web, "/big").len(), 3_000_000);
    drop(forward);

    let refused = cluster.run(&["port-forward", "bax", "8080"]);
    assert!(refused.stderr.contains("not found"), "{}", refused.stderr);
    cluster.end().await;
}

#[tokio::test]
async fn files_and_folders_are_copied_both_ways() {
    let cluster = Cluster::start(two_containers).await;
    let dir = cluster.sandbox.dir().join("copies");
    fs::create_dir_all(dir.join("site/sub")).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 241) as u8).collect();
    fs::write(dir.join("site/big"), &bytes).unwrap();
    fs::write(dir.join("site/sub/small"), "small").unwrap();
    symlink("sub/small", dir.join("site/link")).unwrap();
    let here = |path: &str| dir.join(path).display().to_string();
    let copy = |args: &[&str]| {
        let output = cluster.run(&[&["cp", "-c", "main"], args].concat());
        assert!(output.success, "{args:?}: {}", output.stderr);
        output.stderr
    };

    // A folder under a new name, and into one that is there.
    copy(&[&here("site"), "box:/srv"]);
    copy(&[&here("site"), "default/box:/tmp/"]);
    let listed = cluster.run(&[
        "exec",
        "box",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "cat /srv/link /tmp/site/sub/small; sha256sum </srv/big",
    ]);
    assert_eq!(listed.stdout, format!("smallsmall{}  -\n", sha256(&bytes)));
    // A file, by name and into a folder.
    copy(&[&here("site/sub/small"), "box:/tmp/renamed"]);
    copy(&["box:/tmp/renamed", &here("")]);
    assert_eq!(fs::read_to_string(dir.join("renamed")).unwrap(), "small");

    // The folder back: as a new one, and into one that is there.
    copy(&["box:/srv", &here("back")]);
    copy(&["box:/srv", &here("site")]);
    for folder in ["back", "site/srv"] {
        assert!(
            fs::read(dir.join(folder).join("big")).unwrap() == bytes,
            "{folder}"
        );
        assert_eq!(
            fs::read_to_string(dir.join(folder).join("link")).unwrap(),
            "small"
        );
    }
    // A link that leads out of the copy stays there.
    let made = cluster.run(&["exec", "box", "-c", "main", "--", "ln", "-s", "/etc", "/srv/etc"]);
    assert!(made.success, "{}", made.stderr);
    let told = copy(&["box:/srv", &here("second")]);
    assert!(
        told.contains("left out") && !dir.join("second/etc").exists(),
        "{told}"
    );

    for (args, expected) in [
        (["cp", "box:/absent", &here("absent")], "absent"),
        (["cp", &here("absent"), "box:/tmp"], "absent"),
        (["cp", &here("site"), "box:/no/such/"], "is no folder"),
        (["cp", &here("site"), &here("other")], "POD:PATH"),
    ] {
        let refused = cluster.run(&[&args[..], &["-c", "main"]].concat());
        assert!(
            !refused.success && refused.stderr.contains(expected),
            "{args:?}: {}",
            refused.stderr
        );
    }
    let gone = cluster.run(&["exec", "box", "-c", "side", "--", "rm", "/bin/tar"]);
    assert!(gone.success, "{}", gone.stderr);
    let refused = cluster.run(&["cp", "box:/etc/passwd", &here("passwd"), "-c", "side"]);
    assert!(refused.stderr.contains("has no tar"), "{}", refused.stderr);
    cluster.end().await;
}
