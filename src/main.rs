//! The command line: serve (the default), healthcheck, openapi.

use std::{io::Write, process::ExitCode};

use opencode_api::{
    conceal,
    config::{Cli, Command, SECRET_VARIABLES, arguments, is_keeper, secret_flags},
    init, keeper, serve, server,
};

fn main() -> ExitCode {
    if is_keeper() {
        return keeper::run();
    }
    let cli = Cli::read();
    match cli.command.unwrap_or(Command::Serve) {
        Command::Openapi => {
            // A reader that has seen enough is no failure.
            let _ = std::io::stdout().write_all(opencode_api::openapi().as_bytes());
            ExitCode::SUCCESS
        }
        Command::Healthcheck => said(server::healthcheck(&cli.config).map(|()| ExitCode::SUCCESS)),
        Command::Serve if init::is_needed() => said(init::run(&arguments(), &SECRET_VARIABLES, &secret_flags())),
        Command::Serve => {
            let hidden = conceal::hide(&SECRET_VARIABLES, &secret_flags());
            keeper::adopt_orphans();
            said(serve::serve(cli.config, hidden).map(|()| ExitCode::SUCCESS))
        }
    }
}

/// A failed start is one sentence for whoever started it, and exit code 1.
fn said(outcome: Result<ExitCode, String>) -> ExitCode {
    outcome.unwrap_or_else(|sentence| {
        eprintln!("opencode-api: {sentence}");
        ExitCode::FAILURE
    })
}
