//! Ports of a pod on this machine.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use clone8s_integration::process::{self, Owned};

use super::{Cluster, sha256};

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
    child: Owned,
    ports: Vec<u16>,
}

impl Forward {
    fn start(mut c8s: Command, count: usize) -> Self {
        let mut child = process::spawn(c8s.stdout(Stdio::piped())).unwrap();
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
    connection.write_all(&vec![b'x'; 100_000]).unwrap();
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
