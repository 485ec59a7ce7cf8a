//! The command line: serve (the default), healthcheck, openapi.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use opencode_api::{
    config::{Cli, Command, Config},
    server,
};

fn main() -> ExitCode {
    // First of all: no command that the agent runs may read this process's environment, where the keys stand. Where the
    // system has no such thing, there is no such way to read it either.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let cli = Cli::read();
    match cli.command.unwrap_or(Command::Serve) {
        Command::Openapi => {
            // A reader that has seen enough is no failure.
            let _ = std::io::stdout().write_all(opencode_api::openapi().as_bytes());
            ExitCode::SUCCESS
        }
        Command::Healthcheck => said(server::healthcheck(&cli.config)),
        Command::Serve => said(serve(cli.config)),
    }
}

/// A failed start is one sentence for whoever started it, and exit code 1.
fn said(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("opencode-api: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<(), String> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(config.log_directives()))
        .with_writer(std::io::stderr);
    // Colours are for eyes alone; where there are some, NO_COLOR is left to decide.
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.with_ansi(false).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not start: {error}"))?;
    let outcome = runtime.block_on(async {
        let server = server::Server::bind(config).await?;
        for address in server.addresses() {
            println!("listening on http://{address}");
        }
        server.run(server::terminated()).await;
        Ok(())
    });
    // A thread that hangs in the file system must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    outcome
}
