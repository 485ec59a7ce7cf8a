//! What the server and a keeper say to each other. The server sends an [`Order`] as a line of JSON and later, to have
//! the command ended, one byte; the end of its stream means that it has gone. The keeper answers with [`Report`]s, each
//! a line of JSON.

use serde::{Deserialize, Serialize};

/// Ends the command: TERM, and KILL a second later.
pub(crate) const END: u8 = b'e';
/// Most processes that an outcome names; the rest are counted.
pub(crate) const MAX_NAMED: usize = 1_000;

/// What a keeper is to run, in its own working directory and environment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// What the shell is given.
    pub(crate) script: String,
    /// The command as the user knows it: stands for the shell's own command line where processes are named.
    pub(crate) shown: String,
    /// Name of the command's control group, where one can be made.
    pub(crate) group: String,
}

/// What a keeper tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The shell runs.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// The shell could not be started; nothing more comes.
    NotStarted {
        /// Why.
        error: String,
    },
    /// The shell has ended. What it started may still run.
    Exited {
        /// As `wait` gives it.
        status: i32,
    },
    /// Nothing runs any more but what is left; nothing more comes.
    Over(Outcome),
}

/// What became of the processes of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Those that did not end by themselves.
    pub(crate) ended: Vec<Ended>,
    /// How many more were ended than are named.
    pub(crate) unnamed: u64,
    /// Those that the kernel has not let go a second after KILL.
    pub(crate) left: Vec<Left>,
}

/// A process that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its command line, or its name where that could not be read; shortened where it is long.
    pub(crate) command: String,
    /// It did not end at TERM.
    pub(crate) killed: bool,
}

/// A process that is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// Its process id.
    pub(crate) pid: u32,
    /// As for [`Ended`].
    pub(crate) command: String,
}
