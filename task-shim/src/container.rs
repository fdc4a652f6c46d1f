//! One container: its processes, and what the OCI runtime does to it.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    rc::Rc,
};

use rustix::process::{Pid, Signal};

use crate::{
    cgroup::Cgroup,
    failure::{CHECKPOINT, Failure, Result},
    messages::{CheckpointOptions, CreateTaskRequest, Options, Status},
    mounts,
    process::Process,
    reaper::Reaper,
    runtime::{self, Runtime},
    spec::Spec,
    stdio::{self, Console, Held, Incoming, Owner, Paths},
};

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) init: Rc<Process>,
    pub(crate) execs: RefCell<HashMap<String, Rc<Process>>>,
    pub(crate) cgroup: Option<Cgroup>,
    has_own_processes: bool,
    runtime: Runtime,
    owner: Owner,
    /// One change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// The end of a process to come: its code.
pub(crate) type End = Pin<Box<dyn Future<Output = u32>>>;

struct Launched {
    pid: u32,
    /// What of its input and output stays open here.
    held: Held,
    end: End,
}

/// What containers are made with.
#[derive(Debug)]
pub(crate) struct Means<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) reaper: &'a Reaper,
    /// Names sockets for terminals: see [`Incoming::listen`].
    pub(crate) near: &'a Path,
    pub(crate) number: u64,
}

impl Container {
    /// Mounts the root file system and has the OCI runtime make the container. On failure nothing is left.
    pub(crate) async fn create(
        request: &CreateTaskRequest,
        options: &Options,
        means: &Means<'_>,
    ) -> Result<(Self, End)> {
        let bundle = PathBuf::from(&request.bundle);
        let spec = Spec::read(&bundle)?;
        let runtime = Runtime::of_options(options, means.namespace);
        runtime.record(&bundle)?;
        let rootfs = bundle.join("rootfs");
        if !request.rootfs.is_empty() {
            fs::create_dir_all(&rootfs).map_err(Failure::file("make folder", &rootfs))?;
            mounts::mount_all(&request.rootfs, &rootfs)?;
        }
        let made = Self::run(request, options, means, &runtime).await;
        let Launched { pid, held, end } = match made {
            Ok(launched) => launched,
            Err(error) => {
                if runtime.knows(&request.id) {
                    // The first failure says more than this one's.
                    let _ = runtime
                        .run(
                            means.reaper,
                            &bundle,
                            "delete",
                            &["delete", "--force", &request.id],
                        )
                        .await;
                }
                mounts::unmount(&rootfs)?;
                return Err(error);
            }
        };
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let init = Process::new("", paths, Vec::new());
        init.pid.set(pid);
        init.held.replace(held);
        if options.start_at_once || !request.checkpoint.is_empty() {
            init.status.set(Status::Running);
        }
        let container = Self {
            id: request.id.clone(),
            cgroup: Cgroup::find(spec.cgroup(), pid),
            has_own_processes: spec.has_own_processes(),
            init: Rc::new(init),
            execs: RefCell::default(),
            bundle,
            runtime,
            owner: Owner {
                uid: options.io_uid,
                gid: options.io_gid,
            },
            changing: tokio::sync::Mutex::default(),
        };
        Ok((container, end))
    }

    async fn run(
        request: &CreateTaskRequest,
        options: &Options,
        means: &Means<'_>,
        runtime: &Runtime,
    ) -> Result<Launched> {
        let bundle = Path::new(&request.bundle);
        let owner = Owner {
            uid: options.io_uid,
            gid: options.io_gid,
        };
        let pid_file = bundle.join("init.pid");
        let mut command = runtime.command(Some(&runtime::log(bundle)));
        let call = if !request.checkpoint.is_empty() {
            command.args(["restore", "--detach", "--image-path", &request.checkpoint]);
            if !options.criu_work_path.is_empty() {
                command.args(["--work-path", &options.criu_work_path]);
            }
            "restore"
        } else if options.start_at_once {
            command.args(["run", "--detach"]);
            "run"
        } else {
            command.arg("create");
            "create"
        };
        command
            .arg("--bundle")
            .arg(bundle)
            .arg("--pid-file")
            .arg(&pid_file);
        if options.no_pivot_root {
            command.arg("--no-pivot");
        }
        if options.no_new_keyring && call != "restore" {
            command.arg("--no-new-keyring");
        }
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        launch(
            runtime,
            means,
            bundle,
            call,
            command,
            &[&request.id],
            &paths,
            owner,
            &pid_file,
        )
        .await
    }

