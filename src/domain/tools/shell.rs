//! A command as the shell gets it: where it runs, with which environment, and where it tells in which folder it ended.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use tokio::net::unix::pipe::Receiver;
use tokio_util::sync::DropGuard;

use super::{ToolContext, ToolError, command, processes::Entry};
use crate::domain::workspace::blocking;

/// Bytes of the report on the working directory, which is one path.
const MAX_REPORT: u64 = 16 * 1024;
/// Bytes of the longest command: the system takes 128 KiB as one argument.
pub(super) const MAX_SCRIPT_BYTES: usize = 127 * 1024;
/// Settings without which programs wait for somebody at a terminal.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("TERM", "dumb"),
    ("PAGER", "cat"),
    ("GIT_PAGER", "cat"),
    ("GIT_EDITOR", "true"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

/// A command and where it runs.
pub(super) struct Shell {
    command: String,
    script: String,
    directory: PathBuf,
    /// Takes the working directory that the shell ends in, where somebody wants to know it.
    report: Option<PathBuf>,
    /// What the model has to know before the output.
    pub(super) notes: String,
}

impl Shell {
    /// A command that leaves the working directory to the one after it.
    pub(super) async fn new(context: &ToolContext, command: &str) -> Result<Self, ToolError> {
        let report = context.scratch.join(format!("directory-{}", uuid::Uuid::new_v4().simple()));
        // On the way out, whatever way, the shell tells where it is. The command is one word to `eval`, so that no
        // quote or bracket left open in it, no `exit` and no `set --` can reach the trap.
        let Some(file) = report.to_str() else {
            return Err(ToolError::Fatal("the scratch folder's path is not UTF-8".into()));
        };
        let trap = format!("command pwd -P >|{} 2>/dev/null", quoted(file));
        let script = format!("trap {} EXIT; eval {}", quoted(&trap), quoted(command));
        Self::with_script(context, command, script, Some(report)).await
    }

    /// A command beside the others.
    pub(super) async fn beside(context: &ToolContext, command: &str) -> Result<Self, ToolError> {
        Self::with_script(context, command, command.to_owned(), None).await
    }

    async fn with_script(
        context: &ToolContext,
        command: &str,
        script: String,
        report: Option<PathBuf>,
    ) -> Result<Self, ToolError> {
        if command.trim().is_empty() {
            return Err(ToolError::model("command: is blank"));
        }
        if command.contains('\0') {
            return Err(ToolError::model("command: holds a NUL byte"));
        }
        if script.len() > MAX_SCRIPT_BYTES {
            return Err(ToolError::model("command: is too long; write it to a file and run that"));
        }
        let kept = context.memory.directory.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        Ok(Self { command: command.to_owned(), script, directory, report, notes })
    }

    /// Starts it. Its end is sure once the guard is dropped.
    pub(super) async fn start(&self, context: &ToolContext) -> Result<(Arc<Entry>, Receiver, DropGuard), ToolError> {
        let mut keeper = command::keeper();
        keeper.current_dir(&self.directory).env_remove("OLDPWD").envs(ENVIRONMENT.iter().copied());
        for name in context.secret_variables.iter() {
            keeper.env_remove(name);
        }
        let is_job = self.report.is_none();
        let started = context.processes.start(context, keeper, &self.command, self.script.clone(), is_job).await;
        started.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionAborted => ToolError::model(error.to_string()),
            _ => ToolError::model(format!("the shell could not be started: {error}")),
        })
    }

    /// Keeps the directory that the shell ended in, if it ended by itself.
    pub(super) async fn note_directory(&self, context: &ToolContext, exited: bool) {
        let Some(report) = self.report.clone() else { return };
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
