//! A registry that does what it is told, byte by byte: breaks off, lies, hangs and sends elsewhere.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// By name in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    /// How many requests with this method and path came before.
    pub(crate) nth: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub(crate) fn range_start(&self) -> usize {
        self.header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0)
    }
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close after so many bytes of the body.
    cut: Option<usize>,
    /// Between parts of 16 KiB.
    pause: Duration,
    hangs: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
            pause: Duration::ZERO,
            hangs: false,
        }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200).body(body)
    }

    /// Never answers, as long as the server lives.
    pub(crate) fn hang() -> Self {
        Self {
            hangs: true,
            ..Self::new(200)
        }
    }

    /// The part of a blob that a request wants, as a registry that knows ranges sends it.
    pub(crate) fn part(seen: &Seen, blob: &[u8]) -> Self {
        match seen.range_start() {
            0 => Self::ok(blob),
            start => Self::new(206)
                .header(
                    "content-range",
                    &format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()),
                )
                .body(&blob[start..]),
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn map_body(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.body);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub(crate) fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

/// The server. It ends when it is dropped.
pub(crate) struct Faulty {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ending: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Faulty {
    pub(crate) fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (seen, ending) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let script: Arc<Script> = Arc::new(script);
        let shared = (Arc::clone(&seen), Arc::clone(&ending));
        let acceptor = thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if shared.1.load(SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (seen, ending, script) =
                    (Arc::clone(&shared.0), Arc::clone(&shared.1), Arc::clone(&script));
                connections.push(thread::spawn(move || {
                    // The other side may hang up at any time.
                    let _ = serve(stream, &seen, &ending, &*script);
                }));
            }
            for connection in connections {
                let _ = connection.join();
            }
        });
        Self {
            address,
            seen,
            ending,
            acceptor: Some(acceptor),
        }
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn image(&self, name_and_tag: &str) -> String {
        format!("{}/{name_and_tag}", self.address)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("a list").clone()
    }

    /// Those whose path has this in it.
    pub(crate) fn seen_for(&self, part: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.path.contains(part));
        seen
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.ending.store(true, SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(stream: TcpStream, all: &Mutex<Vec<Seen>>, ending: &AtomicBool, script: &Script) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(mut seen) = read_request(&mut reader)? else {
        return Ok(());
    };
    {
        let mut all = all.lock().expect("a list");
        seen.nth = all
            .iter()
            .filter(|other| other.path == seen.path && other.method == seen.method)
            .count();
        all.push(seen.clone());
    }
    let answer = script(&seen);
    if answer.hangs {
        while !ending.load(SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        return Ok(());
    }
    let mut stream = stream;
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name == "content-length") {
        let _ = write!(head, "content-length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    let end = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
    for part in answer.body[..end].chunks(16 << 10) {
        stream.write_all(part)?;
        if !answer.pause.is_zero() {
            thread::sleep(answer.pause);
            if ending.load(SeqCst) {
                break;
            }
        }
    }
    stream.flush()
}

fn read_request(reader: &mut impl io::BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let mut seen = Seen {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        ..Seen::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        seen.headers
            .insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = seen
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    seen.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(seen))
}
