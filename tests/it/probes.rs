//! What the server says of itself to those who run it: alive, ready, and not before it is.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use serde_json::json;

use crate::support::{Dialect, Model, Setup, model::text, soon, until};

#[tokio::test]
async fn a_server_that_is_well_is_alive_and_ready() {
    let server = Setup::new().start();
    for path in ["/livez", "/readyz"] {
        assert_eq!(server.rest.read(path).await, json!({"status": "ok"}));
        server.rest.get(&format!("{path}?x=1")).await.problem(400, "invalid_argument");
    }
}

#[tokio::test]
async fn without_its_workspace_it_is_alive_and_not_ready() {
    let server = Setup::new().start();
    let (workspace, elsewhere) = (server.workspace(), server.setup().folder("elsewhere"));
    std::fs::rename(&workspace, &elsewhere).expect("it moves");
    let refused = until("the look at it", async || {
        let answer = server.rest.get("/readyz").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert!(refused.header("retry-after").is_some());
    let problem = refused.problem(503, "unavailable");
    assert!(problem["detail"].as_str().expect("words").contains("workspace"), "{problem}");
    server.rest.get("/health").await.json_with(503);
    server.rest.get("/livez").await.ok();
    std::fs::rename(&elsewhere, &workspace).expect("it comes back");
    until("the look at it", async || (server.rest.get("/readyz").await.status == 200).then_some(())).await;
}

/// Somebody else reads the log's file, as a backup does: what is cleared meanwhile is erased once they have gone.
#[tokio::test]
async fn what_could_not_be_erased_is_erased_later() {
    let model = Model::start(Dialect::Anthropic, [vec![text("The marker-of-an-answer.")]]).await;
    let server = Setup::with(&model).start();
    server.rest.ask("Say it.").await;
    let log = rusqlite::Connection::open(server.setup().data_dir().join("log.sqlite3")).expect("the log");
    log.execute_batch("BEGIN; SELECT COUNT(*) FROM events").expect("it can be read");
    assert_eq!(server.rest.delete("/messages").await.status, 204);
    assert!(server.data_holds("marker-of-an-answer") && server.log().contains("not erased"), "{}", server.log());
    log.execute_batch("COMMIT").expect("an end");
    until("the content has gone", async || (!server.data_holds("marker-of-an-answer")).then_some(())).await;
    assert_eq!(server.rest.messages().await.len(), 0);
}

/// Somebody else holds the log's file: nothing can be stored, and who looks is told what hangs.
#[tokio::test]
async fn a_writer_that_hangs_is_named() {
    let server = Setup::new().env("OPENCODE_WATCHDOG_SECONDS", 1).start();
    server.rest.read("/session").await;
    let log = rusqlite::Connection::open(server.setup().data_dir().join("log.sqlite3")).expect("the log");
    log.execute_batch("BEGIN IMMEDIATE").expect("the file is ours");
    let rest = server.rest.clone();
    let writing =
        tokio::spawn(
            async move { rest.send("PATCH", "/session", &json!({"title": "Late"})).await.ok()["title"].clone() },
        );
    let refused = until("the watchdog", async || {
        let answer = server.rest.get("/livez").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert!(refused.header("retry-after").is_some());
    let problem = refused.problem(503, "unavailable");
    assert!(
        problem["detail"].as_str().expect("words").starts_with("the log's writer is at one step for "),
        "{problem}"
    );
    assert!(server.log().contains("wedged: the log's writer"), "{}", server.log());
    log.execute_batch("ROLLBACK").expect("it is given back");
    assert_eq!(soon("the answer", writing).await.expect("no panic"), "Late");
    until("the watchdog", async || (server.rest.get("/livez").await.status == 200).then_some(())).await;
    until("the end of it in the log", async || server.log().contains("it goes on; before").then_some(())).await;
}

/// A process that was stopped as a whole is not wedged: it has had no time to do anything.
#[tokio::test]
async fn a_process_that_was_stopped_is_not_wedged() {
    let mut server = Setup::new().env("OPENCODE_WATCHDOG_SECONDS", 1).start();
    server.rest.read("/session").await;
    server.pause();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    server.go_on();
    server.rest.get("/livez").await.ok();
    assert!(!server.log().contains("wedged"), "{}", server.log());
}

/// Who can connect is answered, and finds everything there.
#[tokio::test]
async fn the_first_connection_is_answered() {
    // Below the ports that the kernel gives to clients: one of those may get connected to itself.
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (20_000 + std::process::id() as u16 % 10_000..30_000).find(is_free).expect("a free port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let asking = tokio::task::spawn_blocking(move || {
        let mut refused = 0;
        let mut stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(_) => refused += 1,
            }
        };
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        (refused, answer)
    });
    let server = Setup::new().env("GRPC_PORT", address.port()).env("HTTP_PORT", address.port()).start();
    let (refused, answer) = soon("the first answer", asking).await.expect("no panic");
    assert!(refused > 0, "it was there before it was started");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(server);
}
