//! The server as a process: its log, its runtime, the line that says where it listens.

use std::{
    io::{self, IsTerminal},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{config::Config, server};

/// Serves until the process is asked to end. `hidden` is whether the keys could be put out of sight. The error is a
/// sentence.
pub fn serve(mut config: Config, hidden: io::Result<()>) -> Result<(), String> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(config.log_directives()))
        .with_writer(io::stderr);
    // Text and colours are for eyes (NO_COLOR is left to decide); all else that reads a log wants a line to be an object.
    if io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).with_span_list(false).init();
    }
    if let Err(error) = hidden {
        tracing::warn!(%error, "commands that run as root can read the keys in this process's environment");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not start: {error}"))?;
    let token = config.access.make_token(config.host.to_canonical().is_loopback());
    // Where tokens are asked for, their scopes say who may reply.
    let reply_token = config.permissions.make_reply_token().filter(|_| !config.access.asks_for_tokens());
    let outcome = runtime.block_on(async {
        let stop = server::Stop::listen().map_err(|error| format!("signals cannot be listened for: {error}"))?;
        let server = server::Server::bind(config).await?;
        for address in server.addresses() {
            println!("listening on http://{address}");
        }
        if let (Some(token), Some(address)) = (token, server.addresses().next()) {
            // Once, and to whoever started it; the server itself keeps only its hash.
            let host = if address.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
            let address = SocketAddr::new(host, address.port());
            eprintln!(
                "no OPENCODE_API_TOKEN is set; a token for this start, ready to try:\n  curl -N http://{address}/messages \\\n    \
                 -H 'Authorization: Bearer {token}' \\\n    -H 'Content-Type: application/json' \\\n    \
                 -d '{{\"text\": \"hello\", \"model\": \"mock/demo\"}}'"
            );
        }
        if let Some(token) = reply_token {
            // Once, and to whoever started it; nothing else has it.
            eprintln!("reply token: {token}");
        }
        server.run(stop.asked()).await;
        Ok(())
    });
    // A thread that hangs in the file system must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}
