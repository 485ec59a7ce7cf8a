//! The processes that are measured: the server's binary, and this binary in its other roles.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;

use crate::{Result, table::Numbers};

/// A process that says on standard output what it listens on and what it has done.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("the process has no output")?);
        Ok(Self { child, input, output })
    }

    /// This binary in another role.
    pub(crate) fn own(arguments: &[&str]) -> Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).args(arguments))
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("the process ended: {}", self.child.wait()?).into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// The address that it says next.
    pub(crate) fn address(&mut self) -> Result<SocketAddr> {
        let line = self.line()?;
        let address = line.rsplit('/').next().and_then(|address| address.parse().ok());
        Ok(address.ok_or_else(|| format!("no address in \"{line}\""))?)
    }

    /// Tells it something, and answers what it says then.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String> {
        writeln!(self.input.as_mut().ok_or("the process takes no input")?, "{question}")?;
        self.line()
    }

    /// A figure of `/proc/PID/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(figure.ok_or_else(|| format!("no {name} in /proc"))?)
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        // utime and stime, in hundredths of a second.
        Ok(Duration::from_millis(10 * (ticks(11) + ticks(12))))
    }

    /// Time that its threads, ready to run, have waited for a core so far: what the neighbours cost. Of the threads
    /// that are still there.
    pub(crate) fn waited(&self) -> Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }
}

impl Process {
    /// Asks it to end; answers how long that took, to 1 ms.
    pub(crate) fn stop(&mut self) -> Result<Duration> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("it has no process id")?;
        let began = Instant::now();
        kill_process(pid, Signal::TERM)?;
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err("it does not end".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(began.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is asked first, so that it can leave its files in order, and made to when it takes too long.
        let asked =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, Signal::TERM));
        let deadline = Instant::now() + Duration::from_secs(10);
        while asked.is_some() && Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's binary: the one that cargo built, or another one to compare with.
fn binary() -> OsString {
    std::env::var_os("BENCH_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_opencode-api").into())
}

/// A folder with a workspace and the data of one server.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// The log's file.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.path().join("data/log.sqlite3")
    }

    /// The folder of all of it.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The folder that the agent works in.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.0.path().join("workspace")
    }

    /// The server's own folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Where the server keeps what the workspace held at its last look.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.data().join("versions/manifest")
    }

    /// What the disk below takes to keep 4 KiB, in milliseconds: what is promised is synced, so that this is part of
    /// a start (several times) and of accepting a message (once).
    pub(crate) fn sync(&self) -> Result<String> {
        let mut file = fs::File::create(self.0.path().join("synced"))?;
        let mut times = Numbers::default();
        for _ in 0..50 {
            file.write_all(&[1; 4096])?;
            let began = Instant::now();
            file.sync_data()?;
            times.push_ms(began.elapsed());
        }
        Ok(format!("one fdatasync of this disk {}", times.spread()))
    }

    /// Starts the server here, on a free port, with nothing from this environment.
    pub(crate) fn server(&self, variables: &[(&str, &str)]) -> Result<(Process, SocketAddr)> {
        let folder = self.0.path();
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HTTP_PORT", "0")
            .env("GRPC_PORT", "0")
            .env("OPENCODE_WORKSPACE", folder.join("workspace"))
            .env("OPENCODE_DATA_DIR", folder.join("data"))
            .env("OPENCODE_PERMISSION_MODE", "auto")
            .envs(variables.iter().copied())
            .stderr(fs::File::create(folder.join("server.log"))?);
        let mut server = Process::start(&mut command)?;
        match server.address() {
            Ok(address) => Ok((server, address)),
            Err(error) => Err(format!("{error}\n{}", fs::read_to_string(folder.join("server.log"))?).into()),
        }
    }
}

/// Asks for `/health` over a connection of its own.
pub(crate) fn health(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("no 200: {answer}").into()) }
}

/// Takes as many file descriptors as this process may have; children have as many.
pub(crate) fn raise_fd_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The load averages.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Where this was measured.
pub(crate) fn machine() -> String {
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let info = text(Path::new("/proc/cpuinfo"));
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = text(Path::new("/proc/sys/kernel/osrelease"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let binary = fs::metadata(binary()).map_or(0, |found| found.len());
    format!(
        "{cores} cores of {}, Linux {}, load average {} at the end, binary {:.1} MB{}",
        model.unwrap_or("unknown"),
        kernel.trim(),
        load(),
        binary as f64 / 1e6,
        if cfg!(debug_assertions) { ", DEBUG BUILD: these figures mean nothing" } else { "" },
    )
}
