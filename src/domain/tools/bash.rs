//! `bash`: a command in a shell.

use std::{
    ffi::OsString,
    io,
    os::unix::{ffi::OsStringExt, process::ExitStatusExt},
    path::PathBuf,
    process::ExitStatus,
    sync::PoisonError,
    time::Duration,
};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::Command,
    time::{Instant, sleep_until},
};

use super::{
    EndedProcess, Tool, ToolContext, ToolError, ToolOutput,
    command::{self, Running},
    kept::Kept,
};
use crate::domain::{part::head, workspace::blocking};

/// Time that a command has if it does not say.
const DEFAULT_TIMEOUT_MS: u64 = 60_000;
/// Most time that a command may ask for.
const MAX_TIMEOUT_MS: u64 = 600_000;
/// Bytes of the report on the working directory, which is one path.
const MAX_REPORT: u64 = 16 * 1024;
/// Bytes of a description that clients are shown.
const MAX_DESCRIPTION: usize = 200;
/// Bytes of the longest command: the system takes 128 KiB as one argument.
const MAX_SCRIPT_BYTES: usize = 127 * 1024;
/// How long the end of the output is waited for after the shell has ended.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
/// Bytes that are still read after everything was ended; what has left the group could go on writing for ever.
const MAX_LAST_BYTES: usize = 1024 * 1024;
/// Settings without which programs wait for somebody at a terminal.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("TERM", "dumb"),
    ("PAGER", "cat"),
    ("GIT_PAGER", "cat"),
    ("GIT_EDITOR", "true"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

pub(super) struct Bash;

/// Runs a command in a shell. It has no input and no terminal. The working directory is the workspace root at first
/// and is kept from call to call; variables, functions and options are not. A command has 60 s, or `timeout_ms`, at
/// most 600 s. Of its output (stdout and stderr together) at most 30,000 bytes are shown, the first and the last
/// half. What it leaves running is ended when it returns. To read, search and change files use the other tools.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// The command.
    command: String,
    /// Time that it may take, in milliseconds. Default: 60000. Maximum: 600000.
    #[schemars(range(min = 1, max = 600_000))]
    timeout_ms: Option<u64>,
    /// What it does, in a few words, for the user.
    description: Option<String>,
}

impl Tool for Bash {
    const NAME: &'static str = "bash";
    const READ_ONLY: bool = false;
    type Args = Args;

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let timeout_ms = args.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        if args.command.trim().is_empty() {
            return Err(ToolError::model("command: is blank"));
        }
        if args.command.contains('\0') {
            return Err(ToolError::model("command: holds a NUL byte"));
        }
        if !(1..=MAX_TIMEOUT_MS).contains(&timeout_ms) {
            return Err(ToolError::model(format!("timeout_ms: has to be between 1 and {MAX_TIMEOUT_MS}")));
        }
        let shell = Shell::new(context, &args.command).await?;
        let (mut running, receiver) = shell.start(context)?;
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let mut output = Output { receiver: Some(receiver), kept: Kept::default() };
        let end = output.follow(context, &mut running, deadline).await;
        let left = running.end().await;
        output.drain(context);
        if let Some(how) = left {
            let ended = EndedProcess { pid: running.pid(), command: args.command.clone(), how };
            context.ended.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
        }
        shell.note_directory(context, matches!(end, End::Exited(_))).await;

        let mut text = shell.notes.clone();
        text.push_str(&output.kept.text());
        let (words, exit_code, timed_out) = match end {
            End::Canceled => {
                let so_far = if output.kept.total == 0 { "it had no output" } else { "its output so far follows" };
                return Err(ToolError::model(format!("canceled: the command was ended; {so_far}\n{text}")));
            }
            End::Failed(error) => return Err(ToolError::Fatal(error.into())),
            End::TimedOut => (format!("timed out after {timeout_ms} ms; the command was ended"), None, true),
            End::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => (format!("exit code {code}"), Some(code), false),
                (None, signal) => {
                    let signal = signal.unwrap_or_default();
                    (format!("ended by signal {signal}"), Some(128 + signal), false)
                }
            },
        };
        if output.kept.total == 0 {
            text.push_str("(no output)");
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        if left.is_some() && !timed_out {
            text.push_str("(what it left running was ended)\n");
        }
        text.push_str(&words);
        let metadata = json!({
            "exit_code": exit_code,
            "timed_out": timed_out,
            "output_bytes": output.kept.total,
            "description": args.description.as_deref().map(|text| head(text, MAX_DESCRIPTION)),
        });
        Ok(ToolOutput { metadata: Some(metadata), is_error: timed_out, ..ToolOutput::words(text) })
    }
}

/// How a command ended.
enum End {
    Exited(ExitStatus),
    TimedOut,
    Canceled,
    Failed(io::Error),
}

/// A command and where it runs.
struct Shell {
    script: String,
    directory: PathBuf,
    /// Takes the working directory that the shell ends in.
    report: PathBuf,
    /// What the model has to know before the output.
    notes: String,
}

