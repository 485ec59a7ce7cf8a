//! The server: the real binary on a free port, with folders of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use super::{Model, PATIENCE, Rest, soon};

/// What a server is started with.
#[derive(Clone)]
pub struct Setup {
    root: Arc<TempDir>,
    env: BTreeMap<String, String>,
    flags: Vec<String>,
    /// What its shell starts before it goes on as the server.
    beside: Option<String>,
    /// Who runs it, if not who runs the tests.
    user: Option<u32>,
    /// As the first process of a container.
    is_first: bool,
    /// No file of it can grow beyond so many bytes.
    limit: Option<u64>,
}

impl Setup {
    /// Folders of its own: a git workspace with one file in it, data, home.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("opencode-it-").tempdir().expect("a temporary folder");
        let setup = Self {
            root: Arc::new(root),
            env: BTreeMap::new(),
            flags: Vec::new(),
            beside: None,
            user: None,
            limit: None,
            is_first: false,
        };
        for folder in ["workspace", "home"] {
            std::fs::create_dir(setup.folder(folder)).expect("a folder");
        }
        let workspace = setup.workspace();
        std::fs::write(workspace.join("README.md"), "# A project\n").expect("a file");
        commit(&workspace);
        setup
            .env("OPENCODE_WORKSPACE", workspace.display())
            .env("OPENCODE_DATA_DIR", setup.data_dir().display())
            .env("GRPC_PORT", 0)
            .env("HTTP_PORT", 0)
            // Tests of something else are not to be asked.
            .env("OPENCODE_PERMISSION_MODE", "auto")
            // Nor to wait at the end.
            .env("OPENCODE_DRAIN_TIMEOUT", 0)
    }

    /// With a scripted model behind it.
    pub fn with(model: &Model) -> Self {
        model.settings().into_iter().fold(Self::new(), |setup, (name, value)| setup.env(name, value))
    }

    pub fn env(&self, name: &str, value: impl std::fmt::Display) -> Self {
        let mut setup = self.clone();
        setup.env.insert(name.to_owned(), value.to_string());
        setup
    }

    pub fn flag(&self, name: &str, value: &str) -> Self {
        let mut setup = self.clone();
        setup.flags.extend([name.to_owned(), value.to_owned()]);
        setup
    }

    /// Started by a shell that has started something else, in the background.
    pub fn beside(&self, command: &str) -> Self {
        Self { beside: Some(command.to_owned()), ..self.clone() }
    }

    /// In a process namespace of its own, whose first process it is.
    pub fn as_first_process(&self) -> Self {
        Self { is_first: true, ..self.clone() }
    }

    /// As a user of its own, without any right of root's; as who runs the tests where that is not root.
    pub fn without_rights(&self) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return self.clone();
        }
        // One that no other test has, since the limits of a user hold for all processes of that user.
        let user = 100_000 + std::process::id() * 1_000 + NEXT.fetch_add(1, Ordering::Relaxed);
        Self { user: Some(user), ..self.clone() }
    }

    /// As [`Server::limit_files`], from the start.
    pub fn limit_files(&self, bytes: u64) -> Self {
        Self { limit: Some(bytes), ..self.clone() }
    }

    pub fn workspace(&self) -> PathBuf {
        self.folder("workspace")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder("data")
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The command, with this environment and nothing else but PATH and HOME.
    pub fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_opencode-api");
        // A write beyond a limit is to be an error, as on a full disk, and not a signal that kills. Whoever starts a server
        // may leave something open to it.
        let mut command = Command::new("sh");
        let beside =
            self.beside.as_ref().map(|command| format!("{command} </dev/null >/dev/null 2>&1 &")).unwrap_or_default();
        // In blocks, as POSIX has it; the hard limit stays, so that it can be lifted.
        let limit = self.limit.map(|bytes| format!("ulimit -S -f {}; ", bytes / 512)).unwrap_or_default();
        let shell = |command: &mut Command, go_on: &str| {
            command.args(["-c", &format!("trap '' XFSZ; {limit}exec 9<\"$0\"; {beside} exec {go_on} \"$@\""), binary]);
        };
        match self.user {
            None if self.is_first => {
                let user = if rustix::process::geteuid().is_root() { "" } else { "--user --map-root-user" };
                shell(&mut command, &format!("unshare {user} --pid --fork --mount-proc --kill-child \"$0\""));
            }
            None => shell(&mut command, "\"$0\""),
            // By its descriptor: that user may not be let into the folder where it was built.
            Some(user) => {
                self.give_to(user);
                let rights = format!("setpriv --reuid {user} --regid {user} --clear-groups");
                shell(&mut command, &format!("{rights} /proc/self/fd/9"));
            }
        }
        command.args(&self.flags);
        command.env_clear().current_dir(self.root.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder("home"));
        command.envs(&self.env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Makes the folders somebody's own.
    fn give_to(&self, user: u32) {
        let id = format!("{user}:{user}");
        let given = Command::new("chown").args(["-hR", &id]).arg(self.root.path()).status();
        assert!(given.expect("chown").success());
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) -> Server {
        let mut child = self.command().spawn().expect("the server can be started");
        let stderr = Arc::new(Mutex::new(String::new()));
        collect(child.stderr.take().expect("stderr is piped"), Arc::clone(&stderr));
        let (said, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Who listens no more does not mind.
                let _ = said.send(line);
            }
        });
        let mut server = Server { setup: self.clone(), child: Some(child), stderr, rest: Rest::new(String::new()) };
        let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the server did not start"));
        let base = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected first line: {line}"));
        server.rest = Rest::new(base.to_owned());
        if let Some(token) = self.env.get("OPENCODE_API_TOKEN") {
            server.rest = server.rest.clone().bearer(token);
        }
        server
    }

    /// Starts a server that has to fail, and answers its exit code and what it said on stderr.
    pub fn fail_to_start(&self) -> (Option<i32>, String) {
        let output = self.command().output().expect("the server can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A server that runs; dropping it kills it.
pub struct Server {
    setup: Setup,
    child: Option<Child>,
    stderr: Arc<Mutex<String>>,
    /// Its first door.
    pub rest: Rest,
}

impl Server {
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    pub fn workspace(&self) -> PathBuf {
        self.setup.workspace()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.stderr.lock().expect("the log").clone()
    }

    /// SIGKILL, as a crash does it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // By its own pid; it may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL and a new start on the same folders.
    pub fn crash_and_restart(&mut self) {
        self.kill();
        *self = self.setup.start();
    }

    /// SIGSTOP: it does nothing until it is told to go on.
    pub fn pause(&self) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid");
        kill_process(pid, Signal::STOP).expect("it runs");
    }

    /// SIGCONT. What was idle meanwhile may have been so for too long: requests take new connections.
    pub fn go_on(&mut self) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid");
        self.rest = Rest::new(self.rest.base.clone());
        kill_process(pid, Signal::CONT).expect("it is paused");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM to whoever is to pass it on, if somebody is.
    pub fn ask_to_stop(&self) {
        if !self.setup.is_first {
            return self.terminate();
        }
        // `unshare` has one child, the first process of the namespace.
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
        let first = children.split_whitespace().next().expect("a child").parse().expect("a number");
        kill_process(Pid::from_raw(first).expect("a pid"), Signal::TERM).expect("it runs");
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let pid = Pid::from_raw(child.id() as i32).expect("a pid");
        let waiting = tokio::task::spawn_blocking(move || child.wait().expect("an exit status"));
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(status) => status.expect("waiting does not panic"),
            Err(_) => {
                let _ = kill_process(pid, Signal::KILL);
                panic!("the server did not end");
            }
        }
    }

    /// No file of this server can grow beyond so many bytes from now on; as on a full disk, what is there is read.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid");
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("a limit of a process of ours");
    }

    /// SIGTERM, and a new start on the same folders when it has ended.
    pub async fn restart(&mut self) {
        self.terminate();
        let status = soon("the end of the server", self.ended()).await;
        assert_eq!(status.code(), Some(0));
        *self = self.setup.start();
    }

    /// Whether a text stands anywhere in the files of the data directory.
    pub fn data_holds(&self, text: &str) -> bool {
        holds(&self.setup.data_dir(), text.as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- what the server logged ---\n{}------------------------------", self.log());
        }
    }
}

/// Reads a pipe to its end, so that the server is never held up by it.
fn collect(mut pipe: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            into.lock().expect("the log").push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
}

/// Makes the folder a git repository with all its files committed.
fn commit(folder: &Path) {
    let made = || -> Result<(), git2::Error> {
        let repository = git2::Repository::init(folder)?;
        let mut index = repository.index()?;
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None)?;
        index.write()?;
        let tree = repository.find_tree(index.write_tree()?)?;
        let author = git2::Signature::now("Somebody", "somebody@example.org")?;
        repository.commit(Some("HEAD"), &author, &author, "Begin", &tree, &[])?;
        Ok(())
    };
    made().expect("a git repository");
}

fn holds(path: &Path, text: &[u8]) -> bool {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder");
        return entries.map_while(Result::ok).any(|entry| holds(&entry.path(), text));
    }
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text)
}
