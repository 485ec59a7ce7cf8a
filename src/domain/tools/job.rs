//! `job`: what commands in the background wrote, their end, and ending them.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, time::sleep};
use tokio_util::sync::DropGuard;

use super::{
    Access, Tool, ToolContext, ToolError, ToolOutput,
    bash::{MAX_LAST_BYTES, check_timeout, how},
    processes::{Entry, MAX_JOBS},
    shell::Shell,
};

/// How long `wait` waits if it does not say.
const DEFAULT_WAIT_MS: u64 = 60_000;

pub(super) struct Job;

/// Looks after a job: a command that bash has started in the background. Each answer has what the job wrote since the
/// answer before (at most 30,000 bytes, the first and the last half), and whether it still runs or how it ended. Jobs
/// run on after the turn, until they end, are ended, or the turn that started them is cancelled.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    /// The id that bash answered.
    id: String,
    /// `output`: answer at once. `wait`: answer when it has ended. `end`: end it with all that it has started.
    action: Action,
    /// Longest that `wait` waits, in milliseconds; the job runs on. Default: 60000. Maximum: 600000.
    #[schemars(range(min = 1, max = 600_000))]
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    Output,
    Wait,
    End,
}

impl Tool for Job {
    const NAME: &'static str = "job";
    const READ_ONLY: bool = false;
    type Args = Args;

    fn access(_: &Args) -> Access {
        Access::None
    }

    async fn run(context: &ToolContext, args: Args) -> Result<ToolOutput, ToolError> {
        let timeout_ms = args.timeout_ms.unwrap_or(DEFAULT_WAIT_MS);
        check_timeout(timeout_ms)?;
        let entry = context.processes.job(&args.id).ok_or_else(|| unknown(context, &args.id))?;
        match args.action {
            Action::Output => {}
            Action::Wait => {
                let over = entry.read_to_its_end();
                tokio::select! {
                    () = over => {}
                    () = sleep(Duration::from_millis(timeout_ms)) => {}
                    () = context.cancel.cancelled() => return Err(ToolError::canceled()),
                }
            }
            Action::End => {
                entry.running.end().await;
                entry.read_to_its_end().await;
            }
        }
        Ok(told(&entry))
    }
}

/// Starts a command in the background.
pub(super) async fn begin(
    context: &ToolContext,
    command: &str,
    timeout_ms: Option<u64>,
    description: Option<&str>,
) -> Result<ToolOutput, ToolError> {
    let running = context.processes.jobs().into_iter().filter(|entry| !entry.running.is_over());
    let ids: Vec<String> = running.map(|entry| entry.id.to_string()).collect();
    if ids.len() >= MAX_JOBS {
        let words = format!("{MAX_JOBS} jobs run already; end one of them first: {}", ids.join(", "));
        return Err(ToolError::model(words));
    }
    let shell = Shell::beside(context, command).await?;
    let (entry, output, guard) = shell.start(context).await?;
    let (id, pid) = (entry.id.clone(), entry.pid());
    context.processes.spawn(follow(entry, output, timeout_ms, guard));
    let words = format!("{}job {id} runs in the background (process {pid}); the tool job has its output", shell.notes);
    let metadata = json!({ "job_id": id, "pid": pid, "description": description });
    Ok(ToolOutput { metadata: Some(metadata), ..ToolOutput::words(words) })
}

/// Keeps what a job writes, until it is over.
async fn follow(entry: Arc<Entry>, mut output: Receiver, timeout_ms: Option<u64>, guard: DropGuard) {
    let mut buffer = vec![0; 16 * 1024];
    let time_is_up = async {
        match timeout_ms {
            Some(timeout_ms) => sleep(Duration::from_millis(timeout_ms)).await,
            None => std::future::pending().await,
        }
    };
    let mut time_is_up = std::pin::pin!(time_is_up);
    let (mut is_open, mut is_late) = (true, false);
    loop {
        tokio::select! {
            read = output.read(&mut buffer), if is_open => match read {
                Ok(count @ 1..) => entry.wrote(&buffer[..count]),
                Ok(0) | Err(_) => is_open = false,
            },
            _ = entry.running.over() => break,
            () = &mut time_is_up, if !is_late => {
                is_late = true;
                entry.running.ask_to_end();
            }
        }
    }
    // What is still in the pipe; what could not be ended may go on writing.
    let mut taken = 0;
    while is_open && taken < MAX_LAST_BYTES {
        let Ok(count @ 1..) = output.try_read(&mut buffer) else { break };
        entry.wrote(&buffer[..count]);
        taken += count;
    }
    drop(guard);
    entry.is_read.cancel();
}

impl Entry {
    fn wrote(&self, bytes: &[u8]) {
        if let Some(job) = &self.job {
            job.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }

    /// Waits until it is over and all that it wrote was read.
    async fn read_to_its_end(&self) {
        self.is_read.cancelled().await;
    }
}

/// What the model is told of a job; what it wrote is told once.
fn told(entry: &Entry) -> ToolOutput {
    let output = entry.job.as_ref().map(|job| std::mem::take(&mut *job.lock().unwrap_or_else(PoisonError::into_inner)));
    let output = output.unwrap_or_default();
    let mut text = output.text();
    if output.total == 0 {
        text.push_str("(no new output)");
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let status = entry.running.exit_status().map(how);
    let is_over = entry.is_read.is_cancelled();
    let code = status.as_ref().map(|(_, code)| *code);
    text.push_str(&match (status, is_over) {
        (None, false) => "it runs".to_owned(),
        (Some((words, _)), false) => format!("its shell has ended ({words}), and what it has started runs"),
        (_, true) if entry.was_ended_by_client() => "it has ended: the user ended it".to_owned(),
        (Some((words, _)), true) => format!("it has ended: {words}"),
        (None, true) => "it has ended".to_owned(),
    });
    let metadata = json!({
        "job_id": entry.id,
        "running": !is_over,
        "exit_code": code,
        "output_bytes": output.total,
    });
    ToolOutput { metadata: Some(metadata), ..ToolOutput::words(text) }
}

fn unknown(context: &ToolContext, id: &str) -> ToolError {
    let ids: Vec<String> = context.processes.jobs().iter().map(|entry| entry.id.to_string()).collect();
    if ids.is_empty() {
        return ToolError::model(format!("there is no job {id:?}, and no other one"));
    }
    ToolError::model(format!("there is no job {id:?}; the jobs are {}", ids.join(", ")))
}
