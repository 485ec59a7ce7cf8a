//! The binary as the first process of a container. Whatever loses its parent there becomes a child of that process, which
//! has to reap it, and a signal does nothing to it by default. A server cannot do both without taking the exit codes of
//! its own children, so the first process stays a small one without a runtime, and the server is its child.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait},
};
use signal_hook::{consts::signal, iterator::Signals};

use crate::conceal;

/// Signals that are passed on to the server.
const PASSED_ON: [(i32, Signal); 6] = [
    (signal::SIGTERM, Signal::TERM),
    (signal::SIGINT, Signal::INT),
    (signal::SIGHUP, Signal::HUP),
    (signal::SIGQUIT, Signal::QUIT),
    (signal::SIGUSR1, Signal::USR1),
    (signal::SIGUSR2, Signal::USR2),
];

/// Whether this process is the first one.
pub fn is_needed() -> bool {
    std::process::id() == 1
}

/// Starts the server with these arguments, reaps and passes on signals until it has ended, and answers its exit code.
/// When this process ends, the kernel kills all that is left in the container. The error is a sentence.
pub fn run(arguments: &[OsString], secret_variables: &[&str], secret_flags: &[String]) -> Result<ExitCode, String> {
    let failed = |error: std::io::Error| format!("the server could not be started: {error}");
    // First, so that nothing is missed.
    let mut signals =
        Signals::new(PASSED_ON.iter().map(|(number, _)| *number).chain([signal::SIGCHLD])).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    // In a group of its own: what a terminal sends to the whole group it would have twice otherwise, and the second one
    // ends it at once.
    let server = Command::new(program).args(arguments).process_group(0).spawn().map_err(failed)?;
    let server = i32::try_from(server.id()).ok().and_then(Pid::from_raw).ok_or("the server has no process id")?;
    // The server has its own copies. It warns where this cannot be done, and it could not be done there either.
    let _ = conceal::hide(secret_variables, secret_flags);
    for number in signals.forever() {
        match PASSED_ON.iter().find(|(known, _)| *known == number) {
            // It may just have ended.
            Some((_, signal)) => drop(kill_process(server, *signal)),
            None => {
                if let Some(status) = reap(server) {
                    return Ok(ExitCode::from(code(status)));
                }
            }
        }
    }
    Ok(ExitCode::FAILURE)
}

/// Reaps whoever has ended; answers how the server did, if it has.
fn reap(server: Pid) -> Option<WaitStatus> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == server => return Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// As shells give it.
fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