impl Shell {
    async fn new(context: &ToolContext, command: &str) -> Result<Self, ToolError> {
        let kept = context.memory.directory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let report = context.scratch.join(format!("directory-{}", uuid::Uuid::new_v4().simple()));
        let (root, scratch) = (context.workspace.root().to_owned(), context.scratch.clone());
        let (directory, lost) = blocking(move || {
            std::fs::create_dir_all(scratch)?;
            Ok::<_, io::Error>(match kept {
                Some(kept) if kept.is_dir() => (kept, None),
                kept => (root, kept),
            })
        })
        .await
        .map_err(|error| ToolError::Fatal(error.into()))?;
        let notes = match lost {
            Some(lost) => {
                format!("(the working directory {} is gone; this ran in the workspace root)\n", lost.display())
            }
            None => String::new(),
        };
        // On the way out, whatever way, the shell tells where it is. The command is one word to `eval`, so that no
        // quote or bracket left open in it, no `exit` and no `set --` can reach the trap.
        let Some(file) = report.to_str() else {
            return Err(ToolError::Fatal("the scratch folder's path is not UTF-8".into()));
        };
        let trap = format!("command pwd -P >|{} 2>/dev/null", quoted(file));
        let script = format!("trap {} EXIT; eval {}", quoted(&trap), quoted(command));
        if script.len() > MAX_SCRIPT_BYTES {
            return Err(ToolError::model("command: is too long; write it to a file and run that"));
        }
        Ok(Self { script, directory, report, notes })
    }

    fn start(&self, context: &ToolContext) -> Result<(Running, Receiver), ToolError> {
        let run = |shell: &str| {
            let mut command = Command::new(shell);
            command.arg("-c").arg(&self.script).current_dir(&self.directory).env_remove("OLDPWD");
            command.envs(ENVIRONMENT.iter().copied());
            for name in context.secret_variables.iter() {
                command.env_remove(name);
            }
            command::start(command)
        };
        let started = match run("bash") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => run("sh"),
            started => started,
        };
        started.map_err(|error| ToolError::model(format!("the shell could not be started: {error}")))
    }

    /// Keeps the directory that the shell ended in, if it ended by itself.
    async fn note_directory(&self, context: &ToolContext, exited: bool) {
        let report = self.report.clone();
        let directory = blocking(move || {
            // The command may have put anything in its place: a pipe would never answer, a device never end.
            let plain =
                std::fs::symlink_metadata(&report).is_ok_and(|found| found.is_file() && found.len() < MAX_REPORT);
            let told = if plain { std::fs::read(&report).ok() } else { None };
            // Not there if the shell was killed, or went on as another program.
            let _ = std::fs::remove_file(&report);
            let directory = PathBuf::from(OsString::from_vec(told?.strip_suffix(b"\n")?.to_vec()));
            directory.is_dir().then_some(directory)
        })
        .await;
        if let (true, Some(directory)) = (exited, directory) {
            *context.memory.directory.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory);
        }
    }
}

/// The output of a command as it comes.
struct Output {
    /// None once its end was seen.
    receiver: Option<Receiver>,
    kept: Kept,
}

impl Output {
    /// Reads and passes on until the command has ended and so has its output, or there is a reason to stop. A reader
    /// who is slow slows the command and nothing else.
    async fn follow(&mut self, context: &ToolContext, running: &mut Running, deadline: Instant) -> End {
        let mut status: Option<ExitStatus> = None;
        let mut until = deadline;
        let mut pending: Option<Bytes> = None;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if let (Some(status), None, None) = (status, &self.receiver, &pending) {
                return End::Exited(status);
            }
            let reading = self.receiver.is_some() && pending.is_none();
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => return End::Canceled,
                () = sleep_until(until) => return status.map_or(End::TimedOut, End::Exited),
                ended = running.wait(), if status.is_none() => match ended {
                    Ok(ended) => {
                        status = Some(ended);
                        // What it started may hold the pipe open for ever.
                        until = Instant::now() + OUTPUT_GRACE;
                    }
                    Err(error) => return End::Failed(error),
                },
                permit = context.output.reserve(), if pending.is_some() => {
                    // Nobody reads any more: what is kept for the model is enough.
                    if let (Ok(permit), Some(bytes)) = (permit, pending.take()) {
                        permit.send(bytes);
                    }
                }
                read = read(self.receiver.as_mut(), &mut buffer), if reading => match read {
                    Ok(0) | Err(_) => self.receiver = None,
                    Ok(count) => {
                        self.kept.push(&buffer[..count]);
                        pending = Some(Bytes::copy_from_slice(&buffer[..count]));
                    }
                },
            }
        }
    }

    /// Takes what is still in the pipe.
    fn drain(&mut self, context: &ToolContext) {
        let Some(receiver) = &self.receiver else { return };
        let mut buffer = vec![0; 16 * 1024];
        let mut taken = 0;
        while let Ok(count @ 1..) = receiver.try_read(&mut buffer) {
            self.kept.push(&buffer[..count]);
            // The answer has it in any case; there is no waiting for slow readers here.
            let _ = context.output.try_send(Bytes::copy_from_slice(&buffer[..count]));
            taken += count;
            if taken >= MAX_LAST_BYTES {
                return;
            }
        }
    }
}

async fn read(receiver: Option<&mut Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match receiver {
        Some(receiver) => receiver.read(buffer).await,
        None => Ok(0),
    }
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_word() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