    /// Starts the first process of a container that was only created.
    pub(crate) async fn start(&self, reaper: &Reaper) -> Result<()> {
        self.call(reaper, "start", &["start", &self.id]).await
    }

    /// Starts an additional process.
    pub(crate) async fn start_exec(&self, process: &Process, means: &Means<'_>) -> Result<End> {
        let file = |kind: &str| self.bundle.join(format!("exec-{}.{kind}", process.exec_id));
        let (spec, pid_file) = (file("json"), file("pid"));
        fs::write(&spec, &process.spec).map_err(Failure::file("write", &spec))?;
        let mut command = self.runtime.command(Some(&runtime::log(&self.bundle)));
        command
            .args(["exec", "--detach", "--process"])
            .arg(&spec)
            .arg("--pid-file")
            .arg(&pid_file);
        let started = launch(
            &self.runtime,
            means,
            &self.bundle,
            "exec",
            command,
            &[&self.id],
            &process.paths,
            self.owner,
            &pid_file,
        )
        .await;
        for path in [&spec, &pid_file] {
            // The bundle goes with the container at the latest.
            let _ = fs::remove_file(path);
        }
        let Launched { pid, held, end } = started?;
        process.pid.set(pid);
        process.held.replace(held);
        process.status.set(Status::Running);
        Ok(end)
    }

    /// Signals one process, or with `all` every one of the container.
    pub(crate) async fn kill(
        &self,
        process: &Process,
        signal: u32,
        all: bool,
        reaper: &Reaper,
    ) -> Result<()> {
        let gone = || Failure::NotFound(format!("process {} of container {}", process.pid.get(), self.id));
        let stopped = process.status.get() == Status::Stopped;
        let raw = signal.cast_signed();
        let is_init = process.exec_id.is_empty();
        // The end of the first process is the end of all, unless they share their namespace with others.
        let is_direct = !is_init || !all || (self.has_own_processes && raw == Signal::KILL.as_raw());
        if process.status.get() != Status::Paused
            && is_direct
            && let Some(named) = Signal::from_named_raw(raw)
        {
            if stopped {
                return Err(gone());
            }
            let pid = Pid::from_raw(process.pid.get().cast_signed()).ok_or_else(gone)?;
            // It has not been waited for: the pid is still its own.
            return match rustix::process::kill_process(pid, named) {
                Err(rustix::io::Errno::SRCH) => Err(gone()),
                other => other.map_err(Failure::file("signal", format!("/proc/{}", process.pid.get()))),
            };
        }
        if !is_init {
            return Err(Failure::Invalid {
                field: "signal",
                problem: format!("{signal} is not one for this process"),
            });
        }
        if stopped && !all {
            return Err(gone());
        }
        let number = signal.to_string();
        let words: &[&str] = if all {
            &["kill", "--all", &self.id, &number]
        } else {
            &["kill", &self.id, &number]
        };
        match self.call(reaper, "kill", words).await {
            Err(Failure::Runtime { message, .. }) if is_over(&message) => Err(gone()),
            other => other,
        }
    }

    /// After the end of the first process: nothing of the container goes on without it.
    pub(crate) async fn kill_rest(&self, reaper: &Reaper) {
        if !self.has_own_processes {
            // What fails here is tried again by the container's removal.
            let _ = self
                .call(reaper, "kill", &["kill", "--all", &self.id, "KILL"])
                .await;
        }
    }

