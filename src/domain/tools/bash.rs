//! `bash`: a command in a shell.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    time::{Instant, sleep_until},
};

use super::{
    Access, Tool, ToolContext, ToolError, ToolOutput,
    command::ITS_KEEPER,
    job,
    kept::Kept,
    processes::Entry,
    shell::{MAX_SCRIPT_BYTES, Shell},
};
use crate::domain::part::head;

/// Time that a command has if it does not say.
const DEFAULT_TIMEOUT_MS: u64 = 60_000;
/// Most time that a command may ask for.
pub(super) const MAX_TIMEOUT_MS: u64 = 600_000;
/// Bytes of a description that clients are shown.
const MAX_DESCRIPTION: usize = 200;
/// How long the end of the output is waited for after the shell has ended.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
/// Bytes that are still read after everything was ended; what could not be ended may go on writing for ever.
pub(super) const MAX_LAST_BYTES: usize = 1024 * 1024;

pub(super) struct Bash;

/// Runs a command in a shell. It has no input and no terminal. The working directory is the workspace root at first
/// and is kept from call to call; variables, functions and options are not. A command has 60 s, or `timeout_ms`, at
/// most 600 s. Of its output (stdout and stderr together) at most 30,000 bytes are shown, the first and the last
/// half. What it leaves running is ended when it returns; to have something run on, such as a server, set `background`
/// and use the tool job. To read, search and change files use the other tools.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// The command.
    #[serde(deserialize_with = "command")]
    command: String,
    /// Time that it may take, in milliseconds. Default: 60000, in the background no limit. Maximum: 600000.
    #[schemars(range(min = 1, max = 600_000))]
    timeout_ms: Option<u64>,
    /// What it does, in a few words, for the user.
    description: Option<String>,
    /// Answer at once with the id of a job, which runs on with all that it starts, after this turn too. It does not
    /// change the working directory of later commands.
    background: Option<bool>,
}

/// A command that is not too long to be judged, shown and run.
fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let command = String::deserialize(deserializer)?;
    if command.len() > MAX_SCRIPT_BYTES {
        return Err(D::Error::custom("is too long; write it to a file and run that"));
    }
    Ok(command)
}

impl Tool for Bash {
    const NAME: &'static str = "bash";
    const READ_ONLY: bool = false;
    type Args = Args;

    fn access(args: &Args) -> Access {
        Access::Command(args.command.clone())
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        if let Some(timeout_ms) = args.timeout_ms {
            check_timeout(timeout_ms)?;
        }
        let description = args.description.as_deref().map(|text| head(text, MAX_DESCRIPTION));
        if args.background.unwrap_or(false) {
            return job::begin(context, &args.command, args.timeout_ms, description).await;
        }
        let timeout_ms = args.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        let shell = Shell::new(context, &args.command).await?;
        let (entry, receiver, guard) = shell.start(context).await?;
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let mut output = Output { receiver: Some(receiver), kept: Kept::default() };
        let end = output.follow(context, &entry, deadline).await;
        let outcome = entry.running.end().await;
        output.drain(context);
        drop(guard);
        shell.note_directory(context, matches!(end, End::Exited(_))).await;

        let mut text = shell.notes.clone();
        text.push_str(&output.kept.text());
        let so_far = if output.kept.total == 0 { "it had no output" } else { "its output so far follows" };
        let (words, exit_code, timed_out) = match end {
            End::Canceled => {
                return Err(ToolError::model(format!("canceled: the command was ended; {so_far}\n{text}")));
            }
            End::ByClient => {
                return Err(ToolError::model(format!("the user ended this command; {so_far}\n{text}")));
            }
            End::Lost => {
                let words = format!("{ITS_KEEPER}; {so_far}\n{text}");
                return Err(ToolError::model(words));
            }
            End::TimedOut => (format!("timed out after {timeout_ms} ms; the command was ended"), None, true),
            End::Exited(status) => {
                let (words, code) = how(status);
                (words, Some(code), false)
            }
        };
        if output.kept.total == 0 {
            text.push_str("(no output)");
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        if !timed_out && (!outcome.ended.is_empty() || outcome.unnamed > 0) {
            text.push_str("(what it left running was ended)\n");
        }
        for left in &outcome.left {
            text.push_str(&format!("(process {} could not be ended: {})\n", left.pid, left.command));
        }
        text.push_str(&words);
        let metadata = json!({
            "exit_code": exit_code,
            "timed_out": timed_out,
            "output_bytes": output.kept.total,
            "description": description,
        });
        Ok(ToolOutput { metadata: Some(metadata), is_error: timed_out, ..ToolOutput::words(text) })
    }
}

/// Refuses a time that no tool may take.
pub(super) fn check_timeout(timeout_ms: u64) -> Result<(), ToolError> {
    if !(1..=MAX_TIMEOUT_MS).contains(&timeout_ms) {
        return Err(ToolError::model(format!("timeout_ms: has to be between 1 and {MAX_TIMEOUT_MS}")));
    }
    Ok(())
}

/// How a shell ended, in words, and its exit code as shells give it.
pub(super) fn how(status: ExitStatus) -> (String, i32) {
    match (status.code(), status.signal()) {
        (Some(code), _) => (format!("exit code {code}"), code),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            (format!("ended by signal {signal}"), 128 + signal)
        }
    }
}

/// How a command ended.
enum End {
    Exited(ExitStatus),
    TimedOut,
    Canceled,
    ByClient,
    /// Nobody saw it: its keeper is gone.
    Lost,
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
    async fn follow(&mut self, context: &ToolContext, entry: &Entry, deadline: Instant) -> End {
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
                ended = entry.running.exited(), if status.is_none() => match ended {
                    _ if entry.was_ended_by_client() => return End::ByClient,
                    Some(ended) => {
                        status = Some(ended);
                        // What it started may hold the pipe open for ever.
                        until = Instant::now() + OUTPUT_GRACE;
                    }
                    None => return End::Lost,
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
