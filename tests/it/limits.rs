//! Limits of what clients ask for at once: what is over them is refused by name, and nobody else pays for it.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    access::{guarded, token},
    support::{Dialect, Door, Gate, Model, Server, Setup, Step, model::text, soon, until},
    through_every_door,
};

through_every_door! {
    answers_on_their_way_are_limited_for_each_token;
    requests_in_a_second_are_limited_for_each_token;
    requests_at_once_are_limited;
}

/// Connections that behave badly, and what they may cost the server together (MiB).
const BAD: usize = 1000;
const BAD_MIB: usize = 96;

async fn answers_on_their_way_are_limited_for_each_token(door: Door) {
    let server = guarded().env("OPENCODE_MAX_STREAMS", 3).start();
    let all = server.rest.clone().bearer(&token("all"));
    let streams = [all.stream("/events").await, all.stream("/events").await, all.stream("/messages/stream").await];
    let client = server.through(door).bearer(&token("all"));
    let refused = client.get_agent_status().await.expect_err("a refusal");
    assert_eq!((&*refused.code, refused.retryable), ("rate_limited", true));
    assert!(refused.detail.contains("OPENCODE_MAX_STREAMS"), "{refused:?}");
    let answer = all.get("/session").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    // Another token has its own, probes have no limit, and what has ended makes room.
    server.through(door).bearer(&token("no-admin")).get_agent_status().await.expect("an answer");
    client.health().await.expect("an answer");
    drop(streams);
    until("there is room again", async || client.get_agent_status().await.ok()).await;
}

async fn requests_in_a_second_are_limited_for_each_token(door: Door) {
    let server = guarded().env("OPENCODE_REQUESTS_PER_SECOND", 1).start();
    let client = server.through(door).bearer(&token("all"));
    let mut refused = None;
    for _ in 0..20 {
        refused = refused.or(client.get_agent_status().await.err());
    }
    let refused = refused.expect("ten may come at once, and one a second");
    assert_eq!((&*refused.code, refused.retryable), ("rate_limited", true));
    assert!(refused.detail.contains("OPENCODE_REQUESTS_PER_SECOND"), "{refused:?}");
    server.through(door).bearer(&token("no-admin")).get_agent_status().await.expect("an answer");
    until("a second later", async || client.get_agent_status().await.ok()).await;
}

async fn requests_at_once_are_limited(door: Door) {
    let gate = Gate::new();
    let model = Model::start(Dialect::OpenAi, [vec![Step::Wait(gate.clone()), text("Done.")]]).await;
    let server = Setup::with(&model).env("OPENCODE_MAX_REQUESTS", 2).start();
    let turn = server.rest.begin("Go.").await;
    // Two that wait for the turn's end.
    let wait = || {
        let (client, id) = (server.through(door), turn["id"].clone());
        // The look below may be at work just then.
        tokio::spawn(async move {
            loop {
                if let Ok(turn) = client.get_turn(&id, 60).await {
                    return turn;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
    };
    let waiting = [wait(), wait()];
    let client = server.through(door);
    let refused = until("both wait", async || client.get_agent_status().await.err()).await;
    assert_eq!((&*refused.code, refused.retryable), ("unavailable", true));
    assert!(refused.detail.contains("OPENCODE_MAX_REQUESTS"), "{refused:?}");
    client.health().await.expect("probes are let in");
    gate.open();
    for ended in waiting {
        assert_eq!(ended.await.expect("it ran").body["status"], "completed");
    }
    client.get_agent_status().await.expect("an answer");
}

fn rss_mib(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    line.split_whitespace().nth(1).expect("a figure").parse::<usize>().expect("a number") / 1024
}

/// 1,000 connections that send slowly, never read, or reset: an honest client is served meanwhile, and memory stays.
#[tokio::test]
async fn bad_connections_cost_little_and_an_honest_client_is_served() {
    let server = Setup::new().env("OPENCODE_MODEL", "mock/demo").start();
    server.rest.ask("Hello.").await;
    let before = rss_mib(&server);
    let address = server.rest.base.trim_start_matches("http://").to_owned();
    let mut held = Vec::new();
    for number in 0..BAD {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        match number % 4 {
            // A head that never ends, and a body that never comes.
            0 => stream.write_all(b"GET /session HTTP/1.1\r\nhost: localhost\r\nx-slow: a").await.expect("sent"),
            1 => {
                let head = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                            content-length: 100000\r\n\r\n{\"text\": \"";
                stream.write_all(head.as_bytes()).await.expect("sent");
            }
            // A stream that nobody reads.
            2 => {
                let head = b"GET /events?after=0 HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
                stream.write_all(head).await.expect("sent");
            }
            _ => {
                stream.write_all(b"GET /events?after=0 HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
                let mut some = [0; 100];
                let _ = soon("some of it", stream.read(&mut some)).await;
                // With bytes unread this is a reset.
                drop(stream);
                continue;
            }
        }
        held.push(stream);
    }
    for _ in 0..20 {
        let turn = server.rest.ask("Hello.").await["turn"].clone();
        assert_eq!(turn["status"], "completed");
    }
    let grown = rss_mib(&server).saturating_sub(before);
    println!("{} connections held, {grown} MiB more", held.len());
    assert!(grown <= BAD_MIB, "{grown} MiB");
}

/// One connection more than there may be waits for its turn, and is served then.
#[tokio::test]
async fn connections_over_the_limit_wait() {
    let server = Setup::new().env("OPENCODE_MAX_CONNECTIONS", 2).start();
    let address = server.rest.base.trim_start_matches("http://").to_owned();
    let get = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(get).await.expect("sent");
        soon("an answer", stream.read_exact(&mut [0; 12])).await.expect("an answer");
        held.push(stream);
    }
    let mut waits = TcpStream::connect(&address).await.expect("the kernel takes it");
    waits.write_all(get).await.expect("sent");
    let mut answer = [0; 12];
    tokio::time::timeout(std::time::Duration::from_millis(300), waits.read_exact(&mut answer))
        .await
        .expect_err("it is not served yet");
    drop(held.pop());
    soon("an answer", waits.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(json!(held.len()), 1);
}
