//! Streams on long days: heartbeats, readers that take nothing, a log that drops its beginning.

use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{Answer, Dialect, Model, Rest, Server, Setup, model::text, soon, until};

/// Adds that many events of about a kilobyte each.
async fn fill(rest: &Rest, count: usize) {
    let title = |number: usize| format!("{number:04}{}", "𝄞".repeat(190));
    stream::iter(0..count)
        .map(|number| async move { rest.send("PATCH", "/session", &json!({"title": title(number)})).await.ok() })
        .buffer_unordered(16)
        .for_each(|_| async {})
        .await;
}

#[tokio::test]
async fn a_heartbeat_says_what_was_considered_whatever_was_sent() {
    let server = Setup::new().start();
    server.rest.read("/session").await;
    let mut stream = server.rest.stream("/events?types=turn_started").await;
    stream.frame().await.expect("the retry time");
    stream.frame().await.expect("the place");
    server.rest.send("PATCH", "/session", &json!({"title": "Not wanted here"})).await.ok();
    let head = server.rest.get("/session").await.header("event-cursor").expect("a cursor").to_owned();
    // The only test that waits for the clock: a comment for proxies, and the place after what was filtered out.
    let comment = stream.frame().await.expect("a comment");
    assert!(comment.comment.is_some() && comment.id.is_none() && comment.data.is_none(), "{comment:?}");
    let place = stream.frame().await.expect("a place");
    assert_eq!((place.id, place.event, place.data), (Some(head), None, None));
}

/// A reader that asks for everything and then takes nothing, with as little room on its side as there can be.
async fn stalled(server: &Server) -> TcpStream {
    let address: SocketAddr = server.rest.base.strip_prefix("http://").expect("a base").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("a connection");
    let request = format!("GET /events?after=0 HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stream
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_and_holds_nobody_back() {
    let model = Model::start(Dialect::OpenAi, vec![vec![text("Yes.")]; 5]).await;
    let server = Setup::with(&model).env("OPENCODE_STALL_SECONDS", 1).start();
    server.rest.read("/session").await;
    let mut other = server.rest.stream("/events?after=0").await;
    let other = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.extend(other.until("turn_completed").await);
        }
        seen
    });
    let mut stalled = stalled(&server).await;
    // More than the kernel's buffers between the two take: the server's side grows up to a few MB.
    for letter in ["a", "b", "c", "d", "e"] {
        server.rest.ask(&letter.repeat(1_000_000)).await;
    }
    let log = server.rest.log().await;
    let last = log.last().expect("an event").seq();
    let seen = soon("the other reader", other).await.expect("it does not fail");
    assert_eq!(
        seen.iter().map(|event| &event.json).collect::<Vec<_>>(),
        log.iter().map(|event| &event.json).collect::<Vec<_>>()
    );
    // Nothing but the server's log tells of the cut, as long as the reader takes nothing.
    let cut = "closed a connection whose reader took nothing";
    until("the cut", async || server.log().contains(cut).then_some(())).await;
    let mut taken = Vec::new();
    let end = soon("the end", stalled.read_to_end(&mut taken)).await;
    let text = String::from_utf8_lossy(&taken);
    assert!(!text.contains(&format!("\"seq\":{last},")), "it was cut in the middle: {end:?}");
    // It comes back where it was.
    let place = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("an id");
    let (_, seq) = place.rsplit_once('-').expect("a cursor");
    let seq: u64 = seq.parse().expect("a number");
    let again = server.rest.resume("/events", place).await.through(last).await;
    assert_eq!(again[0].seq(), seq + 1);
}

#[tokio::test]
async fn the_log_drops_its_beginning_and_never_its_middle() {
    let server = Setup::new().env("OPENCODE_RETENTION_BYTES", 200_000).start();
    let session = server.rest.read("/session").await;
    let first = server.rest.stream("/events?after=0").await.next().await;
    fill(&server.rest, 800).await;
    let log = server.rest.log().await;
    let floor = log[0].seq();
    assert!(floor > 1, "nothing was dropped");
    let numbers: Vec<u64> = log.iter().map(|event| event.seq()).collect();
    assert_eq!(numbers, (floor..=801).collect::<Vec<_>>(), "none is missing between floor and head");

    let expired = server.rest.resume("/events", &first.id).await.next().await;
    assert_eq!(expired.json, json!({"type": "resync_required", "reason": "expired"}));
    let epoch = first.id.split('-').next().expect("an epoch");
    let from_the_floor = format!("{epoch}-{}", floor - 1);
    let rest = server.rest.resume("/events", &from_the_floor).await.through(801).await;
    assert_eq!(rest.len() as u64, 801 - floor + 1, "the cursor just below the floor is still good");
    let request = server.rest.request("GET", &format!("/events?after={epoch}-{}", floor - 2));
    let page = Answer::of(request.header("accept", "application/json")).await.ok();
    assert_eq!(page["resync"], json!({"reason": "expired"}));
    // Rows of their own stay.
    assert_eq!(server.rest.read("/session").await["id"], session["id"]);
}
