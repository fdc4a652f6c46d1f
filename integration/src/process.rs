//! Child processes: each dies with its owner, and nothing that it leaves behind becomes a zombie.
//!
//! ```text
//! started ──(stop: SIGTERM | kill: SIGKILL)──► ended ──(start)──► started
//! ```

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::TcpListener,
    ops::{Deref, DerefMut, Range},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// The variable that marks every process of one test, inherited by what it starts.
pub const MARK: &str = "CLONE8S_TEST";

/// How long a process may take to end after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 60;

/// A program and how it is started, again and again.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: PathBuf,
    child: Option<Owned>,
}

impl Process {
    /// Describes a process that writes its log to `<dir>/<name>.log` and is not started yet.
    pub fn new(dir: &Path, name: &str, program: impl Into<OsString>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: dir.join(format!("{name}.log")),
            child: None,
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    #[must_use]
    pub fn envs<E: Into<OsString>>(mut self, variables: impl IntoIterator<Item = (E, E)>) -> Self {
        let variables = variables.into_iter();
        self.env
            .extend(variables.map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Changes what the next start passes.
    pub fn args_mut(&mut self) -> &mut Vec<OsString> {
        &mut self.args
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.running() {
            bail!("{} is running already", self.name);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        // The kernel ends the child should this process die without dropping anything.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(spawn_kept(command).with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    #[must_use]
    pub fn started(mut self) -> Self {
        self.start().expect("the process starts");
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id of a process that was started.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the process is started").id()
    }

    /// True until the process has ended.
    pub fn running(&mut self) -> bool {
        self.ended().is_none() && self.child.is_some()
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
    }

    /// Ends the process as a crash or the kernel would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end and waits for it.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(STOP_WITHIN)
    }

    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid().cast_signed()).context("no process")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Stops the process as a debugger does, and returns once no thread of it runs: the signal alone returns before.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + STOP_WITHIN;
        while threads(self.pid()).any(|state| state != 'T') {
            if Instant::now() >= deadline {
                bail!("{} still runs after SIGSTOP", self.name);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                self.child = None;
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!(
            "{} is still running after {within:?}\n{}",
            self.name,
            self.log_tail()
        )
    }

    /// Everything that the process wrote, over all its starts.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last lines of the log, under the process's name.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("---- {} ----\n{}\n", self.name, tail.join("\n"))
    }

    /// An error that shows the log, for a process that should run and does not.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        match self.ended() {
            None if self.child.is_some() => Ok(()),
            status => bail!("{} has ended ({status:?})\n{}", self.name, self.log_tail()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let state = match self.ended() {
                Some(status) => format!(
                    "ended by {:?}",
                    status.signal().map_or(status.code(), |signal| Some(-signal))
                ),
                None => "running".to_owned(),
            };
            eprintln!("{} was {state}\n{}", self.name, self.log_tail());
        }
        self.kill();
    }
}

/// A child that its owner waits for: nobody reaps it before. Dropping it ends nothing.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    // Declared after the child: it is somebody's until nobody can wait for it any more.
    registration: Registration,
}

impl Owned {
    /// [`Child::wait_with_output`].
    pub fn wait_with_output(self) -> io::Result<Output> {
        let Self { child, registration } = self;
        let output = child.wait_with_output();
        drop(registration);
        output
    }
}

impl Deref for Owned {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// How many own each direct child, by its id: more than one where an id came again before its first owner was
/// dropped. Every other child of this process is an orphan that it adopted.
static OWNERS: LazyLock<Mutex<HashMap<u32, usize>>> = LazyLock::new(Mutex::default);

fn owners() -> MutexGuard<'static, HashMap<u32, usize>> {
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Registration(u32);

impl Drop for Registration {
    fn drop(&mut self) {
        let mut owners = owners();
        match owners.get_mut(&self.0) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(owners.remove(&self.0)),
        }
    }
}

/// Starts a child whose end the caller waits for, however late. Tests start theirs with this, not with the command itself:
/// what is nobody's is reaped here, and whoever waits for it then finds no child.
///
/// The owners are locked meanwhile: a child that ends at once must not be taken for an orphan.
pub fn spawn(command: &mut Command) -> io::Result<Owned> {
    adopt_orphans();
    let mut owners = owners();
    let child = command.spawn()?;
    *owners.entry(child.id()).or_default() += 1;
    let registration = Registration(child.id());
    Ok(Owned { child, registration })
}

/// Starts a child from a thread that lives as long as this process: the kernel's death signal follows the thread
/// that made the child, and the threads of tests end with their tests.
fn spawn_kept(command: Command) -> io::Result<Owned> {
    type Order = (Command, SyncSender<io::Result<Owned>>);
    static KEEPER: LazyLock<SyncSender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = sync_channel::<Order>(16);
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // An error only says that the test gave up waiting.
                let _ = reply.send(spawn(&mut command));
            }
        });
        orders
    });
    let (reply, answer) = sync_channel(1);
    KEEPER.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

