//! A person's terminal in front of c8s, and the container's behind it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use clone8s_integration::process::{self, Owned};
use rustix::{pty::OpenptFlags, termios::Winsize};

use super::Cluster;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

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
    /// What of it no test has waited for yet.
    unseen: String,
    child: Owned,
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
        session.stdin(terminal).stdout(open()).stderr(open());
        let child = process::spawn(&mut session).unwrap();
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
            unseen: String::new(),
            child,
        }
    }

    fn resize(&self, columns: u16) {
        set_size(&self.controller, columns);
    }

    fn type_in(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the text has been shown, after what was waited for before.
    fn shows(&mut self, text: &str) {
        let end = loop {
            if let Some(start) = self.unseen.find(text) {
                break start + text.len();
            }
            match self.shown.recv_timeout(PATIENCE) {
                Ok(shown) => self.unseen.push_str(&shown),
                Err(why) => panic!("no {text:?} in {:?}: {why}", self.unseen),
            }
        };
        self.unseen.drain(..end);
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

    // And one that is there for a look.
    let image = cluster.registry.image("box:1");
    let debug = ["debug", "box", "--image", &image, "-it", "--", "sh"];
    let mut debug = Terminal::open(&cluster.c8s(&debug), 88);
    debug.shows("press Enter");
    debug.type_in("until stty size | grep '40 88'; do true; done; echo lo''oked; exit\n");
    debug.shows("40 88");
    debug.shows("looked");
    assert_eq!(debug.child.wait().unwrap().code(), Some(0));
    cluster.end().await;
}