    /// Removes the container, whose first process has ended. Repeatable.
    pub(crate) async fn delete(&self, reaper: &Reaper) -> Result<()> {
        if self.runtime.knows(&self.id) {
            match self.call(reaper, "delete", &["delete", &self.id]).await {
                Err(Failure::Runtime { message, .. }) if is_over(&message) => {}
                other => other?,
            }
        }
        mounts::unmount(&self.bundle.join("rootfs"))
    }

    pub(crate) async fn pause(&self, reaper: &Reaper) -> Result<()> {
        self.call(reaper, "pause", &["pause", &self.id]).await?;
        self.init.status.set(Status::Paused);
        Ok(())
    }

    pub(crate) async fn resume(&self, reaper: &Reaper) -> Result<()> {
        self.call(reaper, "resume", &["resume", &self.id]).await?;
        self.init.status.set(Status::Running);
        Ok(())
    }

    /// `resources` is an OCI `linux.resources` object.
    pub(crate) async fn update(&self, resources: &[u8], reaper: &Reaper) -> Result<()> {
        let file = self.bundle.join("resources.json");
        fs::write(&file, resources).map_err(Failure::file("write", &file))?;
        let path = file.display().to_string();
        self.call(reaper, "update", &["update", "--resources", &path, &self.id])
            .await
    }

    pub(crate) async fn checkpoint(
        &self,
        path: &str,
        options: &CheckpointOptions,
        reaper: &Reaper,
    ) -> Result<()> {
        let image = match options.image_path.as_str() {
            "" => path,
            path => path,
        };
        let mut words = vec![CHECKPOINT, "--image-path", image];
        if !options.work_path.is_empty() {
            words.extend(["--work-path", &options.work_path]);
        }
        let switches = [
            (!options.exit, "--leave-running"),
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
        ];
        words.extend(
            switches
                .into_iter()
                .filter(|(is_on, _)| *is_on)
                .map(|(_, word)| word),
        );
        for namespace in &options.empty_namespaces {
            words.extend(["--empty-ns", namespace]);
        }
        if !options.cgroups_mode.is_empty() {
            words.extend(["--manage-cgroups-mode", &options.cgroups_mode]);
        }
        words.push(&self.id);
        self.call(reaper, CHECKPOINT, &words).await
    }

    async fn call(&self, reaper: &Reaper, call: &'static str, words: &[&str]) -> Result<()> {
        self.runtime.run(reaper, &self.bundle, call, words).await
    }
}

/// Runs a command of the OCI runtime that leaves a process behind.
#[expect(
    clippy::too_many_arguments,
    reason = "two callers, which have these in different places"
)]
async fn launch(
    runtime: &Runtime,
    means: &Means<'_>,
    bundle: &Path,
    call: &'static str,
    mut command: Command,
    last: &[&str],
    paths: &Paths,
    owner: Owner,
    pid_file: &Path,
) -> Result<Launched> {
    // Until the pid is known and waited for.
    let _run = means.reaper.run();
    let held = if paths.terminal {
        let incoming = Incoming::listen(means.near, means.number)?;
        command.arg("--console-socket").arg(incoming.path()).args(last);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        runtime.finish(means.reaper, bundle, call, command, None).await?;
        Held::with_console(Console::start(incoming.take()?, paths, owner)?)
    } else {
        let (given, held) = stdio::open(paths, owner)?;
        command
            .args(last)
            .stdin(given.stdin)
            .stdout(given.stdout)
            .stderr(given.stderr);
        runtime.finish(means.reaper, bundle, call, command, None).await?;
        held
    };
    let text = fs::read_to_string(pid_file).map_err(Failure::file("read", pid_file))?;
    let pid = text.trim().parse().map_err(|_| Failure::Runtime {
        call,
        message: format!("{} holds no pid: {text:?}", pid_file.display()),
    })?;
    // Asked for before the run is over: its end may have come already.
    let end = Box::pin(means.reaper.expect(pid));
    Ok(Launched { pid, held, end })
}

/// What runc and crun say of a container or process that is not there any more.
fn is_over(message: &str) -> bool {
    [
        "does not exist",
        "not running",
        "already finished",
        "no such process",
        "not found",
    ]
    .iter()
    .any(|words| message.contains(words))
}