/// Makes this process the parent of what its children leave behind, such as containerd's shims, and reaps it:
/// process 1 of a container or of a small machine may reap nothing.
fn adopt_orphans() {
    static REAPER: LazyLock<()> = LazyLock::new(|| {
        set_child_subreaper(Some(rustix::process::getpid())).expect("the kernel knows subreapers");
        thread::spawn(|| {
            let mut seen = HashMap::new();
            loop {
                reap_orphans(&mut seen);
                thread::sleep(Duration::from_millis(100));
            }
        });
    });
    LazyLock::force(&REAPER);
}

/// How often a zombie is seen before it counts as nobody's: a child that a test's own code has started, such as the code
/// that is tested, is waited for meanwhile.
const LOOKS: u32 = 20;

/// Keeps how often each zombie was seen, by what names a process for good.
fn reap_orphans(seen: &mut HashMap<(u32, u64), u32>) {
    let owners = owners();
    let zombies = zombies_of(std::process::id());
    seen.retain(|zombie, _| zombies.contains(zombie));
    for (pid, started) in zombies {
        let looks = seen.entry((pid, started)).or_default();
        *looks += 1;
        if *looks > LOOKS
            && !owners.contains_key(&pid)
            && let Some(pid) = Pid::from_raw(pid.cast_signed())
        {
            // Someone else may have reaped it: then there is nothing to do.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

fn zombies_of(parent: u32) -> Vec<(u32, u64)> {
    pids()
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| stat.state == 'Z' && stat.parent == parent)
        .map(|(pid, stat)| (pid, stat.started))
        .collect()
}

/// Every process that there is now.
pub fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The state of each thread of a process, as /proc names it.
fn threads(pid: u32) -> impl Iterator<Item = char> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            // The name before it is in parentheses and may hold anything.
            stat.rsplit_once(") ")?.1.chars().next()
        })
}

/// What /proc says about a process.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    pub state: char,
    pub parent: u32,
    /// Clock ticks after boot: with the id, it names a process for good.
    pub started: u64,
}

/// None for a process that is gone.
pub fn stat(pid: u32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<_> = line.get(line.rfind(')')? + 2..)?.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// True while the process exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// A port of the loopback that nothing used a moment ago, and that this process gives out once.
///
/// Not one that the kernel gives to a socket that names none: a connection that is made before the server listens, or
/// while it is down, could have it, even that of the server's own client, which would then be connected to itself.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let ports = ports_to_give();
    loop {
        let chance = RandomState::new().build_hasher().finish() % u64::from(ports.end - ports.start);
        let port = ports.start + u16::try_from(chance).expect("less than the number of ports");
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free && GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// Those below the ones that the kernel gives out by itself; any, on a machine whose kernel gives out nearly all.
fn ports_to_give() -> Range<u16> {
    const LOWEST: u16 = 10_000;
    let by_kernel = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = by_kernel.split_whitespace().next().map(str::parse);
    match first {
        Some(Ok(first)) if first >= LOWEST + 5_000 => LOWEST..first,
        _ => LOWEST..u16::MAX,
    }
}

/// Creates or truncates a file that only its owner reads.
pub fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file: File = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    file.write_all(content.as_bytes())?;
    Ok(())
}
